"""Confidence intervals by resampling groups of records.

Records of one group (segments of a conversation, articles of one book) are not independent, so groups are drawn, with
replacement. All estimates of an evaluation are computed on the same draws: a difference of two models on the same groups
is therefore a paired one. Intervals are bias-corrected and accelerated (BCa, Efron 1987), their levels widened by Student's
t (Hesterberg 2015, arXiv 1411.5279), and reach at least as far as the t interval of the jackknife: draws from few groups say
too little of what others would have been like. Below ``FEWEST_GROUPS`` groups there is no interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
#: Sums [..., K] → the figure [...] that they make; NaN where there is none.
Statistic = Callable[[FloatArray], FloatArray]

#: Draws held at once: 64 MiB of counts.
_HELD = 1 << 23
#: Groups with something to say of a figure below which it has no interval.
FEWEST_GROUPS = 5
#: Degrees of freedom from which on Student's t is taken for normal: 0.01 from it at most in a 99.9% interval.
_NORMAL_FREEDOM = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval; ``telling`` groups have something to say of it.

    ``low`` and ``high`` are None where those are fewer than ``FEWEST_GROUPS``.
    """

    value: float
    low: float | None = None
    high: float | None = None
    telling: int = 0


@dataclass(frozen=True)
class Bootstrap:
    """``resamples`` draws of groups from a generator seeded with ``seed``; ``confidence`` of the intervals."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def estimates(self, sums: FloatArray, statistic: Statistic) -> list[Estimate | None]:
        """The figures that the sums [G, S, K] of G independent groups make together: one for each of S, None for NaN.

        Draws on which a figure is not defined (0/0) are left out. There is no interval where a sum is not finite, or where
        fewer than ``FEWEST_GROUPS`` groups have anything to say of the figure.
        """
        values = statistic(sums.sum(axis=0))
        finite: list[bool] = np.asarray(np.isfinite(sums).all(axis=(0, 2))).tolist()
        telling = np.count_nonzero((sums != 0).any(axis=2), axis=0).tolist()
        enough = [count >= FEWEST_GROUPS and fine for count, fine in zip(telling, finite, strict=True)]
        drawn = statistic(self._draws(sums)) if any(enough) else None
        left_out = statistic(sums.sum(axis=0) - sums)
        found: list[Estimate | None] = []
        for column, value in enumerate(values.tolist()):
            if math.isnan(value) and finite[column]:
                found.append(None)
            elif drawn is None or not enough[column] or not math.isfinite(value):
                found.append(Estimate(value, telling=telling[column]))
            else:
                low, high = self._interval(value, drawn[:, column], left_out[:, column], telling[column])
                found.append(Estimate(value, low, high, telling[column]))
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

    def _interval(self, value: float, drawn: FloatArray, left_out: FloatArray, telling: int) -> tuple[float, float]:
        """BCa at widened levels, or the t interval of the jackknife where that reaches farther."""
        left_out, drawn = left_out[np.isfinite(left_out)], drawn[np.isfinite(drawn)]
        deviation = left_out.mean() - left_out
        spread = float((deviation**2).sum())
        reach = student_quantile(0.5 + self.confidence / 2.0, telling - 1)
        half = reach * math.sqrt(spread * (telling - 1) / telling)
        low, high = np.quantile(drawn, _levels(value, drawn, deviation, reach * math.sqrt(telling / (telling - 1))))
        return min(float(low), value - half), max(float(high), value + half)


def _levels(value: float, drawn: FloatArray, deviation: FloatArray, reach: float) -> tuple[float, float]:
    """The quantiles of the draws that bound an interval of ``reach`` standard errors to either side, by BCa.

    Plain percentiles where a correction is not defined.
    """
    normal = NormalDist()
    below = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / len(drawn)
    spread = float((deviation**2).sum())
    if not 0.0 < below < 1.0 or spread == 0.0:
        return normal.cdf(-reach), normal.cdf(reach)
    bias = normal.inv_cdf(float(below))
    acceleration = float((deviation**3).sum()) / (6.0 * spread**1.5)
    shifted = [bias - reach, bias + reach]
    if any(acceleration * shift >= 1.0 for shift in shifted):
        return normal.cdf(-reach), normal.cdf(reach)
    low, high = (normal.cdf(bias + shift / (1.0 - acceleration * shift)) for shift in shifted)
    return low, high


@cache
def student_quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t at a level of at least 0.5: Abramowitz and Stegun 26.7.3 and 26.7.4, by bisection."""
    if freedom >= _NORMAL_FREEDOM:
        return NormalDist().inv_cdf(level)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < 2 * level - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _student_within(angle: float, freedom: int) -> float:
    """The probability that |t| is at most √freedom · tan(angle)."""
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return math.sin(angle) * total


def share(groups: Sequence[str], votes: Sequence[bool], confidence: float) -> Estimate | None:
    """The share of records that have something, with Wilson's interval (1927); None without records.

    Records of one group are taken to agree: the interval is that of as many independent records as the groups are worth
    (Kish's effective number, Σm squared over Σm²). It holds from the first group on and is never a point.
    """
    if not votes:
        return None
    sizes = np.array(list(Counter(groups).values()), np.float64)
    value, count = float(np.mean(votes)), float(sizes.sum() ** 2 / (sizes**2).sum())
    reach = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    middle = (value + reach**2 / (2 * count)) / (1 + reach**2 / count)
    half = reach / (1 + reach**2 / count) * math.sqrt(value * (1 - value) / count + reach**2 / (4 * count**2))
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half), len(sizes))


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
