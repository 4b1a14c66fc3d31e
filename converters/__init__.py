"""The registry of message formats. A format is one module: see ``Format`` for what it offers, and docs/formats.md."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from converters import (
    alfworld,
    alpaca,
    aqua,
    bfcl,
    bipia,
    chat_text,
    choice_qa,
    claude_code,
    codex_session,
    content_blocks,
    context_qa,
    copilot_session,
    cursor_session,
    cyberseceval,
    dialogue,
    duplex_slices,
    gemini_contents,
    gemini_session,
    grok_session,
    hermes_session,
    hotpot,
    kimi_session,
    math_qa,
    math_solution,
    message_rows,
    message_tree,
    metamath,
    open_qa,
    openai_messages,
    openai_responses,
    openhands,
    pi_session,
    preference,
    prompt_completion,
    prontoqa,
    prosqa,
    qwen_session,
    seed_tasks,
    segmented_channels,
    sharegpt,
    squad,
    stream_record,
    stream_table,
    streaming_thinker,
    svamp,
    swe_agent,
    think_tagged,
    toolbench,
    tooltalk,
    word_times,
    xlam,
)
from pipeline.conversation import Conversation
from pipeline.script import Script

#: What a unit becomes: messages that are still to be aligned, or streams that the source has placed in time already.
Converted: TypeAlias = Conversation | Script

Unit = Literal["record", "file", "join"]


class Format(Protocol):
    """What a format's module offers.

    ``UNIT``: ``convert`` is given one parsed JSON value ("record"); the list of all values of one file ("file"); or
    ``{"unit": value, "joined": value or None}``, a record with the one of its companion file that has the same key ("join").
    ``SHAPE`` shows in one line what it looks like, ``EXAMPLE`` is what ``convert`` may be given.

    A module whose files are one object around a list of records names the list's key in ``LIST``: each record in the object,
    without the others, is then a unit.

    A "join" module has ``JOIN``, the key of both records, and ``companions(name)``, the paths at which the companion of the
    file ``name`` may be, relative to its folder. A module with choices has ``Options``, a frozen dataclass of literals
    with defaults, and takes one as the second argument of ``convert``.
    """

    FORMAT: str
    UNIT: Unit
    SHAPE: str
    EXAMPLE: Any

    def detect(self, unit: Any) -> bool:
        """Whether one value looks like this format; of a "file", one of its values. Never raises."""

    def convert(self, unit: Any) -> Iterator[Converted]:
        """The conversations of a unit, without ``sources``. Raises RecordError while it is iterated."""


class UnknownFormatError(ValueError):
    """A format that the registry does not have, or an option that the format does not; the message says what there is."""


#: From the shape that is hardest to mistake to the easiest: the order decides where a vote is tied.
_MODULES: tuple[Any, ...] = (
    stream_record,
    duplex_slices,
    segmented_channels,
    stream_table,
    streaming_thinker,
    word_times,
    claude_code,
    pi_session,
    codex_session,
    copilot_session,
    kimi_session,
    qwen_session,
    gemini_session,
    hermes_session,
    cursor_session,
    grok_session,
    openhands,
    swe_agent,
    toolbench,
    tooltalk,
    alfworld,
    gemini_contents,
    openai_responses,
    content_blocks,
    preference,
    openai_messages,
    sharegpt,
    think_tagged,
    message_tree,
    message_rows,
    bfcl,
    xlam,
    squad,
    hotpot,
    aqua,
    prontoqa,
    prosqa,
    svamp,
    cyberseceval,
    bipia,
    math_qa,
    metamath,
    math_solution,
    choice_qa,
    context_qa,
    alpaca,
    seed_tasks,
    open_qa,
    dialogue,
    prompt_completion,
    chat_text,
)

#: By name, in the order of ``_MODULES``.
CONVERTERS: Mapping[str, Format] = MappingProxyType({module.FORMAT: module for module in _MODULES})


def detect_format(units: Sequence[Any]) -> str | None:
    """The format that most units look like, on a tie the earlier one in ``CONVERTERS``; None where no unit does."""
    votes = format_votes(units)
    return max(votes, key=votes.__getitem__) if votes else None


def format_votes(units: Sequence[Any]) -> dict[str, int]:
    """How many of the units look like each format; those with none left out."""
    votes = {name: sum(map(module.detect, units)) for name, module in CONVERTERS.items()}
    return {name: count for name, count in votes.items() if count}


def convert(format: str, unit: Any) -> Iterator[Converted]:
    """The conversations of one unit, ``format`` as in ``parse_format``. Raises UnknownFormatError; iterated, RecordError."""
    return parse_format(format)[1](unit)


def parse_format(text: str) -> tuple[str, Callable[[Any], Iterator[Converted]]]:
    """Reads ``message_tree:paths=first``: the format's name, and its ``convert`` with these options.

    Raises UnknownFormatError.
    """
    name, _, arguments = text.partition(":")
    if name not in CONVERTERS:
        nearest = difflib.get_close_matches(name, CONVERTERS, n=1, cutoff=0.0)[0]
        raise UnknownFormatError(
            f"unknown format {name!r}, did you mean {nearest!r}? Known formats: {', '.join(CONVERTERS)}"
        )
    module: Any = CONVERTERS[name]
    if not arguments:
        return name, module.convert
    known = typing.get_type_hints(module.Options) if hasattr(module, "Options") else {}
    values: dict[str, str] = {}
    for item in arguments.split(","):
        key, _, value = item.partition("=")
        if key not in known:
            raise UnknownFormatError(f"format {name!r} has no option {key!r}; it has: {', '.join(known) or 'none'}")
        if value not in (allowed := typing.get_args(known[key])):
            raise UnknownFormatError(f"{name}:{key} must be one of {', '.join(allowed)}, not {value!r}")
        values[key] = value
    return name, functools.partial(module.convert, options=dataclasses.replace(module.Options(), **values))
