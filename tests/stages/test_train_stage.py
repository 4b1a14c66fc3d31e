"""The train stage and its command: what was there before stays until there is something better."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import folders, manifest
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, Result, need_manifest, output_of, sha256_file, write_manifest
from pipeline.stages.train import train_stage
from pipeline.training.loop import StepLog, TrainConfig
from pipeline.training.state import state_path
from tests.training.synthetic_grids import echo_grids, save_tiny_llama, write_dataset

CONFIG = TrainConfig(
    steps=4, packs_per_step=2, max_cells=128, learning_rate=3e-3, embedding_learning_rate=1e-2, device="cpu"
)
DIVERGING = replace(CONFIG, learning_rate=1e38, steps=3)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "base")


@pytest.fixture
def dataset(tmp_path: Path, base: Path) -> Result:
    """A finished data set in ``build``, as far as training looks at it; its tokenizer lies beside the base model."""
    (base / "tokenizer.json").write_text("{}")
    build = tmp_path / "build"
    write_dataset(build, echo_grids(40), echo_grids(2, seed=1), tokenizer_sha256=sha256_file(base / "tokenizer.json"))
    directory = build / folders.DATASET
    outputs = tuple(output_of(path, directory) for path in sorted(directory.rglob("*.parquet")))
    write_manifest(directory, Manifest("dataset", 1, "f", {}, {}, outputs, {}, 0.0))
    return Result(directory, need_manifest(directory), skipped=True)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_a_target_that_is_no_checkpoint_is_refused_and_stays_as_it_was(dataset: Result, base: Path) -> None:
    (dataset.directory / ".somebody.tmp").write_text("writing")
    before = files_of(dataset.directory)
    assert "manifest.json" in before
    with pytest.raises(PipelineError, match=r"holds no multistream\.json"):
        train_stage(dataset, str(base), dataset.directory, CONFIG)
    assert files_of(dataset.directory) == before


def test_a_failed_retraining_leaves_the_finished_checkpoint(tmp_path: Path, dataset: Result, base: Path) -> None:
    train_stage(dataset, str(base), tmp_path / "out", CONFIG)
    before = files_of(tmp_path / "out")
    with pytest.raises(PipelineError, match="not finite"):
        train_stage(dataset, str(base), tmp_path / "out", DIVERGING)
    assert files_of(tmp_path / "out") == before
    assert train_stage(dataset, str(base), tmp_path / "out", CONFIG).skipped


def test_a_failed_run_leaves_no_empty_folder(tmp_path: Path, dataset: Result, base: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PipelineError, match="not finite"):
        train_stage(dataset, str(base), tmp_path / "out", DIVERGING)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("save_every", [0, 2])
def test_a_finished_run_whose_manifest_could_not_be_written_is_not_run_again(
    tmp_path: Path, dataset: Result, base: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    config = replace(CONFIG, save_every=save_every)

    def full(directory: Path, value: Manifest) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_manifest", full)
        with pytest.raises(OSError, match="No space left"):
            train_stage(dataset, str(base), tmp_path / "out", config)
    published = files_of(tmp_path / "out")
    assert "tokenizer.json" in published
    assert state_path(tmp_path / "out").exists()
    steps: list[StepLog] = []
    result = train_stage(dataset, str(base), tmp_path / "out", config, progress=steps.append)
    assert not steps
    assert not result.skipped
    after = files_of(tmp_path / "out")
    assert after.pop("manifest.json")
    assert after == published
    assert not state_path(tmp_path / "out").exists()
    whole = train_stage(dataset, str(base), tmp_path / "whole", config).manifest
    assert {**whole.counters, "last_text_loss": 0} == {**result.manifest.counters, "last_text_loss": 0}
    assert not state_path(tmp_path / "whole").exists()


def test_a_fresh_run_uses_nothing_of_an_earlier_one(tmp_path: Path, dataset: Result, base: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: StepLog) -> None:
        if step.step == 3:
            raise StoppedError

    config = replace(CONFIG, save_every=2)
    with pytest.raises(StoppedError):
        train_stage(dataset, str(base), tmp_path / "out", config, progress=stop)
    assert state_path(tmp_path / "out").exists()
    steps: list[int] = []
    train_stage(dataset, str(base), tmp_path / "out", config, fresh=True, progress=lambda step: steps.append(step.step))
    assert steps == [1, 2, 3, 4]
    assert not state_path(tmp_path / "out").exists()


def test_a_changed_checkpoint_is_not_taken_for_what_a_finished_run_published(
    tmp_path: Path, dataset: Result, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, value: Manifest) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write_manifest", full)
        with pytest.raises(OSError, match="No space left"):
            train_stage(dataset, str(base), tmp_path / "out", CONFIG)
    (tmp_path / "out/model.safetensors").unlink()
    steps: list[StepLog] = []
    train_stage(dataset, str(base), tmp_path / "out", CONFIG, progress=steps.append)
    assert len(steps) == 4
    assert (tmp_path / "out/model.safetensors").is_file()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], dataset: Result, base: Path) -> Run:
    """``multistream train`` in this process: exit code, standard output, standard error."""

    def go(out: Path, *arguments: str) -> tuple[int, str, str]:
        settings = ["packs_per_step=2", "max_cells=128", "device=cpu"]
        call = [str(dataset.directory), "--model", str(base), "--out", str(out), "--json", *arguments]
        more = [part for setting in settings for part in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["multistream", "train", *call, *more])
        with pytest.raises(SystemExit) as left:
            main()
        printed, errors = capfd.readouterr()
        return int(left.value.code or 0), printed, errors

    return go


def test_steps_and_seed_may_be_set_either_way_but_not_both(tmp_path: Path, run: Run) -> None:
    code, printed, _ = run(tmp_path / "out", "--set", "steps=2", "--set", "seed=7")
    assert code == 0
    assert json.loads(printed)["steps"] == 2
    assert need_manifest(tmp_path / "out").config["seed"] == 7
    assert json.loads(run(tmp_path / "other", "--steps", "3", "--seed", "5")[1])["steps"] == 3
    assert need_manifest(tmp_path / "other").config["seed"] == 5
    code, _, errors = run(tmp_path / "third", "--steps", "3", "--set", "steps=3")
    assert code == 2
    assert "--steps" in errors
    assert not (tmp_path / "third").exists()


def test_a_setting_of_another_type_is_named_with_its_value(tmp_path: Path, run: Run) -> None:
    code, _, errors = run(tmp_path / "out", "--set", "steps=true")
    assert code == 2
    assert "steps is True, it must be a whole number" in errors.splitlines()[-1]
