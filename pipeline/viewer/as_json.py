"""A record as JSON text that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any


def json_text(value: Mapping[str, Any], *, indent: int | None = None, compact: bool = False) -> str:
    """The value as JSON, on one line where there is no ``indent``; NaN and infinities, which JSON has not, are null.

    ``compact``: without spaces.
    """
    dumps = partial(
        json.dumps, ensure_ascii=False, allow_nan=False, indent=indent, separators=(",", ":") if compact else None
    )
    try:
        return dumps(value)
    except ValueError:
        return dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
