"""Barge-in: the user cuts in while the assistant speaks, who breaks off and then answers anew."""

from __future__ import annotations

from synth.patterns.back_channel import only_listens
from synth.patterns.reading import runs
from synth.scenes import Scene

NAME = "barge-in"
TOLD = "user cuts in while assistant is speaking; assistant breaks off in the middle of its sentence, listens, answers anew"
ROLES = ("user", "assistant")


def shown(scene: Scene) -> bool:
    """Whether the user starts to speak inside a run of the assistant that ends at most one slice later, broken off, and the
    assistant starts anew after the user has begun. ``mm hm`` and its like do not cut in."""
    answers = runs(scene, "assistant")
    for cut_in in runs(scene, "user"):
        if only_listens(cut_in.text):
            continue
        for answer in answers:
            stops = answer.start < cut_in.start <= answer.end <= cut_in.start + 1
            if stops and answer.broken_off and any(later.start > answer.end for later in answers):
                return True
    return False
