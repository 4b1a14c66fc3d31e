"""Marks that people give to records: ``marks.jsonl`` beside the data set, one JSON object per line, appended only.

``{"id": "8d78…", "mark": "good", "note": "…"}``: ``mark`` is ``good``, ``bad``, or null, which takes the mark back. The last
line of an id counts. The file lies outside the folders that stages write, so a new build keeps it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import storage
from pipeline.errors import InputError
from pipeline.folders import STAGES
from pipeline.viewer.remote import SPLITS

MARKS = "marks.jsonl"

Judgement = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody thinks of a record, and why."""

    mark: Judgement
    note: str = ""


def marks_file(path: Path) -> Path:
    """Where the marks of a build, a data set, a stage's folder or a shard are: one file, whichever of them is named.

    It is in the folder of the build, where ``build`` looks for it, however the path is written. Absolute.
    """
    folder = Path(os.path.abspath(path))  # of "." and "..", too; links stay as they are named
    if folder.suffix == ".parquet":
        folder = folder.parent
    if folder.name in SPLITS and not _is_build(folder):
        folder = folder.parent
    if folder.name in STAGES and not _is_build(folder):
        folder = folder.parent
    return folder / MARKS


def _is_build(folder: Path) -> bool:
    """Whether a folder has those of stages in it, whatever it is called."""
    return any((folder / stage).is_dir() for stage in STAGES)


def read_marks(path: Path) -> dict[str, Mark]:
    """The marks of a file by record id; none where there is no file. Raises InputError, which names the line."""
    storage.pull(path)
    try:
        content = path.read_bytes()
        before, end, last = content.rpartition(b"\n")
        # A last line that is no mark yet is being written, or its writer was cut off.
        lines = (content if _is_whole(last) else before + end).decode().split("\n")
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
    """Appends a mark, or takes one back. Raises OSError where the file cannot be written, PipelineError of a store.

    Processes of one machine wait for each other; in a store, the last one of several machines at the same moment wins. A last
    line that was never written to its end is cut away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps({"id": id_, "mark": mark, "note": note}, ensure_ascii=False) + "\n").encode()
    with _alone(path):
        storage.pull(path)
        with path.open("ab+") as file:
            file.seek(0)
            before, end, last = file.read().rpartition(b"\n")
            if not _is_whole(last):
                file.truncate(len(before + end))
            elif last:
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        storage.send([path])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process of this machine writes to a file of marks."""
    # What is kept in a store is replaced here by what is there: another file is locked.
    lock = path if storage.url_of(path) is None else path.with_name(f".{path.name}.lock")
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(last: bytes) -> bool:
    """Whether what stands behind the last line break is a line all the same, or nothing."""
    if not last.strip():
        return True
    try:
        return isinstance(json.loads(last), dict)
    except ValueError:
        return False


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
