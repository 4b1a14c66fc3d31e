"""Think while reading: a thought works on what has been heard so far, and the answer comes when all has been heard."""

from __future__ import annotations

from synth.patterns.reading import runs, said_by
from synth.scenes import Scene

NAME = "think-while-reading"
TOLD = "while user is still explaining, thought works on what was said so far; assistant answers once user has ended"
ROLES = ("user", "thought", "assistant")


def shown(scene: Scene) -> bool:
    """Whether a thought speaks in two slices or more of the user's first run, starting after it, and the assistant only
    after that run."""
    told, answers = runs(scene, "user"), said_by(scene, "assistant")
    if not told or not answers:
        return False
    first = told[0]
    during = [u for u in said_by(scene, "thought") if first.start < u.slice <= first.end]
    return len(during) >= 2 and answers[0].slice > first.end
