"""Slow tool: a result is long in coming, and the work goes on meanwhile."""

from __future__ import annotations

from synth.patterns.reading import answered_calls, said_by, told_again
from synth.scenes import Scene

NAME = "slow-tool"
TOLD = (
    "a call takes long; assistant goes on with what can be done without it, and uses the result when it comes at last"
)
ROLES = ("assistant", "call", "tool")

_SLICES = 3


def shown(scene: Scene) -> bool:
    """Whether in three slices or more between a call and its result the assistant or a thought speaks, and the assistant
    mentions something of the result after it has come."""
    busy, answers = said_by(scene, "assistant", "thought"), said_by(scene, "assistant")
    return any(
        len({u.slice for u in busy if one.call.slice < u.slice < one.result.slice}) >= _SLICES
        and told_again(one.result, answers)
        for one in answered_calls(scene)
    )
