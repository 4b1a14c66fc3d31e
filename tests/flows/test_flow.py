"""The flow, in this process, against Prefect's test server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.build import build_multistream_dataset
from pipeline import folders
from pipeline.build import build
from pipeline.cli.console import ConsoleWatcher
from pipeline.config import ConfigError, load_config
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Output, Result, read_manifest, sha256_file
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


def task_run_names(state: Any) -> list[str]:
    """The names of a run's tasks. Task runs reach the server as events, a little later than the run's end."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all()
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return sorted(r.name for r in client.read_task_runs(flow_run_filter=wanted))


def test_the_flow_writes_the_bytes_that_build_writes_and_then_skips_them(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config()
    plain, flowed = tmp_path / "plain", tmp_path / "flowed"
    build(load_config(config), config.parent, plain, ConsoleWatcher(), workers=1)

    state = run(config=str(config), out=str(flowed), workers=2)
    assert state.is_completed(), state.message
    assert state.result() == str(flowed)
    assert len(list((flowed / folders.INGEST).glob("units-*.parquet"))) == 3
    assert parquet_digests(flowed) == parquet_digests(plain)
    rows = json.loads(artifact("stage-table").data)
    assert [(r["stage"], r["skipped"]) for r in rows] == [("ingest", "no"), ("convert", "no"), ("dataset", "no")]
    assert rows[0]["in"] == rows[0]["out"] == 72
    assert {"convert shard 0", "convert shard 1", "convert shard 2"} <= set(task_run_names(state))

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


def test_a_failed_gate_fails_the_run_after_the_report_is_published(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and evaluation are stubs here; the gate's verdict and the report are theirs to write."""
    config, out = write_config(), tmp_path / "out"
    failures = [{"check": "min_improvement", "message": "held-out loss rose by 0.1"}]

    def stage(name: str, notes: dict[str, Any]) -> Result:
        place = out / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "report.md").write_text("# Report\n\n![loss](loss.png)\n")
        outputs: tuple[Output, ...] = ()
        return Result(place, Manifest(name, 1, "", {}, {}, outputs, {"in": 1, "out": 1}, 0.0, notes), skipped=False)

    def train(*_: Any) -> Result:
        return stage(folders.CHECKPOINT, {})

    def evaluate(*_: Any) -> Result:
        return stage(folders.REPORT, {"gate_failures": failures})

    monkeypatch.setattr("flows.build.train", train)
    monkeypatch.setattr("flows.build.evaluate", evaluate)
    state = run(config=str(config), out=str(out), overrides=["train={steps: 1}"])
    assert state.is_failed()
    assert state.message == "the evaluation's gate failed: held-out loss rose by 0.1"
    assert artifact("evaluation-report").data == f"# Report\n\nloss: `{out / folders.REPORT / 'loss.png'}`\n"
    assert read_manifest(out / folders.DATASET) is not None


def test_what_synthesis_came_to_is_an_artifact(write_config: WriteConfig, tmp_path: Path) -> None:
    with Endpoint(reply=speak) as endpoint:
        synth = {
            "generator": "concurrent",
            "scenarios": [str(ROOT / "examples" / "scenarios" / "*.yaml")],
            "samples": 6,
            "model": "scripted",
            "engine": {"kind": "openai", "url": endpoint.url},
        }
        out = tmp_path / "out"
        state = run(config=str(write_config()), out=str(out), overrides=[f"synth={json.dumps(synth)}"])
        assert state.is_completed(), state.message
    manifest = read_manifest(out / folders.SYNTH)
    assert manifest is not None
    assert manifest.counters["out"] > 0
    told = artifact("synthesis-report").data
    assert f"6 asked for, {manifest.counters['out']} accepted" in told
    assert "### Patterns" in told
