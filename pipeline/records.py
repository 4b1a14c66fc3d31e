"""StreamRecords and TokenGrids as Arrow tables: built from laid-out timelines in batches, and read back as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import xxhash

from pipeline.alignment import VERSION as ALIGNMENT_VERSION
from pipeline.conversation import Conversation, RecordError, Source, conversation_id, group_of, source_to_json
from pipeline.layout import Events, lay_out
from pipeline.script import MAX_STREAMS, Script
from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET, RECORD_SCHEMA_ID, RECORDS, TOKENS, TOKENS_SCHEMA_ID
from pipeline.timeline import Span, Timeline
from pipeline.tokenization import Encoded, TextTokenizer, metadata


class Policy(Protocol):
    """What placed the events: its name, and its parameters as canonical JSON (``AlignSpec`` is one)."""

    @property
    def policy(self) -> str: ...

    @property
    def params(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What a record keeps that is laid out again (see ``relayout``).

    ``id`` is the record's own, under the tokenizer and lag of ``clock`` (SHA-256, rows); ``ordinal``: which conversation of its
    unit it is, None where the id does not tell. ``extra`` is JSON text. As a ``Policy`` it is what placed the record's events.
    """

    id: str
    clock: tuple[str, int]
    conversation_id: str
    group: str
    ordinal: int | None
    sources: tuple[Source, ...]
    extra: str
    labels: dict[str, Any]
    policy: str
    version: int
    params: str
    ms_per_row: float | None
    k: int
    n: int

    def record_id(self, tokenizer_sha256: str, lag: int) -> str:
        """The id under a tokenizer and a lag: as if made from the source where the ordinal is known, else of the old id."""
        if self.ordinal is not None:
            policy = (self.policy, self.version, self.params)
            segment = (self.ordinal, self.k, self.n)
            return _identity(self.conversation_id, policy, (tokenizer_sha256, lag), self.sources, segment)
        if (tokenizer_sha256, lag) == self.clock:
            return self.id
        return xxhash.xxh3_128_hexdigest(orjson.dumps([self.id, [tokenizer_sha256, lag]]))


@dataclass(frozen=True, slots=True)
class Document:
    """One record to be: a timeline with the conversation (or the segment of one) that it tells.

    ``conversation`` is the whole conversation, also where the timeline holds segment ``k`` of ``n``; ``ordinal`` counts
    the conversations of one source unit; ``messages`` maps the timeline's message indices to the conversation's.
    ``told`` is what the timeline was made of, where that is not the whole.
    ``ms_per_row`` is set where rows are time, ``script`` where the source has streams of its own, ``kept`` where the source is
    a record.
    """

    conversation: Conversation
    timeline: Timeline
    policy: Policy
    ordinal: int = 0
    k: int = 1
    n: int = 1
    messages: tuple[int, ...] | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    told: Conversation | None = None
    ms_per_row: float | None = None
    script: Script | None = None
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a batch of records: rows are tokens of ``tokenizer``; ``lag`` as in the layout rule."""

    tokenizer: TextTokenizer
    lag: int = 0


def encode_spans(documents: Sequence[Timeline], tokenizer: TextTokenizer) -> tuple[Encoded, list[int]]:
    """Encodes every span of every timeline at once; the second value is each timeline's first span."""
    first: list[int] = []
    texts: list[str] = []
    for timeline in documents:
        first.append(len(texts))
        texts.extend(span.text for span in timeline.spans)
    return tokenizer.encode(texts), first


@dataclass(frozen=True, slots=True)
class Tables:
    """Records and tokens of the same documents, row by row; ``failed``: documents that could not be laid out."""

    records: pa.Table
    tokens: pa.Table
    failed: list[tuple[int, RecordError]]


