"""Rejects by stage, reason and corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import folders
from pipeline.manifest import read_manifest
from pipeline.together import manifests_of

#: The stages that reject, by folder.
_REJECTING = {folders.INGEST: "ingest", folders.CONVERT: "convert", folders.SYNTH: "synthesize"}


@dataclass(frozen=True, slots=True)
class Rejected:
    """Reject rows of one stage, reason and corpus; ``message`` is the first one's."""

    stage: str
    code: str
    corpus: str
    count: int
    message: str


def find_rejects(path: Path) -> list[Path] | None:
    """The reject shards of a build, of a stage's folder, or of the build that a data set, a split or a shard lies in.

    None where that cannot be told: no stage is there that makes rejects.
    """
    folder = path.parent if path.suffix == ".parquet" else path
    folder = folder.parent if folder.name in ("train", "test", folders.INPUT_ONLY) else folder
    out = folder.parent if folder.name == folders.DATASET else folder
    stages = manifests_of(out) if out.is_dir() else {}
    if stages.keys() & _REJECTING.keys():
        return [p for name, manifest in stages.items() for p in manifest.paths(out / name, "rejects-")]
    own = read_manifest(folder) if not stages and folder.is_dir() else None
    return own.paths(folder, "rejects-") if own is not None and own.stage in _REJECTING.values() else None


def rejects_of(paths: Iterable[Path]) -> list[Rejected]:
    """Reject rows by stage, reason and corpus, in that order, the most first within a stage."""
    counts: Counter[tuple[str, str, str]] = Counter()
    messages: dict[tuple[str, str, str], str] = {}
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(8192, columns=["stage", "code", "corpus", "message"]):
                keys = ["stage", "code", "corpus"]
                table = pa.Table.from_batches([batch])
                found = table.group_by(keys, use_threads=False).aggregate([("message", "count"), ("message", "first")])
                for row in found.to_pylist():
                    key = row["stage"], row["code"], row["corpus"]
                    counts[key] += row["message_count"]
                    messages.setdefault(key, row["message_first"])
    listed = [Rejected(*key, count, messages[key]) for key, count in counts.items()]
    return sorted(listed, key=lambda r: (r.stage, -r.count, r.code, r.corpus))
