from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.latency import (
    MEASURES,
    Event,
    Latency,
    RecordEvents,
    compare_with_turns,
    iter_records,
    measure_latency,
    source_order,
    turns_layout,
)
from pipeline.tables import RECORDS
from pipeline.training.grid import TrainingError


def event(stream: int, message: int | None, start: int, end: int, part: int = 0, after: tuple[int, ...] = ()) -> Event:
    """Streams 0 and 2 are inputs, 1 and 3 outputs."""
    return Event(stream, stream in (1, 3), message, part, start, end, after)


def rows(events: list[Event]) -> list[tuple[int, int]]:
    return [(each.start, each.end) for each in events]


def test_the_four_latencies_of_a_question_answered_while_it_is_read() -> None:
    events = [event(0, 0, 0, 6), event(1, 1, 4, 7), event(0, 0, 6, 10), event(1, 1, 12, 15)]
    assert measure_latency(events, rows(events)) == Latency(
        rows_to_first_output=4, rows_to_end=15, decode_steps=6, time_to_first_output=(-6,), response_latency=(5,)
    )
    assert turns_layout(events, lag=0) == [(0, 6), (10, 13), (6, 10), (13, 16)]
    assert measure_latency(events, turns_layout(events, lag=0)) == Latency(10, 16, 6, (0,), (6,))


def test_lag_rows_pass_between_streams_under_turns() -> None:
    events = [event(0, 0, 0, 2), event(0, 0, 2, 4), event(1, 1, 5, 8), event(0, 2, 9, 10)]
    assert turns_layout(events, lag=1) == rows(events)


def test_thought_before_answer_is_one_turn_and_every_turn_counts() -> None:
    events = [
        event(0, 0, 0, 4),
        event(3, 1, 4, 9, part=0),
        event(1, 1, 6, 12, part=1),
        event(0, 2, 12, 14),
        event(1, 3, 15, 17),
    ]
    latency = measure_latency(events, rows(events))
    assert latency == Latency(4, 17, 10, (0, 1), (8, 3))
    assert measure_latency(events, turns_layout(events, 0)) == Latency(4, 19, 13, (0, 0), (11, 2))


def test_an_event_without_a_message_follows_what_it_waits_for() -> None:
    tools, question, note, answer = (
        event(2, None, 0, 3),
        event(0, 0, 0, 2),
        event(3, None, 2, 3, after=(1,)),
        event(1, 1, 2, 4),
    )
    assert source_order([tools, question, note, answer]) == [0, 1, 2, 3]
    assert turns_layout([tools, question, note, answer], 0) == [(0, 3), (3, 5), (5, 6), (6, 8)]


def test_an_input_that_an_output_waited_for_comes_first_whatever_message_it_belongs_to() -> None:
    """A dialogue made row by row: the user's one message is read to its end, the assistant's answers to its parts."""
    first, reply, second, late = (
        event(0, 1, 0, 4),
        event(1, 0, 4, 6, after=(0,)),
        event(0, 1, 4, 8),
        event(1, 0, 8, 9, after=(2,)),
    )
    events = [first, reply, second, late]
    assert source_order(events) == [0, 1, 2, 3]
    assert turns_layout(events, 0) == [(0, 4), (4, 6), (6, 10), (10, 11)]
    latency = measure_latency(events, turns_layout(events, 0))
    assert latency is not None
    assert (latency.time_to_first_output, latency.response_latency) == ((0, 0), (2, 1))


def test_a_stream_keeps_its_order() -> None:
    told, tools = event(0, 0, 0, 3), event(0, None, 3, 5)
    assert source_order([told, tools]) == [0, 1]


def test_events_that_wait_for_each_other_are_an_error() -> None:
    with pytest.raises(TrainingError, match="wait for each other"):
        source_order([event(0, 0, 0, 1, after=(1,)), event(1, 1, 1, 2, after=(0,))])


@settings(deadline=None)
@given(st.data(), st.integers(0, 2))
def test_turns_keeps_every_after_and_the_order_of_a_stream(data: st.DataObject, lag: int) -> None:
    events: list[Event] = []
    for index in range(data.draw(st.integers(1, 10))):
        stream, message = data.draw(st.integers(0, 3)), data.draw(st.none() | st.integers(0, 4))
        after = tuple(sorted(data.draw(st.sets(st.integers(0, index - 1), max_size=3)))) if index else ()
        events.append(event(stream, message, 5 * index, 5 * index + data.draw(st.integers(1, 5)), after=after))
    placed = turns_layout(events, lag)
    for index, each in enumerate(events):
        earlier = {other for other in range(index) if events[other].stream == each.stream}
        assert all(placed[other][1] <= placed[index][0] for other in {*each.after, *earlier})
    by_key = sorted(range(len(events)), key=lambda i: (events[i].message or 0, events[i].part or 0, events[i].start))
    if all(each.message is not None for each in events) and all(
        by_key.index(other) < by_key.index(index)
        for index, each in enumerate(events)
        for other in {*each.after, *(o for o in range(index) if events[o].stream == each.stream)}
    ):
        assert source_order(events) == by_key, "an order that breaks nothing stays"


