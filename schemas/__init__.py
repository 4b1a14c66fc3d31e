"""The JSON Schemas (draft 2020-12) of what the pipeline reads and writes, and validation against them in bulk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jsonschema_rs

_SUFFIX = ".schema.json"
_MESSAGE_LIMIT = 300


@cache
def names() -> tuple[str, ...]:
    """Every schema there is, by name: ``build_config``, ``conversation``, ``rejection``, ``stream_record``."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def load(name: str) -> dict[str, Any]:
    """The schema ``name`` as a new value. Raises KeyError for an unknown name."""
    schema: dict[str, Any] = json.loads(_text(name))
    return schema


@cache
def _text(name: str) -> str:
    if name not in names():
        raise KeyError(f"no schema {name!r}; there are: {', '.join(names())}")
    return (resources.files(__name__) / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


@cache
def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """The compiled validator of schema ``name``, built once per process. Raises KeyError for an unknown name."""
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(load(name))


def violations(name: str, values: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """The values that schema ``name`` does not allow: (index, first error as one line, ``$.path[0]: what is wrong``).

    Values are what a JSON parser gives. What JSON cannot hold (bytes, keys that are no strings, lone surrogates) is a
    violation too; but NaN and infinities, which some parsers let through, are taken for null.
    """
    check = validator(name)
    for index, value in enumerate(values):
        try:
            if check.is_valid(value):
                continue
            error = next(iter(check.iter_errors(value)))
        except ValueError as unreadable:
            yield index, _line((), f"cannot be read as JSON: {unreadable}")
        else:
            yield index, _line(error.instance_path, error.message)


def reference_violations(name: str, values: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """``violations`` by the pure Python ``jsonschema``: slow, for comparison. Which error comes first may differ."""
    import jsonschema

    check = jsonschema.Draft202012Validator(load(name))
    for index, value in enumerate(values):
        for error in check.iter_errors(value):
            yield index, _line(tuple(error.absolute_path), error.message)
            break


def _line(path: Sequence[str | int], message: str) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    if len(message) > _MESSAGE_LIMIT:
        message = f"{message[: _MESSAGE_LIMIT // 2]} … {message[-_MESSAGE_LIMIT // 2 :]}"
    return " ".join(f"${where}: {message}".splitlines())
