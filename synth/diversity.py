"""Near-duplicates by MinHash (Broder 1997), and how much of what is accepted is said only once (Li et al. 2016, distinct-n).

A text is the set of its word shingles: words without case, each character of a script without spaces a word of its own. Two
texts are near if the Jaccard similarity of their sets, estimated from equal minima of seeded permutations, reaches the
threshold. Candidates come from banded locality-sensitive hashing; the bands are chosen so that a pair at the threshold is a
candidate with a probability of at least ``RECALL``. Nothing depends on the process or on the order of hashes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
import xxhash
from datasketch import LeanMinHash, MinHash, MinHashLSH  # type: ignore[import-untyped]

from synth.config import DiversityOptions
from synth.spacing import UNSPACED

#: How likely a pair whose similarity is the threshold is compared at all.
RECALL = 0.95
#: The lengths of n-grams that are counted.
ORDERS = (1, 2, 3)

_SEED = 1
#: Thai, Lao, Burmese and Khmer put spaces between sentences only. A letter goes with its marks.
_CHARACTERS = rf"{UNSPACED}\p{{Script=Hangul}}"
_WORD = regex.compile(rf"[{_CHARACTERS}&&\w]\p{{M}}*|[\w&&[^{_CHARACTERS}]]+", regex.VERSION1)
#: Hashes that may wait until they are merged with those that are known.
_WAITING = 1 << 18


@dataclass(frozen=True, slots=True)
class Duplicate:
    """What a text is near to: its name, and the estimated Jaccard similarity (1.0 where short texts are equal)."""

    name: str
    similarity: float


class Diversity:
    """What has been accepted so far, and the references (inputs) that it must not copy.

    A text is compared with what was accepted before it, so the order of texts decides which of two is the copy. Texts of
    fewer words than a shingle are near only to their equals. With 128 permutations at threshold 0.7 a text takes about 9 kB
    of memory, however long it is; every different n-gram of an accepted one takes 8 bytes more.
    """

    def __init__(self, options: DiversityOptions) -> None:
        self._options = options
        self._bands = bands(options.threshold, options.permutations)
        self._index = MinHashLSH(num_perm=options.permutations, params=self._bands)
        self._blank = MinHash(options.permutations, seed=_SEED, hashfunc=xxhash.xxh32_intdigest)
        self._sketches: list[LeanMinHash] = []
        self._names: list[str] = []
        self._short: dict[str, str] = {}
        self._distinct = {order: _Distinct() for order in ORDERS}
        self._references = self._accepted = self._found = 0

    def add_reference(self, text: str, name: str) -> None:
        """Takes an input: what is like it is a duplicate, but its words do not count as accepted."""
        self._references += 1
        self._add(text, words_of(text), name)

    def check(self, text: str) -> Duplicate | None:
        """The text that this one is nearest to (of several the one that was there first), None if it is near to none."""
        words = words_of(text)
        if len(words) < self._options.shingle:
            name = self._short.get(_folded(text, words))
            near = None if name is None else Duplicate(name, 1.0)
        else:
            near = self._nearest(self._sketch(words))
        self._found += near is not None
        return near

    def accept(self, text: str, name: str) -> None:
        """Takes a text, near to others or not."""
        words = words_of(text)
        self._accepted += 1
        self._add(text, words, name)
        for order, distinct in self._distinct.items():
            distinct.add(_runs(words, order))

    def report(self) -> dict[str, Any]:
        """JSON: how many texts, how many were found to be near-duplicates, and distinct-n of what was accepted.

        ``distinct``: different n-grams over all n-grams, 0 to 1; None where there is none.
        """
        options = self._options
        return {
            "accepted": self._accepted,
            "references": self._references,
            "duplicates": self._found,
            "distinct": {str(order): distinct.share() for order, distinct in self._distinct.items()},
            "ngrams": {str(order): distinct.total for order, distinct in self._distinct.items()},
            "minhash": {
                "threshold": options.threshold,
                "shingle": options.shingle,
                "permutations": options.permutations,
                "bands": self._bands[0],
                "band_size": self._bands[1],
            },
        }

    def _add(self, text: str, words: Sequence[str], name: str) -> None:
        if len(words) < self._options.shingle:
            self._short.setdefault(_folded(text, words), name)
            return
        sketch = self._sketch(words)
        self._index.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)
        self._names.append(name)

    def _sketch(self, words: Sequence[str]) -> LeanMinHash:
        sketch = self._blank.copy()
        sketch.update_batch(set(_runs(words, self._options.shingle)))
        return LeanMinHash(sketch)

    def _nearest(self, sketch: LeanMinHash) -> Duplicate | None:
        found = [(-sketch.jaccard(self._sketches[number]), number) for number in self._index.query(sketch)]
        if not found:
            return None
        similarity, number = min(found)
        return Duplicate(self._names[number], -similarity) if -similarity >= self._options.threshold else None


def words_of(text: str) -> list[str]:
    """The words of a text without case, compatibility forms folded; characters of scripts without spaces one by one."""
    found: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return found


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, permutations in a band): the longest bands with which a pair at the threshold is found with ``RECALL``.

    A pair of similarity s is a candidate with probability 1 - (1 - s^r)^b (Mining of Massive Datasets, 3.4).
    """
    for size in range(permutations // 2, 1, -1):
        count = permutations // size
        if 1 - (1 - threshold**size) ** count >= RECALL:
            return count, size
    return permutations, 1


def _folded(text: str, words: Sequence[str]) -> str:
    return " ".join(words) or text.strip()


def _runs(words: Sequence[str], length: int) -> Iterator[bytes]:
    """All runs of ``length`` words."""
    encoded = [word.encode(errors="surrogatepass") for word in words]
    return (b" ".join(encoded[i : i + length]) for i in range(len(words) - length + 1))


class _Distinct:
    """Counts different n-grams by their 64-bit hashes, 8 bytes each: of 100 million n-grams fewer than one is missed."""

    def __init__(self) -> None:
        self.total = 0
        self._known: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._waiting: list[npt.NDArray[np.uint64]] = []
        self._waits = 0

    def add(self, ngrams: Iterator[bytes]) -> None:
        hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, ngrams), np.uint64)
        self.total += len(hashes)
        self._waiting.append(hashes)
        self._waits += len(hashes)
        if self._waits >= max(_WAITING, len(self._known)):
            self._merge()

    def share(self) -> float | None:
        self._merge()
        return round(len(self._known) / self.total, 4) if self.total else None

    def _merge(self) -> None:
        self._known = np.unique(np.concatenate([self._known, *self._waiting]))
        self._waiting, self._waits = [], 0
