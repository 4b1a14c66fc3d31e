"""The loss: Σ text CE / N_text + λ · Σ w · silence CE / N_silence, cross entropies in nats.

Text targets are spoken cells (end-of-message cells included), silence targets the absence of one. Both sums divide by
the counts before sampling, so that keeping silent queries at rate p with w = 1/p leaves the loss unbiased, and
silence, which is most of all cells, does not drown the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.training.masks import IGNORE
from pipeline.training.model import MultistreamModel
from pipeline.training.packing import Pack

#: Cells whose logits are held at once: 1,024 × 49,152 float32 are 192 MiB.
LOGIT_CELLS = 1024


@dataclass(frozen=True, eq=False)
class LossSums:
    """Weighted sums over one pack in nats (scalars that carry gradients)."""

    text: torch.Tensor
    silence: torch.Tensor


def cell_losses(model: MultistreamModel, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy [Q] in nats, float32, of hidden states [Q, H] against targets int64 [Q].

    Logits exist for ``LOGIT_CELLS`` cells at a time, in the backward pass too.
    """

    def part(states: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model.logits(states).float(), goals, reduction="none")

    if not len(target):
        return hidden.new_zeros(0, dtype=torch.float32)
    losses = [
        cast(torch.Tensor, checkpoint(part, states, goals, use_reentrant=False))
        if states.requires_grad
        else part(states, goals)
        for states, goals in zip(torch.split(hidden, LOGIT_CELLS), torch.split(target, LOGIT_CELLS), strict=True)
    ]
    return torch.cat(losses)


def loss_sums(losses: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, silence_id: int) -> LossSums:
    """Weighted sums of cell losses [Q] by kind of target [Q]."""
    weighted = losses * weight
    silent = target == silence_id
    return LossSums(text=weighted[~silent].sum(), silence=weighted[silent].sum())


def pack_loss_sums(model: MultistreamModel, pack: Pack, silence_id: int) -> LossSums:
    """One forward pass over a pack; logits only at cells with a trained target."""
    hidden = model.hidden(pack)
    queries = np.flatnonzero(pack.target != IGNORE)
    target = torch.from_numpy(pack.target[queries]).to(hidden.device)
    weight = torch.from_numpy(pack.weight[queries]).to(hidden.device)
    losses = cell_losses(model, hidden[torch.from_numpy(queries).to(hidden.device)], target)
    return loss_sums(losses, target, weight, silence_id)


def combine(sums: LossSums, text_count: int, silence_count: int, silence_weight: float) -> torch.Tensor:
    """The loss of the module's docstring; a kind without targets contributes 0."""
    return sums.text / max(text_count, 1) + silence_weight * sums.silence / max(silence_count, 1)
