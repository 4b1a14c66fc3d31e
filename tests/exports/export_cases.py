"""Made records with every kind of odd text, written as small data sets, and the way back through the converters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from converters.openai_messages import convert as convert_chat
from pipeline.conversation import Conversation
from pipeline.convert import ConvertConfig, Converter
from pipeline.records import to_json, token_grid_metadata
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, TOKENS

HOSTILE = (
    "[bold]no[/bold] <script>alert(1)</script> \x1b[31mred\x1b[0m \u202eright to left\u202c",
    "你好，世界。我們在台北見面！ مرحبا بالعالم. 👩‍👩‍👧‍👦",
    "- a list\n- of - hyphens\n\n    indented\r\n\tand <|im_end|> <|endoftext|>",
    "-",
    " - ",
    "word " * 400,
)


def chat(number: int) -> dict[str, Any]:
    """A conversation with a system message, tools called side by side, reasoning and odd text."""
    odd = HOSTILE[number % len(HOSTILE)]
    city = ("Oslo", "Bergen", "Tromsø")[number % 3]

    def called(id_: str, place: str) -> dict[str, Any]:
        return {"id": id_, "type": "function", "function": {"name": "weather", "arguments": f'{{"city":  "{place}"}}'}}

    return {
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": f"{number}: weather in {city} and Narvik? {odd}"},
            {"role": "assistant", "reasoning_content": f"I ask for {city} and Narvik.", "content": "A moment.",
             "tool_calls": [called("a", city), called("b", "Narvik")]},
            {"role": "tool", "tool_call_id": "a", "content": f"{city}: 4 degrees. Then rain. {odd}"},
            {"role": "tool", "tool_call_id": "b", "content": "Narvik: 9 degrees."},
            {"role": "assistant", "content": f"{city} has 4 degrees. Narvik has 9 degrees. {odd}"},
            {"role": "user", "content": f"Thanks {odd}"},
            {"role": "assistant", "content": f"You are welcome. {odd}"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    }  # fmt: skip


def ten(number: int, rows: int = 6) -> dict[str, Any]:
    """A table of the paper's ten streams: all speak, side by side, with pauses."""
    names = (
        "User",
        "Output",
        "Analytical",
        "Skeptical",
        "Intuitive",
        "Between",
        "Curious",
        "Void",
        "Instinct",
        "Synthesis",
    )
    table: dict[str, Any] = {"id": f"sample_{number:03d}", "num_rows": rows}
    for i, name in enumerate(names):
        cells = [f"{name.lower()} says {r}," if (r + i + number) % 4 else "-" for r in range(rows)]
        table[name] = ["Is it hot?", *["-"] * (rows - 1)] if name == "User" else ["-", *cells[1:]]
    return table


@cache
def converter_of(align: str, lag: int) -> Converter:
    """A converter, whose tokenizer is loaded once."""
    return Converter(ConvertConfig(align=align, lag=lag))


def tables_of(
    units: Sequence[Any], format_: str = "openai_messages", align: str = "auto", lag: int = 0
) -> tuple[pa.Table, pa.Table]:
    """Records and tokens of units, converted as `multistream convert` does it. Nothing may be rejected."""
    converter = converter_of(align, lag)
    rows = []
    for index, unit in enumerate(units):
        raw = orjson.dumps(unit)
        sha256 = hashlib.sha256(raw).hexdigest()
        rows.append(
            {"corpus": "made", "path": "made.jsonl", "index": index, "format": format_, "license": "MIT", "key": None,
             "sha256": sha256, "raw": raw}
        )  # fmt: skip
    batch = converter.convert(rows)
    assert batch.records is not None
    assert batch.tokens is not None
    assert not batch.rejects
    return batch.records, batch.tokens.replace_schema_metadata(token_grid_metadata(converter.clock))


def records_of(units: Sequence[Any], format_: str = "openai_messages", align: str = "auto") -> list[dict[str, Any]]:
    """The records of units as JSON."""
    return list(to_json(tables_of(units, format_, align)[0]))


def write_data_set(folder: Path, tables: tuple[pa.Table, pa.Table], shards: int = 2, test: int = 2) -> Path:
    """A data set's folder: the last ``test`` records are its test split, the others stand in ``shards`` train shards."""
    records, tokens = tables
    train = records.num_rows - test
    cuts = [train * i // shards for i in range(shards + 1)]
    spans = [("train", i, shards, a, b) for i, (a, b) in enumerate(pairwise(cuts))]
    for split, i, n, a, b in [*spans, ("test", 0, 1, train, records.num_rows)]:
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name, table, schema in (("records", records, RECORDS), ("tokens-smollm2", tokens, TOKENS)):
            schema = schema.with_metadata(table.schema.metadata) if name != "records" else schema
            writer = TableWriter(folder / split / f"{name}-{i:05d}-of-{n:05d}.parquet", schema)
            for row in range(a, b):  # a row group for each record
                writer.write(table.slice(row, 1))
                writer._flush()
            writer.close()
    return folder


def lines(folder: Path, pattern: str = "*.jsonl") -> Iterator[dict[str, Any]]:
    """The values of all JSON Lines files, in the order of their names."""
    for path in sorted(folder.glob(pattern)):
        for line in path.read_bytes().splitlines():
            yield orjson.loads(line)


def said(conversation: Conversation) -> list[tuple[str, str, str, str | None]]:
    """Role, kind, text and name of every part, in order; empty ones say nothing."""
    return [
        (m.role, p.kind, p.text, p.name if p.kind == "tool_call" else None)
        for m in conversation.messages
        for p in m.parts
        if p.text or p.kind == "tool_call"
    ]


def read_chat(value: dict[str, Any]) -> Conversation:
    """The conversation that a chat holds."""
    return next(iter(convert_chat({k: v for k, v in value.items() if k != "id"})))


def told(record: dict[str, Any]) -> list[tuple[str, int, int, str]]:
    """Stream, rows and text of every event."""
    return [(record["streams"][e["stream"]]["name"], e["start"], e["end"], e["text"]) for e in record["events"]]
