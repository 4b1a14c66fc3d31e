"""What was said, scored after every prefix of what was read: how much did the rest of the input tell?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.scoring.forest import Forest
from pipeline.scoring.rendering import Piece, chat_role, in_one_message
from pipeline.scoring.scorer import Branch, Float32Array, Scorer
from pipeline.tokenization import TextTokenizer
from pipeline.training.masks import Int32Array, Int64Array

#: ``scan`` looks at every prefix; ``bisect`` at those that it takes to find where the gain of each output chunk falls to
#: epsilon or below, taking for granted that it does not rise again.
Search = Literal["scan", "bisect"]
SEARCHES: tuple[str, ...] = get_args(Search)
#: Chunk of a token that is not scored.
NO_CHUNK = -1


@dataclass(frozen=True)
class Segment:
    """One span of a conversation. ``ends``: end offsets of its chunks in characters, ascending, the last ``len(text)``."""

    role: str
    text: str
    ends: tuple[int, ...]


@dataclass(frozen=True)
class PrefixQuery:
    """What one message says, to be scored after prefixes of what came before it.

    ``segments``: everything before the message, in source order. ``prefixes``: (index of a segment, number of its chunks):
    visible are all earlier segments and so many chunks of that one; ascending, the last one is everything. ``outputs``:
    what is scored, each after the earlier ones.
    """

    segments: tuple[Segment, ...]
    prefixes: tuple[tuple[int, int], ...]
    outputs: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class PrefixScores:
    """Scores of P prefixes and C output chunks (those of all outputs, one after the other).

    ``logp``: float32 [P, C], sums of log p over the tokens of a chunk, in nats; NaN where a search did not look. ``tokens``:
    int32 [C].
    """

    logp: Float32Array
    tokens: npt.NDArray[np.int32]

    def gains(self) -> Float32Array:
        """float32 [P, C]: by how much the rest of the input raises the mean log p of a chunk's tokens; 0 without any."""
        gains: Float32Array = (self.logp[-1] - self.logp) / np.maximum(self.tokens, 1)
        return gains

    def first_within(self, epsilon: float) -> Int64Array:
        """int64 [C]: the first prefix from which on no gain that was looked at exceeds ``epsilon`` nats per token."""
        return _last_above(self.gains(), epsilon) + 1


@dataclass(frozen=True, eq=False)
class Compiled:
    """A query as tokens. ``contexts``: int32 ids per prefix, the last one of everything; ``target``: the ids that follow
    each of them; ``chunk``: int32, the chunk of each target token, ``NO_CHUNK`` for separators; ``chunks``: how many."""

    contexts: tuple[Int32Array, ...]
    target: Int32Array
    chunk: npt.NDArray[np.int32]
    chunks: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.contexts)) + len(self.target)

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Tokens of each chunk."""
        return np.bincount(self.chunk[self.chunk >= 0], minlength=self.chunks).astype(np.int32)

    def branch(self, prefix: int, chunks: int) -> Branch:
        """The target up to and with the first ``chunks`` chunks, after a prefix."""
        context = self.contexts[prefix]
        inside = np.flatnonzero((self.chunk >= 0) & (self.chunk < chunks))
        length = int(inside[-1]) + 1 if len(inside) else 0
        return Branch(np.concatenate([context, self.target[:length]]), len(context))

    def sums(self, logp: Float32Array, chunks: int) -> Float32Array:
        """float32 [C]: the log p of a branch's target tokens, summed by chunk; NaN beyond the first ``chunks``."""
        chunk = self.chunk[: len(logp)]
        inside = chunk >= 0
        sums = np.bincount(chunk[inside], logp[inside].astype(np.float64), self.chunks).astype(np.float32)
        sums[chunks:] = np.nan
        return sums


def check_search(search: str, epsilon: float | None) -> Search:
    """The search. Raises ConfigError for one that is not known, or a bisection without epsilon."""
    for known in get_args(Search):
        if search == known:
            if search == "bisect" and epsilon is None:
                raise ConfigError("search 'bisect' needs epsilon, in nats per token")
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"search is {search!r}, choose one of {', '.join(SEARCHES)}")


def score_prefixes(
    scorer: Scorer, queries: Sequence[PrefixQuery], *, search: str = "scan", epsilon: float | None = None
) -> list[PrefixScores | None]:
    """Scores of each query, None where its longest sequence exceeds the scorer's window."""
    compiled = compile_queries(scorer, queries)
    return score_compiled(scorer, compiled, search=search, epsilon=epsilon)


