"""Values of other kinds than JSON text (rows of a table, YAML) as JSON, one fixed way; what JSON has no form for is named."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from pipeline.containers.units import Unit, unit_of, unusable

#: The code of a value that JSON has no form for.
NOT_JSON_LIKE = "not_json_like"

#: Deeper values are not written as JSON.
DEEPEST = 200

_PLAIN = (str, int, float, bool, type(None), datetime, date, time, Decimal, UUID)


def row_unit(index: int, value: Any) -> Unit:
    """The unit of a value: compact JSON, keys in their order; times as ISO 8601 text, decimals as text, NaN as null."""
    try:
        return unit_of(index, orjson.dumps(value, default=_as_text))
    except (orjson.JSONEncodeError, RecursionError):
        pass
    if problem := _problem(value, ""):
        return unusable(index, _sketch(value), NOT_JSON_LIKE, problem)
    try:
        # Integers of any size: orjson stops at 64 bits.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_as_text)
        return unit_of(index, text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        return unusable(index, b"", NOT_JSON_LIKE, f"the value cannot be written as JSON: {error}")


def _as_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime | time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _problem(value: Any, where: str, depth: int = 0) -> str:
    """What of a value JSON has no form for, in words; "" if nothing."""
    if depth > DEEPEST:
        return f"{where[:200]} is nested more than {DEEPEST} deep"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where or 'the value'} has a key that is no text: {type(key).__name__} {key!r:.80}"
            if problem := _problem(item, f"{where}.{key}" if where else key, depth + 1):
                return problem
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            if problem := _problem(item, f"{where}[{i}]", depth + 1):
                return problem
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{where or 'the value'} holds half a surrogate pair"
    elif not isinstance(value, _PLAIN):
        return (
            f"{where or 'the value'} holds {type(value).__name__}, which JSON has no form for: "
            "make it text, or leave the column out"
        )
    return ""


def _sketch(value: Any) -> bytes:
    """What can be shown of a value in its reject row."""
    try:
        return orjson.dumps(value, default=lambda v: f"<{type(v).__name__}>", option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, RecursionError):
        return b""
