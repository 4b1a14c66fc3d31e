"""Confidence intervals by resampling groups of records.

Records of one group (segments of a conversation, articles of one book) are not independent, so groups are drawn, with
replacement. All estimates of an evaluation are computed on the same draws: a difference of two models on the same groups
is therefore a paired one. Intervals are bias-corrected and accelerated (BCa, Efron 1987), which keeps their promise on
few groups better than plain percentiles do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
#: Sums [..., K] → the figure [...] that they make; NaN where there is none.
Statistic = Callable[[FloatArray], FloatArray]

#: Draws held at once: 64 MiB of counts.
_HELD = 1 << 23


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval; ``low`` and ``high`` are None where there are fewer than two groups."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bootstrap:
    """``resamples`` draws of groups from a generator seeded with ``seed``; ``confidence`` of the intervals."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def estimates(self, sums: FloatArray, statistic: Statistic) -> list[Estimate | None]:
        """The figures that the sums [G, S, K] of G independent groups make together: one for each of S, None for NaN.

        Draws on which a figure is not defined (0/0) are left out. There is no interval where a sum is not finite, or where
        fewer than two groups have anything to say of the figure.
        """
        values = statistic(sums.sum(axis=0))
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(sums).all(axis=(0, 2)))
        telling = np.count_nonzero((sums != 0).any(axis=2), axis=0)
        if len(sums) < 2:
            return [_without_interval(float(value), bool(fine)) for value, fine in zip(values, finite, strict=True)]
        drawn = statistic(self._draws(sums))
        left_out = statistic(sums.sum(axis=0) - sums)
        found: list[Estimate | None] = []
        for column, value in enumerate(values.tolist()):
            own = drawn[:, column][np.isfinite(drawn[:, column])]
            if telling[column] < 2 or not finite[column] or not math.isfinite(value) or not len(own):
                found.append(_without_interval(value, bool(finite[column])))
                continue
            low, high = np.quantile(own, self._levels(value, own, left_out[:, column]))
            found.append(Estimate(value, float(low), float(high)))
        return found

    def estimate(self, sums: FloatArray, statistic: Statistic) -> Estimate | None:
        """``estimates`` of a single figure: sums [G, K]."""
        return self.estimates(sums[:, None], statistic)[0]

    def _draws(self, sums: FloatArray) -> FloatArray:
        """Sums over drawn groups [resamples, S, K]; the draws depend on the seed and the number of groups alone."""
        groups = len(sums)
        flat = sums.reshape(groups, -1)
        rng = np.random.default_rng([self.seed, groups])
        step = max(1, _HELD // groups)
        parts = []
        for start in range(0, self.resamples, step):
            count = min(step, self.resamples - start)
            chosen = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
            counts = np.bincount(chosen.ravel(), minlength=count * groups).reshape(count, groups)
            with np.errstate(invalid="ignore"):
                parts.append(counts @ flat)
        return np.concatenate(parts).reshape(self.resamples, *sums.shape[1:])

    def _levels(self, value: float, drawn: FloatArray, left_out: FloatArray) -> tuple[float, float]:
        """The quantiles of the draws that bound the interval, by BCa; plain percentiles where a correction is not defined."""
        tail = (1.0 - self.confidence) / 2.0
        below = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / len(drawn)
        left_out = left_out[np.isfinite(left_out)]
        deviation = left_out.mean() - left_out if len(left_out) else left_out
        spread = float((deviation**2).sum())
        if not 0.0 < below < 1.0 or spread == 0.0:
            return tail, 1.0 - tail
        normal = NormalDist()
        bias = normal.inv_cdf(float(below))
        acceleration = float((deviation**3).sum()) / (6.0 * spread**1.5)

        shifted = [bias + normal.inv_cdf(share) for share in (tail, 1.0 - tail)]
        if any(acceleration * shift >= 1.0 for shift in shifted):
            return tail, 1.0 - tail
        low, high = (normal.cdf(bias + shift / (1.0 - acceleration * shift)) for shift in shifted)
        return low, high


def _without_interval(value: float, finite: bool) -> Estimate | None:
    return None if finite and math.isnan(value) else Estimate(value)


def group_sums(groups: Sequence[str], values: FloatArray) -> FloatArray:
    """Sums [G, …] of the values [R, …] of records over their groups, in the order in which groups first occur."""
    numbers: dict[str, int] = {}
    index = np.fromiter((numbers.setdefault(group, len(numbers)) for group in groups), np.int64, len(groups))
    sums = np.zeros((len(numbers), *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def ratio(sums: FloatArray) -> FloatArray:
    """Of sums [..., 2]: the first over the second; NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def ratio_difference(sums: FloatArray) -> FloatArray:
    """Of sums [..., 4]: the ratio of the first two less that of the last two."""
    return np.asarray(ratio(sums[..., :2]) - ratio(sums[..., 2:]))


def f1(sums: FloatArray) -> FloatArray:
    """Of sums [..., 3], hits, false alarms and misses: their F1; NaN without any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2]))
