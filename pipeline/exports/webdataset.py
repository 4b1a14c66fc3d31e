"""WebDataset: tar shards of ``ID.json`` (the record) and ``ID.*.npy`` (its cells). Nothing is lost."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pipeline.conversation import RecordError
from pipeline.exports.targets import Books, Facts, Job, Target
from pipeline.training.grid import TokenGrid

#: Name of each array in a sample and the column that it is.
ARRAYS = {"ids": "token_ids", "rows": "token_rows", "streams": "token_streams", "loss": "token_loss"}

_KEY = re.compile(r"[0-9A-Za-z_-]{1,200}")


def write(job: Job) -> None:
    """Writes ``streams-NNNNNN.tar``, a tar for each shard."""
    for number, pairs in job.parts("both"):
        with job.file(f"streams-{number:06d}.tar") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for record, grid in pairs:
                for name, content in job.made(members_of, record, grid) or ():
                    info = tarfile.TarInfo(name)  # its time and owner are 0: the same bytes twice
                    info.size = len(content)
                    info.mode = 0o644
                    tar.addfile(info, io.BytesIO(content))


def members_of(record: dict[str, Any], grid: TokenGrid | None, books: Books) -> list[tuple[str, bytes]]:
    """Name and content of each file of one sample, whose key is the record's id.

    Raises RecordError ``bad_id`` where that is no name of a file, or one that readers would cut at a dot.
    """
    if not _KEY.fullmatch(record["id"]):
        raise RecordError("bad_id", f"{record['id']!r:.80} cannot be the name of a file")
    members = [(f"{record['id']}.json", orjson.dumps(record))]
    if grid is None:
        books.lose("without_tokens")
        return members
    for name, column in ARRAYS.items():
        buffer = io.BytesIO()
        np.save(buffer, getattr(grid, column), allow_pickle=False)
        members.append((f"{record['id']}.{name}.npy", buffer.getvalue()))
    return members


def _count(folder: Path) -> int:
    total = 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            total += sum(member.name.endswith(".json") for member in tar)
    return total


def _notes(facts: Facts) -> list[str]:
    notes = [
        "a sample is ID.json, the record, with ID.ids.npy, ID.rows.npy, ID.streams.npy and ID.loss.npy, its spoken cells"
    ]
    if facts.metadata is not None:
        notes.append(f"silence is no cell; bos, end of message and silence are ids {_special(facts)}")
    return notes


def _special(facts: Facts) -> str:
    assert facts.metadata is not None
    return f"{facts.metadata.bos_id}, {facts.metadata.eom_id} and {facts.metadata.silence_id}"


TARGET = Target(
    "webdataset",
    "tar shards for large-scale loaders: records and cells, nothing lost",
    "both",
    write,
    _count,
    {"without_tokens": "records without token cells, since there are no token shards beside them"},
    _notes,
    lambda facts: {"metadata": facts.metadata.to_json() if facts.metadata else None},
)
