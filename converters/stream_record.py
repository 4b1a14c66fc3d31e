"""Stream records of this pipeline, laid out again: under another tokenizer, another lag. Nothing is aligned anew.

Rows of ``records-*.parquet``, or JSON Lines as ``records.to_json`` gives them; a build, a data set or a stage's folder may be
named as a whole. docs/alignment/relayout.md says what stays and what cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_object
from pipeline.conversation import Conversation

FORMAT = "stream_record"
UNIT = "record"
SHAPE = '{"schema": "stream-record/1", "streams": […], "events": […], …}: rows of records-*.parquet'


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _event(stream: int, message: int, rows: tuple[int, int], text: str, after: list[int]) -> dict[str, Any]:
    return {
        "stream": stream, "message": message, "part": 0, "call": None, "start": rows[0], "end": rows[1], "kind": "message",
        "final": True, "interrupted": False, "text": text, "weight": 1.0, "time_ms": None, "after": after, "lexical": None,
        "gain": None, "judged": None,
    }  # fmt: skip


EXAMPLE = {
    "schema": "stream-record/1",
    "id": "00000000000000000000000000000001",
    "conversation_id": "00000000000000000000000000000002",
    "group": "example/kiln",
    "streams": [
        {"name": "user", "role": "user", "slot": 0, "direction": "input"},
        {"name": "assistant", "role": "assistant", "slot": 0, "direction": "output"},
    ],
    "clock": {"unit": "token", "tokenizer": "words", "tokenizer_sha256": "0" * 64, "ms_per_row": None, "lag": 0},
    "rows": 10,
    "segment": {"k": 1, "n": 1},
    "events": [
        _event(0, 0, (0, 6), "Is the kiln still hot?", []),
        _event(1, 1, (6, 10), "Yes, it is.", [0]),
    ],
    "alignment": {"policy": "turns", "version": 3, "params": '{"question":"first","turns":{}}'},
    "sources": [
        {"corpus": "example", "path": "kiln.jsonl", "index": 0, "format": "alpaca", "license": None, "sha256": "0" * 64}
    ],
    "parts": [
        {"message": 0, "part": 0, "added": "", "sha256": _sha256("Is the kiln still hot?")},
        {"message": 1, "part": 0, "added": "", "sha256": _sha256("Yes, it is.")},
    ],
    "extra": "{}",
    "labels": "{}",
}


def detect(unit: Any) -> bool:
    """Whether the value says that it is one."""
    schema = unit.get("schema") if isinstance(unit, dict) else None
    return isinstance(schema, str) and schema == EXAMPLE["schema"]


def convert(unit: Any) -> Iterator[Conversation]:
    """What the record tells, with its timeline (``pipeline.relayout.Relayed``). Raises RecordError ``bad_record``."""
    from pipeline.relayout import rebuild

    yield rebuild(as_object(unit, "the record"))
