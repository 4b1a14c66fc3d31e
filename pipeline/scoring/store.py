"""Scores on disk: nothing is scored twice, and a run that was killed goes on where its last part ended.

A folder of Parquet parts of one schema, each published whole. A row is one query under one scorer and cue. The parts are
the truth: there is no index beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import InputError
from pipeline.manifest import canonical_json, publish, remove_temporaries
from pipeline.scoring.prefixes import (
    Compiled,
    PrefixQuery,
    PrefixScores,
    check_search,
    compile_queries,
    score_compiled,
)
from pipeline.scoring.scorer import Scorer

SCORES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # xxh3-128 (hex) of scorer, cue and query
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("scorer_sha256", pa.string(), nullable=False),
        pa.field("cue", pa.string(), nullable=False),
        pa.field("window", pa.int32(), nullable=False),  # tokens, of the scorer that looked
        pa.field("epsilon", pa.float64()),  # of a bisection; null: every prefix was looked at
        pa.field("over_window", pa.bool_(), nullable=False),  # the longest sequence was: no scores
        pa.field("prefixes", pa.int32(), nullable=False),
        pa.field("chunks", pa.int32(), nullable=False),
        pa.field(
            "logp", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False
        ),  # [P, C], row-major
        pa.field("tokens", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),  # [C]
    ],
    metadata={b"schema": b"prefix-scores/1"},
)
#: Queries of a part: what a killed run loses at most.
COMMIT = 256
_PART = re.compile(r"scores-(\d{6})-[0-9a-f]{16}\.parquet")

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """What the store knows of a query. ``scores``: None where its longest sequence exceeded ``window`` tokens."""

    scores: PrefixScores | None
    window: int
    epsilon: float | None

    def serves(self, window: int, epsilon: float | None) -> bool:
        """Whether it answers a scan (``epsilon`` None) or a bisection by a scorer of this window."""
        if self.scores is None:
            return window <= self.window
        return self.epsilon is None or self.epsilon == epsilon


class ScoreStore:
    """The scores in a folder, which is made when something is added. Raises InputError where a part cannot be read."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._rows: dict[str, Stored] = {}
        self._parts = 0
        remove_temporaries(self.folder)
        for path in sorted(self.folder.glob("scores-*.parquet")):
            if (number := _PART.fullmatch(path.name)) is None:
                raise InputError(f"{path} is no part of a store of scores; move it away")
            self._read(path)
            self._parts = int(number[1]) + 1

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, keys: Sequence[str]) -> list[Stored | None]:
        """What is known of each key."""
        return [self._rows.get(key) for key in keys]

    def add(self, scorer: Scorer, keys: Sequence[str], rows: Sequence[tuple[Stored, int, int]]) -> None:
        """Publishes a part: per key what was found, and the numbers of prefixes and chunks."""
        found = [stored for stored, _, _ in rows]
        columns = {
            "key": list(keys),
            "scorer": [scorer.name] * len(keys),
            "scorer_sha256": [scorer.sha256] * len(keys),
            "cue": [scorer.cue] * len(keys),
            "window": [stored.window for stored in found],
            "epsilon": [stored.epsilon for stored in found],
            "over_window": [stored.scores is None for stored in found],
            "prefixes": [prefixes for _, prefixes, _ in rows],
            "chunks": [chunks for _, _, chunks in rows],
            "logp": [np.zeros(0, np.float32) if s.scores is None else s.scores.logp.ravel() for s in found],
            "tokens": [np.zeros(0, np.int32) if s.scores is None else s.scores.tokens for s in found],
        }
        table = pa.table([pa.array(columns[f.name], f.type) for f in SCORES], schema=SCORES)
        # Another process may be writing a part of the same number: what it holds is part of the name.
        content = xxhash.xxh3_64_hexdigest("".join(sorted(keys)).encode())
        with publish(self.folder / f"scores-{self._parts:06d}-{content}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._parts += 1
        self._rows.update(zip(keys, found, strict=True))

    def _read(self, path: Path) -> None:
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}; delete it to score anew") from error
        if table.schema.remove_metadata() != SCORES.remove_metadata():
            raise InputError(f"{path} is no part of a store of scores, or of another version; move it away")
        columns = [table.column(name).to_pylist() for name in ("key", "window", "epsilon", "over_window")]
        shapes = zip(table.column("prefixes").to_pylist(), table.column("chunks").to_pylist(), strict=True)
        lists = [table.column(name).combine_chunks() for name in ("logp", "tokens")]
        values = [array.flatten().to_numpy() for array in lists]
        ends = [np.concatenate([[0], np.cumsum(array.value_lengths().to_numpy())]) for array in lists]
        for i, ((key, window, epsilon, over), shape) in enumerate(zip(zip(*columns, strict=True), shapes, strict=True)):
            logp, tokens = (array[end[i] : end[i + 1]] for array, end in zip(values, ends, strict=True))
            scores = None if over else PrefixScores(logp.reshape(shape), tokens)
            self._rows[key] = Stored(scores, window, epsilon)


