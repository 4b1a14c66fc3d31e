"""Scenes: what was said in which slice on which stream, and the conversation and timeline that this tells.

Time is cut into slices. What is said in a slice was written from what had been said in the slices before it, so its chunk
waits for everything of them: causality holds by construction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from pipeline.conversation import Conversation, Message, Part, PartKind, Role, Source
from pipeline.errors import ConservationError
from pipeline.timeline import Kind, Span, Stream, Timeline
from synth.spacing import spaced


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one stream says in one slice.

    ``kind``: ``message``, ``tool_call`` (``text`` is the name, a newline, the arguments) or ``tool_result``. ``call``: the
    ordinal of the call within the scene, for calls and results; ``tool``: its name. ``cut``: it was broken off here.
    """

    slice: int
    stream: int
    text: str
    kind: Kind = "message"
    call: int | None = None
    tool: str | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Utterances ordered by slice; within a slice by stream. At most one per slice and stream."""

    streams: tuple[Stream, ...]
    utterances: tuple[Utterance, ...]

    @property
    def slices(self) -> int:
        """How many slices there are, to the last in which anybody speaks."""
        return max((u.slice for u in self.utterances), default=-1) + 1

    def said(self, stream: int) -> list[Utterance]:
        """What a stream says, in order."""
        return [u for u in self.utterances if u.stream == stream]

    def of_role(self, *roles: str) -> list[int]:
        """The streams that have one of the roles."""
        return [i for i, stream in enumerate(self.streams) if stream.role in roles]

    def rows(self) -> list[list[str | None]]:
        """Cells ``[slice][stream]``, None for silence."""
        table: list[list[str | None]] = [[None] * len(self.streams) for _ in range(self.slices)]
        for utterance in self.utterances:
            table[utterance.slice][utterance.stream] = utterance.text
        return table


def broken_off(scene: Scene) -> Scene:
    """The scene with outputs marked as cut where another's first words made them stop in the middle of a sentence."""
    speaks = {(u.stream, u.slice) for u in scene.utterances}
    directions = [stream.direction for stream in scene.streams]
    cut_in = {
        u.slice
        for u in scene.utterances
        if u.kind == "message" and directions[u.stream] == "input" and (u.stream, u.slice - 1) not in speaks
    }

    def is_broken_off(u: Utterance) -> bool:
        return (
            u.kind == "message"
            and directions[u.stream] == "output"
            and u.slice in cut_in
            and u.slice < scene.slices - 1
            and (u.stream, u.slice - 1) in speaks
            and (u.stream, u.slice + 1) not in speaks
            and u.text[-1].isalnum()
        )

    return Scene(scene.streams, tuple(replace(u, cut=True) if is_broken_off(u) else u for u in scene.utterances))


def runs_of(scene: Scene) -> list[list[Utterance]]:
    """The messages of a scene, in order: what a stream says in slices that follow one another; a call or a result alone."""
    runs: list[list[Utterance]] = []
    open_run: dict[int, int] = {}
    for one in scene.utterances:
        before = open_run.get(one.stream)
        goes_on = (
            before is not None
            and one.kind == "message"
            and runs[before][-1].kind == "message"
            and runs[before][-1].slice == one.slice - 1
            and not runs[before][-1].cut
        )
        if before is not None and goes_on:
            runs[before].append(one)
        else:
            open_run[one.stream] = len(runs)
            runs.append([one])
    return runs


