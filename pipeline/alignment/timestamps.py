"""timestamps: the real times of the log place the messages; interruptions stay as they happened.

A message waits for what had ended when it started. If another one was going on then (its start and end are known), that
one is cut at the share of its time that had passed, and only the part said so far is waited for. The time that passed since
the end of what a message waits for is kept in rows, up to ``max_idle_ms``: longer gaps are compressed, with the real one in
``labels["idle"]``. The order of the source wins where its times contradict it (``labels["clock_skew"]``); a message without a
time keeps its place. Honesty comes first: an output that by the log began before what it copies had been read is held
back until then (``labels["held_back"]``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.conversation import Conversation, Message
from pipeline.text import is_grapheme_boundary
from pipeline.timeline import Draft, Span, Stream

NAME = "timestamps"
CLAIM = "a message waits for what had ended when it started by the log, and for what it copies"

#: A cut lies at the end of a word if there is one within so many characters.
_WORD = 40


@dataclass(frozen=True, slots=True)
class Params:
    """``ms_per_row``: what a row lasts; ``max_idle_ms``: longer gaps last so long; ``generation``: whether the time before an
    output of which only the time of logging is known was spent writing it (``rows``, which count already) or is a gap
    like others (``idle``)."""

    ms_per_row: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 50.0
    max_idle_ms: Annotated[int, Field(ge=0)] = 2000
    generation: Literal["rows", "idle"] = "rows"

    @property
    def clock_ms(self) -> float:
        """What a row of the record lasts (see ``AlignSpec.ms_per_row``)."""
        return self.ms_per_row

    @property
    def most_delay(self) -> int:
        """Rows that a message is delayed at most."""
        return round(self.max_idle_ms / self.ms_per_row)


def why(draft: Draft) -> str:
    """Messages with times."""
    known = sum(m.started_ms is not None or m.ended_ms is not None for m in draft.conversation.messages)
    return f"{known} of {len(draft.conversation.messages)} messages have times" if known > 1 else ""


@plain_dataclass(frozen=True, slots=True)
class _Times:
    """When each message started and ended, in milliseconds, as far as order and log allow it; None: nothing is known.

    ``open[m]``: the earlier messages that were going on when message ``m`` started. ``skewed``: times against the order.
    """

    start: list[int | None] = field(default_factory=list)
    end: list[int | None] = field(default_factory=list)
    open: dict[int, list[int]] = field(default_factory=dict)
    skewed: list[int] = field(default_factory=list)


def _times(conversation: Conversation) -> _Times:
    times = _Times()
    going_on: list[tuple[int, int]] = []
    now: int | None = None
    for index, message in enumerate(conversation.messages):
        start, end = _span_of(message)
        if start is None or end is None:
            times.start.append(None)
            times.end.append(None)
            continue
        if end < start or (now is not None and start < now):
            times.skewed.append(index)
        start = start if now is None else max(start, now)
        end = max(start, end)
        now = start
        going_on = [(m, until) for m, until in going_on if until > start]
        if going_on:
            times.open[index] = [m for m, _ in going_on]
        if end > start:
            going_on.append((index, end))
        times.start.append(start)
        times.end.append(end)
    return times


def _span_of(message: Message) -> tuple[int | None, int | None]:
    """Start and end of a message; both the one time that is known of it."""
    started = message.started_ms if message.started_ms is not None else message.ended_ms
    return started, message.ended_ms if message.ended_ms is not None else started


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added; times that contradict the order are noted."""
    if skewed := _times(draft.conversation).skewed:
        draft.labels["clock_skew"] = skewed


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """What was going on when another message started is cut where it was then."""
    times = _times(draft.conversation)
    spans_of = _spans_of(spans) if times.open else {}
    ends: dict[int, set[int]] = {}
    for message, others in times.open.items():
        for other in others:
            span, offset = _reached(times, other, message, spans, spans_of.get(other, ()))
            if 0 < offset < len(spans[span].text):
                ends.setdefault(span, set()).add(offset)
    return {span: tuple(sorted(offsets)) for span, offsets in ends.items()}


def _spans_of(spans: Sequence[Span]) -> dict[int, list[int]]:
    """The spans of each message, in source order; without those that are not its author's."""
    found: dict[int, list[int]] = {}
    for index, span in enumerate(spans):
        if span.message is not None and span.source_kind not in ("audit", "monitor"):
            found.setdefault(span.message, []).append(index)
    return found


def _reached(times: _Times, other: int, message: int, spans: Sequence[Span], own: Sequence[int]) -> tuple[int, int]:
    """How far message ``other`` had come when ``message`` started: a span of it, and an offset in its text.

    The characters of a message are taken to be said at an even pace, a call all at once when it ends.
    """
    start, end, at = (times.start[other] or 0), (times.end[other] or 0), (times.start[message] or 0)
    left: int = sum(len(spans[s].text) for s in own) * (at - start) // (end - start)
    for span in own:
        text = spans[span].text
        if left < len(text):
            return span, 0 if spans[span].kind in ("tool_call", "header") else _end_of_word(text, left)
        left -= len(text)
    return (own[-1], len(spans[own[-1]].text)) if own else (0, 0)


def _end_of_word(text: str, offset: int) -> int:
    """The nearest end of a word at or before ``offset``, else behind it, else the character's."""
    near: list[int] = [*range(offset, max(offset - _WORD, 0), -1), *range(offset + 1, min(offset + _WORD, len(text)))]
    for at in near:
        if text[at].isspace() and not text[at - 1].isspace() and is_grapheme_boundary(text, at):
            return at
    while not is_grapheme_boundary(text, offset):
        offset -= 1
    return offset


