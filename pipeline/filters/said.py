"""What the model says in words, and what its texts consist of: shared by the filters of text quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.filters.talks import Talks, Verdict
from pipeline.word_hashes import UNSPACED

#: Streams on which the pipeline speaks, not the source.
_OURS = ("audit", "monitor")

#: Fenced code, also what nothing closes.
_FENCED = r"(?s)```.*?(?:```|\z)"

#: Characters of texts that are looked at together: bounds the memory of ``count_classes``.
_CHUNK = 1 << 21

#: A word of any script.
WORD = rf"[{UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+"

#: Classes of characters. Writing systems that mix scripts in one text are one class (``cjk``: also Korean, with its hanja).
CLASSES: Mapping[str, str] = {
    "space": r"\s",
    "broken": r"[[\p{Cc}\p{Co}\p{Cn}\x{FFFD}]--\s]",
    "digit": r"\p{N}",
    "symbol": r"[\p{P}\p{S}\p{Cf}]",
    "latin": r"[\p{Latin}&&[\p{L}\p{M}]]",
    "cyrillic": r"[\p{Cyrillic}&&[\p{L}\p{M}]]",
    "greek": r"[\p{Greek}&&[\p{L}\p{M}]]",
    "arabic": r"[\p{Arabic}&&[\p{L}\p{M}]]",
    "hebrew": r"[\p{Hebrew}&&[\p{L}\p{M}]]",
    "cjk": r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}]&&[\p{L}\p{M}]]",
    "devanagari": r"[\p{Devanagari}&&[\p{L}\p{M}]]",
    "bengali": r"[\p{Bengali}&&[\p{L}\p{M}]]",
    "tamil": r"[\p{Tamil}&&[\p{L}\p{M}]]",
    "thai": r"[\p{Thai}&&[\p{L}\p{M}]]",
    "mark": r"\p{M}",
    "other": r"\p{L}",
}

#: Those of ``CLASSES`` that are letters of a script.
SCRIPTS = tuple(name for name in CLASSES if name not in ("space", "broken", "digit", "symbol", "mark"))


def spoken(calls: bool = False) -> pl.Expr:
    """Whether a row of ``talks.parts`` is the model's own words (answers and thoughts), or, with ``calls``, a call."""
    words = pl.col("output") & pl.col("role").is_in(_OURS).not_()
    return words if calls else words & (pl.col("kind") == "message")


def said(talks: Talks) -> pl.DataFrame:
    """The rows of ``talks.parts`` that the model says in words."""
    return talks.parts.filter(spoken())


def outside_code(text: pl.Expr) -> pl.Expr:
    """The text without fenced blocks of code."""
    return pl.when(text.str.contains("```", literal=True)).then(text.str.replace_all(_FENCED, "")).otherwise(text)


def first_reasons(looks: Sequence[tuple[str, pl.DataFrame]]) -> dict[int, Verdict]:
    """A verdict for each talk, of the first look that holds it. Frames have the columns ``talk`` and ``detail``."""
    found: dict[int, Verdict] = {}
    for reason, frame in looks:
        for talk, detail in frame.select("talk", "detail").sort("talk", maintain_order=True).iter_rows():
            found.setdefault(talk, Verdict(reason, detail))
    return found


def percent(share: pl.Expr) -> pl.Expr:
    """A share (0 to 1) in words."""
    return pl.format("{}%", (share * 100).round(0).cast(pl.Int64))


@lru_cache(maxsize=1)
def _class_of() -> npt.NDArray[np.uint8]:
    """The class of every code point, by its place in ``CLASSES``; what is in none (surrogates) is ``other``."""
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    characters = pl.Series("c", list(map(chr, points)), pl.String)
    table = np.full(0x110000, len(CLASSES) - 1, dtype=np.uint8)
    left = pl.DataFrame({"point": pl.Series(points, dtype=pl.UInt32), "c": characters})
    for number, pattern in enumerate(CLASSES.values()):
        is_of = left["c"].str.contains(pattern)
        table[left["point"].filter(is_of).to_numpy()] = number
        left = left.filter(~is_of)
    return table


def _chunks(texts: pl.Series) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.uint32]]]:
    """Texts in runs of about ``_CHUNK`` characters: the first one's number, their lengths, their code points joined."""
    lengths = texts.str.len_chars().to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    start = 0
    while start < len(texts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _CHUNK, side="right")), start + 1)
        joined = "".join(texts.slice(start, stop - start).to_list())
        yield start, lengths[start:stop], np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
        start = stop


def count_classes(texts: pl.Series) -> pl.DataFrame:
    """How many characters of each class a text has: a row per text, a column per name of ``CLASSES``."""
    width = len(CLASSES)
    counts = np.zeros((len(texts), width), dtype=np.int64)
    for start, lengths, points in _chunks(texts):
        place = np.repeat(np.arange(len(lengths), dtype=np.int32) * width, lengths)
        place += _class_of()[points]
        found = np.bincount(place, minlength=len(lengths) * width)
        counts[start : start + len(lengths)] = found.reshape(len(lengths), width)
    return pl.DataFrame({name: counts[:, i] for i, name in enumerate(CLASSES)})


def may_hold_run(texts: pl.Series, length: int) -> npt.NDArray[np.bool_]:
    """Whether a text may hold ``length`` (8 or more) times the same character in a row: False is certain, True is not."""
    found = np.zeros(len(texts), dtype=bool)
    for start, lengths, points in _chunks(texts):
        # A run covers four neighbours of one of these places.
        places = np.arange(0, max(len(points) - 3, 0), length // 2)
        same = places[np.logical_and.reduce([points[places] == points[places + i] for i in (1, 2, 3)])]
        found[start + np.searchsorted(np.cumsum(lengths), same, side="right")] = True
    return found
