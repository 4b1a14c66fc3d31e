"""The stages of a build as flows of their own. Each reads the manifests of those before it in the build's folder.

Only wiring: what a stage does, and whether it is skipped, is settled by the stage, its manifest and the files on disk.
Prefect's result cache is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

from prefect import Flow, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Completed, Failed
from pydantic import Field

from flows.artifacts import RunView, publish_report, publish_synthesis
from flows.inputs import finished
from flows.retries import RETRIES, is_worth_a_retry, waits
from flows.runners import ConvertOne, Place, RunnerName, asking_in, on_a_gpu, shards_in
from pipeline import folders, storage
from pipeline.asked import Asked, asked_of, recording
from pipeline.build import (
    check_gate,
    run_control,
    run_convert,
    run_dataset,
    run_dedup,
    run_evaluate,
    run_filter,
    run_ingest,
    run_mix,
    run_synthesize,
    run_train,
)
from pipeline.config import BuildConfig, ConfigError
from pipeline.convert import ShardResult
from pipeline.errors import PipelineError
from pipeline.manifest import Result, damaged, read_manifest
from pipeline.plans import inputs_of, plan_stage
from pipeline.sections import check_sections, stages_of, synth_config
from pipeline.watching import Watcher, books_of

if TYPE_CHECKING:
    from synth.shards import Asked as ShardAsked
    from synth.shards import Shard as SynthShard
    from synth.shards import Work as SynthWork

P = ParamSpec("P")
R = TypeVar("R")

DEMO = "examples/configs/demo.yaml"

#: The limit that `multistream deploy` makes: how many stages that load a model run at once under one Prefect server.
GPU_LIMIT = "multistream-gpu"

#: Seconds after which the slot of a run that was killed is free again.
LEASE_SECONDS = 60.0

#: The finished stages that one reads, by folder.
Made = Mapping[str, Result]

#: A stage's work: configuration, what its paths are relative to, the build's folder, what it reads, whether anew, a watcher.
Work = Callable[[BuildConfig, Path, Path, Made, bool, Watcher], Result | None]


def stage_task(name: str, work: Callable[P, R], run_name: str | None = None) -> Task[P, R]:
    """A task that is tried again on errors that may pass, and never cached: the manifests say whether work is done."""
    decorate = task(
        name=name,
        task_run_name=run_name or name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=waits(),
        retry_condition_fn=is_worth_a_retry,
    )
    return decorate(work)


def convert_with(convert: ConvertOne, number: int, units: Path, directory: Path) -> ShardResult:
    """Converts one shard: the work of a task, named after its number."""
    return convert(units, number, directory)


convert_one = stage_task("convert shard", convert_with, "convert shard {number}")


def ask_for(shard: SynthShard, directory: Path, work: SynthWork) -> ShardAsked:
    """Asks for the dialogues of one shard of synthesis, with an engine of its own: the work of a task on a node."""
    from synth.shards import synthesize_shard

    return synthesize_shard(shard, directory, work)


ask_one = stage_task("synth shard", ask_for, "synth shard {shard.number}")


def _ingest(config: BuildConfig, base: Path, out: Path, _made: Made, fresh: bool, watcher: Watcher) -> Result:
    return run_ingest(config, base, out, fresh, watcher)


def _synth(config: BuildConfig, base: Path, out: Path, _made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    return run_synthesize(config, base, out, fresh, watcher)


def _filter(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    return run_filter(config, out, list(made.values()), 0, fresh, watcher)


def _dedup(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    records, left_out = _apart({name: result for name, result in made.items() if name != folders.INGEST})
    return run_dedup(config, out, made[folders.INGEST], records, left_out, 0, fresh, watcher)


def _mix(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    return run_mix(config, out, *_apart(made), fresh, watcher)


def _apart(made: Made) -> tuple[list[Result], list[Result]]:
    """The stages that made records, and those that leave some of them out."""
    left_out = [result for name, result in made.items() if name in folders.LEAVING_OUT]
    return [result for name, result in made.items() if name not in folders.LEAVING_OUT], left_out


def _dataset(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result:
    return run_dataset(config, out, *_apart(made), fresh, watcher)


def _train(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    return run_train(config, out, made[folders.DATASET], fresh, watcher)


def _control(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result | None:
    return run_control(config, out, made[folders.DATASET], fresh, watcher)


def _evaluate(config: BuildConfig, _base: Path, out: Path, made: Made, fresh: bool, watcher: Watcher) -> Result:
    dataset, checkpoint = made[folders.DATASET], made[folders.CHECKPOINT]
    return run_evaluate(config, out, dataset, checkpoint, made.get(folders.CONTROL), fresh, watcher)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage by its name, its folder in a build and its work (None: conversion, which is many tasks)."""

    name: str
    folder: str
    work: Work | None
    loads_a_model: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage("ingest", folders.INGEST, _ingest),
        Stage("convert", folders.CONVERT, None),
        Stage("synth", folders.SYNTH, _synth, loads_a_model=True),
        Stage("filter", folders.FILTER, _filter),
        Stage("dedup", folders.DEDUP, _dedup),
        Stage("mix", folders.MIX, _mix),
        Stage("dataset", folders.DATASET, _dataset),
        Stage("train", folders.CHECKPOINT, _train, loads_a_model=True),
        Stage("control", folders.CONTROL, _control, loads_a_model=True),
        Stage("evaluate", folders.REPORT, _evaluate, loads_a_model=True),
    )
}


