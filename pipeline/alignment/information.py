"""information: a chunk may start at the first row from which on the rest of the input makes it hardly more likely.

Measured by a small causal language model (``pipeline/scoring``): the gain of a chunk after a part of the reading is by how
much the whole reading raises the mean log p of its tokens, in nats. The chunk starts once that is at most ``epsilon`` and
stays so, and never before a fact or a run of words that it copies has been read. A weak scorer is too optimistic: what it
cannot use, it does not miss; so scorer and cue are among the parameters. What does not fit the scorer's window waits for
everything, and is counted in the record's ``labels``.

A call that only reads may leave before the calls and results ahead of it in its turn, by the same rule.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.calls import reading_runs
from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.alignment.reading import Over, is_reading
from pipeline.errors import ConfigError
from pipeline.text import ChunkUnit
from pipeline.timeline import Draft, Span, Stream

if TYPE_CHECKING:
    from pipeline.scoring import PrefixQuery, Segment

NAME = "information"
CLAIM = "an output chunk starts once the rest of the input hardly makes it more likely to a language model"


@dataclass(frozen=True, slots=True)
class Params:
    """``epsilon``: nats per token that the rest of the input may still tell; ``chunk``: unit of cuts; ``over``: as in
    ``evidence``; ``least``: chunks of the reading that always come first; ``prefixes``: at most so many parts of one reading
    are tried, spread over its length (what it costs grows with them); ``calls``: whether calls that only read may leave
    before others (``reads``: as in ``tools_async``); ``scorer``: ``smollm2`` or a model's folder; ``cue``: how a reading
    that is cut short is handed over (docs/scoring.md)."""

    epsilon: Annotated[float, Field(ge=0, le=100)] = 0.02
    chunk: ChunkUnit = "sentence"
    over: Over = "all"
    least: Annotated[int, Field(ge=0)] = 1
    prefixes: Annotated[int, Field(ge=2)] = 16
    calls: Literal["on", "off"] = "on"
    reads: str = ""
    scorer: str = "smollm2"
    cue: Literal["turn", "ellipsis", "open"] = "turn"


@plain_dataclass(frozen=True, slots=True)
class _Asked:
    """What a query is about: output chunks of a plan, and the chunk before which each prefix ends."""

    plan: Plan
    base: int
    chunks: list[int]
    upto: list[int]


def why(draft: Draft) -> str:
    """Everything that is answered; chosen only by name, since it needs a language model."""
    return "answers to what is read" if any(role == "assistant" for role, _, _ in draft.items) else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """What is read and the outputs that follow it are cut; a call is issued whole."""
    return {
        i: params.chunk
        for i, span in enumerate(spans)
        if is_reading(span, params.over, streams[span.stream].role)
        or (streams[span.stream].direction == "output" and span.kind == "message" and _is_said(span))
    }


def _is_said(span: Span) -> bool:
    return span.source_kind in ("text", "thinking", "tool_call")


def relax(batch: Batch, params: Params) -> None:
    """Output chunks no longer wait for what would hardly make them more likely."""
    if batch.resources.scores is None:
        raise ConfigError("the policy information needs a scorer, and none is there")
    asked: list[_Asked] = []
    queries: list[PrefixQuery] = []
    for number, plan in enumerate(batch.plans):
        base = int(batch.ground.base[number])
        for query, about in (*_answers(plan, params, base), *_calls(plan, params, base)):
            queries.append(query)
            asked.append(about)
    first: list[list[int] | None] = [
        None if scores is None else scores.first_within(params.epsilon).tolist()
        for scores in batch.resources.scores(queries)
    ]
    questions = Questions()
    for about, prefixes in zip(asked, first, strict=True):
        counts = about.plan.labels.setdefault("information", {"scored": 0, "over_window": 0})
        counts["scored" if prefixes is not None else "over_window"] += 1
        low, high = about.base + about.upto[0], about.base + about.upto[-1]
        questions.reading.append((low, high))
        for chunk in about.chunks:
            questions.add(about.base + chunk, low, high, alone=True)
    copied = iter(batch.ground.copied(questions))
    for about, prefixes in zip(asked, first, strict=True):
        for at, chunk in enumerate(about.chunks):
            must = next(copied) - about.base + 1
            if prefixes is not None:
                free = max(about.upto[prefixes[at]], must)
                about.plan.requires[chunk] &= ~((1 << about.upto[-1]) - (1 << free)) if free < about.upto[-1] else -1


def _answers(plan: Plan, params: Params, base: int) -> Iterator[tuple[PrefixQuery, _Asked]]:
    """The outputs of each message, after every prefix of what was read since the last output."""
    unread: list[int] = []
    for message in plan.messages():
        if not plan.is_output(message[0]):
            unread.extend(message)
            continue
        outputs = [s for s in message if _is_said(plan.spans[s])]
        reading = [s for s in unread if is_reading(plan.spans[s], params.over, plan.streams[plan.spans[s].stream].role)]
        unread = []
        if not outputs or sum(len(plan.chunks(s)) for s in reading) < 2:
            continue
        # What lies between two pieces of reading and is none comes with the piece behind it.
        prefixes = [(reading[0], 0)] + [
            (span, chunk - plan.first[span] + 1) for span in reading for chunk in plan.chunks(span)
        ]
        prefixes = _spread(plan, prefixes[params.least :], params.prefixes)
        if prefixes[-1][0] != outputs[0] - 1 or len(prefixes) < 2:
            prefixes.append((outputs[0], 0))
        if len(prefixes) < 2:
            continue
        upto = [plan.first[span] + chunks for span, chunks in prefixes]
        chunks = [chunk for span in outputs for chunk in plan.chunks(span)]
        yield _query(plan, outputs, prefixes), _Asked(plan, base, chunks, upto)


def _spread(plan: Plan, prefixes: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most so many prefixes, as evenly over the characters of the reading as they allow; the last one is kept."""
    if len(prefixes) <= most:
        return prefixes
    read = list(accumulate(len(plan.text(span, plan.first[span] + max(chunks - 1, 0))) for span, chunks in prefixes))
    steps = [bisect.bisect_left(read, read[-1] * i / most) for i in range(1, most + 1)]
    return [prefixes[i] for i in dict.fromkeys(steps)]


