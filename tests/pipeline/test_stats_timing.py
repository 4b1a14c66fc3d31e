"""The figures of a table at once are those of its records one by one, and those of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_cases import QUICK, Case, call, cases, message, result, tables_of, talk, told
from hypothesis import given
from hypothesis import strategies as st

from pipeline.columns import with_event_field
from pipeline.errors import InputError
from pipeline.evaluation.latency import (
    Event,
    Latency,
    RecordEvents,
    compare_with_turns,
    measure_latency,
    source_order,
    turns_layout,
)
from pipeline.records import to_json
from pipeline.statistics import timing
from pipeline.stats import LATENCIES, RecordStats, stats_of
from pipeline.tables import RECORDS
from pipeline.tokenization import TextTokenizer


def events_of(record: dict[str, Any]) -> tuple[Event, ...]:
    outputs = [s["direction"] == "output" for s in record["streams"]]
    return tuple(
        Event(e["stream"], outputs[e["stream"]], e["message"], e["part"], e["start"], e["end"], tuple(e["after"]))
        for e in record["events"]
    )


def of_record(turns: timing.Turns, latencies: timing.Latencies, r: int) -> Latency:
    mine = turns.turn_record == r
    return Latency(
        int(latencies.rows_to_first_output[r]),
        int(latencies.rows_to_end[r]),
        int(latencies.decode_steps[r]),
        tuple(latencies.time_to_first_output[mine].tolist()),
        tuple(latencies.response_latency[mine].tolist()),
    )


@QUICK
@given(st.lists(cases, min_size=1, max_size=4), st.integers(0, 2))
def test_latencies_of_a_table_are_those_of_its_records(smollm2: TextTokenizer, batch: list[Case], lag: int) -> None:
    table = pa.concat_tables([told(case, smollm2)[0].records for case in batch])
    clocks = [{**clock, "lag": lag} for clock in table["clock"].to_pylist()]
    table = table.set_column(
        table.schema.get_field_index("clock"), RECORDS.field("clock"), pa.array(clocks, RECORDS.field("clock").type)
    )
    t = timing.timed(table)
    order, turns = timing.source_order(t), timing.turns_of(t)
    for r, record in enumerate(to_json(table)):
        events = events_of(record)
        assert (order[t.offsets[r] : t.offsets[r + 1]] - t.offsets[r]).tolist() == source_order(events)
        laid = measure_latency(events, [(e.start, e.end) for e in events])
        under_turns = measure_latency(events, turns_layout(events, lag))
        assert bool(turns.no_output[r]) == (laid is None)
        if laid is not None:
            assert of_record(turns, turns.layout, r) == laid
            assert of_record(turns, turns.turns, r) == under_turns


def waiting(smollm2: TextTokenizer) -> pa.Table:
    """An answer that, by its events, waited for a later message: its record has to be ordered by what waits."""
    table = tables_of(
        [talk(message("user", "One?"), message("assistant", "Two."), message("user", "Three?"))], "turns", smollm2
    ).records
    return with_event_field(table, "after", [[], [2], []])


def test_an_answer_that_waited_for_a_later_message_comes_after_it(smollm2: TextTokenizer) -> None:
    t = timing.timed(waiting(smollm2))
    assert timing.source_order(t).tolist() == [0, 2, 1]
    record = next(to_json(waiting(smollm2)))
    assert source_order(events_of(record)) == [0, 2, 1]


@pytest.mark.parametrize(
    ("name", "values"), [("after", [[7], [], []]), ("stream", [9, 1, 0]), ("after", [[-1], [], []])]
)
def test_indices_that_lead_nowhere_are_told(smollm2: TextTokenizer, name: str, values: list[Any]) -> None:
    with pytest.raises(InputError, match="multistream validate"):
        timing.timed(with_event_field(waiting(smollm2), name, values))


def test_events_that_wait_for_each_other_are_told(smollm2: TextTokenizer) -> None:
    with pytest.raises(InputError, match="wait for each other"):
        timing.turns_of(timing.timed(with_event_field(waiting(smollm2), "after", [[2], [], [0]])))


def weather(smollm2: TextTokenizer) -> list[pa.Table]:
    conversation = talk(
        message("user", "Both?"),
        message("assistant", call("f", "1", "a"), call("f", "2", "b")),
        message("tool", result("one two three four five", "a")),
        message("tool", result("six", "b")),
        message("assistant", "There."),
    )
    return [tables_of([conversation], spec, smollm2).records for spec in ("tools_async", "turns")]


def test_medians_by_policy_are_those_of_the_evaluation(smollm2: TextTokenizer) -> None:
    tables = weather(smollm2)
    stats = RecordStats()
    for table in tables:
        stats.add(table)
    records = [
        RecordEvents(r["id"], r["alignment"]["policy"], r["clock"]["lag"], False, events_of(r))
        for table in tables
        for r in to_json(table)
    ]
    expected = compare_with_turns(records)
    for row in stats.summary()["by_corpus_and_policy"]:
        for each in expected.by_policy[row["policy"]]:
            found = row["latency"][each.measure]
            assert (found["layout"]["median"], found["turns"]["median"]) == (each.layout, each.turns)
            assert found["layout"]["count"] == each.count
        assert set(row["latency"]) == set(LATENCIES)


def in_real_time(table: pa.Table) -> pa.Table:
    clocks = [{**clock, "ms_per_row": 50.0} for clock in table["clock"].to_pylist()]
    place = table.schema.get_field_index("clock")
    return table.set_column(place, RECORDS.field("clock"), pa.array(clocks, RECORDS.field("clock").type))


def test_records_in_real_time_are_counted_and_not_compared(smollm2: TextTokenizer) -> None:
    stats = RecordStats()
    stats.add(in_real_time(weather(smollm2)[0]))
    (row,) = stats.summary()["by_corpus_and_policy"]
    assert row["not_compared"] == {"real_time": 1, "no_output": 0}
    assert (row["latency"], row["rows_saved"]) == ({}, 0.0)
    assert stats.summary()["rows_saved_fraction"]["all"] is None


def test_a_lag_between_streams_is_no_loss_against_turns(smollm2: TextTokenizer) -> None:
    table = weather(smollm2)[1]
    streams = np.array([e["stream"] for e in next(to_json(table))["events"]])
    clock = {**table["clock"].to_pylist()[0], "lag": 1}
    place = table.schema.get_field_index("clock")
    lagged = table.set_column(place, RECORDS.field("clock"), pa.array([clock], RECORDS.field("clock").type))
    t = timing.timed(lagged)
    extra = int((np.diff(streams) != 0).sum())
    assert int(timing.turns_of(t).turns.rows_to_end[0]) == int(t.rows[0]) + extra


def test_shards_are_read_without_their_texts_and_give_the_same(smollm2: TextTokenizer, tmp_path: Path) -> None:
    whole = RecordStats()
    for i, table in enumerate(weather(smollm2)):
        pq.write_table(table, tmp_path / f"records-{i:05d}.parquet")
        whole.add(table)
    paths = sorted(tmp_path.iterdir())
    assert stats_of(paths) == whole
    with pq.ParquetFile(paths[0]) as file:
        columns = timing.columns_of(file.schema.column(i).path for i in range(len(file.schema)))
    assert not [c for c in columns if "text" in c or c.startswith("parts")]
    seen: list[int] = []
    stats_of(paths, seen.append)
    assert sum(seen) == 2


def test_languages_are_those_that_sources_state(smollm2: TextTokenizer) -> None:
    table = weather(smollm2)[0]
    place = table.schema.get_field_index("extra")
    stats = RecordStats()
    stated = (
        '{"lang": "pt-BR"}',
        '{"messages": {"0": {"lang": "de"}, "1": {"lang": "de"}}}',
        '{"lang": 3}',
        '{"slang": "x"}',
    )
    for extra in stated:
        stats.add(table.set_column(place, RECORDS.field("extra"), pa.array([extra])))
    assert stats.summary()["languages"] == {"de": 1, "pt": 1}