def score_compiled(
    scorer: Scorer, queries: Sequence[Compiled], *, search: str = "scan", epsilon: float | None = None
) -> list[PrefixScores | None]:
    """``score_prefixes`` of queries that are tokens already."""
    kind = check_search(search, epsilon)
    fitting = [i for i, query in enumerate(queries) if query.longest <= scorer.window]
    chosen = [queries[i] for i in fitting]
    found = _scan(scorer, chosen) if kind == "scan" else _bisect(scorer, chosen, float(epsilon or 0.0))
    scores: list[PrefixScores | None] = [None] * len(queries)
    for i, logp in zip(fitting, found, strict=True):
        scores[i] = PrefixScores(logp, queries[i].tokens)
    return scores


def compile_queries(scorer: Scorer, queries: Sequence[PrefixQuery]) -> list[Compiled]:
    """Queries as tokens of a scorer, every text encoded once."""
    spans = dict.fromkeys(s for query in queries for s in (*query.segments, *query.outputs))
    encoded = encode_chunks(scorer.tokenizer, [(span.text, span.ends) for span in spans])
    table = dict(zip(spans, encoded, strict=True))
    return [_compile(scorer, query, table) for query in queries]


def encode_chunks(
    tokenizer: TextTokenizer, spans: Sequence[tuple[str, Sequence[int]]]
) -> list[tuple[Int32Array, Int64Array]]:
    """Each text's ids, and the number of tokens up to each of its chunks' ends (characters), cut at the token boundary at
    or before it; the last end has all tokens."""
    encoded = tokenizer.encode([text for text, _ in spans])
    out = []
    for i, (text, ends) in enumerate(spans):
        tokens = slice(encoded.offsets[i], encoded.offsets[i + 1])
        sizes = np.array(ends, np.int64) if text.isascii() else _byte_offsets(text, ends)
        upto = np.searchsorted(encoded.ends[tokens], sizes, side="right")
        if len(upto):
            upto[-1] = tokens.stop - tokens.start
        out.append((encoded.ids[tokens], upto.astype(np.int64)))
    return out


def _byte_offsets(text: str, ends: Sequence[int]) -> Int64Array:
    sizes = [len(text[a:b].encode()) for a, b in zip([0, *ends], ends, strict=False)]
    return np.cumsum(sizes).astype(np.int64)


def _compile(scorer: Scorer, query: PrefixQuery, table: dict[Segment, tuple[Int32Array, Int64Array]]) -> Compiled:
    _check(query)
    contexts = tuple(_context(scorer, query, table, *prefix) for prefix in query.prefixes)
    target: list[Int32Array] = []
    chunk: list[npt.NDArray[np.int32]] = []
    chunks = 0
    for number, output in enumerate(query.outputs):
        ids, upto = table[output]
        if number and len(ids):
            target.append(scorer.chat.newline)
            chunk.append(np.full(len(scorer.chat.newline), NO_CHUNK, np.int32))
        target.append(ids)
        chunk.append((np.searchsorted(upto, np.arange(len(ids)), side="right") + chunks).astype(np.int32))
        chunks += len(upto)
    return Compiled(contexts, np.concatenate(target), np.concatenate(chunk), chunks)


def _check(query: PrefixQuery) -> None:
    """Raises ValueError for a query that its caller built wrongly."""
    everything = (len(query.segments), 0)
    reached = [_normal(query, *prefix) for prefix in query.prefixes]
    if not query.outputs or not reached or reached[-1] != everything or reached != sorted(reached):
        raise ValueError("a query needs outputs, and prefixes that ascend to everything that was read")
    for span in (*query.segments, *query.outputs):
        if list(span.ends) != sorted(set(span.ends)) or (span.ends[-1:] or (0,))[0] != len(span.text):
            raise ValueError("the ends of a segment's chunks ascend to the end of its text")


def _normal(query: PrefixQuery, segment: int, chunks: int) -> tuple[int, int]:
    """The same prefix with all chunks of a segment written as none of the next."""
    if segment < len(query.segments) and chunks == len(query.segments[segment].ends):
        return segment + 1, 0
    return segment, chunks


