"""Records for the tests of the viewer: made by hand, or converted from messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.convert import ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.tables import RECORDS, REJECTS
from schemas import violations

INPUTS = ("user", "system", "tool")


def event(stream: int, start: int, end: int, text: str, **more: Any) -> dict[str, Any]:
    """An event of its own message; ``more``: what differs from that."""
    made: dict[str, Any] = {
        "stream": stream, "message": 0, "part": 0, "call": None, "start": start, "end": end, "kind": "message",
        "final": True, "interrupted": False, "text": text, "weight": 1.0, "time_ms": None, "after": [], "lexical": None,
        "gain": None, "judged": None,
    }  # fmt: skip
    return {**made, **more}


def record(names: Sequence[str], events: Sequence[Mapping[str, Any]], number: int = 0, **more: Any) -> dict[str, Any]:
    """A record with streams of these names and these events, which fits the schema."""
    texts: dict[tuple[Any, Any], str] = {}
    for e in events:
        if e["kind"] != "header":
            texts[e["message"], e["part"]] = texts.get((e["message"], e["part"]), "") + e["text"]
    made = {
        "schema": "stream-record/1",
        "id": hashlib.md5(f"record {number}".encode()).hexdigest(),
        "conversation_id": hashlib.md5(f"conversation {number}".encode()).hexdigest(),
        "group": f"group/{number}",
        "streams": [
            {"name": n, "role": n.partition("/")[0], "slot": int(n.partition("/")[2] or 0),
             "direction": "input" if n.startswith(INPUTS) else "output"}
            for n in names
        ],
        "clock": {"unit": "token", "tokenizer": "smollm2", "tokenizer_sha256": "0" * 64, "ms_per_row": None, "lag": 0},
        "rows": max((e["end"] for e in events), default=0),
        "segment": {"k": 1, "n": 1},
        "events": [dict(e) for e in events],
        "alignment": {"policy": "turns", "version": 8, "params": "{}"},
        "sources": [
            {"corpus": "made", "path": "made.jsonl", "index": number, "format": "chat", "license": "MIT", "sha256": "0" * 64}
        ],
        "parts": [
            {"message": m, "part": p, "added": "", "sha256": hashlib.sha256(t.encode()).hexdigest()}
            for (m, p), t in texts.items()
        ],
        "extra": "{}",
        "labels": "{}",
        **more,
    }  # fmt: skip
    assert not list(violations("stream_record", [made]))
    return made


def converted(messages: Sequence[Mapping[str, Any]], align: str = "turns", **unit: Any) -> dict[str, Any]:
    """The record of OpenAI messages under an align spec."""
    raw = json.dumps({"messages": messages}).encode()
    whole = {
        "corpus": "made", "path": "made.jsonl", "index": 0, "format": "openai_messages", "license": "MIT", "key": None,
        "sha256": hashlib.sha256(raw).hexdigest(), "raw": raw, **unit,
    }  # fmt: skip
    batch = Converter(ConvertConfig(align=align)).convert([whole])
    made: dict[str, Any] = next(to_json(batch.records))
    return made


def write(path: Path, records: Sequence[Mapping[str, Any]], group: int = 1 << 20) -> Path:
    """A shard of records, ``group`` to a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(r) for r in records], schema=RECORDS), path, row_group_size=group)
    return path


def write_rejects(path: Path, rejects: Sequence[tuple[str, str, bytes]]) -> Path:
    """A shard of rejects: code, message, raw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"corpus": "made", "path": "made.jsonl", "index": i, "stage": "convert", "code": code, "message": message,
         "license": None, "sha256": "0" * 64, "bytes": len(raw), "raw": raw}
        for i, (code, message, raw) in enumerate(rejects)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS), path)
    return path


#: Texts that a terminal or a browser could obey, and scripts that are hard to draw.
HOSTILE = {
    "ansi": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J",
    "markup": "[bold]no[/bold] [@click=app.quit]click[/] <script>alert(1)</script> &amp; {{ x }}",
    "control": "a\x00b\x08c\x7fd\x85e\rf\tg",
    "direction": "\u202eevil\u202c \u2066isolated\u2069 \ufeffbom \u2028line \u200b\u00ad",
    "hebrew": "שלום עולם, מה שלומך היום?",
    "arabic": "مرحبًا، أين وصلت شحنتي رقم AX-2207؟",
    "wide": "漢字と仮名の文章は一文字で二桁の幅を取ります。" * 3,
    "joined": "क्षि می‌خواهم 👨‍👩‍👧 ☎️ é",
    "bare mark": "\u0301\u0302 marks first",
    "long": "x" * 5000,
    "lines": "\n\n\n\none\n\n\ntwo\n" * 20,
}


def hostile_records() -> dict[str, dict[str, Any]]:
    """A record per hostile text, which stands in its names too; and ten streams, thousands of events, and nothing at all."""
    made = {
        name: record(
            ["user", "assistant"],
            [event(0, 0, 9, text), event(1, 9, 20, text, message=1, after=[0])],
            number,
            sources=[
                {"corpus": text[:200], "path": text[:200], "index": 0, "format": text[:99], "license": text[:99],
                 "sha256": "0" * 64}
            ],
            alignment={"policy": text[:200], "version": 1, "params": "{}"},
            labels=json.dumps({"note": text}, ensure_ascii=False),
            group=text[:200] or "g",
        )
        for number, (name, text) in enumerate(HOSTILE.items())
    }  # fmt: skip
    ten = ["user", *(f"assistant/{i}" for i in range(9))]
    made["ten streams"] = record(
        ten, [event(i, 3 * i, 3 * i + 9, f"stream {i} speaks", message=i) for i in range(10)], 100
    )
    made["many events"] = record(
        ["user", "assistant"],
        [event(i % 2, i, i + 1, f"w{i} ", message=i, part=0) for i in range(4000)],
        101,
    )
    return made
