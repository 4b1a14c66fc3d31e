"""Layout: chunks snap to tokens that split no character, and rows follow what each chunk waits for."""

from __future__ import annotations

from typing import Any

import pytest
import regex
from conversation_cases import QUICK, odd_texts
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversation import RecordError
from pipeline.layout import Events, lay_out
from pipeline.timeline import Span, Stream, Timeline
from pipeline.tokenization import TextTokenizer

STREAMS = (
    Stream("user", "user", 0, "input"),
    Stream("thought", "thought", 0, "output"),
    Stream("assistant", "assistant", 0, "output"),
)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Spans of odd text cut anywhere, waiting for any earlier chunks."""
    spans = [
        Span(draw(st.integers(0, 2)), i, 0, "message", draw(odd_texts), ends=draw(st.booleans()))
        for i in range(draw(st.integers(1, 4)))
    ]
    chunk_span, chunk_end = [], []
    for i, span in enumerate(spans):
        cuts = draw(st.sets(st.integers(1, max(1, len(span.text) - 1)), max_size=5)) if len(span.text) > 1 else set()
        ends = [*sorted(cuts), len(span.text)]
        chunk_span += [i] * len(ends)
        chunk_end += ends
    after = [
        tuple(sorted(draw(st.sets(st.integers(0, c - 1), max_size=3)))) if c else () for c in range(len(chunk_span))
    ]
    earliest = draw(st.none() | st.lists(st.integers(0, 30), min_size=len(chunk_span), max_size=len(chunk_span)))
    return Timeline(STREAMS, tuple(spans), chunk_span, chunk_end, after, earliest)


def laid_out(timeline: Timeline, tokenizer: TextTokenizer, lag: int = 0) -> Events:
    return lay_out(timeline, tokenizer.encode([s.text for s in timeline.spans]), 0, lag)


@QUICK
@given(timelines())
def test_events_of_a_span_are_its_text_cut_at_tokens_that_split_no_character(
    tokenizer: TextTokenizer, timeline: Timeline
) -> None:
    events = laid_out(timeline, tokenizer)
    ids = [tokenizer.encode([s.text]).ids.tolist() for s in timeline.spans]
    for s, span in enumerate(timeline.spans):
        mine = [i for i, owner in enumerate(events.span) if owner == s]
        assert [events.low[i] for i in mine] == [0, *(events.high[i] for i in mine)][: len(mine)]
        assert events.high[mine[-1]] == len(span.text)
        assert [events.first_token[i] for i in mine] == [0, *(events.first_token[i] + events.tokens[i] for i in mine)][
            : len(mine)
        ]
        assert sum(events.tokens[i] for i in mine) == len(ids[s])
        assert [events.final[i] for i in mine] == [False] * (len(mine) - 1) + [span.ends]
        graphemes = {0, *(m.end() for m in regex.finditer(r"\X", span.text))}
        for i in mine:
            assert events.high[i] in graphemes
            tokens = ids[s][events.first_token[i] : events.first_token[i] + events.tokens[i]]
            assert tokenizer.decode(tokens) == span.text[events.low[i] : events.high[i]]


@QUICK
@given(timelines())
def test_a_straddling_token_joins_the_earlier_chunk_of_input_and_the_later_one_of_output(
    tokenizer: TextTokenizer, timeline: Timeline
) -> None:
    events = laid_out(timeline, tokenizer)
    for s, span in enumerate(timeline.spans):
        cuts = {
            0,
            len(span.text),
            *(e for e, owner in zip(timeline.chunk_end, timeline.chunk_span, strict=True) if owner == s),
        }
        allowed = {0, len(span.text)}
        boundaries = _token_boundaries(tokenizer, span.text)
        for cut in cuts:
            if STREAMS[span.stream].direction == "input":
                allowed.add(min((b for b in boundaries if b >= cut), default=len(span.text)))
            else:
                allowed.add(max((b for b in boundaries if b <= cut), default=0))
        assert {events.high[i] for i, owner in enumerate(events.span) if owner == s} == allowed - {0} | (
            {0} if not span.text else set()
        )


def _token_boundaries(tokenizer: TextTokenizer, text: str) -> set[int]:
    """Character offsets at which a token ends and a user-perceived character too."""
    ids = tokenizer.encode([text]).ids.tolist()
    graphemes = {0, *(m.end() for m in regex.finditer(r"\X", text))}
    ends = {0}
    for n in range(1, len(ids) + 1):
        decoded = tokenizer.decode(ids[:n])
        if text.startswith(decoded) and tokenizer.decode(ids[n:]) == text[len(decoded) :]:
            ends.add(len(decoded))
    return ends & graphemes


@QUICK
@given(timelines(), st.sampled_from([0, 1, 3]))
def test_an_event_starts_as_soon_as_its_stream_and_all_it_waits_for_allow(
    smollm2: TextTokenizer, timeline: Timeline, lag: int
) -> None:
    events = laid_out(timeline, smollm2, lag)
    stream = [timeline.spans[s].stream for s in events.span]
    where = _event_of_chunk(timeline, events)
    for i in range(len(events.span)):
        previous = [events.end[j] for j in range(i) if stream[j] == stream[i]]
        waits = [events.end[j] + (lag if stream[j] != stream[i] else 0) for j in events.after[i]]
        first = [timeline.earliest[c] for c in range(len(where)) if where[c] == i] if timeline.earliest else []
        assert events.start[i] == max([0, *previous, *waits, *first])
        assert events.end[i] - events.start[i] == events.tokens[i] + events.final[i]


@QUICK
@given(timelines())
def test_no_wait_is_lost_when_chunks_merge(smollm2: TextTokenizer, timeline: Timeline) -> None:
    events = laid_out(timeline, smollm2)
    where = _event_of_chunk(timeline, events)
    for chunk, waits in enumerate(timeline.after):
        for other in waits:
            if where[other] != where[chunk]:
                assert where[other] in events.after[where[chunk]]
                assert events.start[where[chunk]] >= events.end[where[other]]


def _event_of_chunk(timeline: Timeline, events: Events) -> list[int]:
    """The event that holds the end of each chunk; an emptied one goes where its stream's direction sends it."""
    found = []
    previous_end: dict[int, int] = {}
    for span, end in zip(timeline.chunk_span, timeline.chunk_end, strict=True):
        mine = [i for i, owner in enumerate(events.span) if owner == span]
        if STREAMS[timeline.spans[span].stream].direction == "input":
            found.append(next(i for i in mine if events.high[i] >= end))
        else:
            low = previous_end.get(span, 0)
            after_cut = [i for i in mine if events.high[i] > low or i == mine[-1]]
            # The chunk's own event is the first that ends behind where the chunk before it was snapped to.
            start = max((events.high[i] for i in mine if events.high[i] <= low), default=0)
            found.append(next((i for i in mine if events.low[i] >= start), after_cut[-1]))
        previous_end[span] = end
    return found


