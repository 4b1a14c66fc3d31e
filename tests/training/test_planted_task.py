"""A model trained from nothing learns what one stream says of another, and learns nothing where that link is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.tables import LOSS_TARGET
from pipeline.training.control import shuffled_inputs
from pipeline.training.grid import TokenGrid, find_shards, iter_grids
from pipeline.training.loop import TrainConfig, train
from pipeline.training.masks import IGNORE, MaskKind
from pipeline.training.model import load_checkpoint
from pipeline.training.packing import pack_grids
from tests.training.synthetic_grids import EOM, METADATA, SILENCE, make_grid, tiny_llama, write_dataset

SYMBOLS, SAID, DELAY = 16, 12, 2


def heard(rng: np.random.Generator, id: str, shift: int) -> TokenGrid:
    """The user says ``SAID`` random symbols; two rows after each the assistant says that symbol + ``shift``."""
    said = rng.integers(0, SYMBOLS, SAID).tolist()
    user = [(row, 0, symbol, 0) for row, symbol in enumerate(said)]
    assistant = [(row + DELAY, 1, (symbol + shift) % SYMBOLS, LOSS_TARGET) for row, symbol in enumerate(said)]
    return make_grid(user + assistant, SAID + DELAY + 2, id=id)


def data(folder: Path, shift: int) -> Path:
    rng = np.random.default_rng(shift)
    train_, test = ([heard(rng, f"{name}-{i}", shift) for i in range(n)] for name, n in (("train", 512), ("test", 64)))
    return write_dataset(folder, train_, test)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, random weights, tied to nothing that was trained before."""
    folder = tmp_path_factory.mktemp("untrained")
    tiny_llama(max_positions=64, hidden_size=64).save_pretrained(folder)
    return folder


def accuracy(checkpoint: Path, dataset: Path, mask: MaskKind, shuffle: bool) -> float:
    """Share of the held-out words that are the likeliest token, given the true past."""
    model = load_checkpoint(checkpoint, torch.device("cpu")).eval()
    grids = iter_grids(find_shards(dataset, "test"))
    right = total = 0
    with torch.no_grad():
        for pack in pack_grids(
            shuffled_inputs(grids, eom_id=EOM) if shuffle else grids,
            METADATA,
            model.role_index,
            mask=mask,
            max_cells=512,
        ):
            words = np.flatnonzero((pack.target != IGNORE) & (pack.target != SILENCE))
            guess = model.logits(model.hidden(pack)[torch.from_numpy(words)]).argmax(-1).numpy()
            right += int((guess == pack.target[words]).sum())
            total += len(words)
    assert total == 64 * SAID
    return right / total


CONFIG = TrainConfig(
    steps=300, packs_per_step=1, max_cells=1024, learning_rate=3e-3, embedding_learning_rate=3e-3, device="cpu"
)


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "shift"), [("same_row", 0), ("same_row", 5), ("strict", 5)])
def test_what_was_said_two_rows_before_is_copied_and_transformed(
    tmp_path: Path, untrained: Path, mask: MaskKind, shift: int
) -> None:
    dataset = data(tmp_path, shift)
    config = TrainConfig(**{**vars(CONFIG), "mask": mask})
    train(dataset, untrained, tmp_path / "checkpoint", config)
    assert accuracy(tmp_path / "checkpoint", dataset, mask, shuffle=False) >= 0.99


@pytest.mark.slow
def test_it_cannot_be_learnt_from_the_inputs_of_others(tmp_path: Path, untrained: Path) -> None:
    dataset = data(tmp_path, 5)
    train(dataset, untrained, tmp_path / "checkpoint", TrainConfig(**{**vars(CONFIG), "shuffle_inputs": True}))
    for shuffle in (True, False):
        assert accuracy(tmp_path / "checkpoint", dataset, "same_row", shuffle) < 3 / SYMBOLS
