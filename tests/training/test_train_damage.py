"""Damaged states, damaged models, lost processes and folders: an error of one line, and nothing of others destroyed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.training.files import clear_remains, published_directory
from pipeline.training.grid import TrainingError
from pipeline.training.loop import StepLog, TrainConfig, train
from pipeline.training.model import load_base, load_checkpoint
from pipeline.training.state import state_path
from tests.training.synthetic_grids import echo_grids, save_tiny_llama, tiny_llama, write_dataset

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    steps=6,
    packs_per_step=2,
    max_cells=128,
    learning_rate=3e-3,
    embedding_learning_rate=1e-2,
    save_every=3,
    device="cpu",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), echo_grids(40), echo_grids(2, seed=1))


class Stopped(Exception):
    """Stands for the end of a run that is not asked."""


def stopped(dataset: Path, base: Path, out: Path) -> Path:
    """A run that ended after step 4; its state of step 3."""

    def stop(step: StepLog) -> None:
        if step.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(dataset, base, out, CONFIG, stop)
    return state_path(out) / "step-000000003"


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(state: Path) -> None:
        info = json.loads((state / "state.json").read_text())
        change(info)
        (state / "state.json").write_text(json.dumps(info))

    return apply


def cut(name: str, size: int) -> Callable[[Path], None]:
    def apply(state: Path) -> None:
        (state / name).write_bytes((state / name).read_bytes()[:-size])

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: (state / "train_log.jsonl").unlink(),
        cut("train_log.jsonl", 20),
        lambda state: (state / "train_log.jsonl").write_text((state / "train_log.jsonl").read_text().split("\n")[0]),
        lambda state: (state / "state.json").write_bytes(b"\xff\xfe\x00"),
        cut("state.json", 50),
        lambda state: (state / "state.json").unlink(),
        edit(lambda info: info["processes"][0]["rng"].update(cpu="zz")),
        edit(lambda info: info["processes"][0]["rng"].update(cpu="00")),
        edit(lambda info: info["processes"][0]["rng"].clear()),
        edit(lambda info: info["scheduler"].clear()),
        edit(lambda info: info["scheduler"].update(last_epoch=1)),
        edit(lambda info: info["processes"].clear()),
        edit(lambda info: info.update(step="x")),
        lambda state: (state / "state.safetensors").unlink(),
    ],
    ids=[
        *["log gone", "log cut", "log short", "no text", "info cut", "info gone", "rng", "short rng", "no rng"],
        *["no scheduler", "another step's scheduler", "no process", "step", "no tensors"],
    ],
)
def test_a_damaged_state_is_an_error_of_one_line_that_names_it(
    tmp_path: Path, base: Path, dataset: Path, damage: Callable[[Path], None]
) -> None:
    state = stopped(dataset, base, tmp_path / "out")
    damage(state)
    with pytest.raises(TrainingError, match=f"{state}.*remove it to start anew") as raised:
        train(dataset, base, tmp_path / "out", CONFIG)
    assert "\n" not in str(raised.value)
    shutil.rmtree(state)
    assert train(dataset, base, tmp_path / "out", CONFIG).resumed_from == 0


def test_a_file_of_somebody_in_the_state_folder_stays_and_does_no_harm(
    tmp_path: Path, base: Path, dataset: Path
) -> None:
    state = stopped(dataset, base, tmp_path / "out")
    for name in ("notes.txt", "step-999"):
        (state.parent / name).write_text("mine")
    assert train(dataset, base, tmp_path / "out", CONFIG).resumed_from == 3
    assert sorted(path.name for path in state.parent.iterdir()) == ["notes.txt", "step-999"]


@pytest.fixture
def copy(tmp_path: Path, base: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def test_truncated_weights_are_an_error_of_one_line(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(TrainingError, match="copy holds no loadable model") as raised:
        load_base(copy, ("user",), CPU)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": 64}, "another shape of .*weight and"),
        ({"num_hidden_layers": 1}, "has not: model.layers.1.input_layernorm.weight and 8 more"),
        ({"num_hidden_layers": 3}, "lack model.layers.2.input_layernorm.weight and 8 more"),
        ({"num_attention_heads": "four"}, "no loadable model"),
        ({"num_attention_heads": 0}, "no loadable model"),
        ({"hidden_act": "unheard-of"}, "no loadable model"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(copy: Path, change: dict[str, Any], says: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(TrainingError, match=says) as raised:
        load_base(copy, ("user",), CPU)
    assert "\n" not in str(raised.value)


def test_a_weight_that_is_not_there_is_not_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"weights lack model\.layers\.1\.mlp\.up_proj\.weight$"):
        load_base(copy, ("user",), CPU)


def test_a_head_that_is_tied_to_the_embedding_is_not_missed(tmp_path: Path) -> None:
    model = tiny_llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_base(tmp_path, ("user",), CPU).causal_lm
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_sampling_settings_of_a_model_that_does_not_sample_are_dropped_before_the_first_step(
    tmp_path: Path, dataset: Path, copy: Path
) -> None:
    written = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 30}
    (copy / "generation_config.json").write_text(json.dumps(written))
    train(dataset, copy, tmp_path / "out", replace(CONFIG, steps=1))
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert saved["eos_token_id"] == 30
    assert not {"temperature", "top_p"} & set(saved)


def test_damaged_stream_embeddings_are_an_error_of_one_line(tmp_path: Path, base: Path, dataset: Path) -> None:
    train(dataset, base, tmp_path / "out", replace(CONFIG, steps=1))
    path = tmp_path / "out/stream_embedding.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="is damaged") as raised:
        load_checkpoint(tmp_path / "out", CPU)
    assert "\n" not in str(raised.value)


def test_a_killed_reading_process_is_an_error_of_one_line(tmp_path: Path, base: Path, dataset: Path) -> None:
    def kill_readers(step: StepLog) -> None:
        if step.step == 2:
            task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
            for child in task.read_text().split():
                if Path(f"/proc/{child}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)

    config = replace(CONFIG, workers=1, steps=200, shuffle_buffer=4, save_every=0)
    with pytest.raises(TrainingError, match="a process that reads records ended") as raised:
        train(dataset, base, tmp_path / "out", config, kill_readers)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_neither_published_nor_saved(tmp_path: Path, base: Path, dataset: Path) -> None:
    train(dataset, base, tmp_path / "out", replace(CONFIG, steps=1))
    before = (tmp_path / "out/model.safetensors").read_bytes()
    config = replace(CONFIG, steps=1, learning_rate=1e39)
    with pytest.raises(TrainingError, match="weights are not finite at step 1"):
        train(dataset, base, tmp_path / "out", config)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    with pytest.raises(TrainingError, match="weights are not finite at step 1"):
        train(dataset, base, tmp_path / "out", replace(config, steps=2, save_every=1))
    assert not state_path(tmp_path / "out").exists()


def test_a_target_with_a_dot_is_not_cleared_away_by_another(tmp_path: Path, base: Path, dataset: Path) -> None:
    def beside(step: StepLog) -> None:
        if step.step == 1:
            train(dataset, base, tmp_path / "run", replace(CONFIG, steps=1))

    assert train(dataset, base, tmp_path / "run.b", replace(CONFIG, steps=2), beside).checkpoint.is_dir()
    assert (tmp_path / "run.b/train_log.jsonl").is_file()
    (tmp_path / ".run.b.abcdefgh/old").mkdir(parents=True)
    clear_remains(tmp_path / "run")
    assert (tmp_path / ".run.b.abcdefgh/old").is_dir()


def test_a_name_with_a_pattern_in_it_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".run[1].abcdefgh/new").mkdir(parents=True)
    clear_remains(tmp_path / "run[1]")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made_again", [False, True])
def test_a_directory_that_is_taken_away_before_it_is_published_is_an_error(tmp_path: Path, made_again: bool) -> None:
    out = tmp_path / "out"

    def publish(taken_away: bool) -> None:
        with published_directory(out, "marker") as directory:
            (directory / "marker").write_text("later" if taken_away else "earlier")
            if taken_away:
                shutil.rmtree(directory.parent)
            if taken_away and made_again:
                directory.mkdir(parents=True)

    publish(False)
    with pytest.raises(TrainingError, match="was removed before it was finished"):
        publish(True)
    assert (out / "marker").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
