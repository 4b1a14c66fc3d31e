"""Conversations that hold keys, tokens or passwords.

What it finds of data sets for tool use are mostly passwords that somebody invented: of 6,400 conversations of 35 corpora it
takes 17, all of them passwords that a tool generated or that belong to invented people; of tokens, none. Passwords are
therefore looked for only where ``kinds`` says so, and the filter is no default.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict
from pipeline.filters.told import Where, chosen_parts, known, verdicts
from pipeline.sensitive import secrets

NAME = "secrets"
ABOUT = "conversations with keys, tokens or passwords in them; what only stands for one is none"


class Params(FilterParams):
    """What counts as a secret."""

    kinds: tuple[str, ...] = Field((*secrets.TOKENS, "key"), description=f"of {', '.join(secrets.KINDS)}")
    placeholders: bool = Field(default=False, description="also forms to fill in and examples of documentation")
    max_count: int = Field(0, ge=0, description="so many may stand in a conversation")
    where: Where = Field("all", description="output: only what the model says")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return known(kinds, secrets.KINDS)


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. The detail never holds a secret: its first characters and its length."""
    parts = chosen_parts(talks, params.where)
    spans = secrets.find(parts["text"], params.kinds, params.placeholders)
    return verdicts(parts, spans, "secret", params.max_count)
