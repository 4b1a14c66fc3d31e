"""thinking: an answer chunk starts once the part of the thought that it rests on is there.

Everything it mentions must stand in the thought so far, or have been read or said before; a chunk that the thought does
not ground waits for the whole thought. So do a judgement (yes, no), since a thought weighs before it judges, and the last
chunk of an answer, whose end says that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.text import ChunkUnit
from pipeline.timeline import Draft, Span, Stream

NAME = "thinking"
CLAIM = "an answer chunk starts once the part of the thought that it rests on is there"


@dataclass(frozen=True, slots=True)
class Params:
    """``min_coverage``: share of an answer chunk's content words that must be grounded (0 to 1); ``chunk``: unit of cuts."""

    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.8
    chunk: ChunkUnit = "sentence"


def why(draft: Draft) -> str:
    """Answers with thoughts before them."""
    thoughts = {span.message for role, _, span in draft.items if role == "thought" and span.source_kind == "thinking"}
    answers = {span.message for role, _, span in draft.items if role == "assistant"}
    return f"{len(thoughts & answers)} answers after thoughts" if thoughts & answers else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """Thoughts and the answers that follow them in the same message are cut."""
    thoughtful = {span.message for span in spans if span.source_kind == "thinking"}
    answered = {span.message for span in spans if streams[span.stream].role == "assistant"}
    return {
        i: params.chunk
        for i, span in enumerate(spans)
        if span.message in thoughtful
        and span.message in answered
        and span.source_kind in ("text", "thinking")
        and streams[span.stream].direction == "output"
    }


def relax(batch: Batch, params: Params) -> None:
    """Answer chunks no longer wait for what their thought says after the part they rest on."""
    questions = Questions()
    asked: list[tuple[Plan, int, list[int], int]] = []
    for number, plan in enumerate(batch.plans):
        if not any(span.source_kind == "thinking" for span in plan.spans):
            continue
        for message in plan.messages():
            speaking = [s for s in message if plan.is_output(s)]
            thoughts = [s for s in speaking if plan.spans[s].source_kind == "thinking"]
            answers = [s for s in speaking if plan.spans[s].source_kind == "text" and thoughts and s > thoughts[-1]]
            if not answers or sum(len(plan.chunks(s)) for s in thoughts) < 2:
                continue
            base = int(batch.ground.base[number])
            first, stop = base + plan.first[thoughts[0]], base + plan.first[thoughts[-1] + 1]
            questions.reading.extend((base + plan.first[s], base + plan.first[s + 1]) for s in thoughts)
            for span in answers:
                for chunk in plan.chunks(span):
                    if chunk == plan.first[answers[-1] + 1] - 1:
                        continue
                    questions.add(base + chunk, first, stop)
                    asked.append((plan, chunk, thoughts, base))
    if asked:
        for (plan, chunk, thoughts, base), needed in zip(
            asked, batch.ground.needed(questions, params.min_coverage, thought=True), strict=True
        ):
            if needed >= 0:
                late = sum(1 << c for s in thoughts for c in plan.chunks(s) if c > needed - base)
                plan.requires[chunk] &= ~late
