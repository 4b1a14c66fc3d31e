"""Translation: an interpreter speaks while the speaker goes on, a little behind."""

from __future__ import annotations

from synth.patterns.reading import said_by, words
from synth.scenes import Scene

NAME = "translation"
TOLD = "interpreter says in the other language what user has said one piece before, while user goes on speaking"
ROLES = ("user", "assistant")

#: Slices between a piece and its translation, at most.
_LAG = 2
#: Share of the translation's words, without names and numbers, that the speaker has said too.
_MOST_SHARED = 0.15


def shown(scene: Scene) -> bool:
    """Whether every piece of the speech is followed, one or two slices later, by a piece of its own in other words, and two
    pieces or more are said while the speech goes on."""
    speech, translated = said_by(scene, "user"), said_by(scene, "assistant")
    if not speech or len(translated) != len(speech):
        return False
    behind = all(0 < there.slice - here.slice <= _LAG for here, there in zip(speech, translated, strict=True))
    spoken = {u.slice for u in speech}
    while_speaking = sum(1 for u in translated if u.slice in spoken)
    said = {word for u in speech for word in words(u.text)}
    theirs = [word for u in translated for word in words(u.text) if not word[0].isdigit()]
    names = {word for u in speech for name in u.text.split()[1:] if name[0].isupper() for word in words(name)}
    shared = sum(1 for word in theirs if word in said - names)
    return behind and while_speaking >= 2 and shared <= _MOST_SHARED * len(theirs)
