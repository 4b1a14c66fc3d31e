from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipeline.alignment import align, parse_align_spec
from pipeline.conversation import Conversation, Message, Part, Source, to_json
from pipeline.records import Clock, Document, build_tables, encode_spans
from pipeline.records import to_json as records_to_json
from pipeline.tables import REJECTS
from pipeline.tokenization import TextTokenizer, load_tokenizer

RecordBuilder = Callable[[Sequence[Conversation], str, int], list[dict[str, Any]]]

_SOURCE = Source("flights", "train.jsonl", 7, "openai_messages", "MIT", hashlib.sha256(b"unit").hexdigest())

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation(
        (Message("user", (Part("text", "Capital of France?"),)), Message("assistant", (Part("text", "Paris."),)))
    ),
    Conversation(
        (
            Message("system", (Part("text", "Be brief. <|im_end|> is text."),)),
            Message(
                "user",
                (Part("text", "Cheapest flight?"),),
                name="ann",
                started_ms=1_716_163_200_000,
                ended_ms=1_716_163_201_000,
            ),
            Message(
                "assistant",
                (
                    Part("thinking", "I need the date. It is 2024-05-20.", before="<think>\n", after="\n</think>\n"),
                    Part("tool_call", '{"d": "2024-05-20"}', name="search", call_id="a"),
                    Part("tool_call", '{"d": "2024-05-21"}', name="search", call_id="b", source='{"name": "search"}'),
                ),
            ),
            Message(
                "tool",
                (Part("tool_result", '{"id": "HAT001", "price": 51}, {"id": "HAT002", "price": 99}', call_id="a"),),
            ),
            Message("tool", (Part("tool_result", "", call_id="b", error=True),)),
            Message(
                "assistant", (Part("text", "HAT001 costs 51. HAT002 costs 99. 你好👩‍👩‍👧!\n\n\tDone -"),), weight=0.5
            ),
            Message("user", (Part("text", "Thanks", interrupted=True),), weight=0.0),
        ),
        tools='[{"name": "search"}]',
        extra={"reward": 1.0, "gold": ["HAT001", None], "nested": {"é": True}},
        group="task:7",
        sources=(_SOURCE, Source("flights", "gold.jsonl", 0, None, None, "0" * 64)),
    ),
    Conversation(
        (
            Message(
                "user",
                (Part("context", "Paris is the capital of France. Rome is not."), Part("text", "Where is Paris?")),
            ),
            Message(
                "assistant", (Part("thinking", "France, says the text.", interrupted=True), Part("text", "In France."))
            ),
            Message("assistant", (Part("text", ""),)),
        ),
    ),
)


def _records_of(
    tokenizer: TextTokenizer, conversations: Sequence[Conversation], align_spec: str, lag: int
) -> list[dict[str, Any]]:
    """Stream records of conversations, as JSON, through the whole pipeline."""
    spec = parse_align_spec(align_spec)
    aligned = [align(conversation, spec) for conversation in conversations]
    timelines = [timeline for timeline, _ in aligned]
    documents = [
        Document(conversation, timeline, spec, ordinal=i, labels={"empty_messages": silent} if silent else {})
        for i, (conversation, (timeline, silent)) in enumerate(zip(conversations, aligned, strict=True))
    ]
    encoded, first = encode_spans(timelines, tokenizer)
    tables = build_tables(documents, Clock(tokenizer, lag), encoded, first)
    assert {error.code for _, error in tables.failed} <= {"unencodable"}
    return list(records_to_json(tables.records))


def rejection_rows() -> list[dict[str, Any]]:
    """Reject rows as JSON, out of the Arrow table."""
    raws = (b'{"messages": 1}\n', b"\xff\xfe\x00", b"", "né".encode()[:-1])
    rows = [
        {
            "corpus": "flights", "path": "train.jsonl", "index": i, "stage": "convert", "code": "no_messages",
            "message": "unit has no messages", "license": None if i % 2 else "MIT",
            "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "raw": raw,
        }
        for i, raw in enumerate(raws)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=REJECTS)
    return [{**row, "raw": base64.b64encode(row["raw"]).decode()} for row in table.to_pylist()]


@pytest.fixture(scope="session")
def build_records() -> RecordBuilder:
    """Conversations, align spec and lag to stream records, with the packaged tokenizer."""
    return partial(_records_of, load_tokenizer("smollm2"))


@pytest.fixture(scope="session")
def samples(build_records: RecordBuilder) -> dict[str, list[Any]]:
    """Real values by schema name, read back from JSON text; the first of each is small."""
    records = [
        *build_records(CONVERSATIONS, "turns", 0),
        *build_records(CONVERSATIONS, "thinking+evidence+tools_async", 1),
    ]
    for event, verdict, gain in zip(
        records[1]["events"], ("clear", "leak", "weak", None), (0.25, -0.01, 0.0, None), strict=False
    ):
        event.update(lexical=verdict, gain=gain, judged=verdict)
    values = {
        "stream_record": records,
        "conversation": [to_json(c) for c in CONVERSATIONS],
        "rejection": rejection_rows(),
    }
    return {name: [orjson.loads(orjson.dumps(value)) for value in list_] for name, list_ in values.items()}
