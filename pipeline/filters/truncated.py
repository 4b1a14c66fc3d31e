"""Conversations that were cut off: the last thing that the model says breaks off."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict

NAME = "truncated"
ABOUT = "conversations whose last output breaks off: cut by the source, in the middle of a word, an open code block"

#: A text that ends so ends on purpose: punctuation, closing brackets and quotes of any script, code, markup, numbers.
_ENDS = r"[\p{P}\p{S}\p{N}\p{Emoji_Presentation}]\s*$"


class Params(FilterParams):
    """What counts as cut off."""

    interrupted: bool = Field(default=True, description="the source itself says so")
    open_code: bool = Field(default=True, description="a block of code (```) that nothing closes")
    no_ending: bool = Field(
        default=False,
        description="a last answer of many words that ends without any punctuation; many sources are careless",
    )
    many_words: int = Field(40, ge=1, description="from so many words on a text should end properly")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Calls are not judged: their form is checked in conversion."""
    said = talks.parts.filter(pl.col("output") & (pl.col("kind") == "message"))
    last = said.group_by("talk", maintain_order=True).last()
    words = pl.col("text").str.count_matches(r"\S+")
    looks = (
        ("interrupted", params.interrupted, pl.col("interrupted") & pl.col("trained")),
        ("open_code", params.open_code, pl.col("text").str.count_matches(r"(?m)^\s{0,3}```") % 2 == 1),
        ("no_ending", params.no_ending, (words >= params.many_words) & ~pl.col("text").str.contains(_ENDS)),
    )
    found: dict[int, Verdict] = {}
    for reason, on, look in looks:
        if on:
            for talk, text in last.filter(look).sort("talk").select("talk", "text").iter_rows():
                found.setdefault(talk, Verdict(reason, f"ends with {text[-60:]!r}"))
    return found
