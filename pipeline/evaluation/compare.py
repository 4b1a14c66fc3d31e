"""What the held-out records say of one model, and of two on the same records: figures with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.heldout import HeldOut, RecordSums
from pipeline.evaluation.intervals import Bootstrap, Estimate, FloatArray, f1, group_sums, ratio, ratio_difference

#: The key of all streams together.
ALL = "all"


@dataclass(frozen=True)
class Loss:
    """Text and silence loss of one stream role in nats per cell, or their difference; None without such cells."""

    text: Estimate | None
    silence: Estimate | None


@dataclass(frozen=True)
class Difference:
    """The loss of one model less that of another on the ``records`` that both could take; ``groups`` are resampled.

    ``streams`` by role, and ``all``. Below 0: the first is better.
    """

    records: int
    groups: int
    streams: dict[str, Loss]

    @property
    def text(self) -> Estimate | None:
        """Of the text loss over all streams."""
        return self.streams[ALL].text


@dataclass(frozen=True)
class TurnTakingF1:
    """F1 of speaking and of staying silent; None where there is neither."""

    speak: Estimate | None
    silence: Estimate | None


def losses(held: HeldOut, bootstrap: Bootstrap) -> dict[str, Loss]:
    """Losses by role of the output streams, and over ``all``."""
    roles = (*held.streams, ALL)
    columns = _columns(held.sums, roles)
    return _by_role(roles, bootstrap.estimates(group_sums(held.sums.groups, columns), ratio))


def difference(first: HeldOut, other: HeldOut, bootstrap: Bootstrap) -> Difference:
    """``first`` less ``other``, paired by record."""
    there = set(other.sums.ids)
    ids = [record for record in first.sums.ids if record in there]
    mine, its = first.sums.of(ids), other.sums.of(ids)
    roles = (*first.streams, ALL)
    columns = np.concatenate([_columns(mine, roles), _columns(its, roles)], axis=-1)
    sums = group_sums(mine.groups, columns)
    return Difference(len(ids), len(sums), _by_role(roles, bootstrap.estimates(sums, ratio_difference)))


def turn_taking(held: HeldOut, bootstrap: Bootstrap) -> dict[str, TurnTakingF1]:
    """F1 over ``all`` decisions and over those of an ``onset``: taken while silent."""
    decisions = held.sums.decisions.astype(np.float64)
    kinds = {ALL: decisions.sum(axis=1), "onset": decisions[:, 1]}
    # counts by (silence predicted?, silence there?)
    speak = [np.stack([d[:, 0, 0], d[:, 0, 1], d[:, 1, 0]], axis=-1) for d in kinds.values()]
    silent = [np.stack([d[:, 1, 1], d[:, 1, 0], d[:, 0, 1]], axis=-1) for d in kinds.values()]
    found = bootstrap.estimates(group_sums(held.sums.groups, np.stack([*speak, *silent], axis=1)), f1)
    return {kind: TurnTakingF1(found[i], found[i + len(kinds)]) for i, kind in enumerate(kinds)}


def _columns(sums: RecordSums, roles: Sequence[str]) -> FloatArray:
    """[R, 2 · roles, 2]: nats and cells, of the text of each role and then of its silence; ``all`` sums the roles."""
    pairs = np.stack([sums.nats, sums.cells.astype(np.float64)], axis=-1)
    own = [pairs.sum(axis=1) if role == ALL else pairs[:, sums.roles.index(role)] for role in roles]
    columns: FloatArray = np.stack(own, axis=1).transpose(0, 2, 1, 3).reshape(len(pairs), 2 * len(roles), 2)
    return columns


def _by_role(roles: Sequence[str], found: Sequence[Estimate | None]) -> dict[str, Loss]:
    return {role: Loss(found[i], found[i + len(roles)]) for i, role in enumerate(roles)}