def query_key(scorer: Scorer, query: PrefixQuery) -> str:
    """xxh3-128 (hex) of the scorer's fingerprint, its cue, and the query's texts, ends and prefixes."""
    spans = [[[s.role, s.text, s.ends] for s in side] for side in (query.segments, query.outputs)]
    return _hash(scorer, canonical_json([*spans, query.prefixes]).encode())


def compiled_key(scorer: Scorer, query: Compiled) -> str:
    """The key of a query that was never text: of the scorer's fingerprint, its cue, and the tokens."""
    arrays = [*query.contexts, query.target, query.chunk]
    shape = canonical_json([[len(array) for array in arrays], query.chunks])
    return _hash(scorer, shape.encode(), *(array.astype("<i4").tobytes() for array in arrays))


def _hash(scorer: Scorer, *parts: bytes) -> str:
    digest = xxhash.xxh3_128(canonical_json([scorer.sha256, scorer.cue]).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def score_all(
    scorer: Scorer,
    queries: Sequence[PrefixQuery],
    store: ScoreStore | None,
    *,
    search: str = "scan",
    epsilon: float | None = None,
    commit: int = COMMIT,
    progress: Progress | None = None,
) -> list[PrefixScores | None]:
    """Scores of each query, None over the window; what ``store`` knows is not scored again, the rest goes there.

    A part is published every ``commit`` queries; ``progress`` gets how many more queries are done. The weights are read
    only if something is missing.
    """
    keys = [query_key(scorer, query) for query in queries]

    def compiled(chosen: Sequence[int]) -> list[Compiled]:
        return compile_queries(scorer, [queries[i] for i in chosen])

    return fill(scorer, keys, compiled, store, search=search, epsilon=epsilon, commit=commit, progress=progress)


def fill(
    scorer: Scorer,
    keys: Sequence[str],
    compiled: Callable[[Sequence[int]], Sequence[Compiled]],
    store: ScoreStore | None,
    *,
    search: str = "scan",
    epsilon: float | None = None,
    commit: int = COMMIT,
    progress: Progress | None = None,
) -> list[PrefixScores | None]:
    """``score_all`` of any queries: their keys, and a function that makes tokens of those with the given numbers."""
    bound = epsilon if check_search(search, epsilon) == "bisect" else None
    known: dict[str, Stored] = {}
    if store is not None:
        found = zip(keys, store.lookup(keys), strict=True)
        known = {key: there for key, there in found if there is not None and there.serves(scorer.window, bound)}
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = sorted(i for key, i in first.items() if key not in known)
    if progress is not None:
        progress(len(keys) - len(missing))
    for start in range(0, len(missing), commit):
        part = missing[start : start + commit]
        queries = compiled(part)
        scores = score_compiled(scorer, queries, search=search, epsilon=epsilon)
        stored = [Stored(one, scorer.window, bound if one is not None else None) for one in scores]
        if store is not None:
            shapes = [(s, len(query.contexts), query.chunks) for s, query in zip(stored, queries, strict=True)]
            store.add(scorer, [keys[i] for i in part], shapes)
        known.update(zip([keys[i] for i in part], stored, strict=True))
        if progress is not None:
            progress(len(part))
    return [known[key].scores for key in keys]
