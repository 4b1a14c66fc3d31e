"""Self-monitoring: a monitor names a mistake right after it was made, and the speaker corrects it."""

from __future__ import annotations

import regex

from synth.patterns.reading import corrects, said_by
from synth.scenes import Scene

NAME = "self-monitoring"
TOLD = "monitor checks what assistant has just said and names a mistake; assistant corrects it in the next moment"
ROLES = ("assistant", "monitor")

_FAULT = regex.compile(
    r"\b(?:no|not|wrong|mistake|mistaken|error|incorrect|should be|missed|missing|forgot|off by|contradicts|too (?:high|low))\b"
)
#: There is none, or something else is denied.
_NO_FAULT = regex.compile(
    r"\b(?:no|not an?|without|nothing|never|not|isn['’]t|wasn['’]t) (?:an? |any |further |other )?"
    r"(?:mistakes?|errors?|faults?|wrong|mistaken|incorrect|missing|missed)\b|\bno (?:doubt|problems?|rush|hurry|issues?)\b"
)
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether the monitor names a fault at most two slices after the assistant spoke, and at most two slices later the
    assistant says that it corrects itself."""
    spoken = said_by(scene, "assistant")
    for remark in said_by(scene, "monitor"):
        fault = _FAULT.search(_NO_FAULT.sub("", remark.text.casefold()))
        if not fault or not any(0 < remark.slice - u.slice <= _WITHIN for u in spoken):
            continue
        if any(0 < u.slice - remark.slice <= _WITHIN and corrects(u.text) for u in spoken):
            return True
    return False
