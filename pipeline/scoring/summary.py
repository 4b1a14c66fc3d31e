"""Future-information gains of many records, by policy and corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.manifest import publish
from pipeline.scoring.gains import EventGains, event_gains, with_gains
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.store import Progress, ScoreStore
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS

#: Records that are scored together.
_BATCH = 64
_ABOUT = ["id", "alignment", "sources"]


@dataclass(frozen=True, slots=True)
class GroupGains:
    """The records of one policy and corpus. ``overlapping``: output events that did not wait for all that their author had
    read; ``scored`` and ``over_window`` are its parts. ``mean`` is over the tokens of the scored events, ``p90`` and
    ``largest`` are over the events, in nats per token; ``share_above``: the share of them above the limit."""

    policy: str
    corpus: str
    records: int
    overlapping: int
    scored: int
    over_window: int
    tokens: int
    mean: float | None
    p90: float | None
    largest: float | None
    share_above: float | None
    is_above: bool

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


@dataclass(slots=True)
class _Sums:
    records: int = 0
    over_window: int = 0
    gains: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def choose(shards: Sequence[Path], sample: int, seed: int) -> list[tuple[Path, list[int]]]:
    """The rows of each shard that are looked at: all for ``sample`` 0, else those ``sample`` records of each policy and
    corpus whose ids hash lowest with the seed."""
    ranked: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    for number, shard in enumerate(shards):
        row = 0
        for batch in pq.ParquetFile(shard).iter_batches(8192, columns=_ABOUT):
            table = pa.Table.from_batches([batch])
            for id_, group in zip(table.column("id").to_pylist(), _groups(table), strict=True):
                rank = xxhash.xxh3_64_intdigest(id_.encode(), seed=seed)
                ranked[group].append((rank, number, row))
                row += 1
    rows: list[list[int]] = [[] for _ in shards]
    for members in ranked.values():
        for _, number, row in sorted(members)[: sample or None]:
            rows[number].append(row)
    return [(shard, sorted(chosen)) for shard, chosen in zip(shards, rows, strict=True)]


def summarize(
    scorer: Scorer,
    chosen: Sequence[tuple[Path, list[int]]],
    store: ScoreStore | None,
    limit: float | None,
    out: Path | None,
    progress: Progress,
) -> list[GroupGains]:
    """Scores the chosen rows of the shards; ``out`` gets the records with their gains. ``limit`` is a gain in nats per
    token; ``progress`` gets how many more records are done. Sorted by policy and corpus."""
    sums: dict[tuple[str, str], _Sums] = defaultdict(_Sums)
    with ExitStack() as stack:
        writer = None
        if out is not None:
            temporary = stack.enter_context(publish(out))
            writer = TableWriter(temporary, RECORDS)
            stack.callback(writer.close)
        for table in _tables(chosen):
            gains = event_gains(scorer, table, store)
            _add(sums, table, gains)
            if writer is not None:
                writer.write(with_gains(table, gains.values))
            progress(table.num_rows)
    return [_summary(*group, sums[group], limit) for group in sorted(sums)]


def _tables(chosen: Sequence[tuple[Path, list[int]]]) -> Iterator[pa.Table]:
    for shard, rows in chosen:
        first = 0
        for batch in pq.ParquetFile(shard).iter_batches(_BATCH):
            wanted = [row - first for row in rows if first <= row < first + len(batch)]
            first += len(batch)
            if wanted:
                yield pa.Table.from_batches([batch]).take(pa.array(wanted)).cast(RECORDS)


def _groups(table: pa.Table) -> list[tuple[str, str]]:
    policies = table.column("alignment").combine_chunks().field("policy").to_pylist()
    sources = table.column("sources").to_pylist()
    return [(policy, found[0]["corpus"] if found else "none") for policy, found in zip(policies, sources, strict=True)]


def _add(sums: dict[tuple[str, str], _Sums], table: pa.Table, gains: EventGains) -> None:
    events = table.column("events").combine_chunks()
    flat = events.flatten()
    cells = flat.field("end").to_numpy() - flat.field("start").to_numpy()
    tokens = cells - flat.field("final").to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(pa.compute.list_value_length(events).to_numpy(zero_copy_only=False)).tolist()
    for group, low, high in zip(_groups(table), [0, *ends], ends, strict=False):
        own = sums[group]
        own.records += 1
        for event in range(low, high):
            value = gains.values[event]
            if gains.states[event] == "scored" and value is not None:
                own.gains.append(value)
                own.tokens.append(int(tokens[event]))
            own.over_window += gains.states[event] == "over_window"


def _summary(policy: str, corpus: str, sums: _Sums, limit: float | None) -> GroupGains:
    gains, tokens = np.array(sums.gains), np.array(sums.tokens)
    spoken = int(tokens.sum())
    mean = float((gains * tokens).sum() / spoken) if spoken else None
    return GroupGains(
        policy=policy,
        corpus=corpus,
        records=sums.records,
        overlapping=len(gains) + sums.over_window,
        scored=len(gains),
        over_window=sums.over_window,
        tokens=spoken,
        mean=mean,
        p90=float(np.percentile(gains, 90)) if len(gains) else None,
        largest=float(gains.max()) if len(gains) else None,
        share_above=float((gains > limit).mean()) if limit is not None and len(gains) else None,
        is_above=limit is not None and mean is not None and mean > limit,
    )
