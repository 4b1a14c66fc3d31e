"""Conversations that hold data of persons: e-mail addresses, phone numbers, numbers of cards and accounts.

Whether a person exists cannot be told from a text. Example domains, names like ``john.doe``, addresses of offices, phone
numbers that regulators keep for films, and cards for testing are nobody's; the invented people of tool-use data sets often
have others (8 of the 16 conversations of one of them), so that the filter is no default.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict
from pipeline.filters.told import Where, chosen_parts, known, verdicts
from pipeline.sensitive import personal

NAME = "personal"
ABOUT = "conversations with e-mail addresses, phone, card or account numbers that may be somebody's"


class Params(FilterParams):
    """What counts as data of a person."""

    kinds: tuple[str, ...] = Field(personal.KINDS[:4], description=f"of {', '.join(personal.KINDS)}")
    regions: tuple[str, ...] = Field(
        personal.REGIONS, description="countries (ISO 3166) whose phone numbers are known without their country code"
    )
    allow: tuple[str, ...] = Field((), description="domains whose e-mail addresses may stay")
    placeholders: bool = Field(default=False, description="also example addresses, invented numbers, test cards")
    max_count: int = Field(0, ge=0, description="so many may stand in a conversation")
    where: Where = Field("all", description="output: only what the model says")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return known(kinds, personal.KINDS)

    @field_validator("regions")
    @classmethod
    def _countries(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        strange = [region for region in regions if not (len(region) == 2 and region.isascii() and region.isupper())]
        if strange:
            raise ValueError(f"{', '.join(map(repr, strange))} is no country of two capital letters (US, DE)")
        return tuple(dict.fromkeys(regions))

    @field_validator("allow")
    @classmethod
    def _domains(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(domain.lower().lstrip("@.") for domain in allow)


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. The detail masks what is found."""
    parts = chosen_parts(talks, params.where)
    spans = personal.find(parts["text"], params.kinds, params.regions, params.allow, params.placeholders)
    return verdicts(parts, spans, "", params.max_count)
