"""Gold evidence: what a corpus itself says that its answers rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Place:
    """The text of a part up to character ``end`` must have been read."""

    message: int
    part: int
    end: int


def supports(conversation: Conversation) -> Mapping[int, tuple[Place, ...]]:
    """Per assistant message that gold evidence is known for, all places that must have been read before it is said."""
    return {}
