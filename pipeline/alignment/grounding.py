"""Grounding: how much of an ordered reading must have passed before a text may be said."""

from __future__ import annotations

from collections.abc import Sequence, Set

from pipeline.mentions import denies, is_known, known, mentions, ngrams


def chunks_needed(text: str, reading: Sequence[str], before: Sequence[Set[str]], min_coverage: float) -> int | None:
    """How many pieces of ``reading`` must have ended before ``text`` may start, at least 1; None for all of them.

    ``before``: known keys of what was read or said earlier. All mentions must be found, and at least ``min_coverage`` of
    the content words; at least one must come from the reading, else the text says nothing that the reading grounds. The
    text also waits for the piece that it resembles most, the last of equals, and for every run of words copied from the
    reading: a word may occur long before the statement that the text rests on. What it denies must be denied there.
    """
    content = mentions(text).content
    required = frozenset(mentions(text).required)
    matches = [0] * (len(reading) + 1)
    needed = covered = 0
    for key in content:
        places = [i for i, piece in enumerate(reading, 1) if is_known(key, known(piece))]
        for i in places:
            matches[i] += 1
        if any(is_known(key, keys) for keys in before):
            covered += 1
        elif places:
            covered += 1
            needed = max(needed, places[0])
        elif key in required:
            return None
    if needed == 0 or covered < min_coverage * len(content):
        return None
    most = max(matches)
    needed = max(needed, max(i for i, count in enumerate(matches) if count == most))
    if denies(text) and not any(denies(piece) for piece in reading[:needed]):
        return None
    for gram in ngrams(text):
        needed = max(needed, next((i for i, piece in enumerate(reading, 1) if gram in ngrams(piece)), 0))
    return needed
