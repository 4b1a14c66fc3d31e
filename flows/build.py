"""The flow ``build-multistream-dataset``: the stages of ``pipeline.build`` as Prefect tasks, one per shard to convert.

Only wiring: what a stage does, and whether it is skipped, is settled by the stage, its manifest and the files on disk.
Prefect's result cache is not used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from pipeline import folders
from pipeline.build import (
    check_gate,
    check_sections,
    convert_config,
    run_control,
    run_dataset,
    run_evaluate,
    run_ingest,
    run_synthesize,
    run_train,
)
from pipeline.config import BuildConfig, load_config
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
from pipeline.manifest import Result
from pipeline.stages.convert import Shard, convert_stage
from synth.report import report_of

P = ParamSpec("P")
R = TypeVar("R")

#: Converts a shard: units, number, directory.
ConvertOne = Callable[[Path, int, Path], ShardResult]

#: Keys of the artifacts.
STAGE_TABLE, SYNTHESIS, REPORT = "stage-table", "synthesis-report", "evaluation-report"

#: Seconds between two lines of progress in the log.
PROGRESS_SECONDS = 10.0

#: Errors of the file system that a second try does not mend.
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task failed for a disk or a network that may be back soon; never true of a PipelineError."""
    return isinstance(state.data, OSError) and not isinstance(state.data, _LASTING)


def stage_task(name: str, work: Callable[P, R], run_name: str | None = None) -> Task[P, R]:
    """A task that is retried on passing I/O errors and never cached: whether work is done is the manifests' to say."""
    decorate = task(
        name=name,
        task_run_name=run_name or name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=5,
        retry_condition_fn=is_worth_a_retry,
    )
    return decorate(work)


