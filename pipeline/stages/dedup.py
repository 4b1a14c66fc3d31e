"""The deduplication stage: which records are copies of others, across all sources. The records stay where they are."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dedup.candidates import bucket_count, merged, write_pairs
from pipeline.dedup.clusters import CLUSTERS_FILE, GROUPS_FILE, write_clusters
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.copies import Ranked, rank, settle
from pipeline.dedup.minhash import bands_of
from pipeline.dedup.sketches import Sketches, sketch_shard
from pipeline.dedup.words import U32
from pipeline.errors import PipelineError
from pipeline.lanes import in_processes
from pipeline.leftout import (
    FILTERED,
    FLAGGED,
    RECORD_SHARDS,
    book_of,
    ids_in,
    part_of,
    reasons_in,
    record_shards,
    recount,
)
from pipeline.manifest import Manifest, Output, Result, balance, publish, run_stage
from pipeline.notes import Notes
from pipeline.plan import Plan
from pipeline.shards import TableWriter
from pipeline.tables import FILTERED as COLUMNS
from pipeline.word_hashes import I64

STAGE, VERSION = "dedup", 1

#: So many conversations are compared before other processes could have started.
FEW = 100_000

#: What the tables of what is left out call it.
NAME = "duplicates"


def plan(inputs: Sequence[Manifest], config: DedupConfig) -> Plan:
    """What deduplication depends on. ``inputs``: of conversion, synthesis, and the stages before that leave records out."""
    return Plan(STAGE, VERSION, config.settings(), {m.stage: m.digest() for m in inputs})


def dedup_stage(
    inputs: Sequence[Result],
    directory: Path,
    config: DedupConfig,
    left_out: Sequence[Result] = (),
    workers: int = 0,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Finds the copies among the records of the input stages; writes the tables of ``pipeline.leftout``, and the clusters.

    What the stages ``left_out`` leave out is not looked at. ``workers`` 0: a process per core; the outcome does not depend on
    them, nor on how the records are cut into shards. ``progress`` is told the records of each shard. What a run that was cut
    off knows of finished shards is kept. Raises PipelineError.
    """
    planned = plan([i.manifest for i in [*inputs, *left_out]], config)
    notes = Notes(directory, planned.fingerprint)
    scratch = directory / "scratch"

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        if fresh:
            notes.forget()
        for result in inputs:
            for prefix in RECORD_SHARDS:
                result.fetch(prefix)
        for result in left_out:
            result.fetch("filtered-")
        shards = record_shards(inputs)
        before = [result.directory for result in left_out]
        try:
            sketches = _sketches(shards, before, scratch, config, notes, workers, progress)
            ranked = rank(sketches, config)
            found = _find(ranked, sketches, scratch, config, workers) if config.near else {}
        except BrokenProcessPool as error:
            raise PipelineError(
                "a process that looks for duplicates died, most likely for want of memory; finished shards are kept, "
                "run again with fewer workers"
            ) from error
        books = [
            _write_books(shard, number, ranked, sketches, directory, config) for number, shard in enumerate(shards)
        ]
        clusters, groups = directory / CLUSTERS_FILE, directory / GROUPS_FILE
        found["clusters"] = write_clusters(ranked, sketches, clusters, groups)
        total: Counter[str] = Counter()
        for shard in shards:
            total.update(recount(shard, directory))
        balance(STAGE, total=total["in"], out=total["out"], filtered=total[FILTERED])
        written = [*(book for pair in books for book in pair), clusters, groups]
        reasons = reasons_in([book for pair in books for book in pair]).get(NAME, Counter())
        seen = sum(pq.read_metadata(shard).num_rows - len(_gone(shard, before)) for shard in shards)
        counters: dict[str, Any] = {name: total[name] for name in ("in", "out", FILTERED, FLAGGED)} | {"rejected": 0}
        counters |= {"exact": reasons["exact"], "near": reasons["near"], "conversations": len(sketches), **found}
        counters["filters"] = {
            NAME: {"action": config.action, "seen": seen, "taken": reasons.total(), "reasons": dict(reasons)}
        }
        outputs = [notes.remember(path, pq.read_metadata(path).num_rows) for path in written]
        shutil.rmtree(scratch, ignore_errors=True)
        return outputs, counters, {}

    return run_stage(
        directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh, done=notes.forget
    )


def _gone(shard: Path, directories: Sequence[Path]) -> pa.Array:
    """The ids of a shard's records that stages leave out."""
    return pa.concat_arrays(
        [chunk for d in directories for chunk in ids_in(book_of(d, shard)).chunks] or [pa.array([], pa.string())]
    )


