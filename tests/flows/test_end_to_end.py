"""A real server, a real worker and the commands of docs/orchestration.md, all on the loopback interface."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import folders
from pipeline.build import build
from pipeline.cli.board import Board
from pipeline.config import load_config
from pipeline.manifest import read_manifest, sha256_file
from tests.flows.live import CHECKOUT, FULL_NAME, Live, wait_for
from tests.training.synthetic_grids import save_tiny_llama

pytestmark = pytest.mark.slow

WriteConfig = Callable[..., Path]


def parquet_digests(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): sha256_file(p) for p in sorted(out.rglob("*.parquet"))}


def deployment(live: Live, name: str) -> dict[str, Any]:
    """What the server knows of a deployment, less ids, times and the worker's doings."""
    value = live.ask(f"/deployments/name/{name}")
    changing = {"id", "created", "updated", "status", "last_polled", "version_id", "updated_by", "created_by"}
    return {key: found for key, found in value.items() if key not in changing}


def test_deploy_registers_what_prefect_deploy_registers(live: Live) -> None:
    assert live.deployed == [
        f"made work pool multistream (type process) on {live.url}",
        "made concurrency limit multistream-gpu",
        f"registered {FULL_NAME}, working directory {CHECKOUT}",
        "start a worker:  prefect worker start --pool multistream",
        f"run it:          prefect deployment run {FULL_NAME} --watch",
    ]
    ours = deployment(live, FULL_NAME)
    live.ask(f"/deployments/{live.ask(f'/deployments/name/{FULL_NAME}')['id']}", method="DELETE")
    done = live.call("prefect", "--no-prompt", "deploy", "--name", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployment(live, FULL_NAME) == ours
    assert live.ask("/v2/concurrency_limits/multistream-gpu")["limit"] == 1


def test_deploy_takes_a_stage_parameters_and_a_schedule(live: Live, write_config: WriteConfig) -> None:
    config = str(write_config())
    done = live.call(
        *("multistream", "deploy", "--stage", "convert", "--name", "nightly", "--config", config, "--workers", "3"),
        *("--set", "seed=5", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin"),
    )
    assert done.returncode == 0, done.stderr
    assert "scheduled:       0 3 * * * (Europe/Berlin)" in done.stdout
    found = deployment(live, "multistream-convert/nightly")
    assert found["parameters"] == {"config": config, "overrides": ["seed=5"], "workers": 3}
    [schedule] = found["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * *", "Europe/Berlin")
    assert schedule["active"]


def test_a_second_deploy_keeps_what_is_not_given_and_says_so(live: Live, write_config: WriteConfig) -> None:
    config, name = str(write_config()), "build-multistream-dataset/kept"
    deploy = ("multistream", "deploy", "--name", "kept")
    done = live.call(*deploy, "--config", config, "--set", "seed=5", "--workers", "3", "--cron", "0 3 * * *")
    assert done.returncode == 0, done.stderr
    assert "kept:" not in done.stdout
    server_id = live.ask(f"/deployments/name/{name}")["id"]
    live.ask(f"/deployments/{server_id}/pause_deployment", method="POST")
    limited = {"concurrency_limit": 2, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    live.ask(f"/deployments/{server_id}", limited, method="PATCH")
    before = deployment(live, name)
    done = live.call(*deploy)
    assert done.returncode == 0, done.stderr
    assert deployment(live, name) == before
    kept = [line for line in done.stdout.splitlines() if line.startswith("kept:")]
    assert kept == [
        f"kept:            {one} (--reset drops it)"
        for one in (
            f"config={config}",
            'overrides=["seed=5"]',
            "workers=3",
            "paused, as it was",
            "at most 2 runs at once",
            "schedule 0 3 * * * (UTC)",
        )
    ]
    done = live.call(*deploy, "--workers", "0", "--interval", "6h")
    assert done.returncode == 0, done.stderr
    found = deployment(live, name)
    assert found["parameters"] == {"config": config, "overrides": ["seed=5"], "workers": 0}
    assert [one["schedule"].get("interval") for one in found["schedules"]] == [6 * 3600]
    slug = {"schedule": {"cron": "0 4 * * *"}, "slug": "four", "active": True}
    [old] = found["schedules"]
    live.ask(f"/deployments/{server_id}/schedules/{old['id']}", method="DELETE")
    live.ask(f"/deployments/{server_id}/schedules", [slug])
    assert live.call(*deploy).returncode == 0
    assert [one["slug"] for one in deployment(live, name)["schedules"]] == ["four"]
    assert live.call(*deploy, "--cron", "0 5 * * *").returncode == 0
    assert [one["schedule"]["cron"] for one in deployment(live, name)["schedules"]] == ["0 5 * * *"]
    done = live.call(*deploy, "--reset")
    assert done.returncode == 0, done.stderr
    found = deployment(live, name)
    assert (found["parameters"], found["schedules"]) == ({"config": "examples/configs/demo.yaml"}, [])


def test_a_run_builds_a_data_set_and_the_next_one_skips_it(
    live: Live, write_config: WriteConfig, tmp_path: Path
) -> None:
    done = live.run("build-multistream-dataset")
    assert done.returncode != 0
    assert "Expected format: <FLOW_NAME>/<DEPLOYMENT_NAME>" in done.stdout + done.stderr

    out, config = tmp_path / "out", write_config()
    done = live.run(FULL_NAME, "--watch", config=config, out=out)
    assert done.returncode == 0, done.stdout + done.stderr + live.log()
    assert "Flow run finished successfully in 'Completed'" in done.stdout
    assert "convert: 72 in, 72 out, 0 rejected" in done.stdout
    assert f"lookatit:multistreamview{out}" in "".join(done.stdout.split())
    for stage in ("ingest", "convert", "dataset"):
        assert (out / stage / "manifest.json").is_file()
    assert (out / "dataset" / "README.md").is_file()
    assert live.artifact("progress-convert")["data"] == 100.0
    assert (out / "dataset" / "README.md").as_uri() in live.artifact("link-card")["data"]

    done = live.run(FULL_NAME, "--watch", config=config, out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["skipped"] for row in json.loads(live.artifact("stage-table")["data"])] == ["yes"] * 3

    done = live.run(FULL_NAME, "--watch", config=config, out=out, overrides='["sed=1"]')
    assert done.returncode == 1
    assert "Flow run finished in state 'Failed'" in done.stdout + done.stderr
    assert "unknown key 'sed' (did you mean 'seed'?)" in done.stdout


def test_a_failing_gate_fails_the_run_after_the_report_is_published(
    live: Live, write_config: WriteConfig, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", save_tiny_llama(tmp_path / "base", 49_152)
    train = {"model": str(model), "steps": 1, "max_tokens": 512, "max_cells": 256, "packs_per_step": 1}
    evaluate = {"max_cells": 256, "generate_records": 0, "gate": {"min_improvement": 50}}
    sections = [f"train={json.dumps(train)}", f"evaluate={json.dumps(evaluate)}"]
    done = live.run(FULL_NAME, "--watch", config=write_config(), out=out, overrides=json.dumps(sections))
    assert done.returncode == 1, done.stdout
    assert "Flow run finished in state 'Failed'" in done.stdout + done.stderr
    assert "the evaluation's gate failed" in done.stdout
    assert "must be below -50 nats/token" in done.stdout
    assert [row["stage"] for row in json.loads(live.artifact("stage-table")["data"])] == [
        *("ingest", "convert", "dataset", "checkpoint", "report")
    ]
    assert live.artifact("evaluation-report")["data"].startswith("# ")
    assert read_manifest(out / folders.REPORT) is not None


def test_a_cancelled_run_goes_on_where_it_stopped(live: Live, write_config: WriteConfig, tmp_path: Path) -> None:
    config, out, whole = write_config(shard_units=90, copies=40), tmp_path / "out", tmp_path / "whole"
    build(load_config(config), config.parent, whole, Board(), workers=2)

    done = live.run(FULL_NAME, config=config, out=out, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", done.stdout))
    notes = out / folders.CONVERT / "shards"
    wait_for("the first shards", lambda: len(list(notes.glob("*.json"))) >= 3, 60)
    done = live.call("prefect", "flow-run", "cancel", run)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for("the run's end", lambda: live.ask(f"/flow_runs/{run}")["state"]["type"] == "CANCELLED", 60)
    assert not (out / folders.CONVERT / "manifest.json").exists(), "it was done before it was cancelled"
    kept = {p: p.stat().st_mtime_ns for p in wait_until_still(notes)}

    done = live.run(FULL_NAME, "--watch", config=config, out=out, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr + live.log()
    assert parquet_digests(out) == parquet_digests(whole)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert not list(out.rglob("*.tmp"))


def wait_until_still(notes: Path) -> list[Path]:
    """The notes of finished shards, once no more come: the processes of a cancelled run end a little later."""
    before: list[Path] = []
    while (now := sorted(notes.glob("*.json"))) != before:
        before = now
        time.sleep(1.0)
    return now
