from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import folders
from pipeline.manifest import Manifest, output_of, write_manifest
from tests.training.synthetic_grids import echo_grids, save_tiny_llama, write_dataset

SETTINGS = ["packs_per_step=2", "max_cells=128", "save_every=2", "device=cpu"]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build with a finished data set, as far as training looks at it."""
    build = tmp_path / "build"
    write_dataset(build, echo_grids(40), echo_grids(2, seed=1))
    dataset = build / folders.DATASET
    outputs = tuple(output_of(path, dataset) for path in sorted(dataset.rglob("*.parquet")))
    write_manifest(dataset, Manifest("dataset", 1, "f", {}, {}, outputs, {}, 0.0))
    return build


def command(build: Path, out: Path, launcher: list[str]) -> list[str]:
    model = save_tiny_llama(build.parent / "base")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        *[sys.executable, "-m", *launcher, "train", str(build), "--model", str(model), "--out", str(out)],
        *["--steps", "4", *settings, "--json"],
    ]


@pytest.mark.slow
def test_torchrun_trains_one_checkpoint_and_a_second_call_skips_it(tmp_path: Path, build: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline.cli"]
    call = command(build, tmp_path / "out", launcher)
    runs = [subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:]
    counters = [json.loads(run.stdout) for run in runs]
    assert counters[0] == counters[1]
    assert counters[0]["steps"] == 4
    assert 0 < counters[0]["packing_efficiency"] <= 1
    assert runs[0].stderr.count("step 4:") == 1
    assert "step" not in runs[1].stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "build", "out"]
