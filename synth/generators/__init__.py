"""Generators: each writes the dialogues of one run, index by index. What all of them are given and give back stands here.

A dialogue is a Python generator: it yields the requests that it has now, is sent their completions in the same order, and
returns what became of it. ``synth/run.py`` advances many at once, so that their requests are one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.conversation import Conversation
from pipeline.timeline import Stream, Timeline
from synth.engines import Completion, Request
from synth.scenes import Scene


@dataclass(frozen=True, slots=True)
class Written:
    """A dialogue that its generator accepts.

    ``index``: the number of the sample within the run; ``scenario``: what it was asked to be. ``conversation`` has its
    source pointer, ``policy`` and ``params`` (canonical JSON) name what placed its events. ``labels`` go into the record's.
    ``scene``: what was said in which slice, where the dialogue was made of slices.
    """

    index: int
    scenario: str
    conversation: Conversation
    timeline: Timeline
    policy: str
    params: str = "{}"
    labels: dict[str, Any] = field(default_factory=dict)
    scene: Scene | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A dialogue that is none. ``code`` is a key of :data:`synth.checks.REASONS`; ``raw`` is what had been written."""

    index: int
    scenario: str
    code: str
    message: str
    raw: str


Outcome = Written | Rejected
Dialogue = Generator[Sequence[Request], Sequence[Completion], Outcome]


class Maker(Protocol):
    """All dialogues of one run."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def dialogue(self, index: int) -> Dialogue:
        """Dialogue number ``index``, a function of the run's configuration and the index alone."""
        ...


__all__ = ["Dialogue", "Maker", "Outcome", "Rejected", "Stream", "Written"]
