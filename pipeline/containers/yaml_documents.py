"""YAML: the records of one list, one record, or several documents. Only what JSON writes the same way is no text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from pipeline.containers.places import Place
from pipeline.containers.rows import DEEPEST, row_unit
from pipeline.containers.units import Unit, in_one_line, unusable
from pipeline.errors import InputError

SUFFIXES = (".yaml", ".yml")

_TAG = "tag:yaml.org,2002:"
_NUMBER = r"-?(?:0|[1-9][0-9]*)"

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """A safe loader with the JSON schema of YAML 1.2: dates, `yes`, `007` and `12:30` stay the text they are."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


def _float(loader: Any, node: Any) -> Any:
    value = float(node.value)
    return value if math.isfinite(value) else node.value


_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"(?:null|~|)\Z"), ["n", "~", ""])
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(_NUMBER + r"\Z"), list("-0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(_NUMBER + r"(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z"), list("-0123456789")
)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), ["<"])
_Loader.add_constructor(f"{_TAG}float", _float)
_Loader.add_constructor(f"{_TAG}timestamp", _Base.construct_yaml_str)


def read_yaml(place: Place, stream: io.BufferedReader[Any], limit: int) -> Iterator[Unit]:
    """The records. The file is read whole, so it may be no larger than a unit. Raises InputError."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(
            f"{place} is YAML of more than {limit} bytes, which is read whole: raise max_unit_bytes, or write JSON Lines"
        )
    index = 0
    try:
        text = data.decode("utf-8-sig")
        _refuse(place, text)
        for document in yaml.load_all(text, Loader=_Loader):
            values = document if isinstance(document, list) else [] if document is None else [document]
            for value in values:
                yield _unit(index, value, limit)
                index += 1
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8: {error.reason}") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{place} is no YAML that can be read: {in_one_line(error)}") from error


def _refuse(place: Place, text: str) -> None:
    """Refuses what loading would not survive, being recursive in C (depth), or would lose (a key that is there twice)."""
    keys: list[set[str] | None] = []
    is_key: list[bool] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            keys.pop()
            is_key.pop()
        if not isinstance(event, yaml.NodeEvent | yaml.MappingEndEvent | yaml.SequenceEndEvent):
            continue
        if isinstance(event, yaml.ScalarEvent) and keys and (known := keys[-1]) is not None and is_key[-1]:
            if event.value in known and event.value != "<<":
                mark: Any = event.start_mark
                raise InputError(f"{place}, line {mark.line + 1}: the key {event.value!r:.80} is there twice")
            known.add(event.value)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            is_key.append(False)
            if len(keys) > DEEPEST:
                raise InputError(f"{place} is nested too deeply")
        if is_key:
            is_key[-1] = not is_key[-1]


def _unit(index: int, value: Any, limit: int) -> Unit:
    size = _size(value, {})
    if size == math.inf:
        return unusable(index, b"", "not_json_like", "an alias stands for a value that holds it")
    if size > limit:
        return unusable(index, b"", "too_large", f"its aliases stand for more than {limit} bytes")
    return row_unit(index, value)


def _size(value: Any, known: dict[int, float]) -> float:
    """At least how many bytes of JSON a value is with every alias written out; infinite where it holds itself."""
    if isinstance(value, str):
        return len(value) + 2
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 2 + sum(_size(item, known) for item in items)
    return known[id(value)]
