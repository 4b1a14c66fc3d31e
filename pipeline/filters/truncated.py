"""Conversations that were cut off: the last thing that the model says breaks off."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.said import WORD, spoken
from pipeline.filters.talks import Talks, Verdict

NAME = "truncated"
ABOUT = "conversations whose last output breaks off: cut by the source, in the middle of a word, an open code block"

#: A text that ends so ends on purpose: punctuation, closing brackets and quotes of any script, symbols, emoji (what modifies
#: one comes behind it), numbers. Some scripts end a sentence with a space, or with nothing.
_ENDS = r"(?:[\p{P}\p{S}\p{N}]|[\p{Thai}\p{Lao}\p{Khmer}\p{Tibetan}])[\p{M}\p{Cf}\s]*$"

#: A line that opens or closes a block of code (one with more backticks behind is code in a line), and any mark of such a block.
_FENCE, _MARK = r"(?m)^[ \t>]*`{3,}[^`\n]*$", r"`{3,}"


class Params(FilterParams):
    """What counts as cut off."""

    interrupted: bool = Field(default=True, description="the source itself says so")
    open_code: bool = Field(default=True, description="a block of code (three backticks) that nothing closes")
    no_ending: bool = Field(
        default=False,
        description="a last answer of many words that ends without any punctuation; many sources are careless",
    )
    many_words: int = Field(40, ge=1, description="from so many words on a text should end properly")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Calls are not judged (their form is checked in conversion), nor what a call follows."""
    last = talks.parts.filter(spoken(calls=True)).group_by("talk", maintain_order=True).last()
    last = last.filter(pl.col("kind") == "message")
    text = pl.col("text")
    odd = (text.str.count_matches(_FENCE) % 2 == 1) & (text.str.count_matches(_MARK) % 2 == 1)
    many = text.str.count_matches(WORD) >= params.many_words
    looks = (
        ("interrupted", params.interrupted, pl.col("interrupted") & pl.col("trained")),
        ("open_code", params.open_code, odd),
        ("no_ending", params.no_ending, many & ~text.str.contains(_ENDS)),
    )
    found: dict[int, Verdict] = {}
    for reason, on, look in looks:
        if on:
            for talk, end in last.filter(look).sort("talk").select("talk", text.str.tail(60)).iter_rows():
                found.setdefault(talk, Verdict(reason, f"ends with {end!r}"))
    return found
