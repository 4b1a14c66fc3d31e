"""Where things lie: the folders of a build, and how to find records in whatever a user points at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

INGEST, CONVERT, SYNTH, DATASET, CHECKPOINT, REPORT = "ingest", "convert", "synth", "dataset", "checkpoint", "report"

#: The stages of a build in their order, by folder.
STAGES = (INGEST, CONVERT, SYNTH, DATASET, CHECKPOINT, REPORT)


@dataclass(frozen=True, slots=True)
class RecordFiles:
    """Record shards and the token shards beside them, in the same order."""

    records: tuple[Path, ...]
    tokens: tuple[Path, ...]


def find_records(path: Path) -> RecordFiles:
    """The records that a path holds: a shard, a data set's folder, a stage's folder or a build's. Raises InputError."""
    if path.is_file():
        beside = sorted(path.parent.glob(path.name.replace("records-", "tokens-*-", 1)))
        return RecordFiles((path,), tuple(beside))
    if not path.exists():
        raise InputError(f"{path} is not there")
    for place in (path / DATASET, path, path / CONVERT):
        records = sorted([*place.glob("records-*.parquet"), *place.glob("*/records-*.parquet")])
        records = [p for p in records if p.parent.name not in (INGEST, CONVERT, SYNTH) or place.name == p.parent.name]
        if records:
            tokens = sorted([*place.glob("tokens-*.parquet"), *place.glob("*/tokens-*.parquet")])
            tokens = [p for p in tokens if p.parent in {r.parent for r in records}]
            return RecordFiles(tuple(records), tuple(tokens))
    raise InputError(f"{path} holds no records-*.parquet")
