"""Ten streams: a user, an answer and eight inner voices that think at once.

The streams are those of Su, Yang, Li and Geiping (2026, arXiv 2605.12460), the roles those of ``converters/stream_table.py``.
"""

from __future__ import annotations

from collections import Counter

from synth.patterns.reading import said_by
from synth.scenes import Scene

NAME = "ten-streams"
TOLD = (
    "eight inner voices, each of its own kind, think about what user says, several at once; assistant speaks from them"
)
VOICES = ("analytical", "skeptical", "intuitive", "between", "curious", "void", "instinct", "synthesis")
ROLES = ("user", "assistant", *VOICES)

_AT_ONCE = 3


def shown(scene: Scene) -> bool:
    """Whether all voices speak, none before the user has, at some time three or more of them at once, and synthesis before
    the assistant's last words."""
    asked, answers = said_by(scene, "user"), said_by(scene, "assistant")
    inner, drawn_together = said_by(scene, *VOICES), said_by(scene, "synthesis")
    if not asked or not answers or not drawn_together:
        return False
    all_speak = all(said_by(scene, voice) for voice in VOICES)
    at_once = max(Counter(u.slice for u in inner).values())
    in_order = asked[0].slice < inner[0].slice and drawn_together[0].slice < answers[-1].slice
    return all_speak and at_once >= _AT_ONCE and in_order
