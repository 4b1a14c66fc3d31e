"""The registry of message formats. A format is one module: ``FORMAT``, ``UNIT``, ``detect`` and ``convert``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from converters import alpaca, context_qa, math_qa, openai_messages, sharegpt, think_tagged
from pipeline.conversation import Conversation


class Converter(Protocol):
    """What a format's module offers. ``UNIT`` says in a word what ``convert`` is given: one parsed JSON value."""

    FORMAT: str
    UNIT: str

    def detect(self, unit: Any) -> bool:
        """Whether the unit looks like this format. Never raises."""

    def convert(self, unit: Any) -> Iterator[Conversation]:
        """The conversations of a unit, without ``sources``. Raises RecordError while it is iterated."""


class UnknownFormatError(ValueError):
    """A format name that the registry does not have; the message gives the nearest one."""

    def __init__(self, name: str) -> None:
        nearest = difflib.get_close_matches(name, CONVERTERS, n=1, cutoff=0.0)[0]
        super().__init__(f"unknown format {name!r}, did you mean {nearest!r}? Known formats: {', '.join(CONVERTERS)}")
        self.name = name
        self.nearest = nearest


_MODULES: tuple[Converter, ...] = (openai_messages, sharegpt, think_tagged, math_qa, context_qa, alpaca)

#: By name, from the shape that is hardest to mistake to the easiest: the order decides where a vote is tied.
CONVERTERS: Mapping[str, Converter] = MappingProxyType({module.FORMAT: module for module in _MODULES})


def converter(name: str) -> Converter:
    """The converter of a format. Raises UnknownFormatError."""
    if name not in CONVERTERS:
        raise UnknownFormatError(name)
    return CONVERTERS[name]


def detect_format(units: Sequence[Any]) -> str | None:
    """The format that most units look like, on a tie the earlier one in ``CONVERTERS``; None where no unit does."""
    votes = {name: sum(map(module.detect, units)) for name, module in CONVERTERS.items()}
    best = max(votes, key=votes.__getitem__)
    return best if votes[best] else None


def convert(format: str, unit: Any) -> Iterator[Conversation]:
    """The conversations of one unit. Raises UnknownFormatError at once, RecordError while it is iterated."""
    return converter(format).convert(unit)
