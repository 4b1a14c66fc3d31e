"""What a word is where texts are compared, and its hash."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

#: Scripts whose words are not told apart by spaces: each character counts as a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"

#: A word, for ``str.extract_all`` of text without case and width.
WORD = rf"[{UNSPACED}]\p{{M}}*|[\w&&[^{UNSPACED}]]+"

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def hash_words(words: pl.Series) -> U64:
    """The xxh3-64 of each word; every different word is hashed once."""
    if not len(words):
        return np.empty(0, np.uint64)
    encoded = words.to_arrow().cast(pa.large_string()).dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    known = encoded.dictionary.to_pylist()
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(w.encode()) for w in known), dtype=np.uint64, count=len(known))
    found: U64 = hashes[encoded.indices.to_numpy()]
    return found
