"""Statistics of records: streams, silence, overlap, tokens, and what overlapping saves against ``turns``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import EventColumns, IntArray, event_columns
from pipeline.errors import InputError
from pipeline.tables import RECORDS


@dataclass
class Shares:
    """How often each share was seen, to four digits: its size depends on how many differ, not on how many there were."""

    counts: Counter[float] = field(default_factory=Counter)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Adds shares, each at most 1; those below -1 are kept to four significant digits."""
        found, times = np.unique(np.round(values, 4) + 0.0, return_counts=True)
        for value, count in zip(found.tolist(), times.tolist(), strict=True):
            self.counts[value if value >= -1 else float(f"{value:.4g}")] += count

    def merge(self, other: Shares) -> None:
        """Adds another's shares to these."""
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


@dataclass
class PolicyStats:
    """Sums over the records of one corpus under one policy, mergeable. ``overlap_rows``: rows in which an output stream
    and another stream speak at once; ``saved``: the share of rows saved against ``turns``, per record."""

    records: int = 0
    overlapped: int = 0
    rows: int = 0
    turns_rows: int = 0
    overlap_rows: int = 0
    streams: int = 0
    saved: Shares = field(default_factory=Shares)

    def merge(self, other: PolicyStats) -> None:
        """Adds another's records to these."""
        _merge(self, other)

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "records": self.records,
            "overlapped_records": self.overlapped,
            "overlap_share": round(self.overlap_rows / self.rows, 4) if self.rows else 0.0,
            "rows_saved": round(1 - self.rows / self.turns_rows, 4) if self.turns_rows else 0.0,
            "rows_saved_quartiles": self.saved.quantiles([0.25, 0.5, 0.75]),
            "streams_per_record": round(self.streams / self.records, 2) if self.records else 0.0,
        }


@dataclass
class RecordStats:
    """Sums over records, mergeable. Rows are tokens of the clock; a row is *silent* on a stream that says nothing in it."""

    records: int = 0
    conversations: int = 0
    segments: int = 0
    rows: int = 0
    cells: int = 0
    cells_per_role: Counter[str] = field(default_factory=Counter)
    slots: int = 0
    overlapped_records: int = 0
    overlap_rows: int = 0
    turns_rows: int = 0
    saved: Shares = field(default_factory=Shares)
    kinds: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    corpora: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    lexical: Counter[str] = field(default_factory=Counter)
    by_policy: dict[tuple[str, str], PolicyStats] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Adds a table of records."""
        c = event_columns(table)
        count = table.num_rows
        if not count:
            return
        duration = c.end - c.start
        self.records += count
        segment = table.column("segment").combine_chunks()
        self.conversations += int((segment.field("k").to_numpy() == 1).sum())
        self.segments += int((segment.field("n").to_numpy() > 1).sum())
        self.rows += int(c.rows.sum())
        self.slots += int((c.rows * c.streams_per_record).sum())
        self.cells += int(duration.sum())
        for role in sorted(set(c.role.tolist())):
            self.cells_per_role[role] += int(duration[c.role == role].sum())
        self.kinds.update(c.kind.tolist())
        # Under turns events follow one another, so a record takes as many rows as it has cells.
        turns_rows = np.zeros(count, dtype=np.int64)
        np.add.at(turns_rows, c.record, duration)
        self.turns_rows += int(turns_rows.sum())
        saved = 1 - c.rows / np.maximum(turns_rows, 1)
        self.saved.add(saved)
        self.overlapped_records += int((c.rows < turns_rows).sum())
        overlap = _overlap_rows(c)
        self.overlap_rows += int(overlap.sum())
        policies = [a["policy"] for a in table.column("alignment").to_pylist()]
        self.policies.update(policies)
        all_sources = table.column("sources").to_pylist()
        members: dict[tuple[str, str], list[int]] = {}
        for r, (policy, sources) in enumerate(zip(policies, all_sources, strict=True)):
            members.setdefault((sources[0]["corpus"] if sources else "", policy), []).append(r)
        for key, rows in members.items():
            own = self.by_policy.setdefault(key, PolicyStats())
            own.records += len(rows)
            own.overlapped += int((overlap[rows] > 0).sum())
            own.rows += int(c.rows[rows].sum())
            own.turns_rows += int(turns_rows[rows].sum())
            own.overlap_rows += int(overlap[rows].sum())
            own.streams += int(c.streams_per_record[rows].sum())
            own.saved.add(saved[rows])
        for sources in all_sources:
            self.corpora.update(s["corpus"] for s in sources)
            self.licenses.update(s["license"] or "unknown" for s in sources)
        verdicts = table.column("events").combine_chunks().flatten().field("lexical")
        self.lexical.update(v for v in verdicts.to_pylist() if v is not None)

    def merge(self, other: RecordStats) -> None:
        """Adds another's records to these."""
        _merge(self, other)

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        median, upper, best = self.saved.quantiles([0.5, 0.75, 1.0])
        return {
            "records": self.records,
            "conversations": self.conversations,
            "segments_of_long_conversations": self.segments,
            "rows": self.rows,
            "tokens": self.cells,
            "tokens_per_role": dict(self.cells_per_role.most_common()),
            "silence_fraction": round(1 - self.cells / self.slots, 4) if self.slots else None,
            "overlapped_records": self.overlapped_records,
            "rows_with_overlap": self.overlap_rows,
            "rows_under_turns": self.turns_rows,
            "rows_saved_fraction": {
                "all": round(1 - self.rows / self.turns_rows, 4) if self.turns_rows else None,
                "median": median,
                "p75": upper,
                "best": best,
            },
            "events": dict(self.kinds.most_common()),
            "policies": dict(self.policies.most_common()),
            "corpora": dict(self.corpora.most_common()),
            "licenses": dict(self.licenses.most_common()),
            "lexical_verdicts": dict(self.lexical.most_common()),
            "by_corpus_and_policy": [
                {"corpus": corpus, "policy": policy, **own.to_json()}
                for (corpus, policy), own in sorted(self.by_policy.items())
            ],
        }


