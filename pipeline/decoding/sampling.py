"""How the next token of a stream is chosen from its logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.training.grid import GridMetadata, TrainingError


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0 takes the likeliest; ``top_p``: of the likeliest tokens that together have so much probability
    (nucleus sampling, arXiv 1904.09751). ``silence_bias`` is added to the logit of silence. Raises TrainingError on a
    value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    silence_bias: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise TrainingError(f"temperature is {self.temperature}, it must be finite and not negative")
        if not 0.0 < self.top_p <= 1.0:
            raise TrainingError(f"top_p is {self.top_p}, it must lie in (0, 1]")
        if self.seed < 0:
            raise TrainingError(f"seed is {self.seed}, it must not be negative")
        if not math.isfinite(self.silence_bias):
            raise TrainingError(f"silence_bias is {self.silence_bias}, it must be finite")


def choose(
    logits: torch.Tensor, metadata: GridMetadata, sampling: Sampling, draws: npt.NDArray[np.float64]
) -> list[int]:
    """One token for each of N cells; ``logits`` [N, V] are changed in place, ``draws`` [N] lie in [0, 1).

    BOS and ids beyond the tokenizer's vocabulary are never chosen; silence is ``silence_id``.
    """
    logits[:, metadata.bos_id] = float("-inf")
    logits[:, metadata.vocab_size :] = float("-inf")
    logits[:, metadata.silence_id] += sampling.silence_bias
    if sampling.temperature == 0.0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    logits = logits.double()
    probability = ((logits - logits.amax(-1, keepdim=True)) / sampling.temperature).softmax(-1)
    order: torch.Tensor | None = None
    if sampling.top_p < 1.0:
        probability, order = probability.sort(stable=True, dim=-1, descending=True)
        before = probability.cumsum(-1) - probability
        probability = probability.masked_fill(before >= sampling.top_p, 0.0)
    reached = probability.cumsum(-1)
    goal = torch.from_numpy(draws).to(logits.device)[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, goal, right=True).clamp_(max=logits.shape[1] - 1)
    chosen: list[int] = (place if order is None else order.gather(1, place))[:, 0].tolist()
    return chosen
