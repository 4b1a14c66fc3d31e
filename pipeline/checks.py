"""Invariants of stored records, beyond the schema: what must hold of every record, whatever made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import BoolArray, EventColumns, IntArray, event_columns
from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.tokenization import TextTokenizer


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant: the record's id, a code for counting, and what is wrong."""

    record: str
    code: str
    message: str


def record_violations(table: pa.Table) -> list[Violation]:
    """Violations in a table of records: indices, order, the layout rule, rows, and the texts of parts."""
    if not table.num_rows:
        return []
    c = event_columns(table)
    ids = table.column("id").to_pylist()
    found = [Violation(ids[r], code, message) for code, message, records in _structural(c) for r in records]
    if not found:
        found.extend(_layout(c, ids, _delays(table, c)))
    found.extend(_part_texts(table, c, ids))
    return found


def _structural(c: EventColumns) -> Iterator[tuple[str, str, list[int]]]:
    count = np.diff(c.offsets)
    waits = np.diff(c.after_offsets)
    owner = np.repeat(np.arange(len(c.record)), waits)
    yield (
        "stream_index",
        "an event names a stream that is not there",
        _records(c, c.stream >= c.streams_per_record[c.record]),
    )
    bad = (c.after < 0) | (c.after >= count[c.record[owner]])
    yield "after_index", "`after` names an event that is not there", sorted({int(r) for r in c.record[owner[bad]]})
    yield "no_rows", "an event ends before it starts", _records(c, (c.end < c.start) | (c.start < 0))
    same = c.record[1:] == c.record[:-1]
    unordered = same & ((c.start[1:] < c.start[:-1]) | ((c.start[1:] == c.start[:-1]) & (c.stream[1:] < c.stream[:-1])))
    yield (
        "order",
        "events are not ordered by (start, stream)",
        _records(c, np.append(False, unordered)[: len(c.record)]),
    )
    order = np.lexsort((c.end, c.start, c.stream, c.record))
    together = (c.record[order][1:] == c.record[order][:-1]) & (c.stream[order][1:] == c.stream[order][:-1])
    overlap = together & (c.start[order][1:] < c.end[order][:-1])
    yield "overlap", "two events of one stream overlap", sorted({int(r) for r in c.record[order][1:][overlap]})
    last = np.zeros(len(c.rows), dtype=np.int64)
    np.maximum.at(last, c.record, c.end)
    yield "rows", "`rows` is not the end of the last event", np.flatnonzero(last != c.rows).tolist()
    yield "ending", "a part does not end with its last event, once", _records(c, _wrong_endings(c))


def _wrong_endings(c: EventColumns) -> BoolArray:
    """Events that end their part though another one follows, or do not end it, or in two ways. A header never ends."""
    order = np.lexsort((np.arange(len(c.record)), c.stream, c.record))
    header = c.kind == "header"
    keys = [values[order] for values in (c.record, c.stream, c.message, c.part, header)]
    follows = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    goes_on = np.zeros(len(c.record), dtype=bool)
    goes_on[order[:-1][follows]] = True
    ends = c.final | c.interrupted
    return np.where(header | goes_on, ends, ~ends | (c.final & c.interrupted))


def _records(c: EventColumns, mask: np.ndarray) -> list[int]:
    return sorted({int(r) for r in c.record[mask]})


def _delays(table: pa.Table, c: EventColumns) -> IntArray:
    """Rows that each event starts later than it could, by the record's ``labels``."""
    delay = np.zeros(len(c.record), dtype=np.int64)
    labels = table.column("labels")
    for record in np.flatnonzero(pc.match_substring(labels, '"delays"').to_numpy(zero_copy_only=False)).tolist():
        size = int(c.offsets[record + 1] - c.offsets[record])
        for event, rows in orjson.loads(labels[record].as_py()).get("delays", ()):
            if 0 <= event < size:
                delay[c.offsets[record] + event] = rows
    return delay


