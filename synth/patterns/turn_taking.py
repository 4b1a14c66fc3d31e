"""Turn taking: user and assistant speak by turns, nobody at the same time as the other."""

from __future__ import annotations

from itertools import pairwise

from synth.patterns.reading import runs
from synth.scenes import Scene

NAME = "turn-taking"
TOLD = "user and assistant speak by turns: each waits until the other has ended, and answers without a long pause"
ROLES = ("user", "assistant")

#: Slices of silence between two turns.
_LONGEST_PAUSE = 1


def shown(scene: Scene) -> bool:
    """Whether there are two turns or more of each, by turns, none overlapping and no pause of two slices between them."""
    turns = runs(scene, *ROLES)
    by_turns = all(
        one.stream != other.stream and 1 <= other.start - one.end <= 1 + _LONGEST_PAUSE
        for one, other in pairwise(turns)
    )
    return by_turns and len(turns) >= 4
