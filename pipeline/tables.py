"""The Arrow schema of every Parquet table of a data set. Frozen: a change here regenerates every shard.

One explicit schema per table, the same for every shard whatever the batch holds, so that a later shard always fits the
first. Free-form objects are JSON text. Column meanings are those of ``schemas/stream_record.schema.json``.
"""

from __future__ import annotations

import pyarrow as pa

RECORD_SCHEMA_ID = "stream-record/1"
TOKENS_SCHEMA_ID = "token-grid/1"

#: Bits of ``token_loss``: the cell is a training target; the silence right after the cell is not one (a cut-off message).
LOSS_TARGET = 1
LOSS_END_UNTRAINED = 2

_STREAM = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("slot", pa.uint8(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),  # "input" | "output"
    ]
)
_CLOCK = pa.struct(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("tokenizer", pa.string(), nullable=False),
        pa.field("tokenizer_sha256", pa.string(), nullable=False),
        pa.field("ms_per_row", pa.float64()),
        pa.field("lag", pa.int32(), nullable=False),
    ]
)
_SEGMENT = pa.struct([pa.field("k", pa.int32(), nullable=False), pa.field("n", pa.int32(), nullable=False)])
_EVENT = pa.struct(
    [
        pa.field("stream", pa.uint8(), nullable=False),
        pa.field("message", pa.int32()),
        pa.field("part", pa.int32()),
        pa.field("call", pa.int32()),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("final", pa.bool_(), nullable=False),
        pa.field("interrupted", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("time_ms", pa.int64()),
        pa.field("after", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field(
            "lexical", pa.string()
        ),  # verdict of the lexical leak detector: null (nothing to check), "clear", "leak"
        pa.field("gain", pa.float32()),  # future-information gain, nats per token
        pa.field("judged", pa.string()),  # verdict of a chat model
    ]
)
_ALIGNMENT = pa.struct(
    [
        pa.field("policy", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
    ]
)
_SOURCE = pa.struct(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("license", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
_PART = pa.struct(
    [
        pa.field("message", pa.int32()),
        pa.field("part", pa.int32()),
        pa.field("added", pa.string(), nullable=False),  # text that the pipeline added: "\n" after a call's name
        pa.field("sha256", pa.string(), nullable=False),
    ]
)


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False))


RECORDS = pa.schema(
    [
        pa.field("schema", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("streams", _list(_STREAM), nullable=False),
        pa.field("clock", _CLOCK, nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("segment", _SEGMENT, nullable=False),
        pa.field("events", _list(_EVENT), nullable=False),
        pa.field("alignment", _ALIGNMENT, nullable=False),
        pa.field("sources", _list(_SOURCE), nullable=False),
        pa.field("parts", _list(_PART), nullable=False),
        pa.field("extra", pa.string(), nullable=False),  # JSON object: what the source said beside its messages
        pa.field("labels", pa.string(), nullable=False),  # JSON object: what the pipeline noted
    ]
)

#: Sparse token grid: one row per record, only spoken cells, row-major (by row, then stream). The file's schema metadata
#: holds ``token_grid`` = JSON with schema, tokenizer, tokenizer_sha256, vocab_size, bos_id, eom_id, silence_id, lag.
TOKENS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("streams", _list(_STREAM), nullable=False),
        pa.field("token_ids", _list(pa.int32()), nullable=False),
        pa.field("token_rows", _list(pa.int32()), nullable=False),
        pa.field("token_streams", _list(pa.uint8()), nullable=False),
        pa.field("token_loss", _list(pa.uint8()), nullable=False),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),  # size of the whole unit
        pa.field("raw", pa.binary(), nullable=False),  # the unit, cut at ``ingest.RAW_LIMIT`` bytes
    ]
)

#: What filters left out of the data set or flagged. ``stage``: the one whose output it was; ``detail``: what the filter says.
FILTERED = pa.schema([pa.field(name, pa.string(), nullable=False) for name in (
    "id", "conversation_id", "corpus", "stage", "filter", "reason", "detail",
)])  # fmt: skip

#: What ingest hands to conversion: source units, verbatim.
UNITS = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("key", pa.string()),  # the unit's key where the file is one object of records
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("raw", pa.large_binary(), nullable=False),
    ]
)

#: One row per source unit: what became of it. The books that conservation is checked against.
LEDGER = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # "converted" | "input_only" | "rejected" | "excluded"
        pa.field("conversations", pa.int32(), nullable=False),
        pa.field("records", pa.int32(), nullable=False),
        pa.field("input_only", pa.int32(), nullable=False),  # records without any output, kept out of training
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
