"""The events of a table of records as flat numpy columns: what checks, detectors and statistics read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EventColumns:
    """Events of a batch of records, in stored order. Nulls of ``message``, ``part`` and ``call`` are -1.

    Record ``r`` has events ``offsets[r]:offsets[r+1]``; ``stream`` indexes the record's own streams, ``direction`` and
    ``role`` are those of the event's stream (-1 and "" where the stream does not exist). ``after`` of event ``e`` is
    ``after[after_offsets[e]:after_offsets[e+1]]``, indices within the record.
    """

    offsets: IntArray
    record: IntArray
    stream: IntArray
    streams_per_record: IntArray
    is_output: BoolArray
    is_input: BoolArray
    role: npt.NDArray[np.object_]
    message: IntArray
    part: IntArray
    call: IntArray
    start: IntArray
    end: IntArray
    kind: npt.NDArray[np.object_]
    final: BoolArray
    interrupted: BoolArray
    weight: npt.NDArray[np.float32]
    text: pa.StringArray
    after: IntArray
    after_offsets: IntArray
    rows: IntArray
    lag: IntArray
    real_time: BoolArray

    @property
    def local(self) -> IntArray:
        """Index of each event within its record."""
        return np.arange(len(self.record)) - self.offsets[self.record]


def event_columns(table: pa.Table) -> EventColumns:
    """Flattens the events of a table of ``tables.RECORDS``."""
    events = table.column("events").combine_chunks()
    flat = events.flatten()
    counts = _ints(pc.list_value_length(events))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    record = np.repeat(np.arange(len(counts)), counts)
    stream = _ints(flat.field("stream"))

    streams = table.column("streams").combine_chunks()
    stream_counts = _ints(pc.list_value_length(streams))
    stream_base = np.cumsum(stream_counts) - stream_counts
    all_streams = streams.flatten()
    known = stream < stream_counts[record]
    owner = np.where(known, stream_base[record] + stream, 0)
    direction = all_streams.field("direction").to_numpy(zero_copy_only=False)
    roles = all_streams.field("role").to_numpy(zero_copy_only=False)
    output = np.array(direction == "output", dtype=bool)
    after = flat.field("after")
    after_counts = _ints(pc.list_value_length(after))
    clock = table.column("clock").combine_chunks()
    return EventColumns(
        offsets=offsets,
        record=record,
        stream=stream,
        streams_per_record=stream_counts,
        is_output=known & output[owner] if len(output) else known,
        is_input=known & ~output[owner] if len(output) else known,
        role=np.where(known, roles[owner], "") if len(output) else np.full(len(stream), "", dtype=object),
        message=_ints(flat.field("message")),
        part=_ints(flat.field("part")),
        call=_ints(flat.field("call")),
        start=_ints(flat.field("start")),
        end=_ints(flat.field("end")),
        kind=flat.field("kind").to_numpy(zero_copy_only=False),
        final=flat.field("final").to_numpy(zero_copy_only=False).astype(bool),
        interrupted=flat.field("interrupted").to_numpy(zero_copy_only=False).astype(bool),
        weight=flat.field("weight").to_numpy(zero_copy_only=False),
        text=flat.field("text"),
        after=_ints(after.flatten()),
        after_offsets=np.concatenate([[0], np.cumsum(after_counts)]).astype(np.int64),
        rows=_ints(table.column("rows").combine_chunks()),
        lag=_ints(clock.field("lag")),
        real_time=pc.is_valid(clock.field("ms_per_row")).to_numpy(zero_copy_only=False),
    )


def with_event_field(table: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    """The table with one field of its events replaced: a value per event, in the order of the flattened events."""
    index = table.schema.get_field_index("events")
    events = table.column("events").combine_chunks()
    flat = events.flatten()
    fields = list(flat.type)
    arrays = [pa.array(values, f.type) if f.name == name else flat.field(f.name) for f in fields]
    counts = pc.list_value_length(events).to_numpy(zero_copy_only=False)
    rebuilt = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()),
        pa.StructArray.from_arrays(arrays, fields=fields),
        type=events.type,
    )
    return table.set_column(index, table.schema.field(index), rebuilt)


def _ints(array: pa.Array) -> IntArray:
    values: IntArray = pc.fill_null(array.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return values