def do_stage(
    stage: str,
    config: BuildConfig,
    base: Path,
    out: Path,
    made: Made,
    fresh: bool,
    mounted: Sequence[storage.Mount] = (),
) -> Result:
    """The work of a stage's task, in this process or on a node of a cluster."""
    storage.mount(*mounted)
    work = STAGES[stage].work
    assert work is not None
    result = work(config, base, out, made, fresh, RunView())
    assert result is not None
    return result


@dataclass(frozen=True, slots=True)
class Run:
    """What a flow run was asked for, checked."""

    asked: Asked
    out: Path
    fresh: bool
    place: Place


def checked(config: str, out: str | None, overrides: Sequence[str], fresh: bool, place: Place) -> Run:
    """Checks the parameters of a run before anything is done. Raises PipelineError."""
    asked = asked_of(Path(config), tuple(overrides))
    check_sections(asked.config)
    place.check()
    folder = storage.open_folder(out) if out else Path("build") / asked.config.name
    return Run(asked, folder.absolute(), fresh, place)


def run_stage_of(stage: Stage, run: Run) -> Result:
    """Runs a stage, or skips it. Raises PipelineError, also where one that it reads is not there, damaged or stale."""
    config = run.asked.config
    if stage.folder not in stages_of(config):
        raise ConfigError(f"the configuration asks for no {stage.name}: see docs/configuration.md")
    made = {name: finished(run.asked, run.out, name) for name in inputs_of(stage.folder, run.asked)}
    if stage.work is None:
        shards = shards_in(run.place, convert_one)
        return run_convert(config, run.out, made[folders.INGEST], run.place.workers, run.fresh, RunView(), shards)
    if stage.folder == folders.SYNTH and run.place.runner != "local" and synth_config(config).shards > 1:
        asking = asking_in(run.place, ask_one)
        written = run_synthesize(config, run.asked.base, run.out, run.fresh, RunView(), asking)
        assert written is not None
        return written
    parameters: dict[str, Any] = {
        "stage": stage.name, "config": config, "base": run.asked.base, "out": run.out, "made": made,
        "fresh": run.fresh, "mounted": storage.mounts(),
    }  # fmt: skip
    one = stage_task(stage.name, do_stage)
    if stage.loads_a_model and run.place.gpus:
        return on_a_gpu(run.place, one, parameters)
    with _slot(stage, run, made):
        result: Result = one(**parameters)
        return result


def _slot(stage: Stage, run: Run, made: Made) -> AbstractContextManager[None]:
    """A slot of the GPU limit for a stage that will load a model here. Where nobody made the limit, it holds nobody up."""
    if not stage.loads_a_model or not _loads(stage, run.asked.config) or _is_done(stage, run, made):
        return nullcontext()
    return concurrency(GPU_LIMIT, occupy=1, lease_duration=LEASE_SECONDS)


def _loads(stage: Stage, config: BuildConfig) -> bool:
    """Whether the stage loads a model into this process; synthesis may ask a server for all."""
    if stage.folder != folders.SYNTH:
        return True
    from synth.config import VllmOptions
    from synth.making import judge_engine

    settings = synth_config(config)
    return isinstance(settings.engine, VllmOptions) or isinstance(judge_engine(settings)[1], VllmOptions)