@plain_dataclass(frozen=True, slots=True)
class _Overlap:
    """A message (of plan ``number``) that started while others were going on; ``unread``: their chunks not said by then."""

    number: int
    plan: Plan
    message: int
    spans: list[int]
    unread: int


def relax(batch: Batch, params: Params) -> None:
    """Messages no longer wait for what was not said yet when they started; gaps become delays."""
    every = [(plan, _times(plan.conversation)) for plan in batch.plans]
    overlaps = [overlap for number, (plan, times) in enumerate(every) for overlap in _overlaps(number, plan, times)]
    held = _held_back(batch, overlaps)
    for number, overlap in enumerate(overlaps):
        for span in overlap.spans:
            for chunk in overlap.plan.chunks(span):
                overlap.plan.requires[chunk] &= ~(overlap.unread & ~held.get((number, chunk), 0))
    for plan, times in every:
        if any(time is not None for time in times.start):
            _delay(plan, times, params)


def _overlaps(number: int, plan: Plan, times: _Times) -> Iterator[_Overlap]:
    spans_of = _spans_of(plan.spans) if times.open else {}
    call_span = {span.call: s for s, span in enumerate(plan.spans) if span.kind == "tool_call"}
    for message, others in times.open.items():
        unread = 0
        for other in others:
            own = spans_of.get(other, [])
            if own:
                span, offset = _reached(times, other, message, plan.spans, own)
                said = [c for c in plan.chunks(span) if plan.chunk_end[c] <= offset]
                low = said[-1] + 1 if said else plan.first[span]
                unread |= plan.mask(own) >> low << low
        spans = spans_of.get(message, [])
        for span in spans:
            if plan.spans[span].call in call_span and plan.spans[span].kind in ("header", "tool_result"):
                unread &= ~plan.mask([call_span[plan.spans[span].call]])
        if spans and unread:
            yield _Overlap(number, plan, message, spans, unread)


def _held_back(batch: Batch, overlaps: Sequence[_Overlap]) -> dict[tuple[int, int], int]:
    """Per (overlap, output chunk), the unread chunks that it has to wait for, since it copies from the last of them."""
    questions = Questions()
    asked: list[tuple[int, int, int]] = []
    for number, overlap in enumerate(overlaps):
        plan = overlap.plan
        chunks = [c for s in overlap.spans if plan.is_output(s) for c in plan.chunks(s)]
        if not chunks:
            continue
        base = int(batch.ground.base[overlap.number])
        first, stop = (overlap.unread & -overlap.unread).bit_length() - 1, plan.first[overlap.spans[0]]
        for span in range(len(plan.spans)):
            if not plan.is_output(span) or plan.streams[plan.spans[span].stream].role == "thought":
                questions.reading.extend((base + c, base + c + 1) for c in plan.chunks(span) if overlap.unread >> c & 1)
        for chunk in chunks:
            questions.add(base + chunk, base + first, base + stop, alone=True)
            asked.append((number, chunk, base))
    if not asked:
        return {}
    held: dict[tuple[int, int], int] = {}
    for (number, chunk, base), copied in zip(asked, batch.ground.copied(questions), strict=True):
        overlap = overlaps[number]
        if copied >= base and (waits := overlap.unread & ((1 << (copied - base + 1)) - 1)):
            held[number, chunk] = waits
            messages = overlap.plan.labels.setdefault("held_back", [])
            if overlap.message not in messages:
                messages.append(overlap.message)
    return held


def _delay(plan: Plan, times: _Times, params: Params) -> None:
    """The first chunks of each message start so many rows after all that they wait for as the log says, or at most."""
    spans_of = _spans_of(plan.spans)
    timed: list[int] = []
    latest_until: list[int] = []
    for message, spans in spans_of.items():
        start, end = times.start[message], times.end[message]
        told = plan.conversation.messages[message]
        # What a record opens with was there before anybody spoke (a segment repeats it).
        if start is None or end is None or (told.role == "system" and not timed):
            continue
        wrote = params.generation == "rows" and told.role == "assistant" and None in (told.started_ms, told.ended_ms)
        own = plan.mask(spans)
        real = 0
        for span in () if wrote else spans:
            chunk = plan.first[span]
            if plan.requires[chunk] & own:
                continue
            latest = _latest_wait(plan, span, timed, latest_until, spans_of, times, start)
            gap = max(start - latest, 0) if latest is not None else 0
            real = max(real, gap)
            plan.delay.pop(chunk, None)
            if rows := round(min(gap, params.max_idle_ms) / params.ms_per_row):
                plan.delay[chunk] = rows
        if real > params.max_idle_ms:
            plan.labels.setdefault("idle", []).append([message, real])
        timed.append(message)
        latest_until.append(max(end, latest_until[-1]) if latest_until else end)


def _latest_wait(
    plan: Plan,
    span: int,
    timed: Sequence[int],
    latest_until: Sequence[int],
    spans_of: Mapping[int, list[int]],
    times: _Times,
    start: int,
) -> int | None:
    """When the last thing ended that the first chunk of a span waits for; None if it waits for nothing with a time.

    ``timed``: the earlier messages with times; ``latest_until``: the latest end of all up to and with each.
    """
    waits, stream = plan.requires[plan.first[span]], plan.spans[span].stream
    latest: int | None = None
    for other, until in zip(reversed(timed), reversed(latest_until), strict=True):
        if latest is not None and min(until, start) <= latest:
            break
        end = times.end[other]
        spoken = spans_of[other]
        if end is not None and (waits & plan.mask(spoken) or any(plan.spans[s].stream == stream for s in spoken)):
            latest = max(min(end, start), latest if latest is not None else min(end, start))
    return latest
