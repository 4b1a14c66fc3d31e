"""A run of the command that is killed at any instant ends with the records of an undisturbed one, and asks nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from endpoint import Endpoint
from scripted import speak

from synth.config import SynthConfig
from synth.judge import PROMPT_VERSION
from synth.stage import synthesize_stage

ROOT = Path(__file__).parents[2]
SAMPLES, CONCURRENCY, KILLS = 24, 4, 10


def settings(path: Path, url: str, **more: object) -> Path:
    value = {
        "generator": "concurrent",
        "scenarios": [str(ROOT / "examples" / "scenarios" / "*.yaml")],
        "samples": SAMPLES,
        "batch_size": 8,
        "model": "scripted",
        "engine": {"kind": "openai", "url": url, "concurrency": CONCURRENCY, "backoff": 0.05, "timeout": 2.0} | more,
    }
    path.write_text(yaml.safe_dump(value))
    return path


def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline.cli", "synth", str(config), "--out", str(out), "--json"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=dict(os.environ)
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], str]:
    out, err = process.communicate(timeout=120)
    return (json.loads(out) if process.returncode == 0 else {}), err.decode()


def committed(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as look:
        tables = {name for (name,) in look.execute("SELECT name FROM sqlite_master")}
        return int(look.execute("SELECT count(*) FROM answers").fetchone()[0]) if "answers" in tables else 0


@pytest.mark.slow
def test_killed_at_random_and_resumed_the_records_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    chance = random.Random(11)
    with Endpoint(reply=speak, delay=0.01) as endpoint:
        config = settings(tmp_path / "config.yaml", endpoint.url)
        told, error = finished(start(config, tmp_path / "whole"))
        assert told, error
        assert told["counters"]["out"] > SAMPLES / 3
        asked = len(endpoint.answered)
        assert told["counters"]["requests"] == asked == endpoint.answered.total()
    with Endpoint(reply=speak, delay=0.01) as endpoint:
        config = settings(tmp_path / "config.yaml", endpoint.url)
        out = tmp_path / "killed"
        for at in sorted(chance.sample(range(1, asked - CONCURRENCY), KILLS)):
            process = start(config, out)
            while len(endpoint.answered) < at and process.poll() is None:
                time.sleep(0.001)
            assert process.poll() is None, "it was to be killed while it runs"
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert len(endpoint.answered) - committed(out / "answers.sqlite") <= CONCURRENCY
            assert endpoint.answered.total() - len(endpoint.answered) <= KILLS * CONCURRENCY
        kept = committed(out / "answers.sqlite")
        before = endpoint.seen
        told, error = finished(start(config, out))
        assert told, error
        assert endpoint.seen - before == asked - kept
        assert len(endpoint.answered) == asked
    for name in ("records-00000.parquet", "tokens-smollm2-00000.parquet", "rejects-00000.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in out.iterdir() if path.name.startswith(".") or path.name.endswith("-wal")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 500},
        {"cut": "before"},
        {"cut": "amid"},
        {"hang": True},
    ],
    ids=["429", "500", "cut-before", "cut-amid", "hang"],
)
def test_what_passes_is_tried_again_and_nothing_is_lost(tmp_path: Path, fault: dict[str, Any]) -> None:
    with Endpoint(reply=speak) as endpoint:
        endpoint.fail(times=3, every=20, **fault)
        config = settings(tmp_path / "config.yaml", endpoint.url, timeout=1.0)
        told, error = finished(start(config, tmp_path / "out"))
        assert told, error
        assert endpoint.faults[0].times == 0
    counters = told["counters"]
    assert counters["in"] == SAMPLES == counters["out"] + counters["rejected"]
    assert pq.read_metadata(tmp_path / "out" / "records-00000.parquet").num_rows == counters["out"]
    assert not {"refused", "aborted"} & set(counters["reject_reasons"])


@pytest.mark.slow
def test_a_server_that_is_gone_stops_the_run_with_one_line_and_the_run_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with Endpoint(reply=speak) as endpoint:
        gone = endpoint.fail(status=503, times=None, after=40)
        config = settings(tmp_path / "config.yaml", endpoint.url, retries=1, give_up=2)
        process = start(config, tmp_path / "out")
        told, error = finished(process)
        assert (told, process.returncode) == ({}, 1)
        assert "is gone" in error
        assert "what was answered is kept" in " ".join(error.split())
        assert "Traceback" not in error
        kept = committed(tmp_path / "out" / "answers.sqlite")
        assert kept == endpoint.answered.total() > 0
        gone.times = 0
        told, error = finished(start(config, tmp_path / "out"))
        assert told, error
        assert endpoint.answered.total() == len(endpoint.answered), "nothing that was answered was asked again"


def test_another_model_at_another_endpoint_may_judge(tmp_path: Path) -> None:
    def verdict(body: dict[str, Any]) -> str:
        score = 2 if "river" in body["messages"][-1]["content"] else 5
        remarks = {"fluency_remark": "words", "consistency_remark": "words"}
        return json.dumps({"acausal": [], "fluency": score, "consistency": 4, **remarks})

    with Endpoint(reply=speak) as writer, Endpoint(reply=verdict) as critic:
        path = settings(tmp_path / "config.yaml", writer.url)
        config = SynthConfig.model_validate(
            yaml.safe_load(path.read_text())
            | {"judge": {"model": "critic", "engine": {"kind": "openai", "url": critic.url}, "min_fluency": 3}}
        )
        result = synthesize_stage(config, tmp_path / "out")
    assert {body["model"] for body in writer.bodies} == {"scripted"}
    assert {body["model"] for body in critic.bodies} == {"critic"}
    counters, notes = result.manifest.counters, result.manifest.notes
    assert set(counters["reject_reasons"]) == {"judged_fluency"}
    assert 0 < counters["out"] < SAMPLES == len(critic.bodies) == notes["judge"]["requests"]
    assert notes["judge"]["agreement_with_lexical"]
    for record in pq.read_table(tmp_path / "out" / "records-00000.parquet").to_pylist():
        told = json.loads(record["labels"])["judge"]
        assert (told["model"], told["fluency"], told["prompt_version"]) == ("critic", 5, PROMPT_VERSION)
        assert {event["judged"] for event in record["events"]} == {"causal", None}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"answers.sqlite", "judge-answers.sqlite"} <= files
