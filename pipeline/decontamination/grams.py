"""Hashes of runs of words: what two texts have in common is what they share of them.

A word is what deduplication takes for one (``pipeline.word_hashes``): case, width and punctuation make no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.word_hashes import I64, U64, WORD, hash_words

_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@dataclass(frozen=True, slots=True)
class Grams:
    """The runs of words of some texts. ``keys``: a hash of each run; ``text``: the number of its text; ``first``: the number of
    its first word in the text. ``words``: the words of each text."""

    keys: U64
    text: I64
    first: I64
    words: pl.Series


def grams_of(texts: pl.Series, size: int) -> Grams:
    """All runs of ``size`` words. A text of fewer is one run by itself, which equals only a text of the same words."""
    words = texts.str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD)
    lengths = words.list.len().to_numpy().astype(np.int64)
    hashes = hash_words(words.filter(words.list.len() > 0).explode())
    counts = np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    text = np.repeat(np.arange(len(lengths)), counts)
    first = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.repeat(np.cumsum(lengths) - lengths, counts) + first
    stop = np.repeat(np.cumsum(lengths), counts)
    keys: npt.NDArray[np.uint64] = np.full(len(start), np.uint64(size), np.uint64)
    for word in range(size):
        at = start + word
        inside = at < stop
        mixed = (keys ^ hashes[np.minimum(at, max(len(hashes) - 1, 0))]) * _MIX if len(hashes) else keys
        keys = np.where(inside, mixed ^ (mixed >> _SHIFT), keys ^ np.uint64(1))
    return Grams(keys, text, first, words)
