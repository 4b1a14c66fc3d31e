from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pipeline.training.grid import TokenGrid, TrainingError
from pipeline.training.loop import StepLog, TrainConfig, train
from pipeline.training.loss import combine, loss_sums, pack_loss_sums
from pipeline.training.masks import IGNORE, Cells, record_cells
from pipeline.training.model import MultistreamModel, load_checkpoint, read_checkpoint
from pipeline.training.packing import make_pack
from tests.training.synthetic_grids import (
    METADATA,
    SILENCE,
    echo_grids,
    grids,
    make_grid,
    save_tiny_llama,
    tiny_llama,
    write_dataset,
)

FAST = TrainConfig(
    steps=4, packs_per_step=2, max_cells=128, learning_rate=3e-3, embedding_learning_rate=1e-2, device="cpu"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", echo_grids(40), echo_grids(8, seed=1))


def test_the_loss_at_rate_1_is_the_mean_of_each_kind_by_hand() -> None:
    model = MultistreamModel(tiny_llama(), ("user", "assistant")).eval()
    (cells,) = record_cells(echo_grids(1)[0], METADATA, silence_rate=1.0)
    pack = make_pack([cells], model.role_index, "same_row")
    with torch.no_grad():
        logprobs = model.logits(model.hidden(pack)).log_softmax(-1)
        sums = pack_loss_sums(model, pack, SILENCE)
    text: list[float] = []
    silence: list[float] = []
    for index, target in enumerate(pack.target.tolist()):
        if target != IGNORE:
            (silence if target == SILENCE else text).append(-float(logprobs[index, target]))
    loss = combine(sums, pack.text_count(SILENCE), pack.silence_count, 0.5)
    assert float(loss) == pytest.approx(np.mean(text) + 0.5 * np.mean(silence), abs=1e-5)
    assert (len(text), len(silence)) == (4, 12 - 4)


def test_sampled_silence_loss_is_unbiased() -> None:
    """On fixed losses per cell, the mean over seeds of the sampled loss is the full loss."""
    grid = make_grid([(3, 1, 4, 1), (4, 1, 5, 1), (9, 0, 2, 0)], 40)
    cost = np.random.default_rng(0).uniform(0, 5, (grid.rows + 1, 2))

    def silence_loss(rate: float, seed: int) -> float:
        (cells,) = record_cells(grid, METADATA, silence_rate=rate, rng=np.random.default_rng(seed))
        losses = torch.from_numpy(cost[cells.row + 1, cells.stream])
        sums = loss_sums(losses, torch.from_numpy(cells.target), torch.from_numpy(cells.weight), SILENCE)
        return float(sums.silence) / cells.silence_count

    full = silence_loss(1.0, 0)
    estimates = np.array([silence_loss(0.25, seed) for seed in range(3000)])
    assert abs(estimates.mean() - full) < 4 * estimates.std() / np.sqrt(len(estimates))
    assert estimates.std() > 0


@settings(max_examples=10, deadline=None)
@given(grids())
def test_a_split_record_has_the_loss_of_the_whole(grid: TokenGrid) -> None:
    model = MultistreamModel(tiny_llama(), ("role0", "role1")).eval()
    whole = record_cells(grid, METADATA)
    pieces = record_cells(grid, METADATA, max_cells=max(len(grid.token_ids) + 4, 8))

    def sums(documents: list[Cells]) -> tuple[float, float]:
        with torch.no_grad():
            parts = [pack_loss_sums(model, make_pack([c], model.role_index, "same_row"), SILENCE) for c in documents]
        return sum(float(part.text) for part in parts), sum(float(part.silence) for part in parts)

    np.testing.assert_allclose(sums(pieces), sums(whole), atol=1e-4)


def test_training_publishes_a_checkpoint_with_its_log(tmp_path: Path, base: Path, dataset: Path) -> None:
    steps: list[StepLog] = []
    result = train(dataset, base, tmp_path / "out", FAST, progress=steps.append)
    assert tuple(steps) == result.log
    assert [step.step for step in steps] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (tmp_path / "out/train_log.jsonl").read_text().splitlines()]
    assert lines == [asdict(step) for step in steps]
    described = read_checkpoint(tmp_path / "out")
    assert described.roles == ("assistant", "user")
    assert described.token_grid == METADATA
    assert described.training == asdict(FAST)
    assert load_checkpoint(tmp_path / "out", torch.device("cpu")).streams.role.weight.any()
    assert result.over_budget == 0
    assert result.tokens > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_the_same_seed_gives_the_same_log_and_weights(tmp_path: Path, base: Path, dataset: Path) -> None:
    runs = [
        train(dataset, base, tmp_path / name, replace(FAST, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    logs = [[(step.text_loss, step.silence_loss) for step in run.log] for run in runs]
    assert logs[0] == logs[1] != logs[2]
    for file in ("model.safetensors", "stream_embedding.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_earlier_checkpoint_is_replaced_and_anything_else_is_not(tmp_path: Path, base: Path, dataset: Path) -> None:
    once = replace(FAST, steps=1)
    train(dataset, base, tmp_path / "out", once)
    first = (tmp_path / "out/model.safetensors").read_bytes()
    train(dataset, base, tmp_path / "out", FAST)
    assert (tmp_path / "out/model.safetensors").read_bytes() != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(TrainingError, match=r"holds no multistream\.json"):
        train(dataset, base, tmp_path / "mine", once)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path, base: Path, dataset: Path) -> None:
    with pytest.raises(TrainingError, match="not finite at step"):
        train(dataset, base, tmp_path / "out", replace(FAST, learning_rate=1e30, steps=20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_strict_training_on_lag_0_is_refused(tmp_path: Path, base: Path) -> None:
    data = write_dataset(tmp_path / "data", echo_grids(4), echo_grids(1), lag=0)
    with pytest.raises(TrainingError, match="lag"):
        train(data, base, tmp_path / "out", replace(FAST, mask="strict"))
    assert train(data, base, tmp_path / "out", replace(FAST, steps=1)).log


def test_a_data_set_without_a_trained_cell_is_an_error(tmp_path: Path, base: Path) -> None:
    silent = [make_grid([(0, 0, 1, 0), (1, 1, 2, 0)], 3, id=str(i)) for i in range(4)]
    data = write_dataset(tmp_path / "data", silent, silent)
    with pytest.raises(TrainingError, match="no cell to train on"):
        train(data, base, tmp_path / "out", FAST)


def test_records_beyond_the_budget_are_reported(tmp_path: Path, base: Path) -> None:
    long = make_grid([(row, 0, 1, 0) for row in range(150)], 150, id="long")
    data = write_dataset(tmp_path / "data", [long, *echo_grids(9)], echo_grids(1))
    result = train(data, base, tmp_path / "out", FAST)
    assert result.over_budget >= 1
    assert set(result.over_budget_ids) == {"long"}


def test_bfloat16_trains_on_the_cpu_too(tmp_path: Path, base: Path, dataset: Path) -> None:
    result = train(dataset, base, tmp_path / "out", replace(FAST, precision="bfloat16", steps=3))
    assert result.log[-1].text_loss < result.log[0].text_loss


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"packs_per_step": 0},
        {"silence_rate": 0.0},
        {"silence_rate": 1.5},
        {"mask": "causal"},
        {"learning_rate": -1.0},
        {"silence_weight": float("nan")},
        {"precision": "float8"},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        TrainConfig(**change)
