"""Correction: the user takes something back, and the assistant corrects what it has begun on its account."""

from __future__ import annotations

import regex

from synth.patterns.reading import corrects, said_by, words
from synth.scenes import Scene

NAME = "correction"
TOLD = "user corrects a detail while assistant is already working with it; assistant takes back what it said and goes on right"
ROLES = ("user", "assistant")

_TAKES_BACK = regex.compile(
    r"\b(?:no(?! (?:rush|hurry|problem|worries|worry|need|idea|doubt|matter|thanks|thank|more|longer|one)\b)|"
    r"(?<!\b(?:know|do|did|does|am|can|could|would|will|should|have|has|why|if|or|whether) )not(?! (?:yet|only|sure)\b)|"
    r"wait|sorry|oops|actually|i mean|i meant|(?<!would |'d |’d )rather|correction|make that|make it|i was wrong|"
    r"i misspoke|instead)\b"
)
_TAKEN_UP = regex.compile(r"([^\W_]+) (?:it is|then)\b")
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether the user takes something back after or while the assistant speaks, and within two slices the assistant says
    that it corrects itself, or takes up what the user has said (``Tuesday it is``)."""
    answers = said_by(scene, "assistant")
    for one in said_by(scene, "user"):
        if not _TAKES_BACK.search(one.text.casefold()) or not any(u.slice <= one.slice for u in answers):
            continue
        if any(one.slice < u.slice <= one.slice + _WITHIN and _follows(one.text, u.text) for u in answers):
            return True
    return False


def _follows(correction: str, answer: str) -> bool:
    known = set(words(correction))
    return corrects(answer) or any(found[1] in known for found in _TAKEN_UP.finditer(answer.casefold()))
