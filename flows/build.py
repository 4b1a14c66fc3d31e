"""The flow ``build-multistream-dataset``: the stages of a build as subflows, one after the other.

Also the one file that deployments name as their entry point: the stages' flows are here by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import Flow, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.artifacts import place_of, publish_links, publish_stage_table
from flows.inputs import just_made
from flows.runners import Place, RunnerName
from flows.stages import (
    DEMO,
    STAGES,
    Run,
    checked,
    control,
    convert,
    dataset,
    dedup,
    evaluate,
    filter,
    in_one_line,
    ingest,
    mix,
    synth,
    train,
)
from pipeline import folders
from pipeline.build import GateError
from pipeline.manifest import Result, read_manifest
from pipeline.sections import stages_of

FLOWS: dict[str, Flow[..., Any]] = {
    "ingest": ingest, "convert": convert, "synth": synth, "filter": filter, "dedup": dedup, "mix": mix, "dataset": dataset,
    "train": train, "control": control, "evaluate": evaluate,
}  # fmt: skip


def run_stages(run: Run, given: dict[str, Any], results: list[Result]) -> None:
    """Runs the stages that the configuration asks for as subflows; adds each to ``results``. Raises as the first that fails.

    ``given``: the flow's parameters; each subflow takes those that it knows.
    """
    wanted = stages_of(run.asked.config)
    for stage in STAGES.values():
        if stage.folder not in wanted:
            continue
        one = FLOWS[stage.name]
        parameters = {key: value for key, value in given.items() if key in one.parameters.properties}
        before = read_manifest(run.out / stage.folder)
        with just_made(results):
            state: Any = one(**parameters, return_state=True)
        found = state.result(raise_on_failure=False)
        if isinstance(found, Result):
            get_run_logger().info("%s: %s", stage.name, state.message)
            results.append(found)
            continue
        if isinstance(found, GateError) and (report := read_manifest(run.out / folders.REPORT)) is not None:
            results.append(Result(run.out / folders.REPORT, report, skipped=report == before))
        raise found


@flow(name="build-multistream-dataset", persist_result=False, validate_parameters=True)
def build_multistream_dataset(
    config: str = DEMO,
    out: str | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    workers: Annotated[int, Field(ge=0)] = 0,
    runner: RunnerName = "local",
    address: str | None = None,
    gpus: Annotated[int, Field(ge=0)] = 0,
) -> State[Any]:
    """Multi-stream data from message corpora and chat models: ingest, convert, synthesize, filter, remove copies, mix,
    data set, train, evaluate.

    Stages and shards that are finished are skipped. The run fails with the one-line message of what is wrong.

    Args:
        config: Path of a build configuration (YAML).
        out: Folder or URL to write to; build/NAME if not given.
        overrides: Changes to the configuration, KEY=VALUE each, like convert.align=turns.
        fresh: Run every stage anew, also the finished ones.
        workers: Converting processes; 0: one per core. On a cluster: shards that are out at once; 0: two per core.
        runner: Where shards are converted: local, ray or dask.
        address: Address of the Ray or Dask cluster; if not given, one on this machine for the time of a stage.
        gpus: GPUs that each stage that loads a model asks Ray for; 0: such stages run in the flow's own process.
    """
    given: dict[str, Any] = {
        "config": config, "out": out, "overrides": overrides, "fresh": fresh, "workers": workers, "runner": runner,
        "address": address, "gpus": gpus,
    }  # fmt: skip

    def work() -> State[Any]:
        run = checked(config, out, overrides, fresh, Place(runner, address, workers, gpus))
        results: list[Result] = []
        try:
            run_stages(run, {**given, "out": out or str(run.out)}, results)
        except Exception:
            publish_stage_table(results, run.out)
            raise
        publish_stage_table(results, run.out)
        publish_links(results, run.out)
        place = place_of(run.out)
        message = f"data set: {place}/{folders.DATASET}; look at it: multistream view {place}"
        get_run_logger().info("%s", message)
        return Completed(message=message, data=place)

    return in_one_line(work)


__all__ = [
    "FLOWS", "build_multistream_dataset", "control", "convert", "dataset", "dedup", "evaluate", "filter", "ingest", "mix",
    "synth", "train",
]  # fmt: skip
