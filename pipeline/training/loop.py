"""Fine-tuning on token shards: ``train`` reads ``DIR/dataset/train`` and publishes a checkpoint directory."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal, TypeVar, get_args

import numpy as np
import torch

from pipeline.training.control import shuffled_inputs
from pipeline.training.files import published_directory
from pipeline.training.grid import GridMetadata, TrainingError, find_roles, find_shards, iter_grids, read_metadata
from pipeline.training.loss import combine, pack_loss_sums
from pipeline.training.masks import MASK_KINDS, MaskKind, check_mask
from pipeline.training.model import (
    ATTENTIONS,
    CHECKPOINT_FILE,
    Attention,
    Checkpoint,
    MultistreamModel,
    check_vocabulary,
    choose_device,
    load_base,
    save_checkpoint,
)
from pipeline.training.packing import Pack, PackCounters, pack_grids

LOG_FILE = "train_log.jsonl"

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

T = TypeVar("T")


@dataclass(frozen=True)
class TrainConfig:
    """Training settings; learning rates default to the paper's (arXiv 2605.12460: 1e-5, stream embeddings 1e-4).

    ``packs_per_step`` sequences of at most ``max_cells`` cells make one optimizer step. ``silence_rate`` is the p,
    and ``silence_weight`` the λ of ``loss``. ``shuffle_buffer``: records among which the reading order is mixed.
    ``precision``: ``bfloat16`` is autocast over float32 weights; ``auto`` is that on CUDA, float32 elsewhere.
    ``shuffle_inputs`` trains the control whose input streams come from other records. Raises TrainingError on a value
    out of range.
    """

    steps: int = 200
    packs_per_step: int = 4
    max_cells: int = 2048
    mask: MaskKind = "same_row"
    silence_rate: float = 0.1
    silence_weight: float = 1.0
    learning_rate: float = 1e-5
    embedding_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    shuffle_buffer: int = 256
    shuffle_inputs: bool = False
    seed: int = 0
    device: str = "auto"
    attention: Attention = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps must be at least 1")
        _require(self.packs_per_step >= 1, "packs_per_step must be at least 1")
        _require(self.max_cells >= 2, "max_cells must be at least 2")
        _require(self.mask in MASK_KINDS, f"mask must be one of {', '.join(MASK_KINDS)}")
        _require(0.0 < self.silence_rate <= 1.0, "silence_rate must lie in (0, 1]")
        _require(0.0 <= self.silence_weight < math.inf, "silence_weight must be finite and not negative")
        _require(0.0 < self.learning_rate < math.inf, "learning_rate must be positive")
        _require(0.0 < self.embedding_learning_rate < math.inf, "embedding_learning_rate must be positive")
        _require(0.0 <= self.weight_decay < math.inf, "weight_decay must be finite and not negative")
        _require(self.max_gradient_norm > 0.0, "max_gradient_norm must be positive")
        _require(self.shuffle_buffer >= 1, "shuffle_buffer must be at least 1")
        _require(self.seed >= 0, "seed must not be negative")
        _require(self.attention in ATTENTIONS, f"attention must be one of {', '.join(ATTENTIONS)}")
        _require(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class StepLog:
    """One optimizer step: mean text and silence loss in nats, and spoken cells per second."""

    step: int
    text_loss: float
    silence_loss: float
    tokens_per_second: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: text {self.text_loss:.4f}, silence {self.silence_loss:.4f} nats/token, "
            f"{self.tokens_per_second:.0f} tokens/s"
        )


@dataclass(frozen=True)
class TrainResult:
    """``records`` counts reads, so a record seen in two epochs counts twice; ``over_budget`` those of them left out."""

    checkpoint: Path
    log: tuple[StepLog, ...]
    records: int
    over_budget: int
    over_budget_ids: tuple[str, ...]
    tokens: int
    seconds: float


def train(
    dataset_dir: Path,
    model_dir: Path,
    out_dir: Path,
    config: TrainConfig | None = None,
    progress: Callable[[StepLog], None] | None = None,
) -> TrainResult:
    """Fine-tune the Llama model in ``model_dir`` on ``dataset_dir`` and publish a checkpoint as ``out_dir``.

    The checkpoint appears whole or not at all and holds ``train_log.jsonl``, one StepLog a line. On the CPU the same
    seed, thread count and versions give the same log (but for tokens/s) and weights. ``progress`` is called after every
    step. Raises TrainingError for unusable data, model or settings, and for a loss that is not finite.
    """
    config = config or TrainConfig()
    shards = find_shards(dataset_dir, "train")
    metadata = read_metadata(shards)
    check_mask(config.mask, metadata.lag)
    roles = find_roles(shards)
    with published_directory(out_dir, CHECKPOINT_FILE) as directory:
        torch.manual_seed(config.seed)
        device = choose_device(config.device)
        model = load_base(model_dir, roles, device, config.attention)
        check_vocabulary(metadata, model)
        counters = PackCounters()
        packs = training_packs(shards, metadata, model, config, counters)
        started = time.perf_counter()
        with (directory / LOG_FILE).open("w") as log_file:
            log, tokens = _optimize(model, packs, metadata.silence_id, config, log_file, progress)
        described = Checkpoint(roles, metadata, config.mask, str(model_dir.resolve()), asdict(config))
        save_checkpoint(directory, model, described)
    return TrainResult(
        checkpoint=out_dir,
        log=tuple(log),
        records=counters.records,
        over_budget=counters.over_budget,
        over_budget_ids=tuple(counters.over_budget_ids),
        tokens=tokens,
        seconds=time.perf_counter() - started,
    )


def training_packs(
    shards: Sequence[Path],
    metadata: GridMetadata,
    model: MultistreamModel,
    config: TrainConfig,
    counters: PackCounters,
) -> Iterator[Pack]:
    """Packs without end, epoch after epoch; each has its own order of shards and records and its own silent queries.

    Raises TrainingError after an epoch without a trained text target.
    """
    epoch = 0
    while True:
        rng = np.random.default_rng([config.seed, epoch])
        grids = iter_grids([shards[i] for i in rng.permutation(len(shards))])
        if config.shuffle_inputs:
            grids = shuffled_inputs(grids)
        texts = 0
        for pack in pack_grids(
            shuffled(grids, config.shuffle_buffer, rng),
            metadata,
            model.role_index,
            mask=config.mask,
            max_cells=config.max_cells,
            max_rows=model.max_rows,
            silence_rate=config.silence_rate,
            rng=rng,
            pad=model.uses_flex,
            counters=counters,
        ):
            texts += pack.text_count(metadata.silence_id)
            yield pack
        if not texts:
            raise TrainingError(
                f"no cell to train on: {counters.over_budget} of {counters.records} records exceed max_cells "
                f"{config.max_cells} or the model's {model.max_rows} rows, the others have no trained output"
            )
        epoch += 1


def shuffled(items: Iterable[T], buffer_size: int, rng: np.random.Generator) -> Iterator[T]:
    """The items in an order mixed by a buffer of ``buffer_size`` items."""
    buffer: list[T] = []
    for item in items:
        if len(buffer) < buffer_size:
            buffer.append(item)
            continue
        chosen = int(rng.integers(buffer_size))
        buffer[chosen], item = item, buffer[chosen]
        yield item
    for index in rng.permutation(len(buffer)):
        yield buffer[index]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which forward passes run (see ``TrainConfig.precision``)."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _optimize(
    model: MultistreamModel,
    packs: Iterator[Pack],
    silence_id: int,
    config: TrainConfig,
    log_file: IO[str],
    progress: Callable[[StepLog], None] | None,
) -> tuple[list[StepLog], int]:
    """Run ``config.steps`` optimizer steps; returns the log and the spoken cells trained on."""
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.causal_lm.parameters()), "lr": config.learning_rate},
            {"params": list(model.streams.parameters()), "lr": config.embedding_learning_rate},
        ],
        weight_decay=config.weight_decay,
    )
    model.train()
    log: list[StepLog] = []
    tokens = 0
    for step in range(1, config.steps + 1):
        started = time.perf_counter()
        batch = list(islice(packs, config.packs_per_step))
        text, silence = _step(model, optimizer, batch, silence_id, config)
        if not math.isfinite(text + silence):
            raise TrainingError(f"the loss is not finite at step {step}; lower the learning rates")
        spoken = sum(pack.spoken_count for pack in batch)
        tokens += spoken
        log.append(StepLog(step, text, silence, spoken / (time.perf_counter() - started)))
        log_file.write(json.dumps(asdict(log[-1])) + "\n")
        if progress is not None:
            progress(log[-1])
    return log, tokens


def _step(
    model: MultistreamModel, optimizer: torch.optim.Optimizer, batch: list[Pack], silence_id: int, config: TrainConfig
) -> tuple[float, float]:
    """One optimizer step, a pack at a time, normalized over the whole batch; returns mean text and silence loss."""
    text_count = sum(pack.text_count(silence_id) for pack in batch)
    silence_count = sum(pack.silence_count for pack in batch)
    optimizer.zero_grad(set_to_none=True)
    text = silence = 0.0
    for pack in batch:
        if not pack.weight.any():
            continue
        with autocast(model.device, config.precision):
            sums = pack_loss_sums(model, pack, silence_id)
        torch.autograd.backward(combine(sums, text_count, silence_count, config.silence_weight))
        text += float(sums.text.detach())
        silence += float(sums.silence.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
    optimizer.step()
    return text / max(text_count, 1), silence / max(silence_count, 1)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TrainingError(message)