class LogWatcher:
    """Tells the run's log what a build is doing; keeps the finished stages for the stage table."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._stage, self._done, self._told = "", 0, 0.0

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage, self._done, self._told = name, 0, time.monotonic()

    def progress(self, done: int, what: str) -> None:
        """So many more units are done."""
        self._done += done
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            get_run_logger().info("%s: %s %s", self._stage, f"{self._done:,}", what)

    def finished(self, result: Result) -> None:
        """A stage is done or was skipped."""
        self.results.append(result)
        row = stage_row(result)
        did = "skipped, finished before" if result.skipped else f"{row['seconds']} s"
        counts = ", ".join(f"{row[key] or 0:,} {key}" for key in ("in", "out", "rejected"))
        get_run_logger().info("%s: %s (%s)", self._stage, counts, did)


def stage_row(result: Result) -> dict[str, Any]:
    """A row of the stage table."""
    counters, seconds = result.manifest.counters, round(result.manifest.seconds, 1)
    counts = {key: counters.get(key) for key in ("in", "out", "rejected")}
    return {"stage": result.directory.name, **counts, "seconds": seconds, "skipped": "yes" if result.skipped else "no"}


def convert_with(convert: ConvertOne, number: int, units: Path, directory: Path) -> ShardResult:
    """Converts one shard: the work of a task, named after its number."""
    return convert(units, number, directory)


convert_one = stage_task("convert shard", convert_with, "convert shard {number}")


@contextmanager
def converting(config: ConvertConfig, processes: int) -> Iterator[ConvertOne]:
    """Gives a function for threads that converts a shard in a pool of processes, or in this one where one is enough."""
    if processes == 1:
        converter = Converter(config)
        yield lambda units, number, directory: convert_shard(units, number, directory, converter)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), start_worker, (config,)) as pool:
        yield lambda units, number, directory: pool.submit(convert_in_worker, units, number, directory).result()


def run_shards_as_tasks(
    todo: Sequence[Shard], directory: Path, config: ConvertConfig, workers: int
) -> Iterator[tuple[int, str, ShardResult]]:
    """``pipeline.stages.convert.RunShards``, one Prefect task per shard; as many run as there are processes.

    Conversion is Python at full load: threads alone would not scale, so a task is a thread that waits for a process of
    the same pool that ``multistream build`` uses. (Prefect's ProcessPoolTaskRunner would run Prefect's engine in every
    process, pickle every task, and has no place to load the tokenizer once.)
    """
    if not todo:
        return
    processes = min(workers or os.cpu_count() or 1, len(todo))
    with converting(config, processes) as convert, ThreadPoolTaskRunner[ShardResult](processes) as runner:
        submitted: dict[PrefectFuture[ShardResult], tuple[int, str]] = {}
        for number, units, key in todo:
            parameters = {"convert": convert, "number": number, "units": units, "directory": directory}
            submitted[runner.submit(convert_one, parameters)] = (number, key)
        for future in as_completed(list(submitted)):
            number, key = submitted[future]
            yield number, key, future.result()


def run_convert(
    config: BuildConfig, out: Path, ingested: Result, workers: int, fresh: bool, watcher: LogWatcher
) -> Result:
    """``pipeline.build.run_convert`` with a task per shard.

    No task itself: Prefect would call its finished shards rolled back if it failed, though they are kept.
    """
    watcher.stage(folders.CONVERT)

    def progress(counts: ShardCounts) -> None:
        watcher.progress(counts.units, "units")

    result = convert_stage(
        ingested,
        out / folders.CONVERT,
        convert_config(config),
        config.convert.max_rejected_fraction,
        workers,
        fresh,
        progress,
        run_shards_as_tasks,
    )
    watcher.finished(result)
    return result


ingest = stage_task(folders.INGEST, run_ingest)
synthesize = stage_task(folders.SYNTH, run_synthesize)
dataset = stage_task(folders.DATASET, run_dataset)
train = stage_task("train", run_train)
control = stage_task("control", run_control)
evaluate = stage_task("evaluate", run_evaluate)


def publish_stage_table(results: Sequence[Result], out: Path) -> None:
    """The artifact ``stage-table``: what came in and out of every stage that is finished."""
    create_table_artifact([stage_row(r) for r in results], STAGE_TABLE, f"Stages of the build in {out.resolve()}")


def publish_synthesis(written: Result) -> None:
    """The artifact ``synthesis-report``: totals, reasons, and what was asked for and came out."""
    create_markdown_artifact(report_of(written), SYNTHESIS, f"Synthesis in {written.directory.resolve()}")


def publish_report(report: Result) -> None:
    """The artifact ``evaluation-report``: ``report.md``; its plots, which Prefect cannot show, by their paths."""
    text = (report.directory / "report.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", lambda m: f"{m[1]}: `{(report.directory / m[2]).resolve()}`", text)
    create_markdown_artifact(text, REPORT, f"Report of {report.directory.resolve()}")


def run_stages(config: BuildConfig, base: Path, out: Path, fresh: bool, workers: int, watcher: LogWatcher) -> None:
    """The stages of ``pipeline.build.build`` as tasks. Raises PipelineError; GateError once the report is published."""
    check_sections(config)
    ingested = ingest(config, base, out, fresh, watcher)
    inputs = [run_convert(config, out, ingested, workers, fresh, watcher)]
    if config.synth is not None and (written := synthesize(config, base, out, fresh, watcher)) is not None:
        publish_synthesis(written)
        inputs.append(written)
    made = dataset(config, out, inputs, fresh, watcher)
    if config.train is not None and (checkpoint := train(config, out, made, fresh, watcher)) is not None:
        permuted = control(config, out, made, fresh, watcher)
        report = evaluate(config, out, made, checkpoint, permuted, fresh, watcher)
        publish_report(report)
        check_gate(report)


@flow(name="build-multistream-dataset", persist_result=False, validate_parameters=True)
def build_multistream_dataset(
    config: str = "examples/configs/demo.yaml",
    out: str | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    workers: Annotated[int, Field(ge=0)] = 0,
) -> str | State[Any]:
    """Multi-stream data from message corpora and chat models: ingest, convert, synthesize, data set, train, evaluate.

    Stages and shards that are finished are skipped. The run fails with the one-line message of what is wrong.

    Args:
        config: Path of a build configuration (YAML).
        out: Folder to write to; build/NAME if not given.
        overrides: Changes to the configuration, KEY=VALUE each, like convert.align=turns.
        fresh: Run every stage anew, also the finished ones.
        workers: Converting processes; 0: one per core.
    """
    logger = get_run_logger()
    watcher = LogWatcher()
    failure: PipelineError | None = None
    target = Path(out or "build")
    try:
        loaded = load_config(Path(config), overrides)
        target = Path(out) if out else Path("build") / loaded.name
        run_stages(loaded, Path(config).resolve().parent, target, fresh, workers, watcher)
    except PipelineError as error:
        failure = error
    if watcher.results:
        publish_stage_table(watcher.results, target)
    if failure is not None:
        message = " ".join(str(failure).split())
        logger.error("%s", message)
        return Failed(message=message, data=failure)
    logger.info("data set: %s", target / folders.DATASET)
    return str(target)
