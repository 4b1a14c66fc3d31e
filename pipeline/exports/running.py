"""Exporting: a stage like any other. Files appear whole, with a manifest; the books are recounted from what was written."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import InputError, PipelineError
from pipeline.exports import target_of
from pipeline.exports.targets import Books, Facts, Job, Options, Shard, Target
from pipeline.folders import INPUT_ONLY, find_records
from pipeline.manifest import (
    Manifest,
    Output,
    Result,
    balance,
    damaged,
    is_shard,
    output_of,
    publish,
    read_manifest,
    run_stage,
    sha256_file,
)
from pipeline.training.grid import GridMetadata, TrainingError, read_metadata

STAGE, VERSION = "export", 1
REPORT = "export.json"

#: Where a split is written until all of them are there. A folder that holds it is one that an export was killed in.
_WORK, _MOVED = ".export", "moved.json"

#: What a folder of records without splits is called.
WHOLE = "train"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export. ``splits``: none for all that are trained or tested on; ``limit``: records of each split at most."""

    target: str
    splits: tuple[str, ...] = ()
    limit: int | None = None
    options: Options = field(default_factory=Options)


def export(
    path: Path,
    out: Path,
    wanted: Wanted,
    fresh: bool = False,
    advance: Callable[[int], None] = lambda n: None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Exports what ``find_records`` finds at ``path`` to ``out``: a folder per split, ``export.json``, the manifest.

    Nothing is done where the same export is there whole; without ``fresh``, files of the last export that have changed since
    are not replaced. ``say`` gets warnings before anything is written. The counters of
    the manifest are ``in``, ``out``, ``not_representable``, ``reasons`` and ``lost`` (all by split in ``export.json``).

    Raises InputError for records that cannot be read, ConfigError for a target or option that does not fit, PipelineError for
    a folder that is not an export's.
    """
    target = target_of(wanted.target)
    splits = shards_of(path, wanted.splits, target)
    _check_folder(out)
    shards = [shard for of_split in splits.values() for shard in of_split]
    facts = Facts(_streams(shards), _metadata(shards, target), wanted.options)
    if (warning := target.warn(facts, shards)) is not None:
        say(warning)
    config = {
        "target": target.name, "target_version": target.version, "splits": list(splits), "limit": wanted.limit,
        "options": {"masks": wanted.options.masks, "silence": wanted.options.silence},
    }  # fmt: skip

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        _clear(out)
        if not fresh:
            _check_unchanged(out)
        books: dict[str, Books] = {}
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, out / _WORK, ignore_errors=True)
            for split, of_split in splits.items():
                books[split] = Books()
                job = Job(of_split, out / _WORK / split, facts, books[split], wanted.limit, advance)
                job.folder.mkdir(parents=True)
                target.write(job)
                _settle(target, job, split)
            report = _report(target, facts, books, config)
            with publish(out / _WORK / REPORT) as temporary:
                temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            there = read_manifest(out)
            _check_free(out, there)
            undo.pop_all()
        files = _swap(out, there)
        return [output_of(path, out) for path in files], _counters(books.values()), {"notes": report["notes"]}

    inputs = {f"{shard.records.parent.name}/{p.name}": sha256_file(p) for shard in shards for p in _read(shard, target)}
    result = run_stage(out, STAGE, VERSION, config, inputs, work, fresh, replaces=True)
    shutil.rmtree(out / _WORK, ignore_errors=True)
    return result


def shards_of(path: Path, wanted: Sequence[str], target: Target) -> dict[str, list[Shard]]:
    """The shards of each split: of those that are wanted, or of all but the conversations without an answer.

    Records that are in no split are called ``train``. Raises InputError for a split that is not there.
    """
    found = find_records(path)
    beside = {records: _beside(records, found.tokens) for records in found.records}
    several = {name for of in beside.values() for name in of}
    if len(several) > 1 and target.reads != "records":
        raise InputError(
            f"{path} holds token shards of several tokenizers ({', '.join(sorted(several))}): export one build"
        )
    splits: dict[str, list[Shard]] = {}
    for records in found.records:
        name = records.parent.name if records.parent.name in ("train", "test", INPUT_ONLY) else WHOLE
        splits.setdefault(name, []).append(Shard(records, next(iter(beside[records].values()), None)))
    if lacking := [name for name in wanted if name not in splits]:
        raise InputError(f"{path} has no split {', '.join(lacking)}; it has {', '.join(splits)}")
    taken = {name: of for name, of in splits.items() if (name in wanted if wanted else name != INPUT_ONLY)}
    if not taken:
        raise InputError(f"{path} holds only conversations without an answer; name the split: --split {INPUT_ONLY}")
    if target.reads == "tokens" and (bare := [s.records for of in taken.values() for s in of if s.tokens is None]):
        raise InputError(f"there are no token shards beside {bare[0]}: {target.name} is made of them")
    return taken


def _beside(records: Path, tokens: Sequence[Path]) -> dict[str, Path]:
    """The token shards of a record shard by the names of their tokenizers, which may have hyphens."""
    end = "-" + records.name.removeprefix("records-")
    return {
        p.name.removeprefix("tokens-").removesuffix(end): p
        for p in tokens
        if p.parent == records.parent and p.name.endswith(end)
    }


def _check_folder(out: Path) -> None:
    """Raises PipelineError where ``out`` is somebody else's: an export replaces what an export wrote, and nothing else."""
    if out.is_file():
        raise PipelineError(f"{out} is a file: name a folder to write to")
    there = read_manifest(out)
    if there is not None and there.stage != STAGE:
        raise PipelineError(f"{storage.shown(out)} holds the stage {there.stage}: choose another folder to write to")
    kept = storage.files_below(out)
    names = list(kept) if kept is not None else [p.relative_to(out).as_posix() for p in out.rglob("*")]
    if any(is_shard(Path(name).name) for name in names):
        raise PipelineError(f"{storage.shown(out)} holds shards of a data set: choose another folder to write to")
    if there is None and not (out / _WORK).is_dir():
        for name in sorted({Path(name).parts[0] for name in names} & {"train", "test", INPUT_ONLY, REPORT}):
            raise PipelineError(f"{storage.shown(out / name)} is there, and no export wrote it: choose another folder")


def _clear(out: Path) -> None:
    """Removes what a killed export left: what it had moved to its place, and what it had not.

    What it has not moved yet lies in its own folder: a file of that name in the place of it is somebody else's.
    """
    moved = out / _WORK / _MOVED
    if moved.is_file():
        for name in json.loads(moved.read_text(encoding="utf-8")):
            if not (out / _WORK / name).exists():
                storage.remove(out / name)
        moved.unlink()
    shutil.rmtree(out / _WORK, ignore_errors=True)


def _ready(out: Path) -> list[str]:
    """The files that wait to be moved to their places, in order."""
    return sorted(p.relative_to(out / _WORK).as_posix() for p in (out / _WORK).rglob("*") if p.is_file())


def _check_free(out: Path, there: Manifest | None) -> None:
    """Raises PipelineError where a file would take the place of one that no export wrote."""
    own = {output.path for output in there.outputs} if there is not None else set()
    kept = storage.files_below(out) or {}
    for name in _ready(out):
        taken = name in kept or (out / name).exists()
        if (taken and name not in own) or (out / name).is_dir() or (out / name).parent.is_file():
            raise PipelineError(
                f"{storage.shown(out / name)} cannot be written: what lies there was put there by no export; move it or "
                "choose another folder"
            )


def _check_unchanged(out: Path) -> None:
    """Raises PipelineError where a file of the last export has other contents now: somebody may have edited it."""
    there, listing = read_manifest(out), storage.files_below(out)
    for output in there.outputs if there is not None else ():
        is_there = output.path in listing if listing is not None else (out / output.path).is_file()
        if is_there and damaged(out, [output], listing=listing):
            raise PipelineError(
                f"{storage.shown(out / output.path)} has changed since it was exported: choose another folder, or write it "
                "again with --fresh"
            )


def _swap(out: Path, there: Manifest | None) -> list[Path]:
    """What is ready takes the place of what an earlier export wrote; what else lies there stays. The files, in order."""
    names = _ready(out)
    with publish(out / _WORK / _MOVED) as temporary:
        temporary.write_text(json.dumps(names), encoding="utf-8")
    for output in there.outputs if there is not None else ():
        storage.remove(out / output.path)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(out / _WORK / name, out / name)
    for folder in sorted({(out / output.path).parent for output in there.outputs} if there else (), reverse=True):
        if folder != out and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return [out / name for name in names]


def _settle(target: Target, job: Job, split: str) -> None:
    """The books of a split: what was read is what the footers say, and what was written is what the files hold."""
    there = sum(shard.rows for shard in job.shards)
    total = there if job.limit is None else min(there, job.limit)
    if job.books.read != total:
        raise InputError(f"{split}: {job.books.read} records were read, the shards say {total}")
    balance(
        f"export {split}",
        total=total,
        written=target.count(job.folder),
        not_representable=job.books.refused.total(),
    )


def _streams(shards: Sequence[Shard]) -> dict[tuple[str, str], int]:
    """How many records have a stream of a name and direction, in the order of names."""
    found: Counter[tuple[str, str]] = Counter()
    for shard in shards:
        for batch in pq.ParquetFile(shard.records).iter_batches(4096, columns=["streams"]):
            streams = batch.column(0).flatten()
            found.update(zip(streams.field("name").to_pylist(), streams.field("direction").to_pylist(), strict=True))
    return dict(sorted(found.items()))


def _metadata(shards: Sequence[Shard], target: Target) -> GridMetadata | None:
    tokens = [shard.tokens for shard in shards if shard.tokens is not None]
    if target.reads == "records" or not tokens:
        return None
    try:
        return read_metadata(tokens)
    except TrainingError as error:
        raise InputError(str(error)) from error


def _read(shard: Shard, target: Target) -> list[Path]:
    """The files that an export of the shard depends on."""
    tokens = [shard.tokens] if shard.tokens is not None and target.reads != "records" else []
    return [shard.records, *tokens]


def _counters(books: Iterable[Books]) -> dict[str, Any]:
    total = Books()
    for one in books:
        total.read += one.read
        total.written += one.written
        total.refused.update(one.refused)
        total.lost.update(one.lost)
    return _counts(total)


def _counts(books: Books) -> dict[str, Any]:
    return {
        "in": books.read, "out": books.written, "not_representable": books.refused.total(),
        "reasons": dict(sorted(books.refused.items())), "lost": dict(sorted(books.lost.items())),
    }  # fmt: skip


def _report(target: Target, facts: Facts, books: Mapping[str, Books], config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``export.json`` says: enough to read the files, and all that they do not hold."""
    lost = {name for of in books.values() for name in of.lost}
    return {
        "export": f"multistream-export/{VERSION}",
        **config,
        "records": {split: _counts(of) for split, of in books.items()},
        "lost": {name: text for name, text in target.lost.items() if name in lost},
        "notes": target.notes(facts),
        **target.describe(facts),
    }
