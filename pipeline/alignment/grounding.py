"""Grounding: how much of an ordered reading must have passed before a text may be said."""

from __future__ import annotations

from collections.abc import Sequence, Set

from pipeline.mentions import is_known, known, mentions, ngrams


def chunks_needed(text: str, reading: Sequence[str], before: Sequence[Set[str]], min_coverage: float) -> int | None:
    """How many pieces of ``reading`` must have ended before ``text`` may start, at least 1; None for all of them.

    ``before``: known keys of what was read or said earlier. All mentions must be found, and at least ``min_coverage`` of
    the content words; at least one must come from the reading, else the text says nothing that the reading grounds. A
    run of words that is copied from the reading waits for where it stands.
    """
    found = mentions(text)
    if not found.content:
        return None
    needed = covered = 0
    required = frozenset(found.required)
    for key in found.content:
        at = _position(key, reading, before)
        if at is None:
            if key in required:
                return None
            continue
        covered += 1
        needed = max(needed, at)
    if needed == 0 or covered < min_coverage * len(found.content):
        return None
    grams = ngrams(text)
    for gram in grams:
        needed = max(needed, next((i for i, piece in enumerate(reading, 1) if gram in ngrams(piece)), 0))
    return needed


def _position(key: str, reading: Sequence[str], before: Sequence[Set[str]]) -> int | None:
    if any(is_known(key, keys) for keys in before):
        return 0
    return next((i for i, piece in enumerate(reading, 1) if is_known(key, known(piece))), None)
