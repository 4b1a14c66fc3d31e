"""Held-out losses and turn-taking of one model, every silent query kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.training.grid import GridMetadata, TokenGrid
from pipeline.training.loop import Precision, autocast
from pipeline.training.loss import LOGIT_CELLS
from pipeline.training.masks import IGNORE, MaskKind
from pipeline.training.model import MultistreamModel
from pipeline.training.packing import Pack, PackCounters, pack_grids


@dataclass(frozen=True)
class StreamLoss:
    """Summed cross entropy in nats and number of targets of one stream role; text and silence apart."""

    text_tokens: int = 0
    text_nats: float = 0.0
    silence_cells: int = 0
    silence_nats: float = 0.0

    @property
    def text_loss(self) -> float | None:
        """Mean nats per text token, end-of-message cells included; None without any."""
        return self.text_nats / self.text_tokens if self.text_tokens else None

    @property
    def silence_loss(self) -> float | None:
        """Mean nats per silent cell; None without any."""
        return self.silence_nats / self.silence_cells if self.silence_cells else None


@dataclass(frozen=True)
class TurnTaking:
    """Speak or stay silent, teacher-forced: the model speaks where its likeliest next cell is not silence.

    Counts of decisions: ``spoke_right`` (speech predicted and there), ``spoke_wrong`` (predicted, silence there),
    ``missed`` (silence predicted, speech there), ``silent_right``.
    """

    spoke_right: int = 0
    spoke_wrong: int = 0
    missed: int = 0
    silent_right: int = 0

    @property
    def speak_f1(self) -> float | None:
        """F1 of speaking; None where there is neither speech nor a prediction of it."""
        return _f1(self.spoke_right, self.spoke_wrong, self.missed)

    @property
    def silence_f1(self) -> float | None:
        """F1 of staying silent; None where there is neither silence nor a prediction of it."""
        return _f1(self.silent_right, self.missed, self.spoke_wrong)


@dataclass(frozen=True)
class HeldOut:
    """What one model did on the held-out records.

    ``records`` were read; ``over_budget`` of them left out as too long (the first ten ids are kept).
    ``streams`` by role of output streams; ``turn_taking`` over all decisions, ``onset`` over those taken while silent
    (should I start to speak?).
    """

    records: int
    over_budget: int
    over_budget_ids: tuple[str, ...]
    streams: dict[str, StreamLoss]
    turn_taking: TurnTaking
    onset: TurnTaking

    @property
    def total(self) -> StreamLoss:
        """All streams together."""
        losses = self.streams.values()
        return StreamLoss(
            sum(loss.text_tokens for loss in losses),
            sum(loss.text_nats for loss in losses),
            sum(loss.silence_cells for loss in losses),
            sum(loss.silence_nats for loss in losses),
        )


@dataclass
class _Sums:
    """Accumulators [roles + 1], [roles + 1, 2] and confusion counts [silent query?, predicted silence?, silence?]."""

    roles: int
    count: np.ndarray = field(init=False)
    nats: np.ndarray = field(init=False)
    decisions: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.count = np.zeros((self.roles + 1, 2), np.int64)
        self.nats = np.zeros((self.roles + 1, 2), np.float64)
        self.decisions = np.zeros((2, 2, 2), np.int64)


def held_out(
    model: MultistreamModel,
    grids: Iterable[TokenGrid],
    metadata: GridMetadata,
    *,
    mask: MaskKind,
    max_cells: int,
    precision: Precision = "auto",
    progress: Callable[[int], None] | None = None,
) -> HeldOut:
    """Evaluate a model on records, one pack in memory at a time; ``progress`` gets the number of records read."""
    counters = PackCounters()
    packs = pack_grids(
        grids,
        metadata,
        model.role_index,
        mask=mask,
        max_cells=max_cells,
        max_rows=model.max_rows,
        pad=model.uses_flex,
        counters=counters,
    )
    sums = _Sums(len(model.roles))
    model.eval()
    with torch.no_grad():
        for pack in packs:
            with autocast(model.device, precision):
                _add_pack(sums, model, pack, metadata.silence_id)
            if progress is not None:
                progress(counters.records)
    return HeldOut(
        records=counters.records,
        over_budget=counters.over_budget,
        over_budget_ids=tuple(counters.over_budget_ids),
        streams={
            role: StreamLoss(
                text_tokens=int(sums.count[index, 0]),
                text_nats=float(sums.nats[index, 0]),
                silence_cells=int(sums.count[index, 1]),
                silence_nats=float(sums.nats[index, 1]),
            )
            for role, index in model.role_index.items()
            if sums.count[index].any()
        },
        turn_taking=_turn_taking(sums.decisions.sum(axis=0)),
        onset=_turn_taking(sums.decisions[1]),
    )


def _add_pack(sums: _Sums, model: MultistreamModel, pack: Pack, silence_id: int) -> None:
    queries = np.flatnonzero(pack.target != IGNORE)
    if not len(queries):
        return
    hidden = model.hidden(pack)
    target = torch.from_numpy(pack.target[queries]).to(hidden.device)
    states = hidden[torch.from_numpy(queries).to(hidden.device)]
    losses, stays_silent = [], []
    for part, goals in zip(torch.split(states, LOGIT_CELLS), torch.split(target, LOGIT_CELLS), strict=True):
        logits = model.logits(part).float()
        losses.append(torch.nn.functional.cross_entropy(logits, goals, reduction="none").cpu())
        stays_silent.append((logits.argmax(-1) == silence_id).cpu())
    silence = (pack.target[queries] == silence_id).astype(np.int64)
    role = pack.role[queries]
    np.add.at(sums.count, (role, silence), 1)
    np.add.at(sums.nats, (role, silence), torch.cat(losses).numpy().astype(np.float64))
    silent_query = (~pack.is_key[queries]).astype(np.int64)
    np.add.at(sums.decisions, (silent_query, torch.cat(stays_silent).numpy().astype(np.int64), silence), 1)


def _turn_taking(decisions: np.ndarray) -> TurnTaking:
    """Counts [predicted silence?, silence?] → TurnTaking."""
    return TurnTaking(
        spoke_right=int(decisions[0, 0]),
        spoke_wrong=int(decisions[0, 1]),
        missed=int(decisions[1, 0]),
        silent_right=int(decisions[1, 1]),
    )


def _f1(hits: int, false_alarms: int, misses: int) -> float | None:
    total = 2 * hits + false_alarms + misses
    return 2 * hits / total if total else None
