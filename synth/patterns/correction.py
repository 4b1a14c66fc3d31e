"""Correction: the user takes something back, and the assistant corrects what it has begun on its account."""

from __future__ import annotations

import regex

from synth.patterns.reading import corrects, said_by
from synth.scenes import Scene

NAME = "correction"
TOLD = "user corrects a detail while assistant is already working with it; assistant takes back what it said and goes on right"
ROLES = ("user", "assistant")

_TAKES_BACK = regex.compile(
    r"\b(?:no|not|wait|sorry|actually|i mean|i meant|rather|correction|make that|make it|i was wrong|i misspoke|instead)\b"
)
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether the user takes something back after or while the assistant speaks, and within two slices the assistant says
    that it corrects itself."""
    answers = said_by(scene, "assistant")
    for one in said_by(scene, "user"):
        if not _TAKES_BACK.search(one.text.casefold()) or not any(u.slice <= one.slice for u in answers):
            continue
        if any(one.slice < u.slice <= one.slice + _WITHIN and corrects(u.text) for u in answers):
            return True
    return False
