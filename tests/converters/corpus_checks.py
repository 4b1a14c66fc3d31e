"""Reads corpora of any container, and checks that nothing of a unit is lost in the conversations it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from raw_walker import CORPORA

from pipeline.conversation import Conversation


def read_any(path: str) -> list[Any]:
    """The values of one file of the corpora: lines, elements, or the one value it holds. Skips where it is not there."""
    if not (CORPORA / path).exists():
        pytest.skip(f"{CORPORA / path} is not here")
    text = (CORPORA / path).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return value if isinstance(value, list) else [value]


def leaves(value: Any) -> Iterator[str]:
    """Every string and number of a JSON value, as text."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif isinstance(value, str | int | float):
        yield str(value)


def missing(unit: Any, conversations: Iterable[Conversation], structure: Iterable[str] = ()) -> set[str]:
    """The leaves of a unit that neither a part nor ``extra`` of its conversations holds; ``structure`` is not looked for."""
    kept = {"", *structure}
    for conversation in conversations:
        kept |= {*leaves(conversation.extra), conversation.tools}
        for message in conversation.messages:
            kept |= {text for part in message.parts for text in (part.text, part.rebuild(), part.name or "")}
    return set(leaves(unit)) - kept
