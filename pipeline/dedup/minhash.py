"""MinHash signatures (Broder 1997), and the bands by which near ones meet: all that depends on the library is here.

The permutations are those of ``datasketch``, and so are the signatures, to the bit; it makes them set by set from Python
objects, here they are made for many sets of hashes at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.dedup.words import U32
from pipeline.word_hashes import I64, U64

SEED = 1

#: How likely a pair whose similarity is the threshold shares a band.
RECALL = 0.99

#: Hashes of the sets that are permuted at a time.
_HASHES = 1 << 16

_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@cache
def _permutations(number: int) -> npt.NDArray[np.uint32]:
    from datasketch import MinHash  # type: ignore[import-untyped]

    found: npt.NDArray[np.uint32] = np.asarray(MinHash(number, seed=SEED, scheme="affine32").permutations, np.uint32)
    return found


def signatures(shingles: U32, counts: I64, permutations: int) -> U32:
    """The signature of each set: a row of ``permutations`` minima. ``shingles``: of all sets, one after the other.

    ``counts``: of each set; an empty one has the largest values.
    """
    result = np.full((len(counts), permutations), 0xFFFFFFFF, dtype=np.uint32)
    factors, offsets = _permutations(permutations)
    mixed = _mixed(shingles)
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + _HASHES, side="right")), start + 1)
        hashes = mixed[before : int(ends[stop - 1])]
        begins = np.concatenate([[0], ends[start : stop - 1] - before])
        for number in range(permutations):
            result[rows[start:stop], number] = np.minimum.reduceat(hashes * factors[number] + offsets[number], begins)
        start = stop
    return result


def _mixed(hashes: U32) -> U32:
    """The last step of MurmurHash3 (32 bits), by which datasketch makes weak hashes fit for its permutations."""
    mixed: U32 = hashes ^ (hashes >> np.uint32(16))
    mixed = mixed * np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed = mixed * np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def bands_of(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands, and how many hashes in each: the longest bands with which a pair at the threshold meets with ``RECALL``.

    Of a threshold for which there are none: bands of one hash.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


def band_keys(signed: U32, bands: int, rows: int) -> U64:
    """A hash of each band: sets x bands."""
    parts = signed[:, : bands * rows].reshape(len(signed), bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), (len(signed), bands)).copy()
    for row in range(rows):
        keys = (keys ^ parts[:, :, row]) * _MIX
        keys ^= keys >> _SHIFT
    return keys


def estimated(left: U32, right: U32) -> npt.NDArray[np.float64]:
    """The similarity of pairs of sets by their signatures."""
    found: npt.NDArray[np.float64] = (left == right).mean(axis=1)
    return found


def deviation(threshold: float, permutations: int) -> float:
    """The standard deviation of an estimate at the threshold."""
    return float((threshold * (1 - threshold) / permutations) ** 0.5)
