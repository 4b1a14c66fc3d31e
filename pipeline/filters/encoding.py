"""Conversations with damaged characters: text that was read in the wrong encoding, or cut inside a character.

Half surrogates are not looked for: no record can hold one (their units are rejected in conversion). Terminal sequences are no
damage, nor are the other controls that programs print; NUL is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl
from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict
from pipeline.filters.told import Where, chosen_parts

NAME = "encoding"
ABOUT = "conversations with damaged characters: the wrong encoding, U+FFFD, controls, private use"

Kind = Literal["replacement_characters", "controls", "private_use"]


class Params(FilterParams):
    """How much damage may stand in a conversation; null: any. Counts are of what ``where`` says."""

    max_mojibake: int | None = Field(0, ge=0, description="sequences that only a wrong encoding makes (Ã©, â€™)")
    max_replacement_characters: int | None = Field(0, ge=0, description="U+FFFD: bytes that were no character")
    max_controls: int | None = Field(0, ge=0, description="control characters; line ends and escapes are none")
    max_private_use: int | None = Field(
        0, ge=0, description="two or more characters of private use in a row; a single one is a symbol of some font"
    )
    where: Where = Field("output", description="all: also what the model reads")


#: Controls that no text holds on purpose. Form feed and vertical tab are damage before a letter: they were ``\frac``, ``\vec``.
_CONTROLS = r"[\x00-\x08\x0E-\x1A\x1C-\x1F\x7F\x{80}-\x{84}\x{86}-\x{9F}]|[\x0B\x0C][a-z]"
#: What programs print may hold all of them but NUL and those of C1.
_PRINTED = r"[\x00\x{80}-\x{84}\x{86}-\x{9F}]"
_PRIVATE = r"[\x{E000}-\x{F8FF}\x{F0000}-\x{10FFFF}]{2,}"

#: Which texts are asked about mojibake: two characters at once that it consists of, or those that tell alone.
_SUSPECT = r"[\x{80}-\x{52F}\x{2010}-\x{25FF}\x{FB01}\x{FB02}\x{FFFD}]{2}|[ÃÂŒœ]"


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. The detail quotes no damage but mojibake."""
    parts = chosen_parts(talks, params.where)
    text = pl.col("text")
    controls = pl.when(pl.col("kind") == "tool_result").then(text.str.count_matches(_PRINTED))
    counts = parts.select(
        "talk",
        replacement_characters=text.str.count_matches("\ufffd", literal=True),
        controls=controls.otherwise(text.str.count_matches(_CONTROLS)),
        private_use=text.str.count_matches(_PRIVATE),
    )
    found: dict[int, Verdict] = {}
    limits: tuple[tuple[Kind, int | None], ...] = (
        ("replacement_characters", params.max_replacement_characters),
        ("controls", params.max_controls),
        ("private_use", params.max_private_use),
    )
    summed = counts.group_by("talk").sum().sort("talk")
    for reason, limit in limits:
        if limit is not None:
            for talk, count in summed.filter(pl.col(reason) > limit).select("talk", reason).iter_rows():
                found.setdefault(talk, Verdict(reason, f"{count:,} times"))
    if params.max_mojibake is not None:
        for talk, (count, example) in _mojibake(parts).items():
            if count > params.max_mojibake:
                found.setdefault(talk, Verdict("mojibake", f"{count:,} times, first {example!r}"))
    return found


def _mojibake(parts: pl.DataFrame) -> dict[int, tuple[int, str]]:
    """How many sequences of mojibake conversations hold, and the first with what stands around it; those without are not
    there."""
    from ftfy.badness import BADNESS_RE

    found: dict[int, tuple[int, str]] = {}
    suspect = parts.filter(pl.col("text").str.contains(_SUSPECT)).select("talk", "text")
    for talk, text in suspect.iter_rows():
        # U+FFFD is counted for itself.
        matches = [match for match in BADNESS_RE.finditer(text) if "\ufffd" not in match[0]]
        if matches:
            first = matches[0]
            count, example = found.get(talk, (0, text[max(0, first.start() - 8) : first.end() + 8]))
            found[talk] = (count + len(matches), example)
    return found
