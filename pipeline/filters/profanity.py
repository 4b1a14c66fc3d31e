"""Conversations with profanities. The words are English ones, and conversations in other languages, where the same letters may
be an innocent word (German "dick"), are not judged.

A word says little of what is meant (a quotation, a breed of donkey): the filter is no default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import polars as pl
from pydantic import Field

from pipeline.filters.language import UNKNOWN, detect
from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict
from pipeline.filters.told import Where, chosen_parts

if TYPE_CHECKING:
    from profanex import Filter

NAME = "profanity"
ABOUT = "conversations with profanities (English words only)"

#: Characters that tell the language of a text.
_READ = 1000


class Params(FilterParams):
    """How many profanities may stand in a conversation: both limits must be passed."""

    max_count: int = Field(0, ge=0, description="so many may stand in a conversation")
    max_share: float = Field(0.0, ge=0.0, le=1.0, description="of all words")
    where: Where = Field("output", description="all: also what the model reads")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. The detail names the words."""
    said = (
        chosen_parts(talks, params.where)
        .filter(pl.col("kind") == "message")
        .group_by("talk", maintain_order=True)
        .agg(pl.col("text").str.join("\n"), words=pl.col("text").str.count_matches(r"\S+").sum())
        .filter(pl.col("text").str.contains("[A-Za-z]"))
    )
    found: dict[int, Verdict] = {}
    texts = said["text"].to_list()
    for talk, words, text, matches in zip(said["talk"], said["words"], texts, _filter().find_many(texts), strict=True):
        count = len(matches)
        if count > params.max_count and count > params.max_share * words and _is_english(text):
            most = Counter(match.term for match in matches).most_common(3)
            listed = ", ".join(f"{term} ({times})" for term, times in most)
            found[talk] = Verdict("profanity", f"{count:,} of {words:,} words: {listed}")
    return found


def _is_english(text: str) -> bool:
    (code, _), *_ = detect([text[:_READ]])
    return code in ("en", UNKNOWN)


@cache
def _filter() -> Filter:
    """The words and what tells them from innocent ones."""
    from profanex import Filter

    return Filter()
