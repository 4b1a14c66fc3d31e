"""Which conversations are copies, and of which one that stays.

The best conversation stays, what is a copy of it goes; then the best of the rest, and so on. So what goes is always near to the
one that stays for it: a chain of small changes is not taken for one conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dedup.candidates import NO_RANK, split_pairs
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.order import place_ranks
from pipeline.dedup.sketches import Sketch, Sketches
from pipeline.dedup.words import U32
from pipeline.word_hashes import I64, U64

F32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class Ranked:
    """All conversations in the order in which they are kept: 25 bytes for each, about 120 while they are put in order.

    ``places``: by rank; ``ranks``: by place; ``sizes``: shingles, by rank; ``stays``: by rank, the rank of the one that stays
    for it (its own where it stays); ``similarity``: to that one, by rank; ``is_exact``: by rank.
    """

    places: I64
    ranks: U32
    sizes: U32
    stays: U32
    similarity: F32
    is_exact: npt.NDArray[np.bool_]

    def to_compare(self, config: DedupConfig) -> U32:
        """The ranks by place; ``NO_RANK`` for exact copies and for those that are too short."""
        stays = self.stays == np.arange(len(self.stays), dtype=np.uint32)
        chosen = (stays & (self.sizes >= config.min_shingles))[self.ranks]
        return np.where(chosen, self.ranks, np.uint32(NO_RANK))


def rank(sketches: Sketches, config: DedupConfig) -> Ranked:
    """Puts the conversations in order, and finds those of equal text."""
    number = len(sketches)
    if number >= NO_RANK:
        raise ValueError(f"{number:,} conversations are more than can be numbered")
    exact = np.zeros((number, 2), np.uint64)
    license_rank, place_code = np.empty(number, np.uint8), np.empty(number, np.uint32)
    index, id_hash, sizes = np.empty(number, np.int64), np.empty(number, np.uint64), np.empty(number, np.uint32)
    codes: dict[tuple[str, str], int] = {}
    for shard in range(len(sketches.paths)):
        rows = slice(int(sketches.starts[shard]), int(sketches.starts[shard + 1]))
        if rows.start == rows.stop:
            continue
        license_rank[rows] = sketches.column(shard, "license_rank")
        index[rows] = sketches.column(shard, "index")
        id_hash[rows] = sketches.column(shard, "id_hash")
        sizes[rows] = sketches.column(shard, "size")
        table = sketches.table(shard, ["corpus", "path", "exact"])
        places = zip(table.column("corpus").to_pylist(), table.column("path").to_pylist(), strict=True)
        place_code[rows] = [codes.setdefault(place, len(codes)) for place in places]
        digests = table.column("exact").fill_null(bytes(16)).to_pylist()
        exact[rows] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    place_rank = np.array(place_ranks(list(codes), config.sources), np.uint32)
    order = np.lexsort((id_hash, index, place_rank[place_code] if number else place_code, license_rank))
    del license_rank, place_code, index, id_hash
    ranks = np.empty(number, np.uint32)
    ranks[order] = np.arange(number, dtype=np.uint32)
    stays = _first_of_equals(exact[order])
    is_exact = stays != np.arange(number, dtype=np.uint32)
    return Ranked(order, ranks, sizes[order], stays, np.ones(number, np.float32), is_exact)


def _first_of_equals(exact: U64) -> U32:
    """For each row the first that is equal to it; rows of zeros are equal to none."""
    number = len(exact)
    order = np.lexsort((np.arange(number), exact[:, 1], exact[:, 0]))
    inner = exact[order]
    begins = np.ones(number, bool)
    begins[1:] = (inner[1:] != inner[:-1]).any(axis=1) | ~inner[1:].any(axis=1)
    first = np.maximum.accumulate(np.where(begins, np.arange(number), 0))
    stays = np.empty(number, np.uint32)
    stays[order] = order[first]
    return stays


def settle(ranked: Ranked, sketches: Sketches, pieces: Iterable[U64], config: DedupConfig) -> int:
    """Compares the candidates, ascending, and says of each copy which one stays for it; how many pairs were compared.

    A pair of which one is gone already is not compared.
    """
    compared = 0
    best, whole = -1, np.empty(0, np.uint32)
    sketch = Sketch(np.empty(0, np.uint64), np.empty(0, bool), ())
    for pairs in pieces:
        for first, second in zip(*(side.tolist() for side in split_pairs(pairs)), strict=True):
            if ranked.stays[first] != first or ranked.stays[second] != second:
                continue
            if first != best:
                best, sketch = first, sketches.sketch(int(ranked.places[first]))
                whole = sketch.shingles()
            compared += 1
            similarity = copy_of(sketch, whole, sketches.sketch(int(ranked.places[second])), config)
            if similarity is not None:
                ranked.stays[second], ranked.similarity[second] = first, similarity
    # Exact copies of what is a near copy go with it, if they are near to what stays: their text is the same.
    follows = ranked.stays[ranked.stays] != ranked.stays
    ranked.similarity[follows] = ranked.similarity[ranked.stays[follows]]
    ranked.stays[follows] = ranked.stays[ranked.stays[follows]]
    ranked.is_exact[follows] = False
    return compared


def copy_of(one: Sketch, whole: U32, other: Sketch, config: DedupConfig) -> float | None:
    """The Jaccard similarity of two conversations of which one is a near copy of the other; None where it is not.

    ``whole``: the shingles of ``one``. Parts that both have are the same; the rest of what the model gets, and the rest of what
    it says, must be near by themselves. Else another question about the same long text would make no difference.
    """
    similarity = jaccard(whole, other.shingles())
    if similarity < config.threshold:
        return None
    if config.differing:
        left = ~np.isin(one.part_hashes, other.part_hashes)
        right = ~np.isin(other.part_hashes, one.part_hashes)
        for said in (False, True):
            mine, others = left & (one.is_output == said), right & (other.is_output == said)
            if jaccard(one.shingles(mine), other.shingles(others)) < config.differing:
                return None
    return similarity


def jaccard(left: U32, right: U32) -> float:
    """The share of the elements of two ascending sets that both have; 1 where both are empty."""
    both = np.sort(np.concatenate([left, right]))
    common = int((both[1:] == both[:-1]).sum())
    every = len(both) - common
    return common / every if every else 1.0
