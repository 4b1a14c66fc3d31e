from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.files import clear_remains
from pipeline.training.grid import TrainingError
from pipeline.training.loop import TrainConfig, train
from pipeline.training.state import held, state_path
from tests.training.synthetic_grids import echo_grids, save_tiny_llama, write_dataset
from tests.training.train_runs import Moment, in_process

CONFIG = TrainConfig(
    steps=10,
    packs_per_step=2,
    max_cells=64,
    learning_rate=3e-3,
    embedding_learning_rate=1e-2,
    shuffle_buffer=8,
    schedule="cosine",
    warmup_steps=2,
    save_every=3,
    device="cpu",
)
LORA: dict[str, Any] = {"lora_rank": 4, "lora_dropout": 0.2}
KILLED = -9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), echo_grids(40), echo_grids(2, seed=1))


def result_of(out: Path) -> dict[str, Any]:
    """All files of a checkpoint, by name; the log without its speeds."""
    files: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("train_log.jsonl", "multistream.json")
    }
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    files["log"] = [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]
    return files


@pytest.mark.parametrize("changes", [{}, LORA, {"workers": 2, "max_tokens": 700}], ids=["full", "lora", "workers"])
def test_a_run_that_is_killed_and_killed_again_ends_as_if_nothing_had_been(
    tmp_path: Path, base: Path, dataset: Path, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    assert in_process(dataset, base, tmp_path / "whole", config) == 0
    out = tmp_path / "out"
    moments = [
        Moment("step", "2."),  # nothing is saved yet
        Moment("os.rename", "unfinished"),  # the first state is written and not yet there
        Moment("step", "5."),
        Moment("shutil.rmtree", "step-000000003"),  # the second one is there beside the first
        Moment("step", "8."),
        Moment("os.rename", "/new"),  # the checkpoint is written and not yet there
        Moment("shutil.rmtree", "step-000000009"),  # it is there, and the state still is
    ]
    if "max_tokens" in changes:
        moments = moments[:3]
    for moment in moments:
        assert in_process(dataset, base, out, config, moment) == KILLED, moment
    assert in_process(dataset, base, out, config) == 0
    assert result_of(out) == result_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_kill_at_any_time_leaves_the_earlier_checkpoint_or_the_means_to_put_it_back(
    tmp_path: Path, base: Path, dataset: Path
) -> None:
    out = tmp_path / "out"
    train(dataset, base, out, replace(CONFIG, steps=1))
    earlier = result_of(out)
    assert in_process(dataset, base, out, CONFIG, Moment("step", "7.")) == KILLED
    assert result_of(out) == earlier
    assert in_process(dataset, base, out, CONFIG, Moment("os.rename", "/new")) == KILLED
    assert not out.exists()
    with held(out):
        assert result_of(out) == earlier
    result = train(dataset, base, out, CONFIG)
    assert result.resumed_from == 9
    assert len(result.log) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_resumed_run_reports_the_counts_of_the_whole_run(tmp_path: Path, base: Path, dataset: Path) -> None:
    whole = train(dataset, base, tmp_path / "whole", CONFIG)
    assert in_process(dataset, base, tmp_path / "out", CONFIG, Moment("step", "8.")) == KILLED
    steps: list[int] = []
    result = train(dataset, base, tmp_path / "out", CONFIG, lambda log: steps.append(log.step))
    assert steps == [7, 8, 9, 10]
    assert (result.records, result.tokens, result.packing_efficiency) == (
        whole.records,
        whole.tokens,
        whole.packing_efficiency,
    )
    assert whole.resumed_from == 0


def test_the_state_of_other_settings_or_data_is_left_out_with_a_note(
    tmp_path: Path, base: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert in_process(dataset, base, out, CONFIG, Moment("step", "5.")) == KILLED
    with caplog.at_level(logging.WARNING):
        result = train(dataset, base, out, replace(CONFIG, learning_rate=1e-3))
    assert result.resumed_from == 0
    assert "other settings or data: started anew" in caplog.text
    assert in_process(dataset, base, out, CONFIG, Moment("step", "5.")) == KILLED
    other = write_dataset(tmp_path / "data", echo_grids(40, seed=3), echo_grids(2))
    assert train(other, base, out, CONFIG).resumed_from == 0
    assert not state_path(out).exists()


def test_settings_that_change_no_result_do_not_stop_a_resumption(tmp_path: Path, base: Path, dataset: Path) -> None:
    out = tmp_path / "out"
    assert in_process(dataset, base, out, CONFIG, Moment("step", "5.")) == KILLED
    assert train(dataset, base, out, replace(CONFIG, workers=1, save_every=2, keep_checkpoints=2)).resumed_from == 3


def test_as_many_states_are_kept_as_asked_for(tmp_path: Path, base: Path, dataset: Path) -> None:
    for keep, there in ((1, ["step-000000006"]), (2, ["step-000000003", "step-000000006"])):
        out = tmp_path / f"out{keep}"
        config = replace(CONFIG, keep_checkpoints=keep)
        assert in_process(dataset, base, out, config, Moment("step", "8.")) == KILLED
        assert sorted(path.name for path in state_path(out).iterdir()) == there


def test_a_damaged_state_is_an_error_that_names_it(tmp_path: Path, base: Path, dataset: Path) -> None:
    out = tmp_path / "out"
    assert in_process(dataset, base, out, CONFIG, Moment("step", "5.")) == KILLED
    tensors = state_path(out) / "step-000000003/state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="remove it to start anew"):
        train(dataset, base, out, CONFIG)


def test_a_second_run_on_the_same_target_is_refused(tmp_path: Path, base: Path, dataset: Path) -> None:
    refusals: list[str] = []

    def second() -> None:
        try:
            train(dataset, base, tmp_path / "out", CONFIG)
        except TrainingError as error:
            refusals.append(str(error))

    with held(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refusals) == 1
    assert "another run trains" in refusals[0]


def test_what_a_killed_publication_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".out.abcdefgh/new", ".out.ijklmnop/old", ".out.qrstuvwx", ".out.mine", ".outer.abcdefgh/new"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".out.ijklmnop/old/kept").write_text("")
    clear_remains(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mine", ".outer.abcdefgh", "out"]
    assert (tmp_path / "out/kept").is_file()