def _merge(into: Any, other: Any) -> None:
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


def _overlap_rows(c: EventColumns) -> IntArray:
    """Per record, rows in which an output stream and any other stream speak: a sweep over starts and ends of all events."""
    width = int(c.rows.max(initial=0)) + 1
    rows = np.zeros(len(c.rows), dtype=np.int64)
    base = c.record * width
    everyone = np.concatenate([base + c.start, base + c.end])
    delta = np.concatenate([np.ones(len(base), dtype=np.int64), -np.ones(len(base), dtype=np.int64)])
    speaks = np.concatenate([c.is_output, c.is_output]).astype(np.int64) * delta
    order = np.argsort(everyone, kind="stable")
    at = everyone[order]
    active, output = np.cumsum(delta[order]), np.cumsum(speaks[order])
    length = np.diff(at, append=at[-1:] if len(at) else [])
    both = (active >= 2) & (output >= 1)
    np.add.at(rows, at[both] // width, length[both])
    return rows


def stats_of(paths: Iterable[Path]) -> RecordStats:
    """Statistics of record shards, read in batches. Raises InputError for a table of something else."""
    stats = RecordStats()
    for path in paths:
        file = pq.ParquetFile(path)
        if missing := sorted(set(RECORDS.names) - set(file.schema_arrow.names)):
            raise InputError(f"{path} holds no records of ours: it has no column {missing[0]!r}")
        for batch in file.iter_batches(1024):
            stats.add(pa.Table.from_batches([batch]))
    return stats


def reject_reasons(paths: Iterable[Path]) -> Counter[str]:
    """Reject rows by stage and reason."""
    reasons: Counter[str] = Counter()
    for path in paths:
        table = pq.read_table(path, columns=["stage", "code"])
        reasons.update(f"{r['stage']}: {r['code']}" for r in table.to_pylist())
    return reasons
