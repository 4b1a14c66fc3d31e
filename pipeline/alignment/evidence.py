"""evidence: reading overlaps with speaking only where what is said is grounded in what has been read.

Applies to data that arrives after the request is known: tool results, on demand also context passages and the request
itself (``over``). An output chunk starts once everything it mentions has been read or said, if what is found covers most
of it and the reading grounds some of it; anything else waits for all its author had read. Where a corpus says itself what an
answer rests on (see ``pipeline/gold.py``), the answer waits for that. Finding evidence is necessary for honesty, not
sufficient: the leak detectors look again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.calls import only_reads
from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.alignment.reading import Over, is_reading
from pipeline.conversation import Conversation
from pipeline.gold import Place, rests_on_all, supports
from pipeline.text import ChunkUnit
from pipeline.timeline import Draft, Span, Stream

NAME = "evidence"
CLAIM = "an output chunk starts once all that it mentions has been read"


@dataclass(frozen=True, slots=True)
class Params:
    """``min_coverage``: share of an output chunk's content words that must be found (0 to 1); ``chunk``: unit of cuts;
    ``over``: what may overlap with speaking: ``results`` (of tools), ``data`` (also context passages) or ``all`` (also
    the user's own words). A passage that asks the question which its end answers ("we studied whether…") shares its words
    with the conclusion, so context is not in the default; ``gold``: whether what a corpus says that its answers rest on
    (supporting facts, the place of an answer) is enough to say them."""

    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.8
    chunk: ChunkUnit = "sentence"
    over: Over = "results"
    gold: Literal["on", "off"] = "on"


def why(draft: Draft) -> str:
    """Tool results that the model speaks after, or answers with gold evidence."""
    results = {span.message for _, _, span in draft.items if span.kind == "tool_result"}
    if results and any(role in ("assistant", "thought", "call") for role, _, _ in draft.items):
        return f"{len(results)} messages with tool results"
    return "the corpus says what the answer rests on" if supports(draft.conversation) else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def _gold(draft: Draft, params: Params) -> Mapping[int, tuple[Place, ...]]:
    return supports(draft.conversation) if params.gold == "on" else {}


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """The data that is read and the outputs that follow it are cut; a call is issued whole."""
    chosen: dict[int, Cut] = {}
    reading = speaking = False
    gold = _gold(draft, params)
    rests_on = {(place.message, place.part) for places in gold.values() for place in places}
    for i, span in enumerate(spans):
        if streams[span.stream].direction == "output":
            speaking = True
            if reading and span.kind == "message":
                chosen[i] = params.chunk
            continue
        if speaking:
            reading = speaking = False
        if is_reading(span, params.over, streams[span.stream].role):
            chosen[i] = params.chunk
            reading = True
        elif (span.message, span.part) in rests_on:
            chosen[i] = params.chunk
    return chosen


def relax(batch: Batch, params: Params) -> None:
    """Grounded output chunks no longer wait for the data that comes after what they mention."""
    questions = Questions()
    asked: list[tuple[Plan, int, list[int], int]] = []
    for number, plan in enumerate(batch.plans):
        if not any(is_reading(span, params.over, plan.streams[span.stream].role) for span in plan.spans):
            continue
        base = None
        gold = _decided(plan.conversation) if params.gold == "on" else frozenset()
        unread: list[int] = []
        for message in plan.messages():
            if not plan.is_output(message[0]):
                unread.extend(message)
                continue
            reading = [
                s for s in unread if is_reading(plan.spans[s], params.over, plan.streams[plan.spans[s].stream].role)
            ]
            if sum(len(plan.chunks(s)) for s in reading) > 1:
                base = int(batch.ground.base[number]) if base is None else base
                first, stop = base + plan.first[unread[0]], base + plan.first[unread[-1] + 1]
                questions.reading.extend((base + plan.first[s], base + plan.first[s + 1]) for s in reading)
                held = _question(plan, reading) if params.over == "all" else -1
                for span in () if plan.spans[message[0]].message in gold else message:
                    for chunk in _early(plan, span, message):
                        questions.add(base + chunk, first, stop, alone=plan.spans[span].kind == "tool_call")
                        asked.append((plan, chunk, reading, held))
            unread = []
    if asked:
        bases = batch.ground.base.tolist()
        numbers = {id(plan): number for number, plan in enumerate(batch.plans)}
        for (plan, chunk, reading, held), needed in zip(
            asked, batch.ground.needed(questions, params.min_coverage), strict=True
        ):
            if needed >= 0:
                plan.requires[chunk] &= ~_after(plan, reading, max(needed - bases[numbers[id(plan)]], held))
    if params.gold == "on":
        _relax_gold(batch)


def _decided(conversation: Conversation) -> frozenset[int]:
    """The messages of which the corpus says what they rest on: words have no say in them."""
    return frozenset(supports(conversation)) | rests_on_all(conversation)


def _early(plan: Plan, span: int, message: list[int]) -> range:
    """The chunks of a span that may be said early: none of who watches, of calls that change something, and not the last of a
    message, whose end says that nothing is missing."""
    told = plan.spans[span]
    if told.kind == "tool_call":
        return plan.chunks(span) if only_reads(told.text.partition("\n")[0]) else range(0)
    said = [s for s in message if plan.spans[s].source_kind == "text"]
    if told.source_kind in ("audit", "monitor"):
        return range(0)
    return plan.chunks(span)[:-1] if said and span == said[-1] else plan.chunks(span)


def _question(plan: Plan, reading: list[int]) -> int:
    """The chunk in which the user asks: the last with a question mark, else the last of his words; -1 if he says nothing."""
    words = [(span, chunk) for span in reading if plan.spans[span].source_kind == "text" for chunk in plan.chunks(span)]
    asks = [chunk for span, chunk in words if "?" in plan.text(span, chunk) or "？" in plan.text(span, chunk)]
    return asks[-1] if asks else words[-1][1] if words else -1


def _after(plan: Plan, reading: list[int], needed: int) -> int:
    """The chunks of the reading behind chunk ``needed``, with the headers of the results that begin behind it."""
    bits = 0
    for span in reading:
        first, stop = plan.first[span], plan.first[span + 1]
        if needed < first and span and plan.spans[span - 1].kind == "header":
            bits |= 1 << plan.first[span - 1]
        low = max(first, needed + 1)
        if low < stop:
            bits |= (1 << stop) - (1 << low)
    return bits


def _relax_gold(batch: Batch) -> None:
    """What a corpus says that its answer rests on, and all runs of words and facts that the answer copies, must have ended."""
    questions = Questions()
    asked: list[tuple[Plan, int, int, int, int]] = []
    for number, plan in enumerate(batch.plans):
        for message, places in supports(plan.conversation).items():
            where = {(plan.spans[s].message, plan.spans[s].part): s for s in range(len(plan.spans))}
            read = {place.message for place in places}
            spans = sorted(s for (m, _), s in where.items() if m in read and not plan.is_output(s))
            last = max(_chunk_at(plan, where[place.message, place.part], place.end) for place in places)
            stop = plan.first[spans[-1] + 1]
            base = int(batch.ground.base[number])
            for span in range(spans[-1] + 1, len(plan.spans)):
                if plan.spans[span].message == message and plan.is_output(span) and plan.spans[span].kind == "message":
                    for chunk in plan.chunks(span):
                        questions.add(base + chunk, base + plan.first[spans[0]], base + stop)
                        asked.append((plan, chunk, last, stop, base))
            questions.reading.extend((base + plan.first[s], base + plan.first[s + 1]) for s in spans)
    for (plan, chunk, last, stop, base), copied in zip(
        asked, batch.ground.copied(questions) if asked else (), strict=True
    ):
        low = max(last, copied - base) + 1
        if low < stop:
            plan.requires[chunk] &= ~((1 << stop) - (1 << low))


def _chunk_at(plan: Plan, span: int, end: int) -> int:
    """The chunk of a span in which the character before ``end`` lies."""
    return next((c for c in plan.chunks(span) if plan.chunk_end[c] >= end), plan.first[span + 1] - 1)