def _sketches(
    shards: Sequence[Path],
    before: Sequence[Path],
    scratch: Path,
    config: DedupConfig,
    notes: Notes,
    workers: int,
    progress: Callable[[int], None] | None,
) -> Sketches:
    paths = {shard: scratch / shard.parent.name / f"{shard.stem}.arrow" for shard in shards}
    rows: dict[Path, int] = {}
    for shard, path in paths.items():
        if (output := notes.finished(path)) is not None:
            rows[shard] = output.rows or 0
    if progress:
        progress(sum(pq.read_metadata(shard).num_rows for shard in rows))
    todo = [(shard, path, tuple(before)) for shard, path in paths.items() if shard not in rows]
    for (shard, path, _), number in in_processes(todo, _sketch_one, _prepare, (config.settings(),), workers):
        notes.remember(path, number)
        rows[shard] = number
        if progress:
            progress(pq.read_metadata(shard).num_rows)
    return Sketches([paths[shard] for shard in shards], [rows[shard] for shard in shards])


_config = DedupConfig()
_near: tuple[Sketches, U32, I64, U32] | None = None


def _prepare(settings: Mapping[str, Any]) -> None:
    global _config
    _config = DedupConfig.model_validate(settings)


def _sketch_one(item: tuple[Path, Path, tuple[Path, ...]]) -> int:
    shard, path, before = item
    return sketch_shard(shard, _gone(shard, before), path, _config)


_ARRAYS = ("ranks", "places", "sizes")


def _find(ranked: Ranked, sketches: Sketches, scratch: Path, config: DedupConfig, workers: int) -> dict[str, int]:
    """Finds the near copies; how many pairs were compared, and how many sets were too large to compare all of their pairs."""
    arrays: tuple[npt.NDArray[Any], ...] = (ranked.to_compare(config), ranked.places, ranked.sizes)
    for name, array in zip(_ARRAYS, arrays, strict=True):
        with publish(scratch / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, array)
    ranges = bucket_count(len(sketches))
    bands, _ = bands_of(config.threshold, config.permutations)
    todo = [
        (band, number, ranges, scratch / f"pairs-{band}-{number}.npy")
        for band in range(bands)
        for number in range(ranges)
    ]
    rows = np.diff(sketches.starts).tolist()
    given = (config.settings(), scratch, sketches.paths, rows)
    workers = workers if len(sketches) > FEW else 1
    large = sum(number for _, number in in_processes(todo, _pairs_of, _prepare_pairs, given, workers))
    pairs = settle(ranked, sketches, merged([path for *_, path in todo], len(ranked.places)), config)
    return {"compared": pairs, "large_sets": large}


def _prepare_pairs(settings: Mapping[str, Any], scratch: Path, paths: Sequence[Path], rows: Sequence[int]) -> None:
    global _near
    _prepare(settings)
    ranks, places, sizes = (np.load(scratch / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
    _near = (Sketches(paths, rows), ranks, places, sizes)


def _pairs_of(item: tuple[int, int, int, Path]) -> int:
    assert _near is not None
    band, number, ranges, path = item
    sketches, ranks, places, sizes = _near
    return write_pairs(sketches, ranks, places, sizes, band, (number, ranges), path, _config)


def _write_books(
    shard: Path, number: int, ranked: Ranked, sketches: Sketches, directory: Path, config: DedupConfig
) -> tuple[Path, Path]:
    """Writes the two tables of one shard of records."""
    filtered, flagged = book_of(directory, shard), book_of(directory, shard, FLAGGED)
    own = ranked.ranks[int(sketches.starts[number]) : int(sketches.starts[number + 1])]
    gone = np.flatnonzero(ranked.stays[own] != own)
    with TableWriter.several({filtered: COLUMNS, flagged: COLUMNS}) as write:
        if len(gone):
            places = gone + int(sketches.starts[number])
            told = sketches.rows(places, ["ids", "conversation_id", "corpus"]).to_pylist()
            kept = sketches.rows(ranked.places[ranked.stays[own[gone]]], ["ids"]).column("ids").to_pylist()
            rows = []
            for row, stays, at in zip(told, kept, own[gone].tolist(), strict=True):
                reason = "exact" if ranked.is_exact[at] else "near"
                detail = f"{stays[0]} stays, similarity {ranked.similarity[at]:.3f}"
                about = (row["conversation_id"], row["corpus"], part_of(shard), NAME, reason, detail)
                rows += [(id_, *about) for id_ in row["ids"]]
            columns = zip(*rows, strict=True)
            table = pa.table(dict(zip(COLUMNS.names, map(list, columns), strict=True)), schema=COLUMNS)
            write(flagged if config.action == "flag" else filtered, table)
    return filtered, flagged
