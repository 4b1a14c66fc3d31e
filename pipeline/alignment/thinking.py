"""thinking: an answer chunk starts once the part of the thought that it rests on is there.

Everything it mentions must stand in the thought so far, or have been read or said before; a chunk that the thought does
not ground waits for the whole thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.alignment.grounding import chunks_needed
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
        thought: list[int] = []
        reading: list[str] = []
        said: set[str] = set()
        for span in message:
            kind = plan.spans[span].source_kind
            if kind == "thinking" and plan.is_output(span):
                for chunk in plan.chunks(span):
                    thought.append(chunk)
                    reading.append(plan.text(span, chunk))
            elif kind == "text" and thought and plan.is_output(span):
                for chunk in plan.chunks(span):
                    text = plan.text(span, chunk)
                    needed = chunks_needed(text, reading, (before, said), params.min_coverage)
                    if needed is not None:
                        plan.requires[chunk] &= ~sum(1 << late for late in thought[needed:])
                    said |= known(text)
        for span in message:
            before |= known(plan.spans[span].text)
