"""Back-channel: short reactions of a listener who does not take the turn."""

from __future__ import annotations

from synth.patterns.reading import runs, said_by, words
from synth.scenes import Scene

NAME = "back-channel"
TOLD = "while user tells something without a pause, assistant says a word or two now and then that show it is listening"
ROLES = ("user", "assistant")

_MOST_WORDS = 5
#: Words of the reactions, per word of the story in the same slices.
_MOST_SHARE = 0.5
_LISTENING_WORDS = """
ah aha alright cool fine good great hm hmm huh i interesting mhm mm mmh mmm nice oh ok okay really right see so sure uh uhuh um
wow yeah yep yes
"""
_LISTENS = frozenset(_LISTENING_WORDS.split())


def shown(scene: Scene) -> bool:
    """Whether, within one run of the user, the assistant says two short things or more and nothing that is long, together
    at most half as many words as the user meanwhile, who goes on after each of them."""
    reactions = said_by(scene, "assistant")
    for story in runs(scene, "user"):
        within = [u for u in reactions if story.start < u.slice < story.end]
        slices = {u.slice for u in within}
        lengths = [len(words(u.text)) for u in within]
        meanwhile = sum(len(words(u.text)) for u in story.said if u.slice in slices)
        short = all(length <= _MOST_WORDS for length in lengths) and sum(lengths) <= _MOST_SHARE * meanwhile
        if len(slices) >= 2 and short:
            return True
    return False


def only_listens(text: str) -> bool:
    """Whether a listener says no more than that he listens."""
    return _LISTENS.issuperset(words(text))
