"""turns: nothing of one turn overlaps with the next; streams only separate roles. The baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.alignment.plan import Plan
from pipeline.text import ChunkUnit
from pipeline.timeline import Span, Stream

NAME = "turns"


@dataclass(frozen=True, slots=True)
class Params:
    """turns has no parameters."""


def cuts(streams: Sequence[Stream], spans: Sequence[Span], params: Params) -> dict[int, ChunkUnit]:
    """No span is cut."""
    return {}


def relax(plan: Plan, params: Params) -> None:
    """Every wait stays."""
