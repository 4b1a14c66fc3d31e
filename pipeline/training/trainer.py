"""Parts for ``transformers.Trainer``: a data set of packs, a collator, and a module that returns a loss.

One pack is one batch (``per_device_train_batch_size=1``); its size is the token budget ``max_cells``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.training.grid import TrainingError, find_directions, find_shards, read_metadata
from pipeline.training.loading import WindowDataset, endless_packs
from pipeline.training.loss import combine, pack_loss_sums
from pipeline.training.masks import check_mask
from pipeline.training.model import Checkpoint, MultistreamModel, check_vocabulary, load_base, training_attention
from pipeline.training.packing import Pack, PackCounters
from pipeline.training.settings import TrainConfig

_ARRAYS = tuple(field.name for field in fields(Pack) if field.name not in ("silence_count", "records"))


class StreamDataset(IterableDataset[Pack]):
    """Packs of the train split without end, in the order of ``loop.train``; give the Trainer ``max_steps``.

    Of ``config`` what concerns the data counts: mask, budget, silence, order, seed. ``pad`` makes all packs of one length,
    which several processes need. With several data loader workers each reads windows of its own, which changes the order
    of packs. ``counters`` counts records that are read in this process. Records of more than ``max_rows`` rows are left
    out; ``stream_module`` lowers it to what the model has positions for. Raises TrainingError as ``loop.train`` does.
    """

    def __init__(
        self, dataset_dir: Path, config: TrainConfig, *, max_rows: int | None = None, pad: bool = False
    ) -> None:
        shards = find_shards(dataset_dir, "train")
        self.config = config
        self.metadata = read_metadata(shards)
        check_mask(config.mask, self.metadata.lag)
        self.directions = find_directions(shards)
        self.roles = tuple(self.directions)
        self.counters = PackCounters()
        self._windows = WindowDataset(
            shards,
            self.metadata,
            {role: index for index, role in enumerate(self.roles, start=1)},
            mask=config.mask,
            max_cells=config.max_cells,
            max_rows=max_rows,
            silence_rate=config.silence_rate,
            shuffle_buffer=config.shuffle_buffer,
            shuffle_inputs=config.shuffle_inputs,
            seed=config.seed,
            pad=pad,
        )

    def __iter__(self) -> Iterator[Pack]:
        worker = get_worker_info()
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for pack, _ in endless_packs(self._windows, self.counters, share=share):
            yield pack

    def limit_rows(self, max_rows: int) -> None:
        """Leaves out records of more rows, from the next iteration on."""
        before = self._windows.max_rows
        self._windows.max_rows = max_rows if before is None else min(before, max_rows)

    def checkpoint(self, base_model: Path) -> Checkpoint:
        """What ``model.save_checkpoint`` is to write of a model trained on this, from ``base_model`` on."""
        return Checkpoint(
            self.roles,
            self.metadata,
            self.config.mask,
            str(base_model.resolve()),
            asdict(self.config),
            tuple(role for role, direction in self.directions.items() if direction == "input"),
        )


class StreamModule(nn.Module):
    """A model whose forward takes what ``stream_collator`` gives and returns ``{"loss": …}`` of the pack."""

    accepts_loss_kwargs = False  # the loss is normalized by its own counts, text and silence apart

    def __init__(self, model: MultistreamModel, silence_id: int, silence_weight: float) -> None:
        super().__init__()
        self.model = model
        self.silence_id = silence_id
        self.silence_weight = silence_weight

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The batch's arrays are those of ``packing.Pack``, [1, S]."""
        arrays: dict[str, Any] = {name: batch[name][0].cpu().numpy() for name in _ARRAYS}
        pack = Pack(**arrays, silence_count=int(batch["silence_count"]))
        sums = pack_loss_sums(self.model, pack, self.silence_id)
        return {"loss": combine(sums, pack.text_count(self.silence_id), pack.silence_count, self.silence_weight)}


def stream_module(model_dir: Path, dataset: StreamDataset, device: torch.device | None = None) -> StreamModule:
    """The base model with fresh stream embeddings for the data set's roles. Raises TrainingError where they do not fit.

    From here on ``dataset`` leaves out the records that have more rows than the model has positions for.
    """
    device = device or torch.device("cpu")
    model = load_base(model_dir, dataset.roles, device, training_attention(dataset.config.attention, device))
    check_vocabulary(dataset.metadata, model)
    dataset.limit_rows(model.max_rows)
    return StreamModule(model, dataset.metadata.silence_id, dataset.config.silence_weight)


def stream_collator(packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
    """One pack as tensors [1, S], by the names of its fields; ``silence_count`` int64 [1].

    Raises TrainingError for more than one pack: a larger batch is a larger ``max_cells``.
    """
    if len(packs) != 1:
        raise TrainingError("one pack is one batch: set per_device_train_batch_size=1 and raise max_cells")
    (pack,) = packs
    batch = {name: torch.from_numpy(getattr(pack, name))[None] for name in _ARRAYS}
    return {**batch, "silence_count": torch.tensor([pack.silence_count])}
