"""Audit: a second voice checks every step after it was written, while the next one is being written."""

from __future__ import annotations

import regex

from synth.patterns.reading import mentions, said_by
from synth.scenes import Scene

NAME = "audit"
TOLD = (
    "audit checks every step of assistant one moment after it was written and gives a verdict, while assistant goes on"
)
ROLES = ("assistant", "audit")

_VERDICT = regex.compile(
    r"\b(?:right|correct|true|holds?|checks?|agreed?|agrees|confirmed|matches|fine|valid|wrong|incorrect|false|not|no|error)\b"
)
#: The verdict is still to come.
_OPEN = regex.compile(
    r"\b(?:not (?:yet )?(?:been )?(?:checked|verified|confirmed|looked|sure|certain|clear)|no idea|(?:not|n['’]t) know|"
    r"(?:cannot|can['’]t|could not) (?:yet )?(?:say|tell|check|verify)|unchecked|unsure|unclear|yet to|not yet|"
    r"(?:still|let me|i will|to be) check(?:ing|ed)?)\b"
)
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether every step of the assistant that has a number is followed within two slices by a verdict that mentions
    something of it, there are two or more, and one verdict comes while the assistant goes on."""
    spoken, verdicts = said_by(scene, "assistant"), said_by(scene, "audit")
    steps = [u for u in spoken if any(character.isdigit() for character in u.text)]
    checked = all(
        any(
            0 < verdict.slice - step.slice <= _WITHIN
            and _VERDICT.search(verdict.text.casefold())
            and not _OPEN.search(verdict.text.casefold())
            and mentions(verdict.text) & mentions(step.text)
            for verdict in verdicts
        )
        for step in steps
    )
    at_once = {u.slice for u in spoken} & {u.slice for u in verdicts}
    return len(steps) >= 2 and checked and bool(at_once)
