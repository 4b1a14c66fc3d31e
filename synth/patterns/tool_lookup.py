"""Tool lookup: a call, talk while it runs, and its result told once it is there."""

from __future__ import annotations

from synth.patterns.reading import answered_calls, said_by, told_again
from synth.scenes import Scene

NAME = "tool-lookup"
TOLD = "assistant sends a call on the call stream, goes on talking while it runs, and tells the result once it is there"
ROLES = ("user", "assistant", "call", "tool")


def shown(scene: Scene) -> bool:
    """Whether somebody speaks while a call runs, and the assistant mentions something of its result after it has come."""
    talk, answers = said_by(scene, "user", "assistant"), said_by(scene, "assistant")
    return any(
        any(one.call.slice < u.slice <= one.result.slice for u in talk) and told_again(one.result, answers)
        for one in answered_calls(scene)
    )
