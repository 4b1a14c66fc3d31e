"""The plain viewer: a record as text, one column per stream, one line per block of rows."""

from __future__ import annotations

import json
import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.folders import find_records
from pipeline.records import to_json

_MIN_COLUMN = 14


def find_record(path: Path, wanted: str | None) -> dict[str, Any]:
    """The record with an id (or the start of one), by index, or the first. Raises InputError."""
    seen = 0
    for place in find_records(path).records:
        for batch in pq.ParquetFile(place).iter_batches(256):
            ids = batch.column("id").to_pylist()
            for i, id_ in enumerate(ids):
                if wanted is None or id_.startswith(wanted) or (len(wanted) < 8 and wanted == str(seen + i)):
                    return next(to_json(pa.Table.from_batches([batch.slice(i, 1)])))
            seen += len(ids)
    raise InputError(f"{path} holds no record {wanted!r} among {seen}" if wanted else f"{path} holds no records")


def render(record: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """The lines of a record: who it is, then its events in columns. ``>`` marks where an output speaks while its input
    is still being read."""
    width = width or shutil.get_terminal_size((120, 40)).columns
    yield from _head(record)
    streams = record["streams"]
    column = max(_MIN_COLUMN, (width - 7 - 3 * len(streams)) // len(streams))
    rule = "─" * 6 + "".join("─┼─" + "─" * column for _ in streams)
    yield " rows │ " + " │ ".join(
        _pad(f"{s['name']} {'◂' if s['direction'] == 'input' else '▸'}", column) for s in streams
    )
    yield rule
    starts = sorted({e["start"] for e in record["events"]})
    for row in starts:
        cells: list[list[str]] = [[] for _ in streams]
        for event in (e for e in record["events"] if e["start"] == row):
            cells[event["stream"]] += _cell(event, column, _overlaps(event, record))
        for i in range(max(len(c) for c in cells)):
            label = f"{row:>5} " if i == 0 else " " * 6
            yield label + "".join("│ " + _pad(c[i] if i < len(c) else "", column) + " " for c in cells).rstrip()
    yield rule
    yield f"{record['rows']:>5}   rows; {sum(e['end'] - e['start'] for e in record['events'])} spoken cells"


def _head(record: dict[str, Any]) -> Iterator[str]:
    alignment, clock, segment = record["alignment"], record["clock"], record["segment"]
    yield f"record {record['id']}  (conversation {record['conversation_id']})"
    for s in record["sources"]:
        yield f"source {s['corpus']}/{s['path']} #{s['index']}  format {s['format']}  licence {s['license'] or 'unknown'}"
    part = f"  segment {segment['k']} of {segment['n']}" if segment["n"] > 1 else ""
    yield f"policy {alignment['policy']}  clock {clock['tokenizer']} tokens, lag {clock['lag']}{part}"
    labels = json.loads(record["labels"])
    if labels:
        yield f"labels {record['labels']}"
    yield ""


def _overlaps(event: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether an output event speaks while some other stream does."""
    if record["streams"][event["stream"]]["direction"] != "output":
        return False
    return any(
        other["stream"] != event["stream"] and other["start"] < event["end"] and event["start"] < other["end"]
        for other in record["events"]
    )


def _cell(event: dict[str, Any], column: int, overlaps: bool) -> list[str]:
    text = event["text"].replace("\t", "⇥ ").replace("\r", "␍")
    text = "".join(c if c == "\n" or c.isprintable() else "·" for c in text)
    marks = {"header": "‹", "tool_call": "⚒ ", "note": "§ "}.get(event["kind"], "")
    lines: list[str] = []
    for paragraph in (("> " if overlaps else "") + marks + text.lstrip("\n")).split("\n"):
        lines.extend(_wrap(paragraph, column) or [""])
    ending = "■" if event["final"] else ("✂" if event["interrupted"] else "")
    if ending:
        lines[-1] = lines[-1] + ending if _columns(lines[-1]) < column else lines[-1]
        if not lines[-1].endswith(ending):
            lines.append(ending)
    if len(lines) > 14:
        lines = [*lines[:8], f"… {len(lines) - 13} lines …", *lines[-5:]]
    return lines


def _wrap(text: str, column: int) -> list[str]:
    """Lines of at most ``column`` terminal columns, broken at spaces where there are any; nothing is dropped."""
    if text.isascii():
        return textwrap.wrap(text, column, drop_whitespace=False)
    lines, line = [], ""
    for character in text:
        if _columns(line + character) > column:
            at = line.rfind(" ") + 1 or len(line)
            lines.append(line[:at])
            line = line[at:]
        line += character
    return [*lines, line]


def _columns(text: str) -> int:
    """Terminal columns of a text: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) or c == "\u200d" else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _pad(text: str, column: int) -> str:
    return text + " " * max(0, column - _columns(text))


def to_text(records: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """Several records, one after the other."""
    return "\n\n".join("\n".join(render(record, width)) for record in records)
