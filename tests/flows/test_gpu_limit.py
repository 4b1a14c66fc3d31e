"""Two builds that both train, and one slot of the GPU limit: one trains after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.flows.live import FULL_NAME, Live, wait_for
from tests.training.synthetic_grids import save_tiny_llama

pytestmark = pytest.mark.slow

TRAINING = {"steps": 6, "packs_per_step": 1, "max_cells": 192, "device": "cpu", "shuffle_buffer": 8}
#: A gate that lets everything through: what is trained is of no account here.
GATE = {
    "min_improvement": -1e6, "stream_tolerance": 1e6, "row_tolerance": None, "control_margin": -1e6, "permuted_margin": None,
}  # fmt: skip
EVALUATION = {
    "control": False, "controls": [], "max_cells": 192, "max_records": 4, "device": "cpu", "resamples": 100,
    "generate_records": 0, "injection_records": 0, "gate": GATE,
}  # fmt: skip


def span(run: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(run["start_time"]), datetime.fromisoformat(run["end_time"])


def test_two_builds_train_one_after_the_other(live: Live, write_config: Callable[..., Path], tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "model", vocab_size=49152)
    train = {**TRAINING, "model": str(tmp_path / "model")}
    overrides = json.dumps([f"train={json.dumps(train)}", f"evaluate={json.dumps(EVALUATION)}"])
    config = write_config()
    runs = []
    for name in ("one", "two"):
        done = live.run(FULL_NAME, config=config, out=tmp_path / name, overrides=overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        runs += [word for word in done.stdout.split() if word.count("-") == 4 and len(word) == 36]
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, live.ask("/v2/concurrency_limits/multistream-gpu")["active_slots"])
        states = [live.ask(f"/flow_runs/{run}")["state"]["type"] for run in runs]
        assert not {"FAILED", "CRASHED"} & set(states), live.log()
        return states == ["COMPLETED", "COMPLETED"]

    wait_for("both builds", over, 180)
    assert most == 1
    asked, trained = trainings(live, runs)
    assert max(start for start, _ in asked) < min(end for _, end in asked), "both wanted the slot at the same time"
    (_, first_end), (second_start, _) = sorted(trained)
    assert first_end <= second_start


def trainings(live: Live, runs: list[str]) -> tuple[list[Any], list[Any]]:
    """When the training subflows of the runs lasted, and when their tasks did the work."""
    below = {"flow_runs": {"parent_flow_run_id": {"any_": runs}}}
    flows = [flow for flow in live.ask("/flow_runs/filter", below) if flow["name"] == "train"]
    tasks = live.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"] for flow in flows]}}})
    return [span(flow) for flow in flows], [span(task) for task in tasks]