def build_tables(documents: Sequence[Document], clock: Clock, encoded: Encoded, first_span: Sequence[int]) -> Tables:
    """Lays documents out and builds both tables. ``encoded`` and ``first_span`` are those of ``encode_spans``."""
    failed: list[tuple[int, RecordError]] = []
    kept: list[int] = []
    laid: list[Events] = []
    for i, document in enumerate(documents):
        spans = range(first_span[i], first_span[i] + len(document.timeline.spans))
        try:
            if not spans:
                raise RecordError("empty", "the timeline says nothing")
            if (streams := len(document.timeline.streams)) > MAX_STREAMS:
                raise RecordError("too_many_streams", f"{streams} streams, a record holds at most {MAX_STREAMS}")
            if lost := encoded.lossy.intersection(spans):
                raise _unencodable(document.timeline.spans[min(lost) - first_span[i]], clock.tokenizer)
            laid.append(lay_out(document.timeline, encoded, first_span[i], clock.lag))
            kept.append(i)
        except RecordError as error:
            failed.append((i, error))
    columns = _Columns([documents[i] for i in kept], laid, [first_span[i] for i in kept], encoded, clock)
    return Tables(columns.records(), columns.tokens(), failed)


def _unencodable(span: Span, tokenizer: TextTokenizer) -> RecordError:
    characters = {c for c in span.text if tokenizer.encode([c]).lossy}
    shown = ", ".join(f"U+{ord(c):04X}" for c in sorted(characters)[:5]) or "some characters"
    return RecordError(
        "unencodable", f"message {span.message} holds {shown}, which tokenizer {tokenizer.name} cannot encode"
    )


def token_grid_metadata(clock: Clock) -> dict[bytes, bytes]:
    """The Parquet metadata of a token file."""
    value = {"schema": TOKENS_SCHEMA_ID, "lag": clock.lag, **metadata(clock.tokenizer)}
    return {b"token_grid": json.dumps(value, sort_keys=True, separators=(",", ":")).encode()}


