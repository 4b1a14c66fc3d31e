"""What is not in a data set: rejects by stage, reason and corpus, and what filters left out or flagged."""

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


#: What stands for the stage where a filter, deduplication or marks left out a record, or flagged one that stays.
FILTERED, FLAGGED = "filtered", "flagged"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Reject rows of one stage, reason and corpus; ``message`` is the first one's.

    Of what was left out: the stage is ``filtered`` or ``flagged``, the reason ``FILTER: REASON``, and records are counted.
    """

    stage: str
    code: str
    corpus: str
    count: int
    message: str


def find_rejects(path: Path) -> list[Path] | None:
    """The reject shards of a build, of a stage's folder, or of the build that a data set, a split or a shard lies in.

    None where that cannot be told: no stage is there that makes rejects.
    """
    folder, out = _places(path)
    stages = manifests_of(out) if out.is_dir() else {}
    if stages.keys() & _REJECTING.keys():
        return [p for name, manifest in stages.items() for p in manifest.paths(out / name, "rejects-")]
    own = read_manifest(folder) if not stages and folder.is_dir() else None
    return own.paths(folder, "rejects-") if own is not None and own.stage in _REJECTING.values() else None


def _places(path: Path) -> tuple[Path, Path]:
    """The stage's folder that a path is or lies in, and its build's."""
    folder = path.parent if path.suffix == ".parquet" else path
    folder = folder.parent if folder.name in ("train", "test", folders.INPUT_ONLY) else folder
    return folder, folder.parent if folder.name in (folders.DATASET, *folders.LEAVING_OUT) else folder


def left_out_of(path: Path) -> list[Rejected]:
    """What filters, deduplication and marks left out of a data set or flagged, by filter, reason and corpus.

    Of a build that is not finished: what its filters say so far. ``path``: as for ``find_rejects``.
    """
    _, out = _places(path)
    stages = manifests_of(out) if out.is_dir() else {}
    deciding = [name for name in folders.LEAVING_OUT if name in stages]
    tables = {
        FILTERED: [
            p
            for name in ([folders.DATASET] if folders.DATASET in stages else deciding)
            for p in stages[name].paths(out / name, "filtered-")
        ],
        FLAGGED: [p for name in deciding for p in stages[name].paths(out / name, "flagged-")],
    }
    return [each for stage, paths in tables.items() for each in _left_out(stage, paths)]


def _left_out(stage: str, paths: Iterable[Path]) -> list[Rejected]:
    found: Counter[tuple[str, str]] = Counter()
    details: dict[tuple[str, str], str] = {}
    for path in paths:
        keys = ["filter", "reason", "corpus"]
        table = pq.read_table(path, columns=[*keys, "detail"])
        for row in (
            table.group_by(keys, use_threads=False).aggregate([("detail", "count"), ("detail", "first")]).to_pylist()
        ):
            key = f"{row['filter']}: {row['reason']}", row["corpus"]
            found[key] += row["detail_count"]
            details.setdefault(key, row["detail_first"])
    listed = [Rejected(stage, code, corpus, n, details[code, corpus]) for (code, corpus), n in found.items()]
    return sorted(listed, key=lambda r: (-r.count, r.code, r.corpus))


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
