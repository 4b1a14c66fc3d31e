"""evidence: reading overlaps with speaking only where what is said is grounded in what has been read.

Applies to data that arrives after the request is known: tool results, on demand also context passages and the request
itself (``over``). An output chunk starts once everything it mentions has been read or said, if what is found covers most
of it and the reading grounds some of it; anything else waits for all its author had read. Finding evidence is necessary
for honesty, not sufficient: the leak detectors look again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.alignment.grounding import Reading
from pipeline.alignment.plan import Plan
from pipeline.alignment.turn import messages_of
from pipeline.mentions import known
from pipeline.text import ChunkUnit
from pipeline.timeline import Span, Stream

NAME = "evidence"

_READING = {
    "results": ("tool_result",),
    "data": ("tool_result", "context"),
    "all": ("tool_result", "context", "text"),
}


@dataclass(frozen=True, slots=True)
class Params:
    """``min_coverage``: share of an output chunk's content words that must be found (0 to 1); ``chunk``: unit of cuts;
    ``over``: what may overlap with speaking: ``results`` (of tools), ``data`` (also context passages) or ``all`` (also
    the user's own words). A passage that asks the question which its end answers ("we studied whether…") shares its words
    with the conclusion, so context is not in the default."""

    min_coverage: float = 0.8
    chunk: ChunkUnit = "sentence"
    over: Literal["results", "data", "all"] = "results"


def _is_reading(span: Span, params: Params, stream: Stream) -> bool:
    if stream.role == "system" or span.message is None:
        return False
    return span.source_kind in _READING[params.over]


def cuts(streams: Sequence[Stream], spans: Sequence[Span], params: Params) -> dict[int, ChunkUnit]:
    """The data that is read and the outputs that follow it are cut; a call is issued whole."""
    chosen: dict[int, ChunkUnit] = {}
    reading = speaking = False
    for i, span in enumerate(spans):
        if streams[span.stream].direction == "output":
            speaking = True
            if reading and span.kind == "message":
                chosen[i] = params.chunk
            continue
        if speaking:
            reading = speaking = False
        if _is_reading(span, params, streams[span.stream]):
            chosen[i] = params.chunk
            reading = True
    return chosen


def relax(plan: Plan, params: Params) -> None:
    """Grounded output chunks no longer wait for the data that comes after what they mention."""
    if not any(_is_reading(span, params, plan.streams[span.stream]) for span in plan.spans):
        return
    before: set[str] = set()
    unread: list[int] = []
    for message in messages_of(plan):
        if not plan.is_output(message[0]):
            unread.extend(message)
            continue
        reading = [s for s in unread if _is_reading(plan.spans[s], params, plan.streams[plan.spans[s].stream])]
        _learn(plan, (s for s in unread if s not in reading), before)
        if sum(len(plan.chunks(s)) for s in reading) > 1:
            _relax_message(plan, message, reading, before, params)
        _learn(plan, [*reading, *message], before)
        unread = []


def _learn(plan: Plan, spans: Iterable[int], before: set[str]) -> None:
    for span in spans:
        before |= known(plan.spans[span].text)


def _relax_message(plan: Plan, message: list[int], reading: list[int], before: set[str], params: Params) -> None:
    chunks = [(span, chunk) for span in reading for chunk in plan.chunks(span)]
    read = Reading([plan.text(span, chunk) for span, chunk in chunks])
    bits = [_bits(plan, span, chunk) for span, chunk in chunks]
    said: set[str] = set()
    for span in message:
        for chunk in plan.chunks(span):
            text = plan.text(span, chunk)
            needed = read.needed_for(text, (before, said), params.min_coverage)
            if needed is not None:
                for late in bits[needed:]:
                    plan.requires[chunk] &= ~late
            said |= known(text)


def _bits(plan: Plan, span: int, chunk: int) -> int:
    """The chunk, with the header that opens its tool result."""
    opens = chunk == plan.first[span] and span > 0 and plan.spans[span - 1].kind == "header"
    return 1 << chunk | (1 << plan.first[span - 1] if opens else 0)