class _Columns:
    """The events of a batch as flat columns, in the order of the records and of (start, stream) within each."""

    def __init__(
        self,
        documents: Sequence[Document],
        laid: Sequence[Events],
        first_span: Sequence[int],
        encoded: Encoded,
        clock: Clock,
    ) -> None:
        self.documents, self.laid, self.encoded, self.clock = documents, laid, encoded, clock
        # Segments share their conversation, which may be long.
        known = {id(d.conversation): d.conversation for d in documents if d.kept is None}
        ids = {key: conversation_id(c) for key, c in known.items()}
        groups = {key: group_of(c) for key, c in known.items()}
        conversations = [d.kept.conversation_id if d.kept else ids[id(d.conversation)] for d in documents]
        #: The columns that records and tokens share.
        self.shared: dict[str, Any] = {
            "id": [record_id(d, c, clock) for d, c in zip(documents, conversations, strict=True)],
            "conversation_id": conversations,
            "group": [d.kept.group if d.kept else groups[id(d.conversation)] for d in documents],
            "streams": [
                [{"name": s.name, "role": s.role, "slot": s.slot, "direction": s.direction} for s in d.timeline.streams]
                for d in documents
            ],
        }
        counts = np.fromiter((len(e.span) for e in laid), dtype=np.int64, count=len(laid))
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.document = np.repeat(np.arange(len(laid)), counts)
        span_counts = np.fromiter((len(d.timeline.spans) for d in documents), dtype=np.int64, count=len(documents))
        span_base = np.concatenate([[0], np.cumsum(span_counts)]).astype(np.int64)[:-1]
        self.spans: list[Span] = [span for d in documents for span in d.timeline.spans]

        local_span = _flat(laid, "span")
        span = local_span + np.repeat(span_base, counts)
        start, end = _flat(laid, "start"), _flat(laid, "end")
        stream = np.fromiter((s.stream for s in self.spans), dtype=np.int64, count=len(self.spans))[span]
        self.order = np.lexsort((stream, start, self.document))
        self.span, self.start, self.end, self.stream = (
            span[self.order],
            start[self.order],
            end[self.order],
            stream[self.order],
        )
        encoded_span = (local_span + np.repeat(np.array(first_span, dtype=np.int64), counts))[self.order]
        self.first_token = encoded.offsets[encoded_span] + _flat(laid, "first_token")[self.order]
        self.token_count = _flat(laid, "tokens")[self.order]
        self.final = _flat(laid, "final").astype(bool)[self.order]
        self.is_output = np.fromiter(
            (d.timeline.streams[s.stream].direction == "output" for d in documents for s in d.timeline.spans),
            dtype=bool,
            count=len(self.spans),
        )[self.span]
        self.weight = np.fromiter((s.weight for s in self.spans), dtype=np.float32, count=len(self.spans))[self.span]
        interrupted = np.fromiter((s.interrupted for s in self.spans), dtype=bool, count=len(self.spans))
        last_of_span = np.append(span[1:] != span[:-1], True) if len(span) else np.zeros(0, dtype=bool)
        self.interrupted = (interrupted[span] & last_of_span)[self.order]
        self.rows = np.maximum.reduceat(self.end, self.offsets[:-1]) if len(laid) else np.zeros(0, dtype=np.int64)

    def records(self) -> pa.Table:
        documents, clock = self.documents, self.clock
        count = len(documents)
        clock_value = {
            "unit": "token",
            "tokenizer": clock.tokenizer.name,
            "tokenizer_sha256": clock.tokenizer.sha256,
            "lag": clock.lag,
        }
        columns = {
            **self.shared,
            "schema": [RECORD_SCHEMA_ID] * count,
            "clock": [{**clock_value, "ms_per_row": d.ms_per_row} for d in documents],
            "rows": self.rows,
            "segment": [{"k": d.k, "n": d.n} for d in documents],
            "events": self._events(),
            "alignment": [
                {
                    "policy": d.policy.policy,
                    "version": d.kept.version if d.kept else ALIGNMENT_VERSION,
                    "params": d.policy.params,
                }
                for d in documents
            ],
            "sources": [
                [source_to_json(s) for s in (d.kept.sources if d.kept else d.conversation.sources)] for d in documents
            ],
            "parts": [_parts(d) for d in documents],
            "extra": [_extra(d) for d in documents],
            "labels": [orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode() for labels in self._labels()],
        }
        return pa.table([_array(columns[f.name], f.type) for f in RECORDS], schema=RECORDS)

    def _labels(self) -> list[dict[str, Any]]:
        """The documents' labels, with the delays of their events: (event, rows)."""
        labels = [d.labels for d in self.documents]
        delay = _flat(self.laid, "delay")[self.order]
        for event in np.flatnonzero(delay).tolist():
            document = int(self.document[event])
            if labels[document] is self.documents[document].labels:
                labels[document] = {**labels[document], "delays": []}
            labels[document]["delays"].append([event - int(self.offsets[document]), int(delay[event])])
        return labels

    def _events(self) -> pa.Array:
        spans = self.spans
        texts = [spans[s].text for s in self.span.tolist()]
        low, high = _flat(self.laid, "low")[self.order].tolist(), _flat(self.laid, "high")[self.order].tolist()
        message_maps = [d.messages for d in self.documents for _ in d.timeline.spans]
        message = [
            None if span.message is None else (span.message if where is None else where[span.message])
            for span, where in zip(spans, message_maps, strict=True)
        ]
        struct = RECORDS.field("events").type.value_type
        values: dict[str, Any] = {
            "stream": self.stream,
            "message": _take(message, self.span, pa.int32()),
            "part": _take([s.part for s in spans], self.span, pa.int32()),
            "call": _take([s.call for s in spans], self.span, pa.int32()),
            "start": self.start,
            "end": self.end,
            "kind": _take([s.kind for s in spans], self.span, pa.string()),
            "final": self.final,
            "interrupted": self.interrupted,
            "text": [
                text if a == 0 and b == len(text) else text[a:b] for text, a, b in zip(texts, low, high, strict=True)
            ],
            "weight": self.weight,
            "time_ms": _take([s.time_ms for s in spans], self.span, pa.int64()),
            "after": self._after(),
            "lexical": pa.nulls(len(self.span), pa.string()),
            "gain": pa.nulls(len(self.span), pa.float32()),
            "judged": pa.nulls(len(self.span), pa.string()),
        }
        flat = pa.StructArray.from_arrays([_array(values[f.name], f.type) for f in struct], fields=list(struct))
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), flat, type=RECORDS.field("events").type)

    def _after(self) -> pa.Array:
        base = self.offsets[:-1][self.document] if len(self.document) else np.zeros(0, dtype=np.int64)
        rank = np.empty(len(self.order), dtype=np.int64)
        rank[self.order] = np.arange(len(self.order))
        lists = [waits for e in self.laid for waits in e.after]
        counts = np.fromiter((len(w) for w in lists), dtype=np.int64, count=len(lists))
        values = np.fromiter((a for w in lists for a in w), dtype=np.int64, count=int(counts.sum()))
        owner = np.repeat(np.arange(len(lists)), counts)
        values = rank[values + base[owner]] - base[owner] if len(values) else values
        by_event = np.lexsort((values, rank[owner])) if len(values) else np.zeros(0, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts[self.order])]) if len(lists) else np.zeros(1, dtype=np.int64)
        type_ = RECORDS.field("events").type.value_type.field("after").type
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(values[by_event], pa.int32()), type=type_
        )

    def tokens(self) -> pa.Table:
        cells = self.end - self.start
        total = int(cells.sum())
        within = np.arange(total) - np.repeat(np.cumsum(cells) - cells, cells)
        index = np.repeat(self.first_token, cells) + within
        is_text = within < np.repeat(self.token_count, cells)
        ids = np.full(total, self.clock.tokenizer.eom_id, dtype=np.int32)
        ids[is_text] = self.encoded.ids[index[is_text]]
        trained = self.is_output & (self.weight > 0)
        loss = np.repeat(np.where(trained, LOSS_TARGET, 0).astype(np.uint8), cells)
        cut = self.interrupted & self.is_output & (cells > 0)
        loss[(np.cumsum(cells) - 1)[cut]] |= LOSS_END_UNTRAINED
        row = np.repeat(self.start, cells) + within
        stream = np.repeat(self.stream, cells)
        document = np.repeat(self.document, cells)
        order = np.lexsort((stream, row, document))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(document, minlength=len(self.documents)))])
        lists = {
            "token_ids": ids[order],
            "token_rows": row[order],
            "token_streams": stream[order],
            "token_loss": loss[order],
        }
        columns = {**self.shared, "rows": self.rows}
        arrays = []
        for f in TOKENS:
            if f.name in lists:
                values = pa.array(lists[f.name].astype(f.type.value_type.to_pandas_dtype()), f.type.value_type)
                arrays.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=f.type))
            else:
                arrays.append(_array(columns[f.name], f.type))
        return pa.table(arrays, schema=TOKENS)