def test_a_record_without_output_has_no_latency() -> None:
    assert measure_latency([event(0, 0, 0, 4)], [(0, 4)]) is None


def test_an_output_before_any_input_has_no_turn_to_answer() -> None:
    events = [event(1, 0, 0, 3)]
    assert measure_latency(events, rows(events)) == Latency(0, 3, 3, (), ())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=8))
def test_turns_lays_every_event_once_without_overlap(shapes: list[tuple[int, int, int]]) -> None:
    events = [event(stream, message, index, index + size) for index, (stream, message, size) in enumerate(shapes)]
    placed = turns_layout(events, lag=0)
    assert [end - start for start, end in placed] == [each.end - each.start for each in events]
    ordered = sorted(placed)
    assert ordered[0][0] == 0
    assert all(first[1] == second[0] for first, second in itertools.pairwise(ordered))
    latency = measure_latency(events, placed)
    if latency is not None:
        assert latency.decode_steps == sum(each.end - each.start for each in events if each.output)


def test_the_summary_compares_medians_by_policy_and_counts_the_rest() -> None:
    early = [event(0, 0, 0, 10), event(1, 1, 4, 8)]
    late = [event(0, 0, 0, 10), event(1, 1, 10, 14)]
    records = [
        RecordEvents("a", "evidence", 0, False, tuple(early)),
        RecordEvents("b", "turns", 0, False, tuple(late)),
        RecordEvents("c", "timestamps", 0, True, tuple(late)),
        RecordEvents("d", "turns", 0, False, (late[0],)),
    ]
    summary = compare_with_turns(records)
    assert (summary.records, summary.real_time, summary.no_output) == (2, 1, 1)
    first = summary.comparison("rows_to_first_output")
    assert (first.count, first.layout, first.turns) == (2, 7.0, 10.0)
    by_policy = {policy: {each.measure: each for each in own} for policy, own in summary.by_policy.items()}
    assert by_policy["evidence"]["response_latency"].layout == -2.0
    assert by_policy["evidence"]["response_latency"].turns == 4.0
    assert by_policy["turns"]["rows_to_end"].layout == by_policy["turns"]["rows_to_end"].turns == 14.0


def test_without_records_every_measure_is_empty() -> None:
    summary = compare_with_turns([])
    assert [each.measure for each in summary.overall] == list(MEASURES)
    assert all(each.layout is None and each.turns is None for each in summary.overall)


def record_row(**changes: Any) -> dict[str, Any]:
    blank = {"final": True, "interrupted": False, "text": "t", "weight": 1.0, "kind": "message"}
    return {
        "schema": "stream-record/1",
        "id": "r",
        "conversation_id": "c",
        "group": "g",
        "streams": [
            {"name": "user", "role": "user", "slot": 0, "direction": "input"},
            {"name": "assistant", "role": "assistant", "slot": 0, "direction": "output"},
        ],
        "clock": {"unit": "token", "tokenizer": "t", "tokenizer_sha256": "0", "ms_per_row": None, "lag": 1},
        "rows": 7,
        "segment": {"k": 1, "n": 1},
        "events": [
            {**blank, "stream": 0, "message": 0, "part": 0, "start": 0, "end": 3, "after": []},
            {**blank, "stream": 1, "message": 1, "part": 0, "start": 4, "end": 7, "after": [0]},
        ],
        "alignment": {"policy": "turns", "version": 1, "params": "{}"},
        "sources": [],
        "parts": [],
        "extra": "{}",
        "labels": "{}",
        **changes,
    }


def test_record_shards_are_read_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "records-0.parquet"
    real_time = {"unit": "ms", "tokenizer": "t", "tokenizer_sha256": "0", "ms_per_row": 80.0, "lag": 0}
    pq.write_table(pa.Table.from_pylist([record_row(), record_row(clock=real_time)], RECORDS), path)
    first, second = iter_records([path], batch_size=1)
    assert (first.policy, first.lag, first.real_time, second.real_time) == ("turns", 1, False, True)
    assert first.events == (Event(0, False, 0, 0, 0, 3, ()), Event(1, True, 1, 0, 4, 7, (0,)))


def test_a_foreign_record_shard_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "records-0.parquet")
    with pytest.raises(TrainingError, match="not a record shard"):
        list(iter_records([tmp_path / "records-0.parquet"]))
