"""Parallel tools: calls that run side by side."""

from __future__ import annotations

from itertools import combinations

from synth.patterns.reading import answered_calls, said_by, told_again
from synth.scenes import Scene

NAME = "parallel-tools"
TOLD = (
    "assistant sends a second call before the first has come back, so that both run side by side, and uses both results"
)
ROLES = ("assistant", "call", "tool")


def shown(scene: Scene) -> bool:
    """Whether two calls are out before either result is there, and the assistant mentions something of both results."""
    answers = said_by(scene, "assistant")
    return any(
        max(one.call.slice, other.call.slice) < min(one.result.slice, other.result.slice)
        and told_again(one.result, answers)
        and told_again(other.result, answers)
        for one, other in combinations(answered_calls(scene), 2)
    )
