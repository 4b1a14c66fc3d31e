"""Proactive notice: the assistant tells what has happened without being asked."""

from __future__ import annotations

from synth.patterns.reading import mentions, runs, said_by
from synth.scenes import Scene

NAME = "proactive-notice"
TOLD = "something happens on the event stream; assistant speaks up about it at once, though nobody has asked"
ROLES = ("user", "assistant", "event")

_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether the assistant starts to speak within two slices of an event and mentions something of it, and the user has
    neither mentioned it before nor started to speak in between."""
    asked, told = said_by(scene, "user"), runs(scene, "user")
    for event in said_by(scene, "event"):
        known = {fact for u in asked if u.slice <= event.slice for fact in mentions(u.text)}
        facts = mentions(event.text) - known
        for notice in runs(scene, "assistant"):
            if not event.slice < notice.start <= event.slice + _WITHIN or not facts & mentions(notice.text):
                continue
            if not any(event.slice < turn.start < notice.start for turn in told):
                return True
    return False
