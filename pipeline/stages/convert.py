"""The convert stage: shards of source units become shards of records and tokens, one worker process per core."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.conservation import recount_convert
from pipeline.convert import (
    ConvertConfig,
    Converter,
    ShardCounts,
    ShardResult,
    convert_in_worker,
    convert_shard,
    start_worker,
)
from pipeline.errors import PipelineError
from pipeline.manifest import Output, Result, damaged, fingerprint, output_of, publish_text, run_stage
from pipeline.tokenization import load_tokenizer, metadata

STAGE, VERSION = "convert", 1

Progress = Callable[[ShardCounts], None]

#: A shard that is to be converted: its number, its units, its fingerprint.
Shard = tuple[int, Path, str]

#: Converts shards into a directory with so many processes (0: one per core); yields number, fingerprint and result of
#: each as it is done. The one hook of the Prefect flow, whose shards are tasks; the books are kept here either way.
RunShards = Callable[[Sequence[Shard], Path, ConvertConfig, int], Iterator[tuple[int, str, ShardResult]]]


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
    settings = {
        **asdict(config),
        "exclude_ids": sorted(config.exclude_ids),
        "tokenizer": metadata(load_tokenizer(config.tokenizer)),
    }
    digests = {Path(o.path).name: o.sha256 for o in ingest.manifest.outputs if o.path.startswith("units-")}

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        total = ShardCounts()
        outputs: list[Output] = []
        shards = ingest.manifest.paths(ingest.directory, "units-")
        todo: list[Shard] = []
        for number, path in enumerate(shards):
            key = fingerprint(STAGE, VERSION, settings, {path.name: digests[path.name]})
            done = None if fresh else _finished(directory, number, key)
            if done is None:
                todo.append((number, path, key))
            else:
                outputs.extend(done[0])
                total.add(done[1])
                if progress:
                    progress(done[1])
        _forget(directory, {o.path for o in outputs}, {number for number, _, _ in todo}, len(shards))
        convert = run_shards or run_in_processes
        try:
            for number, key, result in convert(todo, directory, config, workers):
                shard_outputs = [
                    output_of(directory / name, directory, rows) for name, rows in sorted(result.files.items())
                ]
                _remember(directory, number, key, shard_outputs, result.counts)
                outputs.extend(shard_outputs)
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
        recount = recount_convert(ingest.directory, directory)
        if (recount["in"], recount["records"]) != (total.units, total.records):
            raise PipelineError(
                f"convert counted {total.units} units and {total.records} records, on disk are {recount}"
            )
        _refuse_too_many(total, max_rejected_fraction)
        return sorted(outputs, key=lambda o: o.path), counters, {"recount": recount}

    result = run_stage(directory, STAGE, VERSION, settings, {"ingest": ingest.manifest.digest()}, work, fresh)
    if result.skipped:
        _refuse_too_many(_counts(result.manifest.counters), max_rejected_fraction)
    return result


def run_in_processes(
    todo: Sequence[Shard], directory: Path, config: ConvertConfig, workers: int
) -> Iterator[tuple[int, str, ShardResult]]:
    """The default ``RunShards``: a pool of processes, or this one where one is enough."""
    processes = min(workers or os.cpu_count() or 1, len(todo))
    if processes <= 1:
        converter = Converter(config)
        for number, path, key in todo:
            yield number, key, convert_shard(path, number, directory, converter)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), start_worker, (config,)) as pool:
        futures = {pool.submit(convert_in_worker, path, number, directory): (number, key) for number, path, key in todo}
        try:
            for future in as_completed(futures):
                number, key = futures[future]
                yield number, key, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _refuse_too_many(total: ShardCounts, limit: float) -> None:
    if total.units and total.rejected > limit * total.units:
        reasons = ", ".join(f"{count} {code}" for code, count in total.reject_reasons.most_common(5))
        raise PipelineError(
            f"{total.rejected} of {total.units} units were rejected ({reasons}), more than max_rejected_fraction = {limit}; "
            f"see rejects-*.parquet"
        )


def _remember(directory: Path, number: int, key: str, outputs: list[Output], counts: ShardCounts) -> None:
    plain = {**asdict(counts), "reject_reasons": dict(counts.reject_reasons)}
    value = {"fingerprint": key, "outputs": [asdict(o) for o in outputs], "counts": plain}
    publish_text(directory / "shards" / f"{number:05d}.json", json.dumps(value))


def _counts(values: Mapping[str, Any]) -> ShardCounts:
    """Counters read back from JSON."""
    counts = ShardCounts(**{f.name: values[f.name] for f in fields(ShardCounts) if f.name != "reject_reasons"})
    counts.reject_reasons.update(values["reject_reasons"])
    return counts


def _forget(directory: Path, kept: set[str], todo: set[int], shards: int) -> None:
    """Removes what runs with another configuration or input left, so that only this run's files are counted."""
    for path in directory.glob("*.parquet"):
        if path.name not in kept:
            path.unlink()
    for path in (directory / "shards").glob("*.json"):
        if int(path.stem) in todo or int(path.stem) >= shards:
            path.unlink()


def _finished(directory: Path, number: int, key: str) -> tuple[list[Output], ShardCounts] | None:
    try:
        value = json.loads((directory / "shards" / f"{number:05d}.json").read_text())
        outputs = [Output(**o) for o in value["outputs"]]
        counts = _counts(value["counts"])
        return (outputs, counts) if value["fingerprint"] == key and not damaged(directory, outputs) else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
