"""The settings of training."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.training.checks import check_types
from pipeline.training.grid import TrainingError
from pipeline.training.masks import MaskKind

Attention = Literal["auto", "sdpa", "flex_attention"]
Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["constant", "cosine"]

#: Settings that change how a run goes and not what comes out of it.
RUN_ONLY = frozenset({"workers", "save_every", "keep_checkpoints"})


@dataclass(frozen=True)
class TrainConfig:
    """Training settings; learning rates default to the paper's (arXiv 2605.12460: 1e-5, stream embeddings 1e-4).

    ``packs_per_step`` sequences of at most ``max_cells`` cells make one optimizer step, over all processes. Training
    ends after ``steps``, or after the step that reaches ``max_tokens`` spoken cells. ``silence_rate`` is the p, and
    ``silence_weight`` the λ of ``loss``. ``schedule``: what the learning rates do over ``steps``, after ``warmup_steps``
    that rise from 0. ``shuffle_buffer``: records that are at least read at a time, and among which the order is mixed;
    ``workers`` processes read them. ``precision``: ``bfloat16`` is autocast over float32 weights; ``auto`` is that on
    CUDA, float32 elsewhere. ``shuffle_inputs`` trains the control whose inputs come from other records.
    ``processes`` share the packs of a step out, which changes what comes out of it (``launch``, or torchrun, starts them).
    ``lora_rank`` 0 trains all weights. Every ``save_every`` steps (0: never) the state of the run is saved, of which
    the last ``keep_checkpoints`` are kept. Raises TrainingError on a value of another type than the field's, or out of
    range; a whole number is good for a float.
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
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    max_tokens: int | None = None
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    processes: int = 1
    workers: int = 0
    save_every: int = 100
    keep_checkpoints: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_types(self, may_be_infinite=("max_gradient_norm",))
        _require(self.steps >= 1, "steps must be at least 1")
        _require(self.packs_per_step >= 1, "packs_per_step must be at least 1")
        _require(self.max_cells >= 2, "max_cells must be at least 2")
        _require(0.0 < self.silence_rate <= 1.0, "silence_rate must lie in (0, 1]")
        _require(0.0 <= self.silence_weight < math.inf, "silence_weight must be finite and not negative")
        _require(0.0 < self.learning_rate < math.inf, "learning_rate must be positive")
        _require(0.0 < self.embedding_learning_rate < math.inf, "embedding_learning_rate must be positive")
        _require(0.0 <= self.weight_decay < math.inf, "weight_decay must be finite and not negative")
        _require(self.max_gradient_norm > 0.0, "max_gradient_norm must be positive")
        _require(self.shuffle_buffer >= 1, "shuffle_buffer must be at least 1")
        _require(0 <= self.seed < 2**63, "seed must not be negative, and less than 2**63")
        _require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}",
        )
        _require(self.warmup_steps >= 0, "warmup_steps must not be negative")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens must be at least 1, or null")
        _require(self.lora_rank >= 0, "lora_rank must not be negative")
        _require(0.0 < self.lora_alpha < math.inf, "lora_alpha must be positive")
        _require(0.0 <= self.lora_dropout < 1.0, "lora_dropout must lie in [0, 1)")
        _require(self.processes >= 1, "processes must be at least 1")
        _require(
            self.packs_per_step % max(self.processes, 1) == 0,
            f"packs_per_step {self.packs_per_step} is no multiple of the {self.processes} processes",
        )
        _require(self.workers >= 0, "workers must not be negative")
        _require(self.save_every >= 0, "save_every must not be negative")
        _require(self.keep_checkpoints >= 1, "keep_checkpoints must be at least 1")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TrainingError(message)
