"""Conversations in other languages than those that are wanted.

What people and the model write to each other is looked at, outside code, data and markup: at most 1,000 characters from
several places, told by pycld2, and by py3langid where that does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field, field_validator

from pipeline.filters.params import FilterParams
from pipeline.filters.said import outside_code
from pipeline.filters.talks import Talks, Verdict

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

NAME = "language"
ABOUT = "conversations in other languages than the wanted ones"

#: A language that is not known: too little text, or no prose.
UNKNOWN = "und"

#: Letters, in bytes of UTF-8, below which nothing is said: names and formulas are of any language.
MIN_LETTERS = 20

#: Characters: of a part's beginning that are cleaned, of a part and of a conversation that are taken.
_READ, _PART, _TALK = 1200, 300, 1000

#: Inline code, addresses, tags, rows of tables, names of code, formulas.
_NO_PROSE = r"`[^`\n]*`|[a-z]{2,10}://\S+|<[^<>\n]{1,200}>|\S+@\S+|[\w./\\-]+[/\\_][\w./\\-]+|\\[A-Za-z]+|\$[^$\n]*\\[^$\n]*\$|(?m:^\s*\|.*$)"

#: Codes of pycld2 and py3langid that are old, or more exact than is told reliably.
_SAME = {"iw": "he", "jw": "jv", "in": "id", "ji": "yi", "nb": "no", "zh-Hant": "zh", "sr-ME": "sr", "fil": "tl"}

#: Languages that a few sentences do not tell apart: where one is wanted, the others of its row may stay.
_CLOSE = (frozenset({"id", "ms"}), frozenset({"bs", "hr", "sr"}), frozenset({"da", "nn", "no"}))


class Params(FilterParams):
    """Which languages may stay."""

    keep: tuple[str, ...] | None = Field(None, description="ISO 639 codes (en, zh, de); null: any")
    unknown: Literal["keep", "take"] = Field("keep", description="conversations with too little prose to tell")
    min_share: float = Field(
        0.6, ge=0.0, le=1.0, description="of the text that a language must have, to be taken for it"
    )

    @field_validator("keep")
    @classmethod
    def _codes(cls, keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
        strange = [code for code in keep or () if not (2 <= len(code) <= 3 and code.isascii() and code.islower())]
        if strange:
            raise ValueError(f"{', '.join(map(repr, strange))} is no ISO 639 code (en, zh, de)")
        return None if keep is None else tuple(dict.fromkeys(_SAME.get(code, code) for code in keep))


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``."""
    found: dict[int, Verdict] = {}
    if params.keep is None and params.unknown == "keep":
        return found
    keep = set(params.keep or ()).union(*(row for row in _CLOSE if row.intersection(params.keep or ())))
    for talk, (code, share) in enumerate(languages_and_shares(talks)):
        if code == UNKNOWN:
            if params.unknown == "take":
                found[talk] = Verdict("unknown_language", "too little prose to tell")
        elif params.keep is not None and code not in keep and share >= params.min_share:
            found[talk] = Verdict("other_language", f"{code}, {share:.0%} of the text")
    return found


def languages_of(talks: Talks) -> list[str]:
    """The main language of each conversation: an ISO 639 code, or ``und``."""
    return [code for code, _ in languages_and_shares(talks)]


def languages_and_shares(talks: Talks) -> list[tuple[str, float]]:
    """The main language of each conversation and its share of the text (0 to 1)."""
    return list(detect(prose(talks)))


def detect(texts: Iterable[str]) -> Iterable[tuple[str, float]]:
    """The language of each text and its share (0 to 1); ``und`` with 0."""
    series = pl.Series("text", list(texts), pl.String)
    letters = series.str.replace_all(r"\P{L}+", "").str.len_bytes()
    for text, enough in zip(series, letters >= MIN_LETTERS, strict=True):
        yield _language(text) if enough else (UNKNOWN, 0.0)


def prose(talks: Talks) -> list[str]:
    """What is looked at of each conversation."""
    text = pl.col("text")
    looked_at = (pl.col("kind") == "message") & pl.col("role").is_in(["user", "assistant"])
    clean = outside_code(text.str.slice(0, _READ)).str.replace_all(_NO_PROSE, " ")
    # Controls and points that are no characters make pycld2 refuse a text.
    clean = clean.str.replace_all(r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\x{FDD0}-\x{FDEF}\x{FFFE}\x{FFFF}]", " ")
    parts = (
        talks.parts.filter(looked_at & ~text.str.contains(r"^\s*[\[{]"))
        .with_columns(text=clean.str.strip_chars().str.slice(0, _PART))
        .group_by("talk", maintain_order=True)
        .agg(text.str.join("\n"))
    )
    length = text.str.len_chars().cast(pl.Int64)
    third = _TALK * 3 // 10
    places = pl.concat_str(
        text.str.slice(0, _TALK - 2 * third - 2),
        text.str.slice((length - third) // 2, third),
        text.str.slice(-third),
        separator="\n",
    )
    taken = parts.select("talk", text=pl.when(length > _TALK).then(places).otherwise(text))
    every = talks.conversations.select("talk").join(taken, on="talk", how="left", maintain_order="left")
    return every["text"].fill_null("").to_list()


def _language(text: str) -> tuple[str, float]:
    import pycld2

    try:
        _, _, ranked = pycld2.detect(text)
        code, share = ranked[0][1], ranked[0][2] / 100
    except pycld2.error:
        code, share = "un", 0.0
    # Codes of scripts (xx-...) and of jokes (zz.) are no languages.
    if code in ("un", "xxx", "tlh") or code.startswith(("xx-", "zz")):
        code, share = _fallback().classify(text)
    code = _SAME.get(code, code)
    return (code, float(share)) if code != UNKNOWN else (UNKNOWN, 0.0)


@cache
def _fallback() -> LanguageIdentifier:
    """Knows more short texts; it says ``und`` where it is less than half sure."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=0.5)