def _calls(plan: Plan, params: Params, base: int) -> Iterator[tuple[PrefixQuery, _Asked]]:
    """Reading calls that follow others in their turn, after every step before them."""
    if params.calls == "off":
        return
    spans_of: dict[int | None, list[int]] = {}
    for span, told in enumerate(plan.spans):
        spans_of.setdefault(told.message, []).append(span)
    for run in reading_runs(plan, params.reads, same_tool=False):
        for at, step in enumerate(run[1:], 1):
            spans = spans_of[step.message]
            if any(plan.spans[s].kind != "tool_call" for s in spans):
                continue
            prefixes = [(spans_of[earlier.message][0], 0) for earlier in run[: at + 1]]
            upto = [plan.first[span] for span, _ in prefixes]
            yield _query(plan, spans, prefixes), _Asked(plan, base, [plan.first[s] for s in spans], upto)


def _query(plan: Plan, outputs: Sequence[int], prefixes: Sequence[tuple[int, int]]) -> PrefixQuery:
    """The outputs after everything before them; prefixes are (span, chunks of it)."""
    from pipeline.scoring import PrefixQuery

    before = [
        s for s in range(outputs[0]) if plan.spans[s].text and plan.spans[s].source_kind not in ("audit", "monitor")
    ]
    index = {span: i for i, span in enumerate(before)}

    def place(span: int, chunks: int) -> tuple[int, int]:
        while span < outputs[0] and span not in index:
            span, chunks = span + 1, 0
        return (index[span], chunks) if span < outputs[0] else (len(before), 0)

    return PrefixQuery(
        tuple(_segment(plan, span) for span in before),
        tuple(place(*prefix) for prefix in prefixes),
        tuple(_segment(plan, span) for span in outputs),
    )


def _segment(plan: Plan, span: int) -> Segment:
    from pipeline.scoring import Segment

    role = plan.streams[plan.spans[span].stream].role
    return Segment(role, plan.spans[span].text, tuple(plan.chunk_end[c] for c in plan.chunks(span)))
