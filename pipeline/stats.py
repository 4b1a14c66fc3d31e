"""Statistics of records: streams, silence, overlap, tokens, and what overlapping saves against ``turns``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import EventColumns, event_columns


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
    saved: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    corpora: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    lexical: Counter[str] = field(default_factory=Counter)

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
        for role in set(c.role.tolist()):
            self.cells_per_role[role] += int(duration[c.role == role].sum())
        self.kinds.update(c.kind.tolist())
        # Under turns events follow one another, so a record takes as many rows as it has cells.
        turns_rows = np.zeros(count, dtype=np.int64)
        np.add.at(turns_rows, c.record, duration)
        self.turns_rows += int(turns_rows.sum())
        self.saved.extend((1 - c.rows / np.maximum(turns_rows, 1)).tolist())
        self.overlapped_records += int((c.rows < turns_rows).sum())
        self.overlap_rows += _overlap_rows(c)
        self.policies.update(a["policy"] for a in table.column("alignment").to_pylist())
        for sources in table.column("sources").to_pylist():
            self.corpora.update(s["corpus"] for s in sources)
            self.licenses.update(s["license"] or "unknown" for s in sources)
        verdicts = table.column("events").combine_chunks().flatten().field("lexical")
        self.lexical.update(v for v in verdicts.to_pylist() if v is not None)

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        saved = np.array(self.saved or [0.0])
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
                "median": round(float(np.median(saved)), 4),
                "p75": round(float(np.percentile(saved, 75)), 4),
                "best": round(float(saved.max()), 4),
            },
            "events": dict(self.kinds.most_common()),
            "policies": dict(self.policies.most_common()),
            "corpora": dict(self.corpora.most_common()),
            "licenses": dict(self.licenses.most_common()),
            "lexical_verdicts": dict(self.lexical.most_common()),
        }


def _overlap_rows(c: EventColumns) -> int:
    """Rows in which an output stream and any other stream speak: sweep over starts and ends of every record's events."""
    width = int(c.rows.max(initial=0)) + 1
    total = 0
    base = c.record * width
    everyone = np.concatenate([base + c.start, base + c.end])
    delta = np.concatenate([np.ones(len(base), dtype=np.int64), -np.ones(len(base), dtype=np.int64)])
    speaks = np.concatenate([c.is_output, c.is_output]).astype(np.int64) * delta
    order = np.argsort(everyone, kind="stable")
    at = everyone[order]
    active, output = np.cumsum(delta[order]), np.cumsum(speaks[order])
    length = np.diff(at, append=at[-1:] if len(at) else [])
    total += int(length[(active >= 2) & (output >= 1)].sum())
    return total


def stats_of(paths: Iterable[Path]) -> RecordStats:
    """Statistics of record shards, read in batches."""
    stats = RecordStats()
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            stats.add(pa.Table.from_batches([batch]))
    return stats


def reject_reasons(paths: Iterable[Path]) -> Counter[str]:
    """Reject rows by stage and reason."""
    reasons: Counter[str] = Counter()
    for path in paths:
        table = pq.read_table(path, columns=["stage", "code"])
        reasons.update(f"{r['stage']}: {r['code']}" for r in table.to_pylist())
    return reasons
