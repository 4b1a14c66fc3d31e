"""The convert stage: shards of source units become shards of records and tokens, one worker process per core."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields, replace
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.claim import check_held
from pipeline.conservation import OUTCOMES
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
from pipeline.manifest import Manifest, Output, Result, balance, damaged, is_shard, publish_text, run_stage
from pipeline.plan import Plan
from pipeline.tokenization import load_tokenizer, metadata

STAGE, VERSION = "convert", 2

#: After so many shards another process takes over: starting one costs about as much as half a shard.
SHARDS_OF_A_PROCESS = 32

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
    processes = min(workers or os.cpu_count() or 1, len(todo))
    if processes <= 1:
        converter = Converter(config)
        for number, path, key in todo:
            yield number, key, convert_shard(path, number, directory, converter)
        return
    waiting = deque(todo)
    lanes = [_Lane(config) for _ in range(processes)]
    under_way: dict[Future[ShardResult], tuple[_Lane, int, str]] = {}
    try:
        idle = list(lanes)
        while waiting or under_way:
            for lane in idle[: len(waiting)]:
                number, path, key = waiting.popleft()
                under_way[lane.convert(path, number, directory)] = (lane, number, key)
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            ended = [(future, *under_way.pop(future)) for future in finished]
            idle = [lane for _, lane, _, _ in ended]
            for future, _, number, key in sorted(ended, key=itemgetter(2)):
                yield number, key, future.result()
    finally:
        for lane in lanes:
            lane.close()


class _Lane:
    """A process that converts one shard after the other, and is replaced by a new one after so many: what a process keeps of
    its past (caches, memory in pieces) is bounded."""

    def __init__(self, config: ConvertConfig) -> None:
        self._config = config
        self._pool: ProcessPoolExecutor | None = None
        self._left = 0

    def convert(self, path: Path, number: int, directory: Path) -> Future[ShardResult]:
        """Begins a shard."""
        if self._left == 0:
            self.close()
            given = (self._config, storage.mounts())
            self._pool, self._left = (
                ProcessPoolExecutor(1, get_context("spawn"), _start_worker, given),
                SHARDS_OF_A_PROCESS,
            )
        assert self._pool is not None
        self._left -= 1
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for the process that starts here
        try:
            return self._pool.submit(convert_in_worker, path, number, directory)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Waits for the shard under way, and ends the process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start_worker(*given: Any) -> None:
    """``start_worker`` in a process that Ctrl-C, which a terminal sends to all of a group, ends without a word; of a
    terminal that is closed its parent hears, which ends it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    start_worker(*given)


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
