"""Garbage in place of words: broken characters, encoded data, mashed keys.

Features after the rules of Rae et al. 2021 (Gopher) and Raffel et al. 2020 (C4) that make sense in dialogue, without those that
only fit English (stop words, sentence punctuation). Answers hold formulas, tables, lists of numbers, drawings and code without
fences, so the limits on letters, digits and symbols are off by default, and the others stand where hardly any text of purpose
is. Fenced code and calls are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.said import SCRIPTS, WORD, count_classes, first_reasons, outside_code, percent, said
from pipeline.filters.talks import Talks, Verdict

NAME = "quality"
ABOUT = "conversations with an answer that is garbage: broken characters, encoded data, mashed keys, hardly any letters"

#: Words of four letters or more, without a vowel of the Latin script (w and y are vowels of some languages).
_LATIN_WORD = r"(?i)[\p{Latin}\p{M}]{4,}"
_MASHED = r"(?i)\b[bcdfghjklmnpqrstvxzßñç]{4,}\b"

#: Bases of DNA and RNA, amino acids.
_SEQUENCE = r"[A-Z]{20,}|[acgtun]{20,}"

_OPEN_END = r"(?m)(?:\.\.\.|…)[ \t]*$"


class Params(FilterParams):
    """Limits on a message's text; shares are of its characters without white space; a null limit is none."""

    min_characters: int = Field(200, ge=1, description="shorter messages are not judged")
    max_broken: float | None = Field(
        0.05, ge=0, le=1, description="control characters, U+FFFD, private and unassigned characters"
    )
    max_wall: int | None = Field(
        500, ge=40, description="characters of base64 or the like, in one line or in long ones"
    )
    min_letters: float | None = Field(None, ge=0, le=1, description="letters of any script; sums have none")
    max_digits: float | None = Field(None, ge=0, le=1)
    max_symbols: float | None = Field(None, ge=0, le=1, description="punctuation and symbols; drawings are")
    max_word_length: float | None = Field(
        25.0,
        gt=1,
        description="letters and digits of a word, on average; of scripts without spaces each character is one",
    )
    max_mashed: float | None = Field(
        0.5, ge=0, le=1, description="of the longer words of the Latin script: those without any vowel"
    )
    max_ellipses: float | None = Field(None, ge=0, le=1, description="of the lines: those that end in an ellipsis")
    min_script: float | None = Field(0.3, ge=0, le=1, description="of the letters: those of the commonest script")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. One message is enough for a conversation to be taken."""
    texts = said(talks).select("talk", text=outside_code(pl.col("text")))
    texts = texts.filter(pl.col("text").str.len_chars() >= params.min_characters)
    counted = pl.concat([texts, count_classes(texts["text"])], how="horizontal")
    letters = pl.sum_horizontal(*SCRIPTS, "mark")
    shown = letters + pl.sum_horizontal("broken", "digit", "symbol")
    common = pl.max_horizontal(*SCRIPTS)
    features = counted.select(
        "talk",
        "text",
        letters=letters / shown,
        broken=pl.col("broken") / shown,
        digits=pl.col("digit") / shown,
        symbols=pl.col("symbol") / shown,
        script=common / pl.sum_horizontal(*SCRIPTS),
        all_letters=letters,
        latin=pl.col("latin") / letters,
        shown=shown,
        space=pl.col("space"),
    ).filter(pl.col("shown") > 0)
    looks: list[tuple[str, pl.DataFrame]] = []

    def look(reason: str, feature: str, bad: pl.Expr, said_of_it: str) -> None:
        found = features.filter(bad)
        looks.append((reason, found.select("talk", detail=pl.format(f"{{}} {said_of_it}", percent(pl.col(feature))))))

    if params.max_broken is not None:
        look("broken_characters", "broken", pl.col("broken") > params.max_broken, "of a message is no text")
    if params.max_wall is not None:
        looks.append(("encoded_data", _walls(features, params.max_wall)))
    if params.max_digits is not None:
        look("digits", "digits", pl.col("digits") > params.max_digits, "of a message is digits")
    if params.max_symbols is not None:
        look("symbols", "symbols", pl.col("symbols") > params.max_symbols, "of a message is punctuation and symbols")
    if params.min_letters is not None:
        look("few_letters", "letters", pl.col("letters") < params.min_letters, "of a message is letters")
    if params.min_script is not None:
        mixed = (pl.col("script") < params.min_script) & (pl.col("all_letters") >= params.min_characters)
        look("mixed_scripts", "script", mixed, "of the letters of a message is of its commonest script")
    if params.max_word_length is not None:
        looks.append(("long_words", _long_words(features, params.max_word_length)))
    if params.max_mashed is not None:
        looks.append(("mashed_keys", _mashed(features, params.max_mashed)))
    if params.max_ellipses is not None:
        looks.append(("ellipses", _ellipses(features, params.max_ellipses)))
    return first_reasons(looks)


def _walls(features: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Messages with a wall of encoded data, in one line or in lines of one width."""
    wall = r"(?:[A-Za-z0-9+/_-]{40,}={0,2}\r?\n?)+"
    suspects = features.filter(pl.col("text").str.contains(r"[A-Za-z0-9+/_-]{40}"))
    return (
        suspects.select("talk", piece=pl.col("text").str.extract_all(wall))
        .explode("piece", empty_as_null=False)
        .with_columns(size=pl.col("piece").str.len_chars())
        .filter(
            pl.col("size") > limit,
            pl.col("piece").str.contains("[A-Z]") & pl.col("piece").str.contains("[a-z]"),
            pl.col("piece").str.count_matches("[0-9]") / pl.col("size") > 0.02,
        )
        .select("talk", detail=pl.format("{} characters of encoded data", "size"))
    )


def _long_words(features: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Messages whose words are hardly ever at an end. Sequences of biology, in capitals or of four letters, may be so long."""
    rare = features.filter(pl.col("shown") / (pl.col("space") + 1) > 10)
    words = pl.col("text").str.replace_all(_SEQUENCE, "").str.extract_all(WORD)
    return (
        rare.select("talk", length=words.list.eval(pl.element().str.len_chars()).list.mean())
        .filter(pl.col("length") > limit)
        .select("talk", detail=pl.format("a word has {} characters", pl.col("length").round(0).cast(pl.Int64)))
    )


def _mashed(features: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Messages in Latin letters of whose longer words most cannot be spoken."""
    return (
        features.filter(pl.col("latin") > 0.5)
        .select(
            "talk",
            words=pl.col("text").str.count_matches(_LATIN_WORD),
            mashed=pl.col("text").str.count_matches(_MASHED),
        )
        .filter(pl.col("words") >= 10, pl.col("mashed") / pl.col("words") > limit)
        .select("talk", detail=pl.format("{} of {} longer words have no vowel", "mashed", "words"))
    )


def _ellipses(features: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Messages whose lines mostly end in an ellipsis."""
    return (
        features.select(
            "talk",
            lines=pl.col("text").str.count_matches(r"(?m)\S[ \t]*$"),
            open=pl.col("text").str.count_matches(_OPEN_END),
        )
        .filter(pl.col("open") >= 3, pl.col("open") / pl.col("lines") > limit)
        .select("talk", detail=pl.format("{} of {} lines end in an ellipsis", "open", "lines"))
    )
