"""Marks that people give to records: ``marks.jsonl`` beside the data set, one JSON object per line, appended only.

``{"id": "8d78…", "mark": "good", "note": "…"}``: ``mark`` is ``good``, ``bad``, or null, which takes the mark back. The last
line of an id counts. The file lies outside the folders that stages write, so a new build keeps it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import storage
from pipeline.errors import InputError
from pipeline.folders import INPUT_ONLY, STAGES

MARKS = "marks.jsonl"

Judgement = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody thinks of a record, and why."""

    mark: Judgement
    note: str = ""


def marks_file(path: Path) -> Path:
    """Where the marks of a build, a data set, a stage's folder or a shard are: one file, whichever of them is named."""
    folder = path.parent if path.suffix == ".parquet" else path
    if folder.name in ("train", "test", INPUT_ONLY):
        folder = folder.parent
    if folder.name in STAGES and folder.parent.name:
        folder = folder.parent
    return folder / MARKS


def read_marks(path: Path) -> dict[str, Mark]:
    """The marks of a file by record id; none where there is no file. Raises InputError, which names the line."""
    storage.pull(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{storage.shown(path)} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{storage.shown(path)} is no UTF-8 text: {error.reason}") from error
    marks: dict[str, Mark] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        id_, mark, note = _parsed(line, f"{storage.shown(path)}, line {number}")
        if mark is None:
            marks.pop(id_, None)
        else:
            marks[id_] = Mark(mark, note)
    return marks


def add_mark(path: Path, id_: str, mark: Judgement | None, note: str = "") -> None:
    """Appends a mark, or takes one back. Raises OSError where the file cannot be written, PipelineError of a store."""
    storage.pull(path)
    line = json.dumps({"id": id_, "mark": mark, "note": note}, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    storage.send([path])


def _parsed(line: str, where: str) -> tuple[str, Judgement | None, str]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: mend or remove it") from error
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise InputError(f'{where} is no mark: it names no "id"')
    mark, note = value.get("mark"), value.get("note", "")
    if mark not in ("good", "bad", None) or not isinstance(note, str):
        raise InputError(f'{where} is no mark: "mark" is good, bad or null, "note" is a text')
    return value["id"], mark, note