def _layout(c: EventColumns, ids: list[str], delay: IntArray) -> Iterator[Violation]:
    """start = max(previous end on the stream; end of same-stream ``after``; end + lag of other ``after``) + delay.

    On a clock of real time an event may start later: when it was said.
    """
    waits = np.diff(c.after_offsets)
    owner = np.repeat(np.arange(len(c.record)), waits)
    target = c.after + c.offsets[c.record[owner]]
    ready = c.end[target] + np.where(c.stream[target] == c.stream[owner], 0, c.lag[c.record[owner]])
    due = np.zeros(len(c.record), dtype=np.int64)
    np.maximum.at(due, owner, ready)
    order = np.lexsort((c.start, c.stream, c.record))
    together = (c.record[order][1:] == c.record[order][:-1]) & (c.stream[order][1:] == c.stream[order][:-1])
    previous = np.zeros(len(c.record), dtype=np.int64)
    previous[order[1:][together]] = c.end[order[:-1][together]]
    due = np.maximum(due, previous) + delay
    late = (c.start > due) & ~c.real_time[c.record]
    for event in np.flatnonzero((c.start < due) | late).tolist():
        what = (
            "starts before what it waits for has ended"
            if c.start[event] < due[event]
            else "starts later than it has to"
        )
        yield Violation(
            ids[int(c.record[event])],
            "layout",
            f"event {int(c.local[event])} {what}: row {c.start[event]}, due {due[event]}",
        )


def _part_texts(table: pa.Table, c: EventColumns, ids: list[str]) -> Iterator[Violation]:
    """The texts of a part's events, joined in order, hash to the part's sha256; no part is missing and none is extra."""
    texts = c.text.to_pylist()
    joined: dict[tuple[int, int, int], list[str]] = {}
    is_header = c.kind == "header"
    for record, message, part, header, text in zip(
        c.record.tolist(), c.message.tolist(), c.part.tolist(), is_header.tolist(), texts, strict=True
    ):
        if not header:
            joined.setdefault((record, message, part), []).append(text)
    parts = table.column("parts").combine_chunks()
    counts = pc.list_value_length(parts).to_numpy(zero_copy_only=False)
    flat = parts.flatten()
    for record, message, part, sha256 in zip(
        np.repeat(np.arange(len(counts)), counts).tolist(),
        pc.fill_null(flat.field("message"), -1).to_pylist(),
        pc.fill_null(flat.field("part"), -1).to_pylist(),
        flat.field("sha256").to_pylist(),
        strict=True,
    ):
        pieces = joined.pop((record, message, part), None)
        if pieces is None:
            yield Violation(ids[record], "part_missing", f"no event tells part {part} of message {message}")
        elif hashlib.sha256("".join(pieces).encode()).hexdigest() != sha256:
            yield Violation(
                ids[record], "part_text", f"the events of part {part} of message {message} do not join to its text"
            )
    for record, message, part in joined:
        yield Violation(ids[record], "part_extra", f"events tell part {part} of message {message}, which is not listed")


def token_violations(records: pa.Table, tokens: pa.Table, tokenizer: TextTokenizer | None) -> list[Violation]:
    """Differences between records and their token grids, row by row: ids, groups, rows, streams, cells and their places.

    With a tokenizer every span is encoded again, and the tokens in the cells of its events must be the same ids.
    """
    if not records.num_rows and not tokens.num_rows:
        return []
    ids = records.column("id").to_pylist()
    if ids != tokens.column("id").to_pylist():
        return [Violation(ids[0] if ids else "", "token_ids", "records and tokens are not in the same order")]
    found = [
        Violation(ids[r], code, f"{code.removeprefix('token_')} differ between record and tokens")
        for code, column in (
            ("token_rows", "rows"),
            ("token_streams", "streams"),
            ("token_group", "group"),
            ("token_conversation", "conversation_id"),
        )
        for r in _differ(records.column(column), tokens.column(column))
    ]
    c = event_columns(records)
    cells = np.zeros(len(ids), dtype=np.int64)
    np.add.at(cells, c.record, np.maximum(c.end - c.start, 0))
    counts = _lengths(tokens, "token_ids")
    found += [
        Violation(ids[r], "token_cells", f"{cells[r]} rows of events, {counts[r]} cells")
        for r in np.flatnonzero(cells != counts)
    ]
    for column in ("token_rows", "token_streams", "token_loss"):
        lengths = _lengths(tokens, column)
        found += [
            Violation(ids[r], "token_cells", f"{counts[r]} cells, {lengths[r]} values in {column}")
            for r in np.flatnonzero(lengths != counts)
        ]
    if not found and len(ids):
        found = list(_cells_in_place(c, ids, tokens))
    if found or tokenizer is None or not len(ids):
        return found
    return _encoded_again(c, ids, tokens, counts, tokenizer)