def test_chinese_text_is_not_cut_inside_a_character_that_takes_several_tokens(tokenizer: TextTokenizer) -> None:
    text = "龘靐齉爩鱻麤灪龖厵滟爨癵驫"
    for stream in (0, 2):
        for cut in range(1, len(text)):
            events = laid_out(
                Timeline(STREAMS, (Span(stream, 0, 0, "message", text),), [0, 0], [cut, len(text)], [(), ()]), tokenizer
            )
            assert events.high[0] == cut or len(events.span) == 1


def test_a_chunk_emptied_of_tokens_gives_its_waits_to_its_neighbour(smollm2: TextTokenizer) -> None:
    # "committee" is one token: the cut inside it empties a chunk.
    assert len(smollm2.encode([" committee"]).ids) == 1
    for stream, merged in ((0, [(0, (2,))]), (2, [(0, (2,))])):
        spans = (Span(1, 0, 0, "message", "one"), Span(1, 1, 0, "message", "two"), Span(1, 2, 0, "message", "three"))
        timeline = Timeline(
            STREAMS,
            (*spans, Span(stream, 3, 0, "message", " committee")),
            [0, 1, 2, 3, 3],
            [3, 3, 5, 4, 10],
            [(), (), (), (0,), (2,)],
        )
        events = laid_out(timeline, smollm2)
        assert [(events.low[3], events.after[3])] == [(0, (0, 2))], merged


def test_chunks_that_wait_for_each_other_are_refused(smollm2: TextTokenizer) -> None:
    spans = (Span(0, 0, 0, "message", "one"), Span(2, 1, 0, "message", "two"))
    with pytest.raises(RecordError) as error:
        laid_out(Timeline(STREAMS, spans, [0, 1], [3, 3], [(1,), (0,)]), smollm2)
    assert error.value.code == "cycle"


def test_a_chunk_may_wait_for_a_later_one(smollm2: TextTokenizer) -> None:
    spans = (Span(0, 0, 0, "message", "one two"), Span(2, 1, 0, "message", "three"))
    events = laid_out(Timeline(STREAMS, spans, [0, 1], [7, 5], [(1,), ()]), smollm2)
    assert events.start[0] == events.end[1] > 0


def test_a_chunk_that_waits_for_itself_through_its_own_stream_is_refused(smollm2: TextTokenizer) -> None:
    spans = (Span(0, 0, 0, "message", "one"), Span(0, 1, 0, "message", "two"))
    with pytest.raises(RecordError) as error:
        laid_out(Timeline(STREAMS, spans, [0, 1], [3, 3], [(1,), ()]), smollm2)
    assert error.value.code == "cycle"


@pytest.mark.parametrize("lag", [0, 1])
def test_lag_counts_between_streams_and_not_within_one(smollm2: TextTokenizer, lag: int) -> None:
    def start(stream: int) -> Any:
        spans = (Span(0, 0, 0, "message", "one"), Span(stream, 1, 0, "message", "two"))
        events = laid_out(Timeline(STREAMS, spans, [0, 1], [3, 3], [(), (0,)]), smollm2, lag)
        return events.start[1] - events.end[0]

    assert (start(0), start(2)) == (0, lag)
