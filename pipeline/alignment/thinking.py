"""thinking: an answer chunk starts once the part of the thought that it rests on is there.

Everything it mentions must stand in the thought so far, or have been read or said before; a chunk that the thought does
not ground waits for the whole thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.alignment.grounding import Reading
from pipeline.alignment.plan import Plan
from pipeline.alignment.turn import messages_of
from pipeline.mentions import known
from pipeline.text import ChunkUnit
from pipeline.timeline import Span, Stream

NAME = "thinking"


@dataclass(frozen=True, slots=True)
class Params:
    """``min_coverage``: share of an answer chunk's content words that must be grounded (0 to 1); ``chunk``: unit of cuts."""

    min_coverage: float = 0.8
    chunk: ChunkUnit = "sentence"


def cuts(streams: Sequence[Stream], spans: Sequence[Span], params: Params) -> dict[int, ChunkUnit]:
    """Thoughts and the answers that follow them in the same message are cut."""
    thoughtful = {span.message for span in spans if span.source_kind == "thinking"}
    return {
        i: params.chunk
        for i, span in enumerate(spans)
        if span.message in thoughtful and span.kind == "message" and streams[span.stream].direction == "output"
    }


def relax(plan: Plan, params: Params) -> None:
    """Answer chunks no longer wait for what their thought says after the part they rest on."""
    if not any(span.source_kind == "thinking" for span in plan.spans):
        return
    before: set[str] = set()
    for message in messages_of(plan):
        speaking = [s for s in message if plan.is_output(s)]
        thoughts = [s for s in speaking if plan.spans[s].source_kind == "thinking"]
        if thoughts:
            _relax_message(plan, speaking, thoughts, before, params)
        for span in message:
            before |= known(plan.spans[span].text)


def _relax_message(plan: Plan, speaking: list[int], thoughts: list[int], before: set[str], params: Params) -> None:
    chunks = [(span, chunk) for span in thoughts for chunk in plan.chunks(span)]
    read = Reading([plan.text(span, chunk) for span, chunk in chunks])
    said: set[str] = set()
    for span in speaking:
        if plan.spans[span].source_kind != "text" or span < thoughts[-1]:
            continue
        for chunk in plan.chunks(span):
            text = plan.text(span, chunk)
            needed = read.needed_for(text, (before, said), params.min_coverage)
            if needed is not None:
                plan.requires[chunk] &= ~sum(1 << late for _, late in chunks[needed:])
            said |= known(text)
