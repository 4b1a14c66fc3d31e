"""What is differentiated: the loss of one pack, and its sums per role; and what descends it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from pipeline.training.loss import cell_losses, combine, loss_sums
from pipeline.training.masks import IGNORE, NO_DOCUMENT
from pipeline.training.model import MultistreamModel
from pipeline.training.packing import Pack
from pipeline.training.settings import Precision, TrainConfig


class Objective(nn.Module):
    """The training loss of a model; the module that several processes wrap."""

    def __init__(self, model: MultistreamModel, silence_id: int, silence_weight: float, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.silence_id = silence_id
        self.silence_weight = silence_weight
        self.precision = precision

    def forward(self, pack: Pack, text_count: int, silence_count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The pack's part of the loss, divided by the counts of the whole step, and its sums in nats.

        The sums are float64 [roles + 1, 4]: text loss, text targets, silence loss, weight of the silence targets, by
        embedding index of the role. A pack without a target gives a loss of 0 through all weights, so that every process has
        gradients to share.
        """
        with autocast(self.model.device, self.precision):
            hidden = self.model.hidden(pack)
            queries = np.flatnonzero(pack.target != IGNORE)
            queries = queries if len(queries) else np.zeros(1, np.int64)
            weights = np.where(pack.target[queries] != IGNORE, pack.weight[queries], np.float32(0))
            target = torch.from_numpy(np.maximum(pack.target[queries], 0)).to(hidden.device)
            weight = torch.from_numpy(weights).to(hidden.device)
            losses = cell_losses(self.model, hidden[torch.from_numpy(queries).to(hidden.device)], target)
            sums = loss_sums(losses, target, weight, self.silence_id)
        role = torch.from_numpy(pack.role[queries]).to(hidden.device)
        silent = target == self.silence_id
        values = (
            losses.detach() * weight * ~silent,
            weight * ~silent,
            losses.detach() * weight * silent,
            weight * silent,
        )
        table = hidden.new_zeros((len(self.model.roles) + 1, 4), dtype=torch.float64)
        table.index_add_(0, role, torch.stack(values, dim=1).double())
        return combine(sums, text_count, silence_count, self.silence_weight), table


def pack_counts(batch: Sequence[Pack], silence_id: int, max_cells: int) -> npt.NDArray[np.float64]:
    """float64 [5]: text targets, silence targets, spoken cells, cells and capacity of some packs."""
    per_pack = [
        (
            pack.text_count(silence_id),
            pack.silence_count,
            pack.spoken_count,
            np.count_nonzero(pack.document != NO_DOCUMENT),
            max_cells,
        )
        for pack in batch
    ]
    total: npt.NDArray[np.float64] = np.array(per_pack, np.float64).sum(axis=0)
    return total


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which forward passes run (see ``TrainConfig.precision``)."""
    return torch.autocast(device.type, torch.bfloat16) if is_bfloat16(device, precision) else nullcontext()


def is_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether forward passes run in bfloat16: if asked for, or on CUDA if nothing is."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def make_optimizer(model: MultistreamModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained, the stream embeddings with their own learning rate; fused where torch has it."""
    groups = [
        {"params": [p for p in model.causal_lm.parameters() if p.requires_grad], "lr": config.learning_rate},
        {"params": list(model.streams.parameters()), "lr": config.embedding_learning_rate},
    ]
    return torch.optim.AdamW(
        groups, weight_decay=config.weight_decay, fused=model.device.type in ("cpu", "cuda") or None
    )


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig) -> LambdaLR:
    """The factor of the learning rates, by optimizer steps."""
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    scheduler: LambdaLR = get_scheduler(name, optimizer, config.warmup_steps, config.steps)
    return scheduler
