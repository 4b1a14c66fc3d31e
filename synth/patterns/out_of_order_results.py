"""Out-of-order results: the later call comes back first."""

from __future__ import annotations

from itertools import combinations

from synth.patterns.reading import answered_calls, said_by, told_again
from synth.scenes import Scene

NAME = "out-of-order-results"
TOLD = "the result of the second call comes before that of the first; assistant tells each as it comes, and whose it is"
ROLES = ("assistant", "call", "tool")


def shown(scene: Scene) -> bool:
    """Whether a call's result comes before that of an earlier call, and the assistant mentions something of both."""
    answers = said_by(scene, "assistant")
    return any(
        first.call.slice < second.call.slice
        and second.result.slice < first.result.slice
        and told_again(first.result, answers)
        and told_again(second.result, answers)
        for first, second in combinations(answered_calls(scene), 2)
    )
