"""Too short to learn from, or too long to be worth it."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict

NAME = "length"
ABOUT = "conversations with too little or too much output, too many rows or messages"


class Params(FilterParams):
    """Limits; a null one is none."""

    min_output_characters: int = Field(1, ge=0, description="white space is not counted")
    max_output_characters: int | None = Field(None, ge=1)
    min_rows: int = Field(2, ge=0, description="rows of all records of the conversation")
    max_rows: int | None = Field(None, ge=1)
    max_messages: int | None = Field(None, ge=1)


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Where there is no output, its limits do not hold; nor any where nothing at all is said."""
    spoken = (
        talks.parts.group_by("talk")
        .agg(
            speaks=pl.col("output").any(),
            characters=pl.col("text").filter(pl.col("output")).str.replace_all(r"\s", "").str.len_chars().sum(),
            messages=pl.col("message").drop_nulls().n_unique(),
        )
        .join(talks.conversations.select("talk", "rows"), on="talk")
    )
    looks = (
        ("too_little_output", pl.col("speaks") & (pl.col("characters") < params.min_output_characters), "characters"),
        ("too_much_output", pl.col("speaks") & _above("characters", params.max_output_characters), "characters"),
        ("too_few_rows", pl.col("rows") < params.min_rows, "rows"),
        ("too_many_rows", _above("rows", params.max_rows), "rows"),
        ("too_many_messages", _above("messages", params.max_messages), "messages"),
    )
    found: dict[int, Verdict] = {}
    for reason, look, column in looks:
        for talk, count in spoken.filter(look).sort("talk").select("talk", column).iter_rows():
            found.setdefault(talk, Verdict(reason, f"{count:,} {column}"))
    return found


def _above(column: str, limit: int | None) -> pl.Expr:
    return pl.lit(value=False) if limit is None else pl.col(column) > limit
