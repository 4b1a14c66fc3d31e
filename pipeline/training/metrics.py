"""What a step says of itself: ``StepLog``, the log file, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.training.files import writing
from pipeline.training.grid import TrainingError

LOG_FILE = "train_log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class StepLog:
    """One optimizer step.

    Mean text and silence loss in nats, over all and per role of the output streams (``streams``: [text, silence], None
    where the step had no such target; silence by the sampled queries and their weights); spoken cells per second.
    ``epoch`` from 0; ``learning_rate`` of the model's weights; ``gradient_norm`` before clipping; ``tokens``: spoken
    cells trained on up to here.
    """

    step: int
    text_loss: float
    silence_loss: float
    tokens_per_second: float
    epoch: int = 0
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    tokens: int = 0
    streams: dict[str, list[float | None]] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"step {self.step}: text {self.text_loss:.4f}, silence {self.silence_loss:.4f} nats/token, "
            f"{self.tokens_per_second:.0f} tokens/s"
        )


def stream_losses(sums: npt.NDArray[np.float64], roles: Sequence[str]) -> dict[str, list[float | None]]:
    """``StepLog.streams`` from sums [roles + 1, 4] as of ``objective.Objective``; roles without a target are left out."""
    losses: dict[str, list[float | None]] = {}
    for role, (text, texts, silence, silences) in zip(roles, sums[1:].tolist(), strict=True):
        if texts or silences:
            losses[role] = [text / texts if texts else None, silence / silences if silences else None]
    return losses


class StepWriter:
    """Writes steps to ``train_log.jsonl`` and, if asked, to TensorBoard event files, in a folder.

    Raises TrainingError where the disk is full, or tensorboard is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._path = folder / LOG_FILE
        self._events: Any = _summary_writer(folder / TENSORBOARD_FOLDER) if tensorboard else None
        with writing(self._path):
            self._file = self._path.open("ab", buffering=0)

    def write(self, step: StepLog) -> None:
        """Appends a step; it is on its way to the disk when this returns."""
        line = (json.dumps(asdict(step)) + "\n").encode()
        with writing(self._path):
            while line:
                line = line[self._file.write(line) :]
        if self._events is not None:
            for name in ("text_loss", "silence_loss", "learning_rate", "gradient_norm", "tokens_per_second", "epoch"):
                self._events.add_scalar(name, getattr(step, name), step.step)
            for role, losses in step.streams.items():
                for name, loss in zip(("text_loss", "silence_loss"), losses, strict=True):
                    if loss is not None:
                        self._events.add_scalar(f"streams/{role}/{name}", loss, step.step)

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[StepLog]:
    """The steps of a log file."""
    return [StepLog(**json.loads(line)) for line in path.read_text().splitlines()]


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError("tensorboard: true needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(str(folder))
