"""Sums that can be merged: values by how often they were seen, and the figures of a corpus under a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

#: The latencies by name, as in ``pipeline.evaluation.latency``; two of them are per input turn, the others per record.
LATENCIES = ("rows_to_first_output", "time_to_first_output", "response_latency", "rows_to_end", "decode_steps")
PER_TURN = ("time_to_first_output", "response_latency")


@dataclass
class Spread:
    """How often each value was seen: its size depends on how many differ, not on how many there were."""

    counts: Counter[float] = field(default_factory=Counter)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Adds values as they are."""
        found, times = np.unique(values, return_counts=True)
        for value, count in zip(found.tolist(), times.tolist(), strict=True):
            self.counts[value] += count

    def merge(self, other: Spread) -> None:
        """Adds another's values to these."""
        self.counts.update(other.counts)

    def quantiles(self, at: Sequence[float]) -> list[float]:
        """The quantiles at fractions of 1, interpolated as ``numpy.quantile`` does it; 0 for each where there are none."""
        if not self.counts:
            return [0.0] * len(at)
        values = np.array(sorted(self.counts))
        ends = np.cumsum([self.counts[value] for value in values.tolist()])
        places = np.array(at) * (ends[-1] - 1)
        low = values[np.searchsorted(ends, np.floor(places), side="right")]
        high = values[np.searchsorted(ends, np.ceil(places), side="right")]
        return [round(value, 4) for value in (low + (high - low) * (places % 1)).tolist()]

    def summary(self) -> dict[str, float] | None:
        """Median, 90th percentile and count; None without values."""
        if not self.counts:
            return None
        median, p90 = self.quantiles([0.5, 0.9])
        return {"median": median, "p90": p90, "count": self.counts.total()}


class Shares(Spread):
    """Shares, to four digits."""

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Adds shares, each at most 1; those below -1 are kept to four significant digits."""
        found, times = np.unique(np.round(values, 4) + 0.0, return_counts=True)
        for value, count in zip(found.tolist(), times.tolist(), strict=True):
            self.counts[value if value >= -1 else float(f"{value:.4g}")] += count


@dataclass
class PolicyStats:
    """Sums over the records of one corpus under one policy, mergeable.

    ``overlap_rows``: rows in which an output stream and another stream speak at once; ``slots``: rows times streams;
    ``shortened``: records with fewer rows than under ``turns``. Records whose rows are clock time (``real_time``) are not
    compared with ``turns``: ``compared_rows`` and ``compared_turns_rows`` leave them out, as ``saved`` (the share of rows
    saved, per record) and the latencies do (``layout`` and ``turns``, by name; of records that say something).
    """

    records: int = 0
    conversations: int = 0
    segments: int = 0
    overlapped: int = 0
    shortened: int = 0
    real_time: int = 0
    no_output: int = 0
    events: int = 0
    tokens: int = 0
    output_tokens: int = 0
    slots: int = 0
    rows: int = 0
    turns_rows: int = 0
    compared_rows: int = 0
    compared_turns_rows: int = 0
    overlap_rows: int = 0
    streams: int = 0
    saved: Shares = field(default_factory=Shares)
    verdicts: Counter[str] = field(default_factory=Counter)
    layout: dict[str, Spread] = field(default_factory=dict)
    turns: dict[str, Spread] = field(default_factory=dict)

    def merge(self, other: PolicyStats) -> None:
        """Adds another's records to these."""
        merge_fields(self, other)

    @property
    def saved_share(self) -> float | None:
        """The share of rows saved over all records that are compared; None where none is."""
        return 1 - self.compared_rows / self.compared_turns_rows if self.compared_turns_rows else None

    @property
    def silence(self) -> float | None:
        """The share of rows times streams in which nothing is said; None without rows."""
        return 1 - self.tokens / self.slots if self.slots else None

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "records": self.records,
            "conversations": self.conversations,
            "events": self.events,
            "tokens": self.tokens,
            "output_tokens": self.output_tokens,
            "silence_fraction": rounded(self.silence),
            "overlapped_records": self.overlapped,
            "overlap_share": round(self.overlap_rows / self.rows, 4) if self.rows else 0.0,
            "rows_saved": round(self.saved_share or 0.0, 4),
            "rows_saved_quartiles": self.saved.quantiles([0.25, 0.5, 0.75]),
            "streams_per_record": round(self.streams / self.records, 2) if self.records else 0.0,
            "lexical_verdicts": ordered(self.verdicts),
            "not_compared": {"real_time": self.real_time, "no_output": self.no_output},
            "latency": {
                name: {"layout": self.layout[name].summary(), "turns": self.turns[name].summary()}
                for name in LATENCIES
                if name in self.layout
            },
        }


def merged(parts: Iterable[PolicyStats]) -> PolicyStats:
    """The sums over all of them."""
    total = PolicyStats()
    for own in parts:
        total.merge(own)
    return total


def rounded(value: float | None) -> float | None:
    """To four digits."""
    return None if value is None else round(value, 4)


def ordered(counts: Counter[str]) -> dict[str, int]:
    """The most first, then by name, without zeros: the same whatever order they were counted in."""
    return {name: count for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count}


def merge_fields(into: Any, other: Any) -> None:
    """Adds the fields of a dataclass of sums to those of another: numbers, counters, and what can merge itself."""
    for name in (f.name for f in fields(into)):
        mine, theirs = getattr(into, name), getattr(other, name)
        if isinstance(mine, int):
            setattr(into, name, mine + theirs)
        elif isinstance(mine, Counter):
            mine.update(theirs)
        elif isinstance(mine, dict):
            for key, value in theirs.items():
                mine.setdefault(key, type(value)()).merge(value)
        else:
            mine.merge(theirs)
