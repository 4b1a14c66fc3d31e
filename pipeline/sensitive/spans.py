"""Spans of text, and the cheap looks that tell in which texts the dear ones are worth it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

#: Texts as finders take them: half surrogates cannot be in them, as in records.
Texts = Sequence[str] | pl.Series


class Span(NamedTuple):
    """A part of a text that is of some kind. ``start``, ``end``: characters."""

    start: int
    end: int
    kind: str


def as_series(texts: Texts) -> pl.Series:
    """The texts as a column. Raises UnicodeEncodeError where one holds half a surrogate pair."""
    return texts if isinstance(texts, pl.Series) else pl.Series("text", list(texts), pl.String)


def holding(texts: pl.Series, look: pl.Expr) -> Iterator[tuple[int, str]]:
    """The texts of which a look (on the column ``text``) holds, with their numbers."""
    frame = pl.DataFrame({"text": texts}).with_row_index("number")
    yield from frame.filter(look).select("number", "text").iter_rows()


def settled(spans: Iterable[Span]) -> list[Span]:
    """The spans in order without overlaps: of two that overlap the one that starts first is kept, then the longer one, then
    the one that was found first."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def masked(value: str, shown: int = 4) -> str:
    """What may be said of a value in public: its first characters (a third of it at most) and its length."""
    shown = min(shown, len(value) // 3)
    return f"{value[:shown]}… ({len(value)} characters)"
