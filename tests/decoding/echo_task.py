"""A task of turn-taking that a tiny model learns in seconds, and the model that has learnt it.

The assistant says at row t what the user said at row t − 5, but is silent at the row after one at which the user speaks.
A user says three words and EOM; another message may cut in while the answer is being said.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch

from pipeline.tables import LOSS_TARGET
from pipeline.training.grid import TokenGrid
from pipeline.training.loss import combine, pack_loss_sums
from pipeline.training.masks import record_cells
from pipeline.training.model import MultistreamModel
from pipeline.training.packing import make_pack
from tests.training.synthetic_grids import EOM, METADATA, SILENCE, make_grid, tiny_llama

ROLES = ("assistant", "user")
LAG = 5
WORDS = 8


def answers(heard: Mapping[int, int]) -> dict[int, int]:
    """{row: token} of a right assistant, from {row: token} of the user."""
    return {row + LAG: token for row, token in heard.items() if row + LAG - 1 not in heard}


def heard_at(*starts: int, seed: int = 0) -> dict[int, int]:
    """{row: token} of a user who says three random words and EOM at each start."""
    rng = np.random.default_rng(seed)
    return {start + i: token for start in starts for i, token in enumerate([*rng.integers(0, WORDS, 3).tolist(), EOM])}


def dialogue(heard: Mapping[int, int], rows: int, id: str = "dialogue") -> TokenGrid:
    question = [(row, 0, token, 0) for row, token in heard.items()]
    answer = [(row, 1, token, LOSS_TARGET) for row, token in answers(heard).items() if row < rows]
    return make_grid(question + answer, rows, id=id)


def random_dialogue(rng: np.random.Generator, id: str = "random", rows: int = 32) -> TokenGrid:
    """Two messages, the second some rows after the first, often into its answer."""
    first = int(rng.integers(0, 6))
    second = first + 4 + int(rng.integers(0, 10))
    return dialogue(heard_at(first, second, seed=int(rng.integers(1 << 30))), rows, id)


@functools.cache
def echo_model() -> MultistreamModel:
    """A two-layer Llama trained on random dialogues; the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultistreamModel(tiny_llama(max_positions=512, hidden_size=64), ROLES).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        rng = np.random.default_rng(0)
        steps = 500
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(steps):
            lengths = (32, 32, 32, 32, 32, 32, 32, 72)
            cells = [record_cells(random_dialogue(rng, rows=rows), METADATA)[0] for rows in lengths]
            pack = make_pack(cells, model.role_index, "same_row")
            optimizer.zero_grad()
            sums = pack_loss_sums(model, pack, SILENCE)
            torch.autograd.backward(combine(sums, pack.text_count(SILENCE), pack.silence_count, 1.0))
            optimizer.step()
            schedule.step()
    return model.eval()
