"""What is compared of a conversation, and its shingles: hashes of so many words in a row.

A word is a run of letters, marks and digits without case and width (NFKC), a character of a script that puts no spaces between
words is one by itself. A shingle never reaches over the end of a part; a part of fewer words is one shingle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.dedup.config import DedupConfig, Normalization
from pipeline.filters.talks import Talks
from pipeline.word_hashes import I64, U64, WORD, hash_words

#: Streams on which the pipeline itself speaks.
_OURS = ("audit", "monitor")

#: Characters whose words are held at a time.
CHARACTERS = 1 << 22

_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)

U32 = npt.NDArray[np.uint32]
Number = TypeVar("Number", bound=np.unsignedinteger[Any])


def compared(talks: Talks, config: DedupConfig) -> pl.DataFrame:
    """The parts that are compared, in order: ``talk``, ``role``, ``output``, ``text``. What says nothing is left out."""
    parts = talks.parts.filter(pl.col("role").is_in(_OURS).not_())
    if not config.system:
        parts = parts.filter(pl.col("message").is_not_null() & (pl.col("role") != "system"))
    if config.text == "output":
        parts = parts.filter("output")
    elif config.text == "first_input":
        asked = ~pl.col("output") & (pl.col("role") != "system") & pl.col("message").is_not_null()
        first = pl.col("message").filter(asked).first().over("talk")
        parts = parts.filter(asked & (pl.col("message") == first))
    return parts.filter(pl.col("text").str.contains(r"\S")).select("talk", "role", "output", "text")


def normalized(text: pl.Series, how: Normalization) -> pl.Series:
    """The text as exact copies are compared."""
    if how == "none":
        return text
    folded = text.str.normalize("NFKC").str.to_lowercase() if how == "letters" else text.str.normalize("NFC")
    return folded.str.replace_all(r"\s+", " ").str.strip_chars()


def distinct(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The different values, ascending."""
    ordered: npt.NDArray[Number] = np.sort(values)
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    found: npt.NDArray[Number] = ordered[first]
    return found


def shingles_of(text: pl.Series, size: int) -> tuple[U32, I64]:
    """The different shingles of each text, ascending, one text after the other; and how many each has."""
    found, counts = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for piece in _pieces(text):
        words = piece.str.normalize("NFKC").str.to_lowercase().str.extract_all(WORD)
        lengths = words.list.len().to_numpy().astype(np.int64)
        hashes = hash_words(words.filter(words.list.len() > 0).explode())
        key = distinct(_rolled(hashes, lengths, size))
        found.append((key & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        counts.append(np.bincount((key >> np.uint64(32)).astype(np.int64), minlength=len(piece)))
    return np.concatenate(found), np.concatenate(counts)


def _pieces(text: pl.Series) -> Iterator[pl.Series]:
    """The texts in runs of about ``CHARACTERS``."""
    ends = np.cumsum(text.str.len_bytes().to_numpy().astype(np.int64))
    start = 0
    while start < len(text):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + CHARACTERS, side="right")), start + 1)
        yield text.slice(start, stop - start)
        start = stop


def _rolled(hashes: U64, lengths: I64, size: int) -> U64:
    """A key for each shingle: the number of its text in the upper half, the hash of its words in the lower one."""
    ends = np.cumsum(lengths)
    counts = np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    text = np.repeat(np.arange(len(lengths), dtype=np.uint64), counts)
    first = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - (ends - lengths), counts)
    stop = np.repeat(ends, counts)
    rolled = np.zeros(len(first), dtype=np.uint64)
    for word in range(size):
        at = first + word
        inside = at < stop
        mixed = (rolled ^ hashes[np.minimum(at, len(hashes) - 1)]) * _MIX
        rolled = np.where(inside, mixed ^ (mixed >> _SHIFT), rolled)
    return (text << np.uint64(32)) | (rolled >> np.uint64(32))
