"""Degenerate output: the model repeats itself instead of going on.

The shares of characters in repeated lines, paragraphs and runs of words follow Rae et al. 2021 (Gopher, MassiveText), whose
limits are for web pages. Dialogue holds refrains, drills, tables and steps of one form, so that these are far laxer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.said import WORD, first_reasons, may_hold_run, outside_code, percent, said
from pipeline.filters.talks import Talks, Verdict

NAME = "repetition"
ABOUT = "conversations in which the model repeats itself: lines, paragraphs, phrases, messages, an endless loop"

#: Words of the runs that are looked for: shorter ones repeat in good texts too.
_RUN = 8

#: Characters at the end of a text by which a loop is found, and how many places of them are tried.
_TAIL, _PLACES = 12, 16

#: A loop or a run without any letter must be so many times longer: grids of numbers, rulers, rows of dots are often meant.
_NO_LETTERS = 10

#: Lines that repeat in good texts: of tables and of data, and those that say next to nothing.
_DATA_LINE = r"^[|+<{\[\"']|[{}\[\]<>|;]$"
_LETTERS = r"\p{L}.*\p{L}.*\p{L}"

#: Stands where a text is cut; no character, so that hardly any text holds it.
_BREAK = "\ufdd0"

_LETTER = re.compile(r"[^\W\d_]")


class Params(FilterParams):
    """Limits, by message unless said otherwise; a null one is none. Fenced code is not looked at for lines and words."""

    min_characters: int = Field(200, ge=1, description="shorter messages are not judged")
    max_line_share: float | None = Field(0.5, gt=0, le=1, description="characters in lines that were said before")
    max_paragraph_share: float | None = Field(0.4, gt=0, le=1, description="characters in paragraphs said before")
    max_phrase_share: float | None = Field(0.6, gt=0, le=1, description="characters in runs of 8 words said before")
    max_message_share: float | None = Field(
        0.5, gt=0, le=1, description="characters of a stream's messages that it had said before, of all conversation"
    )
    loop_times: int | None = Field(5, ge=3, description="so often the same phrase stands at the very end")
    loop_characters: int = Field(
        200, ge=20, description="and covers so many characters; ten times as many without letters"
    )
    max_run: int | None = Field(200, ge=8, description="the same letter in a row; ten times as often for what is none")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Calls are not judged, nor what is read."""
    spoken = said(talks).select("talk", "message", "stream", "text")
    long = spoken.filter(pl.col("text").str.len_chars() >= params.min_characters).with_row_index("row")
    prose = long.with_columns(outside_code(pl.col("text"))).filter(
        pl.col("text").str.len_chars() >= params.min_characters
    )
    looks = []
    if params.max_run is not None:
        looks.append(("one_character", _runs(long, params.max_run)))
    if params.loop_times is not None:
        looks.append(("endless_loop", _loops(long, params.loop_times, params.loop_characters)))
    if params.max_paragraph_share is not None:
        looks.append(("repeated_paragraphs", _pieces(prose, r"\n\s*\n", 80, params.max_paragraph_share, "paragraphs")))
    if params.max_line_share is not None:
        looks.append(("repeated_lines", _pieces(prose, r"\n", 1, params.max_line_share, "lines")))
    if params.max_phrase_share is not None:
        looks.append(("repeated_phrases", _phrases(prose, params.max_phrase_share)))
    if params.max_message_share is not None:
        looks.append(("repeated_messages", _messages(spoken, params)))
    return first_reasons(looks)


def _pieces(texts: pl.DataFrame, between: str, shortest: int, limit: float, name: str) -> pl.DataFrame:
    """Texts of which more than ``limit`` stands in pieces that the same text held before."""
    text = pl.col("text")
    split = text.str.replace_all(between, _BREAK).str.split(_BREAK)
    pieces = (
        texts.lazy()
        .select("talk", "row", piece=split)
        .explode("piece")
        .with_columns(pl.col("piece").str.strip_chars())
        .with_columns(size=pl.col("piece").str.len_chars())
        .with_columns(again=pl.struct("row", "piece").is_first_distinct().not_() & (pl.col("size") >= shortest))
    )
    candidates = pieces.group_by("row").agg(
        pl.col("talk").first(),
        most=pl.col("size").filter(pl.col("again")).sum() / pl.col("size").sum(),
    ).filter(pl.col("most") > limit).select("row")  # fmt: skip
    speaks = pl.col("piece").str.contains(_LETTERS) & pl.col("piece").str.contains(_DATA_LINE).not_()
    return (
        pieces.join(candidates, on="row", how="semi")
        .group_by("row")
        .agg(
            pl.col("talk").first(),
            share=pl.col("size").filter(pl.col("again") & speaks).sum() / pl.col("size").sum(),
            times=(pl.col("again") & speaks).sum(),
        )
        .filter(pl.col("share") > limit)
        .sort("row")
        .select(
            "talk",
            detail=pl.format(f"{{}} of a message is in {{}} {name} it had said", percent(pl.col("share")), "times"),
        )
        .collect()
    )


