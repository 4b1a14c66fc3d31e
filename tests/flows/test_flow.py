"""The flow, in this process, against Prefect's test server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow, task
from prefect.client.schemas.objects import TaskRun
from prefect.task_runners import ThreadPoolTaskRunner

from flows.build import FLOWS, build_multistream_dataset
from flows.runners import each
from flows.stages import stage_task
from pipeline import folders
from pipeline.build import build
from pipeline.cli.board import Board
from pipeline.config import ConfigError, load_config
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import read_manifest, sha256_file
from tests.synth.endpoint import Endpoint
from tests.synth.scripted import speak

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

WriteConfig = Callable[..., Path]

CONVERSATION = json.dumps({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}]})


def parquet_digests(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): sha256_file(p) for p in sorted(out.rglob("*.parquet"))}


def run(**parameters: Any) -> Any:
    """The final state of a flow run."""
    return build_multistream_dataset(**parameters, return_state=True)


def artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return found


def task_runs(state: Any) -> list[TaskRun]:
    """The tasks of a run and its subflows. Task runs reach the server as events, a little later than the run's end."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all()
    parent = state.state_details.flow_run_id
    below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
    with get_client(sync_client=True) as client:
        runs = [parent, *(run.id for run in client.read_flow_runs(flow_run_filter=below))]
        return list(client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=runs))))


def task_run_names(state: Any) -> list[str]:
    return sorted(run.name for run in task_runs(state))


