"""Settings are of the types that they are declared with: a dataclass does not see to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.training.grid import TrainingError

_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}


def check_types(settings: Any, may_be_infinite: Collection[str] = ()) -> None:
    """Holds every field of a dataclass against its type; a whole number for a float becomes one.

    True is no number, NaN is none, infinity only for the fields that are named, and a text will do for a path. Raises
    TrainingError for the first field whose value is not of its type, with both.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if value == math.inf and name in may_be_infinite:
            continue
        if not _is(value, kind):
            raise TrainingError(f"{name} is {value!r}, it must be {_told(kind)}")
        if type(value) is int and float in (kind, *get_args(kind)):
            object.__setattr__(settings, name, float(value))


def _is(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_is(v, arguments[0]) for v in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, (str, Path) if kind is Path else kind)


def _told(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_told, arguments))
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is Sequence:
        return f"a list, each {_told(arguments[0])}"
    return _WORDS.get(kind) or f"a {kind.__name__}"