def _context(
    scorer: Scorer, query: PrefixQuery, table: dict[Segment, tuple[Int32Array, Int64Array]], segment: int, chunks: int
) -> Int32Array:
    segment, chunks = _normal(query, segment, chunks)
    roles = [chat_role(span.role) for span in query.segments]
    visible = [table[span][0] for span in query.segments[:segment]]
    if chunks:
        ids, upto = table[query.segments[segment]]
        visible.append(ids[: upto[chunks - 1]])
    pieces = [Piece(role, ids) for role, ids in zip(roles, visible, strict=False)]
    if pieces and segment < len(roles) and (chunks or in_one_message(roles[segment - 1], roles[segment])):
        pieces[-1] = Piece(pieces[-1].role, pieces[-1].ids, more=True)
    return scorer.chat.context(pieces, scorer.cue)


def _scan(scorer: Scorer, queries: Sequence[Compiled]) -> list[Float32Array]:
    """float32 [P, C] per query."""
    places = [(q, p) for q, query in enumerate(queries) for p in reversed(range(len(query.contexts)))]
    branches = (queries[q].branch(p, queries[q].chunks) for q, p in places)
    found = [np.empty((len(query.contexts), query.chunks), np.float32) for query in queries]
    for (q, p), logp in zip(places, scorer.score_branches(branches), strict=True):
        found[q][p] = queries[q].sums(logp, queries[q].chunks)
    return found


def _bisect(scorer: Scorer, queries: Sequence[Compiled], epsilon: float) -> list[Float32Array]:
    """float32 [P, C] per query, NaN where it did not look."""
    found: list[Float32Array] = []
    for batch in _batches(queries, scorer.held_tokens if queries else 1):
        session = scorer.session(Forest())
        tables = [np.full((len(query.contexts), query.chunks), np.nan, np.float32) for query in batch]
        searches = [_search(query, table, epsilon) for query, table in zip(batch, tables, strict=True)]
        wanted = [next(search, []) for search in searches]
        while any(wanted):
            looks = [(q, p, chunks) for q, round_ in enumerate(wanted) for p, chunks in round_]
            branches = [batch[q].branch(p, chunks) for q, p, chunks in looks]
            everything = [p == len(batch[q].contexts) - 1 for q, p, _ in looks]
            pinned = [b.first if last else 0 for b, last in zip(branches, everything, strict=True)]
            for (q, p, chunks), logp in zip(looks, scorer.score_more(session, branches, pinned), strict=True):
                tables[q][p] = batch[q].sums(logp, chunks)
            wanted = [next(search, []) for search in searches]
        found.extend(tables)
    return found


def _batches(queries: Sequence[Compiled], held: int) -> Iterator[Sequence[Compiled]]:
    """Runs of queries whose longest contexts together have about ``held`` tokens."""
    start = tokens = 0
    for i, query in enumerate(queries):
        tokens += len(query.contexts[-1])
        if tokens > held and i > start:
            yield queries[start:i]
            start, tokens = i, len(query.contexts[-1])
    if start < len(queries):
        yield queries[start:]


def _search(query: Compiled, table: Float32Array, epsilon: float) -> Iterator[list[tuple[int, int]]]:
    """The prefixes to look at, round by round, each with the number of chunks to score; ``table`` is filled in between."""
    last = len(query.contexts) - 1
    tokens = np.maximum(query.tokens, 1)
    yield [(last, query.chunks)]
    while True:
        gains = (table[last] - table) / tokens
        low = _last_above(gains, epsilon)
        looked = ~np.isnan(gains)
        looked &= np.arange(last + 1)[:, None] > low
        high = looked.argmax(axis=0)
        unsure = np.flatnonzero((high - low > 1) & (query.tokens > 0))
        if not len(unsure):
            return
        middles: dict[int, int] = {}
        for chunk in unsure.tolist():
            middles[int(low[chunk] + high[chunk]) // 2] = int(unsure[-1]) + 1
        yield sorted(middles.items())


def _last_above(gains: Float32Array, epsilon: float) -> Int64Array:
    """The last prefix whose gain is known to exceed ``epsilon``, per chunk; −1 for none."""
    above = gains > epsilon
    reversed_first = above[::-1].argmax(axis=0)
    last: Int64Array = np.where(above.any(axis=0), len(gains) - 1 - reversed_first, -1)
    return last
