"""Which conversations may be near copies: those that share a band of their signatures (Indyk and Motwani 1998).

Conversations are named by their rank here (``pipeline.dedup.order``), so that of a pair the first is the better copy. Each
bucket (a band, and a range of its keys) is worked on by itself and in any process, and writes its pairs to a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import deviation, estimated
from pipeline.dedup.sketches import Sketches
from pipeline.dedup.words import U32
from pipeline.manifest import publish
from pipeline.word_hashes import I64, U64

#: Keys of a bucket, about; pairs that are looked at together.
BUCKET_KEYS, PAIRS = 1 << 22, 1 << 16

#: In a larger set of conversations that share a band each is compared with so many of the best only.
BEST = 256

#: Deviations by which an estimate may be too low.
DEVIATIONS = 4

#: The rank of those that are not compared.
NO_RANK = 0xFFFFFFFF


def bucket_count(conversations: int) -> int:
    """Into how many ranges the keys of a band are cut: a power of two."""
    return 1 << max(0, (conversations // BUCKET_KEYS).bit_length())


def write_pairs(
    sketches: Sketches,
    ranks: U32,
    places: I64,
    sizes: U32,
    band: int,
    bucket: tuple[int, int],
    path: Path,
    config: DedupConfig,
) -> int:
    """Writes the pairs of a bucket (its number, of how many) to ``path``, ascending: the better rank in the upper half.

    ``ranks``: by place, ``NO_RANK`` where there is nothing to compare; ``places`` and ``sizes``: by rank. How many sets were so
    large that not all pairs of them are looked at.
    """
    keys, members = _members(sketches, ranks, band, bucket)
    large = 0
    found: list[U64] = [np.empty(0, np.uint64)]
    for pairs, is_large in _pairs(keys, members):
        large += is_large
        found.append(_alike(pairs, sketches, places, sizes, config))
    with publish(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.unique(np.concatenate(found)))
    return large


def _members(sketches: Sketches, ranks: U32, band: int, bucket: tuple[int, int]) -> tuple[U64, U32]:
    """The keys of a bucket that several conversations have, ascending, and those conversations, the best first."""
    number, count = bucket
    shift = np.uint64(64 - count.bit_length() + 1)
    found: list[U64] = [np.empty(0, np.uint64)]
    whose: list[U32] = [np.empty(0, np.uint32)]
    for shard in range(len(sketches.paths)):
        start, stop = int(sketches.starts[shard]), int(sketches.starts[shard + 1])
        keys = sketches.column(shard, f"band-{band}")
        mine = ranks[start:stop]
        chosen = mine != NO_RANK
        if count > 1:
            chosen &= (keys >> shift) == np.uint64(number)
        found.append(keys[chosen])
        whose.append(mine[chosen])
    keys, members = np.concatenate(found), np.concatenate(whose)
    order = np.lexsort((members, keys))
    keys, members = keys[order], members[order]
    same = keys[1:] == keys[:-1]
    several = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(keys) else np.empty(0, bool)
    return keys[several], members[several]


def _pairs(keys: U64, members: U32) -> Iterator[tuple[U64, int]]:
    """The pairs of each set of equal keys, some sets together, and how many of the sets are larger than ``BEST``."""
    if not len(keys):
        return
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    waiting: list[U64] = []
    held = large = 0
    for low, high in zip(begins.tolist(), [*begins[1:].tolist(), len(keys)], strict=True):
        own = members[low:high].astype(np.uint64)
        large += len(own) > BEST
        for first in range(min(len(own) - 1, BEST)):
            waiting.append((own[first] << np.uint64(32)) | own[first + 1 :])
            held += len(own) - first - 1
            if held >= PAIRS:
                yield np.concatenate(waiting), large
                waiting, held, large = [], 0, 0
    if waiting:
        yield np.concatenate(waiting), large


def split_pairs(pairs: U64) -> tuple[I64, I64]:
    """The better and the other of each pair."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _alike(pairs: U64, sketches: Sketches, places: I64, sizes: U32, config: DedupConfig) -> U64:
    """Those pairs that may reach the threshold: by how many shingles they have, and by their signatures."""
    first, second = split_pairs(pairs)
    left, right = sizes[first].astype(np.float64), sizes[second].astype(np.float64)
    pairs = pairs[np.minimum(left, right) >= config.threshold * np.maximum(left, right)]
    enough = config.threshold - DEVIATIONS * deviation(config.threshold, config.permutations)
    kept: list[U64] = [np.empty(0, np.uint64)]
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        ranks, inverse = np.unique(np.concatenate(split_pairs(some)), return_inverse=True)
        signed = sketches.signatures(places[ranks], config.permutations)
        similar: npt.NDArray[np.float64] = estimated(signed[inverse[: len(some)]], signed[inverse[len(some) :]])
        kept.append(some[similar >= enough])
    return np.concatenate(kept)


def merged(paths: Sequence[Path], ranked: int) -> Iterator[U64]:
    """The pairs of all files, ascending, each once, in pieces of about ``BUCKET_KEYS``. ``ranked``: one more than any rank."""
    files: list[U64] = [np.load(path, mmap_mode="r") for path in paths]
    total = sum(map(len, files))
    pieces = max(1, -(-total // BUCKET_KEYS))
    edges = np.linspace(0, ranked, pieces + 1).astype(np.uint64) << np.uint64(32)
    for low, high in pairwise(edges):
        slices = [file[np.searchsorted(file, low) : np.searchsorted(file, high)] for file in files]
        yield np.unique(np.concatenate(slices)) if slices else np.empty(0, np.uint64)
