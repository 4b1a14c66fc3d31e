"""The side tables of deduplication: who is like whom, and which groups belong together because of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.dedup.copies import Ranked
from pipeline.dedup.sketches import Sketches
from pipeline.dedup.words import U32
from pipeline.shards import TableWriter
from pipeline.word_hashes import I64

CLUSTERS_FILE, GROUPS_FILE = "clusters-00000.parquet", "groups-00000.parquet"

#: A row per member of a cluster, the one that stays first. ``cluster``: the id of its first record; ``rank``: in the cluster.
CLUSTERS = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # "kept" | "exact" | "near"
        pa.field("similarity", pa.float32(), nullable=False),  # Jaccard, to the one that stays
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("ids", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False),  # of its records
    ]
)
#: A row per group that shares a cluster with another one. ``joined``: the least name of all that hang together so.
GROUPS = pa.schema([pa.field("group", pa.string(), nullable=False), pa.field("joined", pa.string(), nullable=False)])

#: Members that are written at a time.
_ROWS = 1 << 14


def write_clusters(ranked: Ranked, sketches: Sketches, clusters: Path, groups: Path) -> int:
    """Writes both tables; how many clusters there are."""
    joined: dict[str, str] = {}
    heads = 0
    with TableWriter.several({clusters: CLUSTERS, groups: GROUPS}) as write:
        for members, stays, numbers in _members(ranked):
            columns = ["ids", "conversation_id", "group", "corpus", "license"]
            rows = sketches.rows(ranked.places[members], columns)
            kept = sketches.rows(ranked.places[stays], ["ids", "group"])
            heads += int((numbers == 0).sum())
            for own, other in zip(rows.column("group").to_pylist(), kept.column("group").to_pylist(), strict=True):
                _join(joined, own, other)
            is_exact = ranked.is_exact[members]
            kinds = np.where(numbers == 0, "kept", np.where(is_exact, "exact", "near"))
            told = {
                "cluster": [ids[0] for ids in kept.column("ids").to_pylist()],
                **{name: rows.column(name) for name in ("conversation_id", "corpus", "license", "ids")},
                "kind": kinds.tolist(),
                "similarity": ranked.similarity[members],
                "rank": numbers.astype(np.int32),
            }
            write(clusters, pa.table({name: told[name] for name in CLUSTERS.names}).cast(CLUSTERS))
        names = sorted(joined)
        write(groups, pa.table({"group": names, "joined": [_root(joined, name) for name in names]}, schema=GROUPS))
    return heads


def _members(ranked: Ranked) -> Iterator[tuple[I64, U32, I64]]:
    """The members of clusters by rank, cluster by cluster; the ranks of those that stay for them; their numbers in it."""
    all_ranks = np.arange(len(ranked.stays), dtype=np.uint32)
    gone = ranked.stays != all_ranks
    chosen = gone.copy()
    chosen[ranked.stays[gone]] = True
    members = np.flatnonzero(chosen)
    members = members[np.lexsort((members, ranked.stays[members]))]
    stays = ranked.stays[members]
    begins = np.ones(len(members), bool)
    begins[1:] = stays[1:] != stays[:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(members)), 0)) if len(members) else members
    numbers = np.arange(len(members)) - first
    for low in range(0, len(members), _ROWS):
        piece = slice(low, low + _ROWS)
        yield members[piece], stays[piece], numbers[piece]


def _join(joined: dict[str, str], one: str, other: str) -> None:
    """Puts two groups together; the lesser name is the root of both."""
    if one == other:
        return
    left, right = _root(joined, one), _root(joined, other)
    low, high = min(left, right), max(left, right)
    joined[high] = joined[low] = low


def _root(joined: dict[str, str], group: str) -> str:
    while (above := joined.setdefault(group, group)) != group:
        joined[group] = joined[above]
        group = joined[group]
    return group
