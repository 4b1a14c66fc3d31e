"""Where things lie: the folders of a build, and how to find records in whatever a user points at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

INGEST, CONVERT, SYNTH, FILTER, DEDUP, MIX, DATASET = (
    "ingest", "convert", "synth", "filter", "dedup", "mix", "dataset",
)  # fmt: skip
CHECKPOINT, CONTROL, REPORT = "checkpoint", "control", "report"

#: The stages of a build in their order, by folder.
STAGES = (INGEST, CONVERT, SYNTH, FILTER, DEDUP, MIX, DATASET, CHECKPOINT, CONTROL, REPORT)

#: The stages that leave records out of the data set: they write which, not the records.
LEAVING_OUT = (FILTER, DEDUP, MIX)

#: The split of the conversations without any answer: text only, never trained on.
INPUT_ONLY = "input_only"


@dataclass(frozen=True, slots=True)
class RecordFiles:
    """Record shards and the token shards beside them, in the same order; those without any answer come last."""

    records: tuple[Path, ...]
    tokens: tuple[Path, ...]

    @property
    def answered(self) -> tuple[Path, ...]:
        """The shards of conversations with an answer, or all where there are no others."""
        return tuple(p for p in self.records if p.parent.name != INPUT_ONLY) or self.records


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
        records.sort(key=lambda p: p.parent.name == INPUT_ONLY)
        if records:
            tokens = sorted([*place.glob("tokens-*.parquet"), *place.glob("*/tokens-*.parquet")])
            tokens = [p for p in tokens if p.parent in {r.parent for r in records}]
            return RecordFiles(tuple(records), tuple(tokens))
    raise InputError(f"{path} holds no records-*.parquet")
