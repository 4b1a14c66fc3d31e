"""Held-out losses and turn-taking of one model, every silent query kept; kept per record, and summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True, eq=False)
class RecordSums:
    """What one model did on each of R records; those left out as too long are not among them.

    ``roles``: the roles of the columns. ``cells`` int64 [R, roles, 2]: targets, text and silence; ``nats`` float64
    [R, roles, 2]: their summed cross entropy; ``decisions`` int64 [R, 2, 2, 2]: counts by (was the query silent?, did the
    model predict silence?, was there silence?). A record that was split over packs has one entry.
    """

    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    cells: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0, 2), np.int64))
    nats: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 2)))
    decisions: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2, 2, 2), np.int64))

    def of(self, ids: Sequence[str]) -> RecordSums:
        """The sums of some of the records, in the order given."""
        places = {record: place for place, record in enumerate(self.ids)}
        chosen = [places[record] for record in ids]
        groups = tuple(self.groups[place] for place in chosen)
        return RecordSums(tuple(ids), groups, self.roles, self.cells[chosen], self.nats[chosen], self.decisions[chosen])


@dataclass(frozen=True)
class HeldOut:
    """What one model did on the held-out records.

    ``records`` were read; ``over_budget`` of them left out as too long (the first ten ids are kept).
    ``streams`` by role of output streams; ``turn_taking`` over all decisions, ``onset`` over those taken while silent
    (should I start to speak?). ``sums``: the same per record.
    """

    records: int
    over_budget: int
    over_budget_ids: tuple[str, ...]
    streams: dict[str, StreamLoss]
    turn_taking: TurnTaking
    onset: TurnTaking
    sums: RecordSums = field(default_factory=RecordSums, repr=False, compare=False)

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


class _Sums:
    """The sums of each record, to be added to; index 0 of the roles is none."""

    def __init__(self, roles: int) -> None:
        self.roles = roles
        self.groups: dict[str, str] = {}
        self.places: dict[str, int] = {}
        self.cells: list[npt.NDArray[np.int64]] = []
        self.nats: list[npt.NDArray[np.float64]] = []
        self.decisions: list[npt.NDArray[np.int64]] = []

    def noting(self, grids: Iterable[TokenGrid]) -> Iterator[TokenGrid]:
        """The records as they come, with their groups noted."""
        for grid in grids:
            self.groups[grid.id] = grid.group
            yield grid

    def place(self, record: str) -> int:
        """The place of a record, made at its first document."""
        if record not in self.places:
            self.places[record] = len(self.places)
            self.cells.append(np.zeros((self.roles + 1, 2), np.int64))
            self.nats.append(np.zeros((self.roles + 1, 2)))
            self.decisions.append(np.zeros((2, 2, 2), np.int64))
        return self.places[record]

    def finished(self, roles: tuple[str, ...]) -> RecordSums:
        """All records, in the order in which they were read."""
        ids = tuple(record for record in self.groups if record in self.places)
        order = [self.places[record] for record in ids]
        if not order:
            return RecordSums(
                roles=roles, cells=np.zeros((0, len(roles), 2), np.int64), nats=np.zeros((0, len(roles), 2))
            )
        return RecordSums(
            ids,
            tuple(self.groups[record] for record in ids),
            roles,
            np.stack([self.cells[place][1:] for place in order]),
            np.stack([self.nats[place][1:] for place in order]),
            np.stack([self.decisions[place] for place in order]),
        )


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
    sums = _Sums(len(model.roles))
    packs = pack_grids(
        sums.noting(grids),
        metadata,
        model.role_index,
        mask=mask,
        max_cells=max_cells,
        max_rows=model.max_rows,
        pad=model.uses_flex,
        counters=counters,
    )
    model.eval()
    with torch.no_grad():
        for pack in packs:
            with autocast(model.device, precision):
                _add_pack(sums, model, pack, metadata.silence_id)
            if progress is not None:
                progress(counters.records)
    return summed(sums.finished(model.roles), counters)


def summed(sums: RecordSums, counters: PackCounters) -> HeldOut:
    """The records' sums and their totals."""
    cells, nats, decisions = sums.cells.sum(axis=0), sums.nats.sum(axis=0), sums.decisions.sum(axis=0)
    return HeldOut(
        records=counters.records,
        over_budget=counters.over_budget,
        over_budget_ids=tuple(counters.over_budget_ids),
        streams={
            role: StreamLoss(
                text_tokens=int(cells[index, 0]),
                text_nats=float(nats[index, 0]),
                silence_cells=int(cells[index, 1]),
                silence_nats=float(nats[index, 1]),
            )
            for index, role in enumerate(sums.roles if len(sums.ids) else ())
            if cells[index].any()
        },
        turn_taking=_turn_taking(decisions.sum(axis=0)),
        onset=_turn_taking(decisions[1]),
        sums=sums,
    )


def _add_pack(sums: _Sums, model: MultistreamModel, pack: Pack, silence_id: int) -> None:
    places = [sums.place(record) for record in pack.records]
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
    document = pack.document[queries]
    silence = (pack.target[queries] == silence_id).astype(np.int64)
    role = pack.role[queries]
    silent_query = (~pack.is_key[queries]).astype(np.int64)
    predicted = torch.cat(stays_silent).numpy().astype(np.int64)
    cells = np.zeros((len(places), sums.roles + 1, 2), np.int64)
    nats = np.zeros(cells.shape)
    decisions = np.zeros((len(places), 2, 2, 2), np.int64)
    np.add.at(cells, (document, role, silence), 1)
    np.add.at(nats, (document, role, silence), torch.cat(losses).numpy().astype(np.float64))
    np.add.at(decisions, (document, silent_query, predicted, silence), 1)
    for number, place in enumerate(places):
        sums.cells[place] += cells[number]
        sums.nats[place] += nats[number]
        sums.decisions[place] += decisions[number]


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
