"""Lexical leak detection: does an output event say what its author could only have read later?

Deterministic, on every record whatever made it. An event leaks if it has a number, name, identifier, quoted word or rare
n-gram that stands in something its author had read before writing it (source order) which has not ended by the event's
start row, and no occurrence of it has. What the author brought in himself is none. Thoughts count as read by the answer
that follows them. Where a record has no source order, later inputs count, and the verdict is ``weak``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.columns import BoolArray, EventColumns, IntArray, event_columns
from pipeline.mentions import is_known, known, mentions, ngrams, pieces

Verdict = Literal["clear", "leak", "weak"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Verdict on one output event that started before everything its author had read had ended.

    ``record`` and ``event`` are indices (of the batch; within the record); ``evidence`` is what was said too early, with
    the index of the event that it was read in.
    """

    record: int
    event: int
    verdict: Verdict
    evidence: tuple[tuple[str, int], ...] = ()


def lexical(table: pa.Table) -> list[Finding]:
    """Findings for every output event of a table of records that has anything to check; events without one cannot leak."""
    columns = event_columns(table)
    return list(_findings(columns))


def with_verdicts(table: pa.Table, findings: list[Finding]) -> pa.Table:
    """The table with each finding's verdict stored in its event's ``lexical`` column."""
    index = table.schema.get_field_index("events")
    events = table.column("events").combine_chunks()
    flat = events.flatten()
    offsets = np.concatenate([[0], np.cumsum(np.array(pa.compute.list_value_length(events)))]).astype(np.int64)
    verdicts: list[str | None] = [None] * len(flat)
    for finding in findings:
        verdicts[int(offsets[finding.record]) + finding.event] = finding.verdict
    fields = list(flat.type)
    arrays = [pa.array(verdicts, pa.string()) if f.name == "lexical" else flat.field(f.name) for f in fields]
    rebuilt = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(arrays, fields=fields), type=events.type
    )
    return table.set_column(index, table.schema.field(index), rebuilt)


def _findings(c: EventColumns) -> Iterator[Finding]:
    if not len(c.record):
        return
    is_source = (c.is_input | (c.role == "thought")) & (c.kind != "header")
    ready = c.end + c.lag[c.record]
    order_key = ((c.message + 1) << 20) | (c.part + 1)
    suspects = np.flatnonzero(_suspect(c, is_source, ready, order_key))
    if not len(suspects):
        return
    texts = c.text.to_pylist()
    for event in suspects.tolist():
        record = int(c.record[event])
        low, high = int(c.offsets[record]), int(c.offsets[record + 1])
        ordered = c.message[event] >= 0
        earlier = order_key[low:high] < order_key[event] if ordered else np.ones(high - low, dtype=bool)
        same_stream = c.stream[low:high] == c.stream[event]
        done = (ready[low:high] <= c.start[event]) | (same_stream & (c.end[low:high] <= c.start[event]))
        unread = np.flatnonzero(is_source[low:high] & earlier & ~done) + low
        if not len(unread):
            continue
        read = np.flatnonzero(done) + low
        evidence: tuple[tuple[str, int], ...] = ()
        if mentions(texts[event]).required or ngrams(texts[event]):
            evidence = tuple(
                (key, at - low)
                for key, at in _too_early(
                    texts[event], [(texts[u], u) for u in unread.tolist()], [texts[r] for r in read.tolist()]
                )
            )
        verdict: Verdict = "clear" if not evidence else "leak" if ordered else "weak"
        yield Finding(record, event - low, verdict, evidence)


def _suspect(c: EventColumns, is_source: BoolArray, ready: IntArray, order_key: IntArray) -> BoolArray:
    """Output events that start before the last source before them (in source order) has ended."""
    rows = int(max(c.end.max(initial=0), c.start.max(initial=0)) + c.lag.max(initial=0) + 2)
    order = np.lexsort((order_key, c.record))
    running = np.maximum.accumulate(c.record[order] * rows + np.where(is_source[order], ready[order], 0))
    key = c.record[order] * (int(order_key.max()) + 2) + order_key[order]
    first_of_key = np.searchsorted(key, key, side="left")
    before = np.where(first_of_key > 0, running[np.maximum(first_of_key - 1, 0)], 0)
    last_before = np.empty(len(order), dtype=np.int64)
    last_before[order] = before - c.record[order] * rows
    if (c.message[c.is_output] < 0).any():
        last = np.zeros(len(c.rows), dtype=np.int64)
        np.maximum.at(last, c.record[c.is_input], ready[c.is_input])
        last_before = np.where(c.message < 0, last[c.record], last_before)
    return c.is_output & (last_before > c.start)


def _too_early(text: str, unread: list[tuple[str, int]], read: list[str]) -> Iterator[tuple[str, int]]:
    keys = dict.fromkeys(piece for key in mentions(text).required for piece in (key, *pieces(key)))
    for key in keys:
        where = next((at for source, at in unread if key in known(source)), None)
        if where is not None and not any(is_known(key, known(source)) for source in read):
            yield key, where
    grams = ngrams(text)
    if grams:
        for source, at in unread:
            for gram in sorted(grams & ngrams(source)):
                if not any(gram in ngrams(other) for other in read):
                    yield gram, at
