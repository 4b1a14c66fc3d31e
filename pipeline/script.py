"""Script: what a converter makes of a source that is streams already (duplex slices, tables, word-timed transcripts).

Nothing is left to align: the source says when everything was said. A chunk waits for what had ended by the time at which
it starts; nothing else is claimed.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.conversation import Conversation, Message, Part, RecordError, Role
from pipeline.timeline import Direction, Span, Stream, Timeline

#: A record holds no more.
MAX_STREAMS = 256

__all__ = ["Script", "ScriptPolicy", "Stream", "Utterance", "perform", "stream"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one stream says without a break.

    Chunk ``i`` is ``text[ends[i - 1]:ends[i]]``; it is said from tick ``starts[i]`` to ``stops[i]`` (exclusive, greater).
    ``added``: what the converter put between the source's pieces to make ``text`` of them. ``thinking``: it is a thought,
    though its stream is not called so.
    """

    stream: int
    text: str
    ends: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    interrupted: bool = False
    weight: float = 1.0
    added: str = ""
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """Utterances on named streams, in order of their first tick.

    A tick is a row of the source's table or a slice, or, where ``ms_per_row`` is set, a millisecond; a row of the record
    then lasts so long, and a chunk starts no earlier than its time. ``unheard``: streams that no input waits for, since
    nobody but the model hears them; where the source's ticks are time, inputs keep to them and none is unheard.
    ``extra``, ``group``: as in ``Conversation``.
    """

    streams: tuple[Stream, ...]
    utterances: tuple[Utterance, ...]
    ms_per_row: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    unheard: frozenset[int] = frozenset()


def stream(name: str, direction: Direction) -> Stream:
    """A stream by its name, ``role`` or ``role/slot``."""
    role, _, slot = name.partition("/")
    return Stream(name, role, int(slot or 0), direction)


@dataclass(frozen=True, slots=True)
class ScriptPolicy:
    """How a script was laid out: as its source says."""

    script: Script

    @property
    def policy(self) -> str:
        """The name written into records."""
        return "source"

    @property
    def params(self) -> str:
        """What a row of the source is, as canonical JSON."""
        ms = self.script.ms_per_row
        return '{"tick":"slice"}' if ms is None else json.dumps({"ms_per_row": ms, "tick": "ms"}, separators=(",", ":"))


_MESSAGE_ROLE: dict[str, Role] = {"system": "system", "tool": "tool"}


def perform(script: Script) -> tuple[Conversation, Timeline]:
    """The conversation (a message per utterance, named by its stream) and the timeline that a script tells.

    Raises RecordError ``bad_timing`` where the chunks of a stream overlap or run backwards, ``too_many_streams``.
    """
    if len(script.streams) > MAX_STREAMS:
        raise RecordError("too_many_streams", f"{len(script.streams)} streams, a record holds at most {MAX_STREAMS}")
    _check(script)
    origin = min((u.starts[0] for u in script.utterances if u.starts), default=0)
    messages: list[Message] = []
    spans: list[Span] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    real = script.ms_per_row is not None
    for number, utterance in enumerate(script.utterances):
        on = script.streams[utterance.stream]
        role: Role = "assistant" if on.direction == "output" else _MESSAGE_ROLE.get(on.role, "user")
        thinks = utterance.thinking or on.role == "thought"
        part = Part("thinking" if thinks else "text", utterance.text, interrupted=utterance.interrupted)
        began, stopped = (utterance.starts[0], utterance.stops[-1]) if real else (None, None)
        messages.append(Message(role, (part,), on.name, began, stopped, utterance.weight))
        spans.append(
            Span(
                utterance.stream, number, 0, "message", utterance.text, ends=not utterance.interrupted,
                interrupted=utterance.interrupted, weight=utterance.weight, time_ms=began, added=utterance.added,
                source_kind=part.kind,
            )
        )  # fmt: skip
        chunk_span.extend([number] * len(utterance.ends))
        chunk_end.extend(utterance.ends)
        starts.extend(utterance.starts)
        stops.extend(utterance.stops)
    inputs = frozenset(i for i, on in enumerate(script.streams) if on.direction == "input")
    after = _waits([script.utterances[s].stream for s in chunk_span], starts, stops, inputs, script.unheard)
    rows = [int((start - origin) / script.ms_per_row) for start in starts] if script.ms_per_row else None
    timeline = Timeline(script.streams, tuple(spans), chunk_span, chunk_end, after, rows)
    return Conversation(tuple(messages), extra=script.extra, group=script.group), timeline


def _check(script: Script) -> None:
    last: dict[int, int] = {}
    opened = 0
    for number, utterance in enumerate(script.utterances):
        if not utterance.ends or utterance.ends[-1] != len(utterance.text):
            raise RecordError("bad_timing", f"utterance {number} has text that no chunk covers")
        if not len(utterance.ends) == len(utterance.starts) == len(utterance.stops):
            raise RecordError("bad_timing", f"utterance {number} has chunks without a time, or times without a chunk")
        if any(end <= before for before, end in zip((0, *utterance.ends), utterance.ends, strict=False)):
            raise RecordError("bad_timing", f"utterance {number} has an empty chunk")
        if utterance.starts[0] < opened:
            raise RecordError("bad_timing", f"utterance {number} starts before the one that is listed before it")
        opened = utterance.starts[0]
        at = last.get(utterance.stream)
        for start, stop in zip(utterance.starts, utterance.stops, strict=True):
            if stop <= start or (at is not None and start < at):
                raise RecordError(
                    "bad_timing",
                    f"stream {script.streams[utterance.stream].name} says something from {start} to {stop}"
                    + ("" if at is None else f", before {at}, when it is done with what it says before"),
                )
            at = stop
        last[utterance.stream] = utterance.stops[-1]


def _waits(
    streams: Sequence[int],
    starts: Sequence[int],
    stops: Sequence[int],
    inputs: frozenset[int],
    unheard: frozenset[int],
) -> list[tuple[int, ...]]:
    """Per chunk, on each other stream the last chunk that has stopped when it starts, unless another of them waits for it.

    Chunks of ``inputs`` wait for no chunk of the streams ``unheard``.
    """
    said: dict[int, list[int]] = {}
    for chunk, on in enumerate(streams):
        said.setdefault(on, []).append(chunk)
    ended = {on: [stops[c] for c in chunks] for on, chunks in said.items()}
    after: list[tuple[int, ...]] = []
    for chunk, start in enumerate(starts):
        deaf = unheard if streams[chunk] in inputs else frozenset()
        have = {on: bisect.bisect_right(times, start) for on, times in ended.items() if on not in deaf}
        nearest = [said[on][n - 1] for on, n in have.items() if n]
        #: What had stopped by then, one of the nearest waits for: any of them, and those that hear everything.
        known = max((starts[c] for c in nearest), default=-1)
        known_by_output = max((starts[c] for c in nearest if streams[c] not in inputs), default=-1)
        after.append(
            tuple(
                sorted(
                    c
                    for c in nearest
                    if streams[c] != streams[chunk] and stops[c] > (known_by_output if streams[c] in unheard else known)
                )
            )
        )
    return after