def told(scene: Scene, sources: Sequence[Source], group: str, extra: dict[str, Any]) -> tuple[Conversation, Timeline]:
    """The conversation and the timeline of a scene.

    What a stream says in slices that follow one another is one message, its pieces joined by one space (by nothing in scripts
    that put none between words); a call and a result are messages of their own, a result after its header.
    """
    runs = runs_of(scene)
    spans: list[Span] = []
    messages: list[Message] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    chunk_slice: list[int] = []
    for number, run in enumerate(runs):
        stream = scene.streams[run[0].stream]
        message, run_spans = _message(number, stream, run)
        messages.append(message)
        for span in run_spans:
            pieces = spaced([u.text for u in run]) if span.kind == "message" else [span.text]
            end = 0
            for at, piece in enumerate(pieces):
                end += len(piece)
                chunk_span.append(len(spans))
                chunk_end.append(end)
                chunk_slice.append(run[at].slice)
            spans.append(span.on(run[0].stream))
    after = [tuple(d for d, at in enumerate(chunk_slice) if at < chunk_slice[c]) for c in range(len(chunk_slice))]
    conversation = Conversation(tuple(messages), extra=extra, group=group, sources=tuple(sources))
    return conversation, Timeline(
        scene.streams, tuple(spans), chunk_span, chunk_end, [_latest(waits, after) for waits in after]
    )


def check_slices(scene: Scene, events: Sequence[Mapping[str, Any]], lag: int) -> None:
    """Whether no event starts before everything of the slices before its own has ended, ``lag`` rows ago on other streams.

    ``events``: of the record (in JSON) that :func:`told` the scene. Characters of a token that two chunks share are the
    earlier one's on an input and the later one's on an output. Raises ConservationError: the layout is broken.
    """
    ends: list[list[tuple[int, int]]] = []
    for run in runs_of(scene):
        sizes = map(len, spaced([u.text for u in run]))
        ends.append(list(zip(accumulate(sizes), [u.slice for u in run], strict=True)))
    low = dict.fromkeys(range(len(ends)), 0)
    by_slice: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        pieces, first = ends[event["message"]], 0
        if event["kind"] == "message":
            first = low[event["message"]]
            low[event["message"]] += len(event["text"])
        at = first if scene.streams[event["stream"]].direction == "input" else low[event["message"]] - 1
        number = next((slice_ for end, slice_ in pieces if at < end), pieces[-1][1])
        by_slice[number].append(event)
    ended: dict[int, int] = {}
    for number in sorted(by_slice):
        for event in by_slice[number]:
            waits = (end + (lag if stream != event["stream"] else 0) for stream, end in ended.items())
            if event["start"] < max(waits, default=0):
                raise ConservationError(
                    f"slice {number + 1} of a scene starts before the slices before it have ended: {event['text'][:80]}"
                )
        for event in by_slice[number]:
            ended[event["stream"]] = max(ended.get(event["stream"], 0), event["end"])


def _message(number: int, stream: Stream, run: Sequence[Utterance]) -> tuple[Message, list[Span]]:
    first, last = run[0], run[-1]
    if first.kind == "tool_call":
        name, _, arguments = first.text.partition("\n")
        part = Part("tool_call", arguments, name=name, call_id=str(first.call))
        span = Span(0, number, 0, "tool_call", first.text, call=first.call, added="\n", source_kind="tool_call")
        return Message("assistant", (part,), name=stream.name), [span]
    if first.kind == "tool_result":
        part = Part("tool_result", first.text, name=first.tool, call_id=str(first.call))
        title = f"{first.tool}#{first.call}"
        return Message("tool", (part,), name=first.tool), [
            Span(0, number, 0, "header", title, ends=False, call=first.call, weight=0.0, source_kind="header"),
            Span(0, number, 0, "tool_result", first.text, call=first.call, source_kind="tool_result"),
        ]
    text = "".join(spaced([u.text for u in run]))
    kind: PartKind = "thinking" if stream.role == "thought" else "text"
    role: Role = "assistant" if stream.direction == "output" else "system" if stream.role == "system" else "user"
    part = Part(kind, text, interrupted=last.cut)
    span = Span(0, number, 0, "message", text, ends=not last.cut, interrupted=last.cut, source_kind=kind)
    return Message(role, (part,), name=stream.name), [span]


def _latest(waits: tuple[int, ...], after: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Only those waits that no other of them waits for already."""
    reached = {w for wait in waits for w in after[wait]}
    return tuple(wait for wait in waits if wait not in reached)
