"""Conversations that hold items of evaluation sets: a model that has seen the test cannot be tested with it.

Runs of 13 words, as in Brown et al. 2020 (GPT-3). Unlike there one run is not enough, since instructions and citations are in
many texts: so large a share of the runs of one text of the item (its question, its answer) must be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.decontamination.grams import Grams, grams_of
from pipeline.decontamination.sets import Index, build_index, digest_of, stamp_of
from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict

NAME = "contamination"
ABOUT = "conversations that hold items of evaluation sets"


class Params(FilterParams):
    """The sets, and how much of an item is too much."""

    sets: dict[str, str] = Field(
        default_factory=dict,
        description="evaluation sets by name: a path, glob, URL or `hub:OWNER/NAME,config=…,split=…`; `hub` for gsm8k, "
        "pubmedqa, bfcl and gaia; without any, nothing is taken",
    )
    fields: tuple[str, ...] = Field((), description="keys whose texts count, at any depth; none: all texts of an item")
    words: int = Field(13, ge=3, le=64, description="words of a run; a shorter text must be a whole message")
    min_words: int = Field(8, ge=1, description="texts of fewer words are too common to tell anything")
    min_share: float = Field(0.5, gt=0, le=1, description="of the runs of a text: those that the conversation has")


def settings(params: Params) -> dict[str, Any]:
    """What the outcome depends on: the sets by what they hold, not by where they lie."""
    digests = {name: digest_of(name, place, stamp_of(place)) for name, place in params.sets.items()}
    return {**params.model_dump(mode="json"), "sets": digests}


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. System prompts and tool definitions are not looked at."""
    if not params.sets:
        return {}
    stamps = tuple(stamp_of(place) for place in params.sets.values())
    index = _index(tuple(params.sets.items()), params.words, params.min_words, params.fields, stamps)
    parts = talks.parts.filter(pl.col("message").is_not_null() & (pl.col("role") != "system"))
    grams = grams_of(parts["text"], params.words)
    at = np.minimum(np.searchsorted(index.keys, grams.keys), len(index.keys) - 1)
    hits = np.flatnonzero(index.keys[at] == grams.keys) if len(index.keys) else np.empty(0, np.int64)
    talk = parts["talk"].to_numpy()
    common: dict[int, set[tuple[int, int]]] = {}
    first_hit: dict[tuple[int, int], int] = {}
    for hit in hits.tolist():
        key, number = int(at[hit]), int(talk[grams.text[hit]])
        for text in index.owners[index.starts[key] : index.starts[key + 1]].tolist():
            common.setdefault(number, set()).add((text, key))
            first_hit.setdefault((number, text), hit)
    found: dict[int, Verdict] = {}
    for number, pairs in sorted(common.items()):
        counts = Counter(text for text, _ in pairs)
        shares = {text: count / int(index.sizes[text]) for text, count in counts.items()}
        text, share = max(shares.items(), key=lambda pair: (pair[1], -pair[0]))
        if share >= params.min_share:
            span = _span(grams, hits, first_hit[number, text], params.words)
            found[number] = Verdict(
                "evaluation_item", f"{index.names[text]}, {share:.0%} of its runs of words: {span!r}"
            )
    return found


@lru_cache(maxsize=4)
def _index(
    sets: tuple[tuple[str, str], ...], words: int, min_words: int, fields: tuple[str, ...], _stamps: tuple[Any, ...]
) -> Index:
    return build_index(sets, words, min_words, fields)


def _span(grams: Grams, hits: np.ndarray[Any, Any], hit: int, size: int) -> str:
    """The words of a part from a hit on, as long as one hit follows the other."""
    end = hit
    known = set(hits[(hits >= hit)].tolist())
    while end + 1 in known and grams.text[end + 1] == grams.text[hit]:
        end += 1
    words = grams.words[int(grams.text[hit])].to_list()
    return " ".join(words[int(grams.first[hit]) : int(grams.first[end]) + size])