def _flat(laid: Sequence[Events], name: str) -> npt.NDArray[np.int64]:
    lists = [getattr(e, name) for e in laid]
    return np.fromiter((v for values in lists for v in values), dtype=np.int64, count=sum(len(v) for v in lists))


def _take(values: list[Any], index: npt.NDArray[np.int64], type_: pa.DataType) -> pa.Array:
    return pa.array(values, type_).take(pa.array(index))


def _array(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, np.ndarray):
        return pa.array(values).cast(type_)
    return pa.array(values, type_)


def _parts(document: Document) -> list[dict[str, Any]]:
    where = document.messages
    return [
        {
            "message": span.message if where is None or span.message is None else where[span.message],
            "part": span.part,
            "added": span.added,
            "sha256": hashlib.sha256(span.text.encode()).hexdigest(),
        }
        for span in document.timeline.spans
        if span.kind != "header"
    ]


def _extra(document: Document) -> str:
    if document.kept is not None:
        return document.kept.extra
    return msgspec.json.encode(document.conversation.extra).decode() if document.k == 1 else "{}"


def record_id(document: Document, conversation: str, clock: Clock) -> str:
    """xxh3-128 (hex) of the conversation, the alignment, the tokenizer, the source pointer and the segment."""
    if document.kept is not None:
        return document.kept.record_id(clock.tokenizer.sha256, clock.lag)
    policy = (document.policy.policy, ALIGNMENT_VERSION, document.policy.params)
    segment = (document.ordinal, document.k, document.n)
    return _identity(conversation, policy, (clock.tokenizer.sha256, clock.lag), document.conversation.sources, segment)


def _identity(
    conversation: str,
    policy: tuple[str, int, str],
    clock: tuple[str, int],
    sources: Sequence[Source],
    segment: tuple[int, int, int],
) -> str:
    pointers = [[s.corpus, s.path, s.index] for s in sources]
    return xxhash.xxh3_128_hexdigest(orjson.dumps([conversation, policy, clock, pointers, segment]))


def to_json(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Records as JSON values, in order (``schemas/stream_record.schema.json``)."""
    import io

    import polars as pl

    buffer = io.BytesIO()
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame.write_ndjson(buffer)
    return (orjson.loads(line) for line in buffer.getvalue().splitlines())
