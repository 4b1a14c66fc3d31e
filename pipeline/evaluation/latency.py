"""Latency of a layout in rows, against ``turns``: the same events, one after the other in source order.

An *input turn* is a run of consecutive input events in source order (see ``source_order``); its *answer* is the run of
output events that follows. A row passes one token per stream, so a row is one forward pass of a decoder.

* rows to first output: the first row in which an output stream speaks, from row 0;
* time to first output: from the end of an input turn to the start of its answer, per turn; negative where the answer
  starts before the input has ended;
* response latency: from the end of an input turn to the end of its answer, per turn;
* rows to end: the last row in which anything is said, plus one;
* decode steps: rows in which some output stream speaks. Rows that only read can be prefilled together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import RECORDS
from pipeline.training.grid import TrainingError, dataset_root


@dataclass(frozen=True)
class Event:
    """A timed event: rows [start, end) of stream ``stream``; ``after`` indexes the record's events."""

    stream: int
    output: bool
    message: int | None
    part: int | None
    start: int
    end: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class RecordEvents:
    """What latency needs of a record. ``real_time``: rows are clock time, so that ``turns`` is no baseline."""

    id: str
    policy: str
    lag: int
    real_time: bool
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Latency:
    """Rows of one layout of one record; the tuples have one entry per input turn that has an answer."""

    rows_to_first_output: int
    rows_to_end: int
    decode_steps: int
    time_to_first_output: tuple[int, ...]
    response_latency: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Medians in rows, over records or turns, of the layout and of its ``turns`` baseline; None without values."""

    measure: str
    count: int
    layout: float | None
    turns: float | None


@dataclass(frozen=True)
class LatencySummary:
    """``records`` were compared; ``real_time`` and ``no_output`` were not. ``by_policy`` splits ``overall``.

    ``values``: by measure, the rows of all records or turns in their layout, and under ``turns``.
    """

    records: int
    real_time: int
    no_output: int
    overall: tuple[Comparison, ...]
    by_policy: dict[str, tuple[Comparison, ...]]
    values: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict, repr=False)

    def comparison(self, measure: str) -> Comparison:
        return next(comparison for comparison in self.overall if comparison.measure == measure)


MEASURES = ("rows_to_first_output", "time_to_first_output", "response_latency", "rows_to_end", "decode_steps")


def source_order(events: Sequence[Event]) -> list[int]:
    """Indices of the events by (message, part, start), as far as what each waits for allows.

    Of the events whose ``after``, and whatever comes before them on their stream, have been placed, the least by (message,
    part, start) is next: an output never comes before an input that it waited for. An event without a message (a tool
    definition, a note) follows the latest message among what it waits for, and comes first if it waits for nothing. Raises
    TrainingError for events that wait for each other.
    """
    keys: list[tuple[int, bool, int, int, int]] = []
    for index, event in enumerate(events):
        message = event.message
        if message is None:
            message = max((keys[earlier][0] for earlier in event.after if earlier < index), default=-1)
        keys.append((message, event.message is None, event.part or 0, event.start, index))
    waits = [set(event.after) for event in events]
    last: dict[int, int] = {}
    for index in sorted(range(len(events)), key=lambda index: (events[index].start, index)):
        if events[index].stream in last:
            waits[index].add(last[events[index].stream])
        last[events[index].stream] = index
    followers: list[list[int]] = [[] for _ in events]
    for index, earlier in enumerate(waits):
        for each in earlier:
            followers[each].append(index)
    ready = [keys[index] for index, earlier in enumerate(waits) if not earlier]
    heapify(ready)
    order = []
    while ready:
        index = heappop(ready)[-1]
        order.append(index)
        for follower in followers[index]:
            waits[follower].discard(index)
            if not waits[follower]:
                heappush(ready, keys[follower])
    if len(order) < len(events):
        raise TrainingError("events of a record wait for each other")
    return order


def turns_layout(events: Sequence[Event], lag: int) -> list[tuple[int, int]]:
    """Rows [start, end) of each event, in the given order, under ``turns``: one after the other in source order.

    ``lag`` rows pass between events of different streams, as in every layout.
    """
    rows = [(0, 0)] * len(events)
    previous: int | None = None
    for index in source_order(events):
        event = events[index]
        start = 0
        if previous is not None:
            start = rows[previous][1] + (lag if events[previous].stream != event.stream else 0)
        rows[index] = (start, start + event.end - event.start)
        previous = index
    return rows


def measure_latency(events: Sequence[Event], rows: Sequence[tuple[int, int]]) -> Latency | None:
    """Latency of events placed at ``rows`` [start, end); None where no output stream speaks."""
    spoken = [(rows[i][0], rows[i][1]) for i, event in enumerate(events) if event.output]
    if not spoken:
        return None
    steps = np.zeros(max(end for _, end in spoken) + 1, np.int64)
    np.add.at(steps, [start for start, _ in spoken], 1)
    np.add.at(steps, [end for _, end in spoken], -1)

    first_outputs, responses = [], []
    input_end: int | None = None
    for output, run in groupby(source_order(events), key=lambda index: events[index].output):
        placed = [rows[index] for index in run]
        if not output:
            input_end = max(end for _, end in placed)
        elif input_end is not None:
            first_outputs.append(min(start for start, _ in placed) - input_end)
            responses.append(max(end for _, end in placed) - input_end)
    return Latency(
        rows_to_first_output=min(start for start, _ in spoken),
        rows_to_end=max(end for _, end in rows),
        decode_steps=int(np.count_nonzero(np.cumsum(steps) > 0)),
        time_to_first_output=tuple(first_outputs),
        response_latency=tuple(responses),
    )


def compare_with_turns(records: Iterable[RecordEvents]) -> LatencySummary:
    """Medians of every measure over the records, in their layout and under ``turns``.

    Records whose rows are clock time are counted, not compared: a log's pauses are no property of a policy.
    """
    values: dict[str, dict[str, tuple[list[int], list[int]]]] = {}
    compared = real_time = no_output = 0
    for record in records:
        if record.real_time:
            real_time += 1
            continue
        layout = measure_latency(record.events, [(event.start, event.end) for event in record.events])
        turns = measure_latency(record.events, turns_layout(record.events, record.lag))
        if layout is None or turns is None:
            no_output += 1
            continue
        compared += 1
        own = values.setdefault(record.policy, {measure: ([], []) for measure in MEASURES})
        for measure in MEASURES:
            for collected, latency in zip(own[measure], (layout, turns), strict=True):
                value = getattr(latency, measure)
                collected.extend(value if isinstance(value, tuple) else (value,))
    return LatencySummary(
        records=compared,
        real_time=real_time,
        no_output=no_output,
        overall=_comparisons(list(values.values())),
        by_policy={policy: _comparisons([own]) for policy, own in sorted(values.items())},
        values={
            measure: (
                tuple(value for own in values.values() for value in own[measure][0]),
                tuple(value for own in values.values() for value in own[measure][1]),
            )
            for measure in MEASURES
        },
    )


def find_records(dataset_dir: Path, split: str) -> list[Path]:
    """Record shards of a split (``records-*.parquet``), ordered by name; may be empty."""
    return sorted((dataset_root(dataset_dir) / split).glob("records-*.parquet"))


def check_records(shard: Path) -> None:
    """Raises TrainingError for a file that is no record shard."""
    try:
        schema = pq.read_schema(shard)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingError(f"{shard} is not a readable Parquet file: {error}") from error
    if not schema.equals(RECORDS):
        raise TrainingError(f"{shard} is not a record shard: its columns differ from stream-record/1")


def iter_records(shards: Sequence[Path], batch_size: int = 64) -> Iterator[RecordEvents]:
    """Events of the records, holding one batch at a time. Raises TrainingError for a file that is no record shard."""
    columns = ["id", "streams", "clock", "events", "alignment"]
    for shard in shards:
        check_records(shard)
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size, columns=columns):
                yield from map(_record_events, batch.to_pylist())


def _record_events(record: dict[str, Any]) -> RecordEvents:
    outputs = [stream["direction"] == "output" for stream in record["streams"]]
    return RecordEvents(
        id=record["id"],
        policy=record["alignment"]["policy"],
        lag=record["clock"]["lag"],
        real_time=record["clock"]["ms_per_row"] is not None,
        events=tuple(
            Event(
                stream=event["stream"],
                output=outputs[event["stream"]],
                message=event["message"],
                part=event["part"],
                start=event["start"],
                end=event["end"],
                after=tuple(event["after"]),
            )
            for event in record["events"]
        ),
    )


def _comparisons(policies: Sequence[dict[str, tuple[list[int], list[int]]]]) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            measure=measure,
            count=sum(len(own[measure][0]) for own in policies),
            layout=_median([own[measure][0] for own in policies]),
            turns=_median([own[measure][1] for own in policies]),
        )
        for measure in MEASURES
    )


def _median(parts: Sequence[list[int]]) -> float | None:
    values = np.concatenate([np.array(part, np.int64) for part in parts]) if parts else np.empty(0)
    return float(np.median(values)) if len(values) else None
