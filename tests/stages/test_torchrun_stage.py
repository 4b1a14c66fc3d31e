"""``train.processes``: a build whose training runs in processes that torchrun starts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline import folders
from pipeline.build import build
from pipeline.config import load_config
from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, Result, need_manifest, output_of, sha256_file, write_manifest
from pipeline.stages.train import plan, train_stage
from pipeline.training.grid import TrainingError
from pipeline.training.loop import StepLog, TrainConfig
from pipeline.training.state import state_path
from tests.training.synthetic_grids import echo_grids, save_tiny_llama, write_dataset

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(
    steps=6, packs_per_step=2, max_cells=128, learning_rate=3e-3, embedding_learning_rate=1e-2, device="cpu",
    processes=2, save_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = save_tiny_llama(tmp_path_factory.mktemp("model"))
    (base / "tokenizer.json").write_text("{}")
    return base


@pytest.fixture
def dataset(tmp_path: Path, base: Path) -> Result:
    place = tmp_path / "data"
    write_dataset(place, echo_grids(40), echo_grids(2, seed=1), tokenizer_sha256=sha256_file(base / "tokenizer.json"))
    directory = place / folders.DATASET
    outputs = tuple(output_of(path, directory) for path in sorted(directory.rglob("*.parquet")))
    write_manifest(directory, Manifest("dataset", 1, "f", {}, {}, outputs, {"in": 42, "out": 42, "rejected": 0}, 0.0))
    return Result(directory, need_manifest(directory), skipped=True)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def training(config: Path) -> list[psutil.Process]:
    """The training processes of a build, by what they were given to do."""
    found = []
    for process in psutil.process_iter():
        try:
            given = process.environ().get("MULTISTREAM_TRAIN_TASK", "")
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if str(config.parent) in given:
            found.append(process)
    return found


def weights(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in ("model.safetensors", "stream_embedding.safetensors")]


def until(condition: Callable[[], bool], seconds: float = 90.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_the_number_of_processes_is_part_of_what_a_checkpoint_depends_on(
    dataset: Result, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(config: TrainConfig) -> str:
        return plan(dataset.manifest, str(base), base, config, digests=False).fingerprint

    two, one = named(CONFIG), named(replace(CONFIG, processes=1))
    assert two != one
    assert "processes" not in plan(dataset.manifest, str(base), base, replace(CONFIG, processes=1)).config
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert named(CONFIG) == named(replace(CONFIG, processes=1)) == two, "whoever has started them"


def test_processes_that_cannot_share_the_packs_out_are_refused_before_anything_is_done() -> None:
    with pytest.raises(TrainingError, match="packs_per_step 2 is no multiple of the 3 processes"):
        replace(CONFIG, processes=3)
    with pytest.raises(TrainingError, match="processes must be at least 1"):
        replace(CONFIG, processes=0)


@pytest.mark.slow
def test_what_a_process_says_is_heard_here_and_its_error_is_one_line(
    tmp_path: Path, dataset: Result, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[StepLog] = []
    others = set(children())  # of tests before this one, like a server of theirs
    result = train_stage(dataset, str(base), tmp_path / "out", CONFIG, progress=steps.append)
    assert [step.step for step in steps] == list(range(1, 7))
    assert steps[-1].text_loss == result.manifest.counters["last_text_loss"]
    assert not result.skipped
    assert not set(children()) - others
    assert not state_path(tmp_path / "out").exists()
    before = weights(tmp_path / "out")
    assert train_stage(dataset, str(base), tmp_path / "out", CONFIG).skipped
    diverging = replace(CONFIG, learning_rate=1e38, steps=3)
    with pytest.raises(PipelineError, match=r"^training: the \w+ (is|are) not finite at step \d.*; lower") as told:
        train_stage(dataset, str(base), tmp_path / "out", diverging)
    assert "\n" not in str(told.value)
    with pytest.raises(PipelineError, match="not finite"):
        train_stage(dataset, str(base), tmp_path / "none", diverging)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert weights(tmp_path / "out") == before
    state = state_path(tmp_path / "out") / "step-000000002"
    state.mkdir(parents=True)
    (state / "state.json").write_text('{"fingerprint": "of another run"}')
    with caplog.at_level(logging.WARNING):
        train_stage(dataset, str(base), tmp_path / "out", replace(CONFIG, steps=2))
    assert "started anew" in caplog.text


CONFIG_FILE = {
    "name": "two",
    "sources": [{"path": str(ROOT / "examples" / "conversations"), "corpus": "examples"}],
    "shards": {"test_fraction": 0.2},
    "evaluate": {
        "controls": ["turns"], "max_cells": 1024, "max_records": 4, "device": "cpu", "resamples": 100, "generate_records": 1,
        "generate_rows": 8, "injection_records": 1,
        "gate": {
            "min_improvement": -1e6, "stream_tolerance": 1e6, "row_tolerance": None, "control_margin": -1e6,
            "permuted_margin": None,
        },
    },
}  # fmt: skip


def start(path: Path, out: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline.cli", "build", str(path), "--out", str(path.parent / out), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(path.parent / "tmp")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(process: subprocess.Popen[bytes], folder: Path, pattern: str) -> bool:
    """Waits for a file; false where the process ends before."""
    return until(lambda: process.poll() is not None or any(folder.glob(pattern))) and process.poll() is None


@pytest.mark.slow
def test_a_build_that_is_killed_while_several_processes_train_leaves_none_and_goes_on(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model", vocab_size=49152)
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "config.yaml"
    settings = {
        "model": str(tmp_path / "model"), "steps": 30, "packs_per_step": 2, "max_cells": 1024, "save_every": 3,
        "device": "cpu", "shuffle_buffer": 16, "processes": 2,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**CONFIG_FILE, "train": settings}))
    state = state_path(tmp_path / "out" / folders.CHECKPOINT)
    saved = 0
    for kill in ("the build", "a training process"):
        process = start(path, "out")
        assert wait_for(process, state, f"step-*{saved + 3:02d}"), kill
        found = training(path)
        assert len(found) == 3, "torchrun and two processes"
        if kill == "the build":
            process.kill()
        else:
            ranks = [one for one in found if "stage_process" in one.cmdline()[-1] and one.environ().get("RANK") == "1"]
            ranks[0].send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert until(lambda: not training(path), 10.0), "nothing outlives the build"
        if kill == "a training process":
            last = errors.decode().splitlines()[-1]
            assert process.returncode == 1
            assert last.startswith("error: training: a training process was killed by signal 9")
            assert "Traceback" not in errors.decode()
        saved = max(int(found.name.removeprefix("step-")) for found in state.glob("step-*"))
    process = start(path, "out")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()
    checkpoint = tmp_path / "out" / folders.CHECKPOINT
    manifest = need_manifest(checkpoint)
    assert manifest.notes["resumed_from_step"] >= saved
    assert manifest.config["processes"] == 2
    events = [json.loads(line) for line in errors.decode().splitlines()]
    assert any("step 30" in json.dumps(event) for event in events)
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    config, base = load_config(path), tmp_path
    again = build(config, base, tmp_path / "out", _Silent())
    assert all(stage.skipped for stage in again.stages)
    whole = start(path, "whole")
    assert whole.communicate(timeout=200)
    assert whole.returncode == 0
    assert weights(checkpoint) == weights(tmp_path / "whole" / folders.CHECKPOINT)


class _Silent:
    def stage(self, name: str) -> None:
        pass

    def progress(self, done: int, what: str) -> None:
        pass

    def finished(self, result: Result) -> None:
        pass