def _lengths(tokens: pa.Table, column: str) -> IntArray:
    values = pc.list_value_length(tokens.column(column).combine_chunks())
    lengths: IntArray = values.to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _cells_in_place(c: EventColumns, ids: list[str], tokens: pa.Table) -> Iterator[Violation]:
    """Cells are row-major, in the rows and on the streams of their events, and trained as their events say."""
    cells = c.end - c.start
    record, stream = np.repeat(c.record, cells), np.repeat(c.stream, cells)
    row = np.repeat(c.start, cells) + np.arange(len(record)) - np.repeat(np.cumsum(cells) - cells, cells)
    loss = np.repeat(np.where(c.is_output & (c.weight > 0), LOSS_TARGET, 0), cells)
    loss[(np.cumsum(cells) - 1)[c.interrupted & c.is_output & (cells > 0)]] |= LOSS_END_UNTRAINED
    order = np.lexsort((stream, row, record))
    for code, column, due in (
        ("token_places", "token_rows", row),
        ("token_places", "token_streams", stream),
        ("token_loss", "token_loss", loss),
    ):
        stored = tokens.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        for r in sorted({int(r) for r in record[order][stored != due[order]]}):
            yield Violation(ids[r], code, f"{column} are not those of the record's events")


def _differ(left: pa.ChunkedArray, right: pa.ChunkedArray) -> list[int]:
    if left.equals(right):
        return []
    return [i for i, (a, b) in enumerate(zip(left.to_pylist(), right.to_pylist(), strict=True)) if a != b]


def _encoded_again(
    c: EventColumns, ids: list[str], tokens: pa.Table, counts: IntArray, tokenizer: TextTokenizer
) -> list[Violation]:
    # The cells of one stream, in row order, are the tokens of its events one after the other.
    cell_record = np.repeat(np.arange(len(ids)), counts)
    stream = tokens.column("token_streams").combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    row = tokens.column("token_rows").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    value = tokens.column("token_ids").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    actual = value[np.lexsort((row, stream, cell_record))]
    order = np.lexsort((c.start, c.stream, c.record))
    texts = c.text.to_pylist()
    spans: list[str] = []
    ends: list[bool] = []
    owner: list[int] = []
    previous: tuple[int, ...] = ()
    for event in order.tolist():
        header = c.kind[event] == "header"
        key = (int(c.record[event]), int(c.stream[event]), int(c.message[event]), int(c.part[event]), int(header))
        if key == previous:
            spans[-1] += texts[event]
            ends[-1] = bool(c.final[event])
        else:
            spans.append(texts[event])
            ends.append(bool(c.final[event]))
            owner.append(int(c.record[event]))
        previous = key
    encoded = tokenizer.encode(spans)
    stop = np.cumsum(encoded.counts) - 1
    expected = np.insert(encoded.ids, (stop + 1)[np.array(ends, dtype=bool)], tokenizer.eom_id)
    per_span = encoded.counts + np.array(ends, dtype=np.int64)
    span_record = np.repeat(np.array(owner), per_span)
    if len(expected) != len(actual):
        sizes = np.bincount(span_record, minlength=len(ids))
        return [
            Violation(ids[r], "token_count", f"{sizes[r]} tokens by its text, {counts[r]} cells")
            for r in np.flatnonzero(sizes != counts)
        ]
    wrong = sorted({int(r) for r in cell_record[np.flatnonzero(expected != actual)]})
    return [Violation(ids[r], "token_text", "the cells are not the tokens of the record's text") for r in wrong]
