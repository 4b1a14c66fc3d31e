"""Unbalanced conversations: one side says nearly everything, turns without an answer, tools that flood the window.

Sides are measured in tokens of the records' tokenizer: what a stream takes up of the window and of a training step.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.said import first_reasons, percent, spoken
from pipeline.filters.talks import Talks, Verdict

NAME = "balance"
ABOUT = "conversations in which one side says nearly everything, a turn has no answer, or tools flood the window"


class Params(FilterParams):
    """Shares are of all tokens of the conversation, tool definitions left out; a null limit is none."""

    min_tokens: int = Field(256, ge=0, description="the shares of shorter conversations are not judged")
    min_output_share: float | None = Field(
        None, ge=0, le=1, description="what the model says, calls too; a long text may have a short answer"
    )
    max_output_share: float | None = Field(0.9995, ge=0, le=1, description="what the model says, calls too")
    max_tool_share: float | None = Field(0.98, ge=0, le=1, description="what tools return")
    max_output_per_input: float | None = Field(
        None,
        gt=0,
        description="tokens of answers for each token of the turns that they answer; thoughts are not counted",
    )
    max_unanswered: int | None = Field(
        None, ge=0, description="turns of a user that another turn follows, before the model has said anything"
    )
    answered_end: bool = Field(default=False, description="whether the model must have the last word")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. Conversations without any output are not judged: they are a class of their own."""
    parts = (
        talks.parts.filter(pl.col("message").is_not_null())
        .with_columns(ours=pl.col("output") & spoken(calls=True).not_(), user=pl.col("role") == "user")
        .filter(~pl.col("ours"))
    )
    tokens = pl.col("tokens")
    sums = (
        parts.group_by("talk", maintain_order=True)
        .agg(
            whole=tokens.sum(),
            said=tokens.filter(pl.col("output")).sum(),
            answered=tokens.filter(pl.col("output") & (pl.col("role") != "thought")).sum(),
            asked=tokens.filter("user").sum(),
            tools=tokens.filter(pl.col("kind") == "tool_result").sum(),
            ends=pl.col("user").last(),
        )
        .filter(pl.col("said") > 0)
    )
    long = sums.filter(pl.col("whole") >= params.min_tokens)
    output, tools = pl.col("said") / pl.col("whole"), pl.col("tools") / pl.col("whole")
    ratio = pl.col("answered") / pl.col("asked")
    looks: list[tuple[str, pl.DataFrame]] = []

    def look(reason: str, frame: pl.DataFrame, bad: pl.Expr, detail: pl.Expr) -> None:
        looks.append((reason, frame.filter(bad).select("talk", detail=detail)))

    if params.min_output_share is not None:
        look("little_output", long, output < params.min_output_share, pl.format("{} is output", _fine(output)))
    if params.max_output_share is not None:
        look("nearly_all_output", long, output > params.max_output_share, pl.format("{} is output", _fine(output)))
    if params.max_tool_share is not None:
        look("tools_flood", long, tools > params.max_tool_share, pl.format("{} comes from tools", percent(tools)))
    if params.max_output_per_input is not None:
        asked = long.filter(pl.col("asked") > 0)
        times = pl.format("{} tokens of answers for each of the turns", ratio.round(1))
        look("long_answers", asked, ratio > params.max_output_per_input, times)
    if params.max_unanswered is not None:
        turns = _unanswered(parts).join(sums.select("talk"), on="talk", how="semi", maintain_order="left")
        bad = pl.col("turns") > params.max_unanswered
        look("unanswered_turns", turns, bad, pl.format("{} turns without an answer", "turns"))
    if params.answered_end:
        look("unanswered_end", sums, pl.col("ends"), pl.lit("a user has the last word"))
    return first_reasons(looks)


def _fine(share: pl.Expr) -> pl.Expr:
    return pl.format("{}%", (share * 100).round(2))


def _unanswered(parts: pl.DataFrame) -> pl.DataFrame:
    """How many messages of a user another one of the same stream follows, with no output in between."""
    messages = (
        parts.filter(pl.col("user") | pl.col("output"))
        .group_by("talk", "message", maintain_order=True)
        .agg(pl.col("user", "stream").first())
        .with_columns(
            waits=pl.col("user")
            & pl.col("user").shift(-1).over("talk")
            & (pl.col("stream") == pl.col("stream").shift(-1).over("talk"))
        )
    )
    return messages.group_by("talk", maintain_order=True).agg(turns=pl.col("waits").sum())
