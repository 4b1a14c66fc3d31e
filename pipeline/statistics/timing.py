"""Rows of a table of records as flat arrays: when streams speak, how long an input waits for its answer, and under ``turns``.

The measures are those of ``pipeline.evaluation.latency``, for all records of a table at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: The columns, and the fields of columns, that are read. Texts are not among them.
COLUMNS = frozenset(
    (
        "rows", "extra", "segment.k", "segment.n", "clock.lag", "clock.ms_per_row", "alignment.policy",
        "streams.role", "streams.direction", "sources.corpus", "sources.license",
        "events.stream", "events.message", "events.part", "events.start", "events.end", "events.kind", "events.after",
        "events.lexical", "events.gain", "events.judged",
    )
)  # fmt: skip

_NONE = -1


@dataclass(frozen=True, slots=True)
class Timed:
    """The events of a table of records, in stored order. Nulls of ``message`` are -1, of ``part`` 0.

    Record ``r`` has events ``offsets[r]:offsets[r+1]`` and streams ``stream_offsets[r]:stream_offsets[r+1]``; ``stream``
    indexes the streams of the table, ``after[i]`` is an event of the table that event ``waits[i]`` waits for.
    """

    offsets: IntArray
    record: IntArray
    stream: IntArray
    output: BoolArray
    message: IntArray
    part: IntArray
    start: IntArray
    end: IntArray
    waits: IntArray
    after: IntArray
    stream_offsets: IntArray
    stream_output: BoolArray
    rows: IntArray
    lag: IntArray
    real_time: BoolArray

    @property
    def records(self) -> int:
        """Records of the table."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Rows of one layout: per record, and per input turn that has an answer.

    ``no_output`` where no output stream speaks: the values of such a record mean nothing.
    """

    rows_to_first_output: IntArray
    rows_to_end: IntArray
    decode_steps: IntArray
    time_to_first_output: IntArray
    response_latency: IntArray


@dataclass(frozen=True, slots=True)
class Turns:
    """Both layouts of the records of a table. ``turn_record``: the record of each value that is one per input turn."""

    layout: Latencies
    turns: Latencies
    turn_record: IntArray
    no_output: BoolArray
    overlap: IntArray


def timed(table: pa.Table) -> Timed:
    """The events of a table that has ``COLUMNS``, or more. Raises InputError where indices lead nowhere."""
    events = table.column("events").combine_chunks()
    flat = events.flatten()
    counts = _ints(pc.list_value_length(events))
    offsets = _offsets(counts)
    record = np.repeat(np.arange(len(counts)), counts)
    streams = table.column("streams").combine_chunks()
    stream_offsets = _offsets(_ints(pc.list_value_length(streams)))
    stream_output = _equal(streams.flatten().field("direction"), "output")
    own = _ints(flat.field("stream"))
    after = flat.field("after")
    after_counts = _ints(pc.list_value_length(after))
    waits = np.repeat(np.arange(len(record)), after_counts)
    local = _ints(after.flatten())
    if (own >= np.diff(stream_offsets)[record]).any() or ((local < 0) | (local >= counts[record[waits]])).any():
        raise InputError("a record names a stream or an event that it does not have; `multistream validate` says which")
    stream = own + stream_offsets[record]
    clock = table.column("clock").combine_chunks()
    return Timed(
        offsets=offsets,
        record=record,
        stream=stream,
        output=stream_output[stream],
        message=_ints(flat.field("message")),
        part=np.maximum(_ints(flat.field("part")), 0),
        start=_ints(flat.field("start")),
        end=_ints(flat.field("end")),
        waits=waits,
        after=local + offsets[record[waits]],
        stream_offsets=stream_offsets,
        stream_output=stream_output,
        rows=_ints(table.column("rows").combine_chunks()),
        lag=_ints(clock.field("lag")),
        real_time=pc.is_valid(clock.field("ms_per_row")).to_numpy(zero_copy_only=False),
    )


def turns_of(t: Timed) -> Turns:
    """The latencies of every record as it is laid out and under ``turns``, and its rows with overlap."""
    order = source_order(t)
    start, end = _one_after_the_other(t, order)
    overlap, steps = _sweep(t)
    first, last = _answered(t, order)
    spoken = np.zeros(t.records, dtype=np.int64)
    np.add.at(spoken, t.record[t.output], (t.end - t.start)[t.output])
    speaks = np.zeros(t.records, dtype=np.bool_)
    speaks[t.record[t.output]] = True
    return Turns(
        layout=_latencies(t, order, first, last, t.start, t.end, steps),
        turns=_latencies(t, order, first, last, start, end, spoken),
        turn_record=t.record[order[last[0]]],
        no_output=~speaks,
        overlap=overlap,
    )


def source_order(t: Timed) -> IntArray:
    """The events of all records, record by record, each in source order: ``pipeline.evaluation.latency.source_order``.

    Sorted at once by (message, part, start); only records in which an event would then come before one that it waits for
    are ordered one by one.
    """
    nameless = t.message == _NONE
    message = t.message.copy()
    earlier = nameless[t.waits] & (t.after < t.waits)
    np.maximum.at(message, t.waits[earlier], t.message[t.after[earlier]])
    order: IntArray = np.lexsort((np.arange(len(message)), t.start, t.part, nameless, message, t.record))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    wrong = np.zeros(t.records, dtype=np.bool_)
    wrong[t.record[t.waits[place[t.after] > place[t.waits]]]] = True
    # Definitions that wait for definitions take over what those follow.
    named = np.zeros(t.records, dtype=np.bool_)
    named[t.record[~nameless]] = True
    chained = t.record[t.waits[earlier & nameless[t.after]]]
    wrong[chained[named[chained]]] = True
    by_stream = np.lexsort((np.arange(len(message)), t.start, t.stream))
    same = t.stream[by_stream][1:] == t.stream[by_stream][:-1]
    back = same & (place[by_stream][1:] < place[by_stream][:-1])
    wrong[t.record[by_stream[1:][back]]] = True
    for r in np.flatnonzero(wrong):
        order[t.offsets[r] : t.offsets[r + 1]] = _ordered(t, int(r))
    return order


def _ordered(t: Timed, r: int) -> IntArray:
    from pipeline.evaluation.latency import Event
    from pipeline.evaluation.latency import source_order as order_of
    from pipeline.training.grid import TrainingError

    low, high = int(t.offsets[r]), int(t.offsets[r + 1])
    after: list[list[int]] = [[] for _ in range(high - low)]
    edges = slice(*np.searchsorted(t.waits, [low, high]).tolist())
    for event, other in zip(t.waits[edges].tolist(), t.after[edges].tolist(), strict=True):
        after[event - low].append(other - low)
    columns = (t.stream, t.output, t.message, t.part, t.start, t.end)
    rows = zip(*(column[low:high].tolist() for column in columns), after, strict=True)
    try:
        found = order_of([Event(s, o, None if m == _NONE else m, p, b, e, tuple(a)) for s, o, m, p, b, e, a in rows])
    except TrainingError as error:
        raise InputError(f"{error}; `multistream validate` says which") from error
    return np.array(found, dtype=np.int64) + low


def _one_after_the_other(t: Timed, order: IntArray) -> tuple[IntArray, IntArray]:
    """Rows [start, end) of each event under ``turns``; ``lag`` rows pass between events of different streams."""
    record, stream = t.record[order], t.stream[order]
    duration = (t.end - t.start)[order]
    gap = np.zeros_like(duration)
    switch = (record[1:] == record[:-1]) & (stream[1:] != stream[:-1])
    gap[1:][switch] = t.lag[record[1:][switch]]
    ends = np.cumsum(duration + gap)
    before = np.concatenate([[0], ends])[t.offsets[:-1]]
    start, end = np.empty_like(ends), np.empty_like(ends)
    end[order] = ends - before[record]
    start[order] = ends - before[record] - duration
    return start, end


def _answered(t: Timed, order: IntArray) -> tuple[tuple[IntArray, IntArray], tuple[IntArray, IntArray]]:
    """Input turns and their answers as ranges [first, last) of places in the order: (answer, answer), (turn, turn)."""
    record, output = t.record[order], t.output[order]
    if not len(order):
        nothing = np.zeros(0, dtype=np.int64)
        return (nothing, nothing), (nothing, nothing)
    edges = np.flatnonzero((record[1:] != record[:-1]) | (output[1:] != output[:-1])) + 1
    begins, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(order)]])
    answers = np.flatnonzero(output[begins][1:] & (record[begins][1:] == record[begins][:-1])) + 1
    return (begins[answers], ends[answers]), (begins[answers - 1], ends[answers - 1])


def _latencies(
    t: Timed,
    order: IntArray,
    answers: tuple[IntArray, IntArray],
    inputs: tuple[IntArray, IntArray],
    start: IntArray,
    end: IntArray,
    steps: IntArray,
) -> Latencies:
    first = np.full(t.records, np.iinfo(np.int64).max)
    np.minimum.at(first, t.record[t.output], start[t.output])
    last = np.zeros(t.records, dtype=np.int64)
    np.maximum.at(last, t.record, end)
    read = _over(np.maximum, end[order], inputs)
    return Latencies(
        rows_to_first_output=first,
        rows_to_end=last,
        decode_steps=steps,
        time_to_first_output=_over(np.minimum, start[order], answers) - read,
        response_latency=_over(np.maximum, end[order], answers) - read,
    )


def _over(function: np.ufunc, values: IntArray, ranges: tuple[IntArray, IntArray]) -> IntArray:
    """A reduction over each of the ranges [first, last) of values, none of them empty."""
    first, last = ranges
    if not len(first):
        return np.zeros(0, dtype=np.int64)
    padded = np.append(values, values[-1:])  # a range may end where the values do
    found: IntArray = function.reduceat(padded, np.stack([first, last], axis=1).ravel())[::2]
    return found


def _sweep(t: Timed) -> tuple[IntArray, IntArray]:
    """Per record, rows in which an output stream and any other speak, and rows in which an output stream speaks."""
    overlap, steps = np.zeros(t.records, dtype=np.int64), np.zeros(t.records, dtype=np.int64)
    width = int(max(t.rows.max(initial=0), t.end.max(initial=0))) + 1
    base = t.record * width
    places = np.concatenate([base + t.start, base + t.end])
    change = np.repeat(np.array([1, -1]), len(base))
    order = np.argsort(places, kind="stable")
    at = places[order]
    active = np.cumsum(change[order])
    outputs = np.cumsum((np.concatenate([t.output, t.output]) * change)[order])
    length = np.diff(at, append=at[-1:])
    for rows, chosen in ((overlap, (active >= 2) & (outputs >= 1)), (steps, outputs >= 1)):
        np.add.at(rows, at[chosen] // width, length[chosen])
    return overlap, steps


def columns_of(paths: Iterable[str]) -> list[str]:
    """Which leaf columns of a Parquet file of records are read; ``paths`` are all of them, however lists name their items."""
    wanted = []
    for path in paths:
        steps = [step for step in path.split(".") if step not in ("list", "element", "item")]
        if ".".join(steps[:2]) in COLUMNS:
            wanted.append(path)
    return wanted


def _offsets(counts: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _equal(array: pa.Array, value: str) -> BoolArray:
    return np.asarray(pc.equal(array, value).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _ints(array: pa.Array) -> IntArray:
    values: IntArray = pc.fill_null(array.cast(pa.int64()), _NONE).to_numpy(zero_copy_only=False)
    return values
