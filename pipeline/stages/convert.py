"""The convert stage: shards of source units become shards of records and tokens, one worker process per core."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.claim import check_held
from pipeline.conservation import OUTCOMES
from pipeline.convert import (
    ConvertConfig,
    ShardCounts,
    ShardResult,
    convert_in_worker,
    prepare_to_convert,
)
from pipeline.errors import PipelineError
from pipeline.lanes import in_processes
from pipeline.manifest import Manifest, Output, Result, balance, damaged, is_shard, publish_text, run_stage
from pipeline.plan import Plan
from pipeline.tokenization import load_tokenizer, metadata

STAGE, VERSION = "convert", 2

Progress = Callable[[ShardCounts], None]

#: A shard that is to be converted: its number, its units, its fingerprint.
Shard = tuple[int, Path, str]

#: Converts shards into a directory with so many processes (0: one per core); yields number, fingerprint and result of
#: each as it is done. The one hook of the Prefect flow, whose shards are tasks; the books are kept here either way.
RunShards = Callable[[Sequence[Shard], Path, ConvertConfig, int], Iterator[tuple[int, str, ShardResult]]]


def plan(ingest: Manifest, config: ConvertConfig) -> Plan:
    """What conversion depends on. Raises TokenizerError."""
    settings = {
        **asdict(config),
        "exclude_ids": sorted(config.exclude_ids),
        "tokenizer": metadata(load_tokenizer(config.tokenizer)),
    }
    return Plan(STAGE, VERSION, settings, {"ingest": ingest.digest()})


def plan_shards(ingest: Manifest, whole: Plan) -> list[Plan]:
    """What each shard depends on, in the order of their numbers. ``whole``: the plan of the stage."""
    units = sorted((o for o in ingest.outputs if o.path.startswith("units-")), key=lambda o: o.path)
    return [replace(whole, inputs={Path(o.path).name: o.sha256}) for o in units]


def convert_stage(
    ingest: Result,
    directory: Path,
    config: ConvertConfig,
    max_rejected_fraction: float = 0.05,
    workers: int = 0,
    fresh: bool = False,
    progress: Progress | None = None,
    run_shards: RunShards | None = None,
) -> Result:
    """Converts every shard of ``ingest``; finished shards of an interrupted run are kept. ``workers`` 0: one per core.

    Raises PipelineError when more than ``max_rejected_fraction`` of the units are rejected, with the commonest reasons.
    """
    planned = plan(ingest.manifest, config)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        total = ShardCounts()
        outputs: list[Output] = []
        shards = ingest.manifest.paths(ingest.directory, "units-")
        recount: Counter[str] = Counter()
        todo: list[Shard] = []
        listing = storage.files_below(directory)
        for number, (path, shard) in enumerate(zip(shards, plan_shards(ingest.manifest, planned), strict=True)):
            key = shard.fingerprint
            done = None if fresh else finished_shard(directory, number, key, listing)
            if done is None:
                todo.append((number, path, key))
            else:
                outputs.extend(done.outputs)
                total.add(done.counts)
                recount.update(done.recount)
                if progress:
                    progress(done.counts)
        _forget(directory, {o.path for o in outputs}, {number for number, _, _ in todo}, len(shards))
        convert = run_shards or run_in_processes
        try:
            for number, key, result in convert(todo, directory, config, workers):
                check_held(directory)
                _remember(directory, number, key, result)
                outputs.extend(result.outputs)
                recount.update(result.recount)
                total.add(result.counts)
                if progress:
                    progress(result.counts)
        except BrokenProcessPool as error:
            raise PipelineError(
                "a converting process died, most likely for want of memory; finished shards are kept, "
                "run again with fewer workers"
            ) from error
        counters = {**asdict(total), "reject_reasons": dict(total.reject_reasons.most_common())}
        counters |= {"in": total.units, "out": total.records}
        shards_on_disk = len([o for o in outputs if o.path.startswith("ledger-")])
        balance(STAGE, total=len(shards), ledgers=shards_on_disk)
        balance(STAGE, total=recount["in"], **{outcome: recount[outcome] for outcome in OUTCOMES})
        _refuse_too_many(total, max_rejected_fraction)
        return sorted(outputs, key=lambda o: o.path), counters, {"recount": dict(sorted(recount.items()))}

    result = run_stage(directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh)
    if result.skipped:
        _refuse_too_many(_counts(result.manifest.counters), max_rejected_fraction)
    return result


def run_in_processes(
    todo: Sequence[Shard], directory: Path, config: ConvertConfig, workers: int
) -> Iterator[tuple[int, str, ShardResult]]:
    """The default ``RunShards``: processes that take a shard each, or this one where one is enough."""
    keys = {number: key for number, _, key in todo}
    items = [(number, path, directory) for number, path, _ in todo]
    for (number, _, _), result in in_processes(items, _convert_one, prepare_to_convert, (config,), workers):
        yield number, keys[number], result


def _convert_one(shard: tuple[int, Path, Path]) -> ShardResult:
    number, units, directory = shard
    return convert_in_worker(units, number, directory)


def _refuse_too_many(total: ShardCounts, limit: float) -> None:
    if total.units and total.rejected > limit * total.units:
        reasons = ", ".join(f"{count} {code}" for code, count in total.reject_reasons.most_common(5))
        raise PipelineError(
            f"{total.rejected} of {total.units} units were rejected ({reasons}), more than max_rejected_fraction = {limit}; "
            f"see rejects-*.parquet"
        )


def _remember(directory: Path, number: int, key: str, result: ShardResult) -> None:
    """Writes the note that a shard is finished, after its files."""
    plain = {**asdict(result.counts), "reject_reasons": dict(result.counts.reject_reasons)}
    outputs = [asdict(o) for o in result.outputs]
    value = {"fingerprint": key, "outputs": outputs, "counts": plain, "recount": result.recount}
    publish_text(_note(directory, number), json.dumps(value))


def _note(directory: Path, number: int) -> Path:
    return directory / "shards" / f"{number:05d}.json"


def _counts(values: Mapping[str, Any]) -> ShardCounts:
    """Counters read back from JSON."""
    counts = ShardCounts(**{f.name: values[f.name] for f in fields(ShardCounts) if f.name != "reject_reasons"})
    counts.reject_reasons.update(values["reject_reasons"])
    return counts


def _forget(directory: Path, kept: set[str], todo: set[int], shards: int) -> None:
    """Removes what runs with another configuration or input left, so that only this run's files are counted."""
    there = [p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()]
    for name in {*there, *(storage.files_below(directory) or ())}:
        path = Path(name)
        if path.parent == Path("shards") and path.suffix == ".json" and path.stem.isdecimal():
            left = int(path.stem) in todo or int(path.stem) >= shards
        else:
            left = is_shard(path.name) and name not in kept
        if left:
            storage.remove(directory / name)


def finished_shard(
    directory: Path, number: int, key: str, listing: Mapping[str, storage.Kept] | None, digests: bool = True
) -> ShardResult | None:
    """What became of a shard that is finished and whole; None of any other. ``listing``, ``digests``: of ``damaged``."""
    note = _note(directory, number)
    if listing is None or note.relative_to(directory).as_posix() in listing:
        storage.pull(note)
    else:
        note.unlink(missing_ok=True)
    try:
        value = json.loads(note.read_text(encoding="utf-8"))
        result = ShardResult([Output(**o) for o in value["outputs"]], _counts(value["counts"]), dict(value["recount"]))
        whole = value["fingerprint"] == key and not damaged(directory, result.outputs, digests, listing)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return result if whole else None