def _is_done(stage: Stage, run: Run, made: Made) -> bool:
    """Whether the stage will be skipped, as far as can be told without reading its files."""
    there = read_manifest(run.out / stage.folder)
    if run.fresh or there is None or there.notes.get("resumable"):
        return False
    if plan_stage(stage.folder, run.asked, made).fingerprint != there.fingerprint:
        return False
    return not damaged(run.out / stage.folder, there.outputs, digests=False)


def in_one_line(work: Callable[[], State[Any]]) -> State[Any]:
    """A flow's final state: what ``work`` says, or Failed with the one line of an error that a user can act on."""
    try:
        return work()
    except (PipelineError, OSError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        get_run_logger().error("%s", message)
        return Failed(message=message, data=error)


def _run_alone(stage: Stage, run: Run) -> State[Any]:
    with recording(run.out, run.asked):
        result = run_stage_of(stage, run)
        if stage.folder == folders.SYNTH:
            publish_synthesis(result)
        if stage.folder == folders.REPORT:
            publish_report(result)
            check_gate(result)
    did = "skipped, finished before" if result.skipped else f"{result.manifest.seconds:.1f} s"
    return Completed(message=f"{books_of(result.manifest.counters)} ({did})", data=result)


_PARAMETERS = """

    Args:
        config: Path of a build configuration (YAML).
        out: Folder or URL of the build; build/NAME if not given.
        overrides: Changes to the configuration, KEY=VALUE each, like convert.align=turns.
        fresh: Run the stage anew, also if it is finished.
        workers: Converting processes; 0: one per core. On a cluster: shards that are out at once; 0: two per core.
        runner: Where: local, ray or dask.
        address: Address of the Ray or Dask cluster; if not given, one on this machine for the time of the stage.
        gpus: GPUs that each stage that loads a model asks Ray for; 0: it runs in the flow's own process.
"""


def _as_flow(stage: Stage, run: Callable[..., State[Any]], about: str) -> Flow[..., Any]:
    """The flow of a stage; its docstring explains its parameters."""
    run.__doc__ = about + _PARAMETERS
    decorate = flow(
        name=f"multistream-{stage.name}", flow_run_name=stage.name, description=about, persist_result=False,
        validate_parameters=True,
    )  # fmt: skip
    return decorate(run)


def _plain(name: str, about: str) -> Flow[..., Any]:
    stage = STAGES[name]

    def run(
        config: str = DEMO, out: str | None = None, overrides: Sequence[str] = (), fresh: bool = False
    ) -> State[Any]:
        return in_one_line(lambda: _run_alone(stage, checked(config, out, overrides, fresh, Place())))

    return _as_flow(stage, run, about)


def _with_a_model(name: str, about: str) -> Flow[..., Any]:
    stage = STAGES[name]

    def run(
        config: str = DEMO,
        out: str | None = None,
        overrides: Sequence[str] = (),
        fresh: bool = False,
        runner: RunnerName = "local",
        address: str | None = None,
        gpus: Annotated[int, Field(ge=0)] = 0,
    ) -> State[Any]:
        place = Place(runner, address, 0, gpus)
        return in_one_line(lambda: _run_alone(stage, checked(config, out, overrides, fresh, place)))

    return _as_flow(stage, run, about)


def _converting(name: str, about: str) -> Flow[..., Any]:
    stage = STAGES[name]

    def run(
        config: str = DEMO,
        out: str | None = None,
        overrides: Sequence[str] = (),
        fresh: bool = False,
        workers: Annotated[int, Field(ge=0)] = 0,
        runner: RunnerName = "local",
        address: str | None = None,
    ) -> State[Any]:
        place = Place(runner, address, workers)
        return in_one_line(lambda: _run_alone(stage, checked(config, out, overrides, fresh, place)))

    return _as_flow(stage, run, about)


ingest = _plain("ingest", "Inputs named by the configuration to shards of source units.")
convert = _converting("convert", "Source units to records and tokens, a task per shard.")
synth = _with_a_model("synth", "New dialogues from a chat model.")
filter = _plain("filter", "What the configured filters leave out of the data set.")
dedup = _plain("dedup", "Which records are copies of others, across all sources.")
mix = _plain("mix", "What is left out so that each source has its share.")
dataset = _plain("dataset", "Split by group, global shuffle, final shards, and the card.")
train = _with_a_model("train", "Fine-tuning on the train split.")
control = _with_a_model("control", "The same training on permuted inputs.")
evaluate = _with_a_model("evaluate", "Spot-evaluation on the test split, its report, and the gate.")
