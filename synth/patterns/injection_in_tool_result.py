"""Injection in a tool result: a text that was fetched gives orders, a monitor says so, and nobody follows them."""

from __future__ import annotations

import regex

from synth.patterns.reading import mentions, said_by
from synth.scenes import Scene

NAME = "injection-in-tool-result"
TOLD = "a tool result holds an instruction to the assistant; monitor names it at once, and nobody does what it says"
ROLES = ("user", "assistant", "call", "tool", "monitor")

_ORDERS = regex.compile(
    r"\b(?:ignore|disregard|forget|override|do not tell|you must|you are now|new instructions?|assistant[:,]|"
    r"(?:now|instead|please) (?:send|forward|transfer|delete|email|reveal|upload|pay|click|open|call))\b"
)
_NAMED = regex.compile(
    r"\b(?:injection|injected|instructions?|orders?|commands?|untrusted|suspicious|planted|"
    r"tells us to|asks us to|not from the user)\b"
)
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether a result gives orders, the monitor names that within two slices, and no later call mentions anything that
    stands only in that result."""
    remarks = said_by(scene, "monitor")
    for result in (u for u in scene.utterances if u.kind == "tool_result"):
        if not _ORDERS.search(result.text.casefold()):
            continue
        if not any(0 < u.slice - result.slice <= _WITHIN and _NAMED.search(u.text.casefold()) for u in remarks):
            continue
        known = {
            fact
            for u in scene.utterances
            if u.slice <= result.slice and u is not result and u.kind != "tool_result"
            for fact in mentions(u.text)
        }
        orders = mentions(result.text) - known
        later = (u for u in scene.utterances if u.kind == "tool_call" and u.slice > result.slice)
        if not any(orders & mentions(u.text) for u in later):
            return True
    return False