def test_the_flow_writes_the_bytes_that_build_writes_and_then_skips_them(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config()
    plain, flowed = tmp_path / "plain", tmp_path / "flowed"
    build(load_config(config), config.parent, plain, Board(), workers=1)

    state = run(config=str(config), out=str(flowed), workers=2)
    assert state.is_completed(), state.message
    assert state.result() == str(flowed)
    assert len(list((flowed / folders.INGEST).glob("units-*.parquet"))) == 3
    assert parquet_digests(flowed) == parquet_digests(plain)
    rows = json.loads(artifact("stage-table").data)
    assert [(r["stage"], r["skipped"]) for r in rows] == [("ingest", "no"), ("convert", "no"), ("dataset", "no")]
    assert rows[0]["in"] == rows[0]["out"] == 72
    assert {"convert shard 0", "convert shard 1", "convert shard 2"} <= set(task_run_names(state))
    assert state.message == f"data set: {flowed}/dataset; look at it: multistream view {flowed}"
    assert artifact("progress-convert").data == 100.0
    assert artifact("progress-convert").description.startswith("convert: 72 in, 72 out, 0 rejected (")
    assert (flowed / folders.DATASET / "README.md").as_uri() in artifact("link-card").data

    before = {p: p.stat().st_mtime_ns for p in flowed.rglob("*.parquet")}
    state = run(config=str(config), out=str(flowed), workers=2)
    assert state.is_completed(), state.message
    assert [r["skipped"] for r in json.loads(artifact("stage-table").data)] == ["yes", "yes", "yes"]
    assert {p: p.stat().st_mtime_ns for p in flowed.rglob("*.parquet")} == before
    assert not [name for name in task_run_names(state) if name.startswith("convert shard")]


def test_only_the_missing_shard_of_an_interrupted_conversion_is_a_task(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out = write_config(), tmp_path / "out"
    assert run(config=str(config), out=str(out)).is_completed()
    whole = parquet_digests(out)
    (out / folders.CONVERT / "manifest.json").unlink()
    (out / folders.CONVERT / "records-00001.parquet").unlink()

    state = run(config=str(config), out=str(out))
    assert state.is_completed(), state.message
    assert [n for n in task_run_names(state) if n.startswith("convert shard")] == ["convert shard 1"]
    assert parquet_digests(out) == whole


def test_a_missing_input_fails_the_run_with_its_one_line_message(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(tmp_path / "nowhere")
    state = run(config=str(config), out=str(tmp_path / "out"))
    assert state.is_failed()
    assert state.message == f"{tmp_path / 'nowhere'} is not there"
    with pytest.raises(InputError, match="is not there"):
        state.result()


def test_an_unknown_key_and_too_many_rejects_fail_the_run(write_config: WriteConfig, tmp_path: Path) -> None:
    config, out = str(write_config()), str(tmp_path / "out")
    state = run(config=config, out=out, overrides=["convert.allign=turns"])
    assert state.is_failed()
    assert "unknown key 'convert.allign' (did you mean 'align'?)" in (state.message or "")
    with pytest.raises(ConfigError):
        state.result()

    bad = tmp_path / "bad.jsonl"
    bad.write_text(CONVERSATION + '\n{"messages": 1}\n')
    state = run(config=str(write_config(bad)), out=out)
    assert state.is_failed()
    assert (state.message or "").startswith("1 of 2 units were rejected (")
    assert [r["stage"] for r in json.loads(artifact("stage-table").data)] == ["ingest"]


def test_each_stage_is_a_flow_of_its_own_that_needs_the_one_before_it(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out, whole = write_config(), tmp_path / "out", tmp_path / "whole"
    build(load_config(config), config.parent, whole, Board(), workers=1)
    given: dict[str, Any] = {"config": str(config), "out": str(out)}

    state: Any = FLOWS["convert"](**given, return_state=True)
    assert state.is_failed()
    assert state.message == (
        f"{out / 'ingest'} holds no finished stage: run multistream-ingest first, or the whole build"
    )
    state = FLOWS["train"](**given, return_state=True)
    assert state.is_failed()
    assert "the configuration asks for no train" in state.message

    for stage in ("ingest", "convert", "dataset"):
        state = FLOWS[stage](**given, return_state=True)
        assert state.is_completed(), state.message
        assert state.message.startswith("72 in, 72 out, 0 rejected (")
    assert parquet_digests(out) == parquet_digests(whole)


def test_a_stage_alone_refuses_what_is_damaged_or_stale_before_it(write_config: WriteConfig, tmp_path: Path) -> None:
    config, out = write_config(), tmp_path / "out"
    build(load_config(config), config.parent, out, Board(), workers=1)
    whole = parquet_digests(out)
    given: dict[str, Any] = {"config": str(config), "out": str(out)}

    def told(stage: str, *overrides: str) -> str:
        state: Any = FLOWS[stage](**given, overrides=overrides, return_state=True)
        assert state.is_failed(), state.message
        return str(state.message)

    ingest, conversion = out / "ingest", out / "convert"
    assert told("dataset", "convert.align=turns") == (
        f'{conversion} is stale (convert.align was "auto", is "turns"): run multistream-convert first, or the whole build'
    )
    assert told("dataset", "ingest.shard_units=23") == (
        f"{ingest} is stale (ingest.shard_units was 24, is 23): run multistream-ingest first, or the whole build"
    )
    again: Any = FLOWS["dataset"](**given, return_state=True)
    assert again.message.endswith("(skipped, finished before)")
    shutil.copy(ingest / "units-00001.parquet", ingest / "units-00002.parquet")
    shutil.rmtree(conversion)
    assert told("convert") == (
        f"{ingest}/units-00002.parquet has changed since it was written: run multistream-ingest first, or the whole build"
    )
    assert not list(out.rglob("convert/*.parquet"))
    state = run(**given, workers=1)
    assert state.is_completed(), state.message
    assert parquet_digests(out) == whole


def test_a_killed_process_is_made_up_for_and_its_shards_are_tried_again(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out, whole = write_config(shard_units=120, copies=10), tmp_path / "out", tmp_path / "whole"
    build(load_config(config), config.parent, whole, Board(), workers=2)
    killed: list[int] = []

    def kill_one_at_work() -> None:
        children = {child.pid for child in psutil.Process().children(recursive=True)}
        names = [path.name for path in (out / folders.CONVERT).glob(".*.tmp")]
        begun = {int(name.rsplit(".", 2)[1].split("-")[0]) for name in names}
        for pid in begun & children:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            kill_one_at_work()
            time.sleep(0.005)

    killer = threading.Thread(target=watch)
    killer.start()
    state = run(config=str(config), out=str(out), workers=2)
    killer.join()
    assert killed
    assert state.is_completed(), state.message
    assert parquet_digests(out) == parquet_digests(whole)
    assert not list(out.rglob("*.tmp"))
    assert any(one.run_count > 1 for one in task_runs(state) if one.name.startswith("convert shard"))


def test_errors_that_may_pass_are_tried_again_and_others_are_not() -> None:
    tried: list[str] = []

    def fail_once() -> int:
        tried.append("passing")
        if len(tried) == 1:
            raise ConnectionResetError("gone")
        return 1

    def fail() -> int:
        tried.append("lasting")
        raise PipelineError("mend it")

    @flow(persist_result=False)
    def both() -> list[str]:
        assert stage_task("passing", fail_once)() == 1
        with pytest.raises(PipelineError, match="mend it"):
            stage_task("lasting", fail)()
        return list(tried)

    assert both() == ["passing", "passing", "lasting"]


def test_work_of_a_lost_worker_is_submitted_again() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    tried: list[int] = []

    @task(persist_result=False)
    def lost_once(item: int) -> int:
        tried.append(item)
        if tried.count(item) == 1 and item == 2:
            raise exceptions.WorkerCrashedError()
        return 10 * item

    @flow(persist_result=False)
    def some() -> dict[int, int]:
        with ThreadPoolTaskRunner[int](2) as runner:
            return dict(each([1, 2, 3], lambda item: runner.submit(lost_once, {"item": item}), lambda: 2))

    assert some() == {1: 10, 2: 20, 3: 30}
    assert sorted(tried) == [1, 2, 2, 3]


def test_dask_writes_the_same_bytes(write_config: WriteConfig, tmp_path: Path) -> None:
    pytest.importorskip("prefect_dask")
    config, out, whole = write_config(), tmp_path / "out", tmp_path / "whole"
    build(load_config(config), config.parent, whole, Board(), workers=1)
    state = run(config=str(config), out=str(out), runner="dask", workers=2)
    assert state.is_completed(), state.message
    assert parquet_digests(out) == parquet_digests(whole)


def dialogues(endpoint: Endpoint, samples: int) -> dict[str, Any]:
    """A ``synth`` section that asks the endpoint for dialogues of the packaged scenarios."""
    return {
        "generator": "concurrent",
        "scenarios": [str(ROOT / "examples" / "scenarios" / "*.yaml")],
        "samples": samples,
        "model": "scripted",
        "engine": {"kind": "openai", "url": endpoint.url},
    }


def test_shards_of_synthesis_are_tasks_on_a_cluster_and_write_the_same_bytes(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    pytest.importorskip("prefect_dask")
    with Endpoint(reply=speak) as endpoint:
        synth = dialogues(endpoint, 8)
        config, out, whole = write_config(), tmp_path / "out", tmp_path / "whole"
        loaded = load_config(config, [f"synth={json.dumps(synth)}"])
        build(loaded, config.parent, whole, Board(), workers=1)
        asked = endpoint.seen
        overrides = [f"synth={json.dumps({**synth, 'shards': 2})}"]
        state = run(config=str(config), out=str(out), overrides=overrides, runner="dask", workers=2)
        assert state.is_completed(), state.message
        assert endpoint.seen == 2 * asked, "every request was asked once more, and no more"
    assert parquet_digests(out) == parquet_digests(whole)
    assert sorted(p.name for p in (out / folders.SYNTH).glob("answers*")) == ["answers.sqlite"]


def test_what_synthesis_came_to_is_an_artifact(write_config: WriteConfig, tmp_path: Path) -> None:
    with Endpoint(reply=speak) as endpoint:
        synth = dialogues(endpoint, 6)
        out = tmp_path / "out"
        state = run(config=str(write_config()), out=str(out), overrides=[f"synth={json.dumps(synth)}"])
        assert state.is_completed(), state.message
    manifest = read_manifest(out / folders.SYNTH)
    assert manifest is not None
    assert manifest.counters["out"] > 0
    told = artifact("synthesis-report").data
    assert f"6 asked for, {manifest.counters['out']} accepted" in told
    assert "### Patterns" in told