def _phrases(texts: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Texts of which more than ``limit`` (of the characters of words) stands in runs of words that they held before; numbers
    are words, but saying them again does not count."""
    words = texts.select("talk", "row", word=pl.col("text").str.extract_all(WORD))
    counts = words["word"].list.len().to_numpy().astype(np.int64)
    flat = words["word"].explode(empty_as_null=False)
    sizes = flat.str.len_chars().to_numpy().astype(np.int64)
    if len(flat) < _RUN:
        return _none()
    owner = np.repeat(np.arange(len(counts)), counts)
    repeats = _repeats(flat.hash().to_numpy(), owner)
    covered = np.zeros(len(flat), dtype=bool)
    for shift in range(_RUN):
        covered[shift : shift + len(repeats)] |= repeats
    covered[covered] = flat.filter(pl.Series(covered)).str.contains(r"\p{L}").to_numpy()
    said_again = np.bincount(owner, weights=sizes * covered, minlength=len(counts))
    whole = np.bincount(owner, weights=sizes, minlength=len(counts))
    share = said_again / np.maximum(whole, 1)
    return (
        words.select("talk", share=pl.Series(share))
        .filter(pl.col("share") > limit)
        .select(
            "talk",
            detail=pl.format(f"{{}} of a message is in runs of {_RUN} words it had said", percent(pl.col("share"))),
        )
    )


def _repeats(words: npt.NDArray[np.uint64], owner: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which runs of ``_RUN`` words (by their first) the same text held before."""
    size = len(words) - _RUN + 1
    grams = owner[:size].astype(np.uint64)
    for shift in range(_RUN):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + words[shift : shift + size]
    inside = owner[:size] == owner[_RUN - 1 :]
    known = ~pl.Series(grams).is_first_distinct().to_numpy()
    return np.asarray(known & inside, dtype=np.bool_)


def _loops(texts: pl.DataFrame, times: int, characters: int) -> pl.DataFrame:
    """Texts that end in the same phrase over and over; the last time may be cut off."""
    ended = texts.select("talk", text=pl.col("text").str.strip_chars_end())
    tail = pl.col("text").str.tail(_TAIL)
    often = ended.filter(pl.col("text").str.count_matches(tail, literal=True) >= min(times, characters // _TAIL) - 1)
    rows = [
        (talk, f"ends with {unit[:60]!r}, {count} times")
        for talk, text in often.iter_rows()
        for unit, count in _loop(text)
        if count >= times and len(unit) * count >= characters * (1 if _LETTER.search(unit) else _NO_LETTERS)
    ]
    return pl.DataFrame(rows, schema=_none().schema, orient="row")


def _loop(text: str) -> Iterator[tuple[str, int]]:
    """The phrases that stand at the end of a text more than once in a row, and how often; a longer one may hold a shorter."""
    tail = text[-_TAIL:]
    place = len(text) - len(tail)
    for _ in range(_PLACES):
        place = text.rfind(tail, 0, place + len(tail) - 1)
        if place < 0:
            return
        size = len(text) - len(tail) - place
        unit = text[-size:]
        count = 1
        while text.endswith(unit, 0, len(text) - count * size):
            count += 1
        if count > 1:
            yield unit, count


def _runs(texts: pl.DataFrame, length: int) -> pl.DataFrame:
    """Texts in which one character stands ``length`` times in a row."""
    run = re.compile(rf"([^\W\d_])\1{{{length - 1},}}|([^\s\w]|[\d_])\2{{{length * _NO_LETTERS - 1},}}")
    rows = []
    for talk, text in texts.filter(pl.Series(may_hold_run(texts["text"], length))).select("talk", "text").iter_rows():
        if found := run.search(text):
            rows.append((talk, f"{found.group()[0]!r} {len(found.group()):,} times in a row"))
    return pl.DataFrame(rows, schema=_none().schema, orient="row")


def _messages(spoken: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Conversations of which most is said again, message by message. Short messages ("Yes.") are not looked at."""
    return (
        spoken.with_columns(size=pl.col("text").str.len_chars())
        .with_columns(
            again=pl.struct("talk", "stream", "text").is_first_distinct().not_() & (pl.col("size") >= _SHORT_MESSAGE)
        )
        .group_by("talk", "stream", maintain_order=True)
        .agg(
            whole=pl.col("size").sum(),
            repeated=pl.col("size").filter(pl.col("again")).sum(),
            times=pl.col("again").sum(),
        )
        .filter(
            pl.col("whole") >= params.min_characters,
            pl.col("times") >= _TIMES,
            pl.col("repeated") / pl.col("whole") > params.max_message_share,
        )
        .select("talk", detail=pl.format("{}: {} messages had been said before", "stream", "times"))
    )


#: Characters of a message, and how many of them must have been said before.
_SHORT_MESSAGE, _TIMES = 40, 3


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema={"talk": pl.UInt32, "detail": pl.String})
