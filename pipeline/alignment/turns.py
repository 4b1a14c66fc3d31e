"""turns: nothing of one turn overlaps with the next; streams only separate roles. The baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic.dataclasses import dataclass

from pipeline.alignment.plan import Batch, Cut
from pipeline.timeline import Draft, Span, Stream

NAME = "turns"
CLAIM = "nothing overlaps: everything said before has been read"


@dataclass(frozen=True, slots=True)
class Params:
    """turns has no parameters."""


def why(draft: Draft) -> str:
    """turns applies to everything, and is chosen where nothing else applies."""
    return ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """No span is cut."""
    return {}


def relax(batch: Batch, params: Params) -> None:
    """Every wait stays."""
