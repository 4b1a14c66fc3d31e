"""What a build tells those who watch it: a terminal, a log, a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pipeline.manifest import Result


class Watcher(Protocol):
    """Told what a build is doing."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, done: int, what: str) -> None:
        """So many more units of the stage are done."""

    def finished(self, result: Result) -> None:
        """A stage is done or was skipped."""


@runtime_checkable
class DetailedWatcher(Watcher, Protocol):
    """Also told how much there is to do, and why units are rejected. A watcher that lacks these is not told."""

    def part(self, total: int | None, kept: int = 0) -> None:
        """A part of the stage begins; most stages are one part. Units are counted anew, from ``kept``.

        ``total``: units of the part, None where nobody knows. ``kept``: those that an earlier run did.
        """

    def rejected(self, reasons: Mapping[str, int]) -> None:
        """So many more units of the stage were rejected, by reason code."""


def books_of(counters: Mapping[str, Any]) -> str:
    """A stage's books in words: in, out and rejected; also what filters took, and marks that name no record."""
    told = [f"{counters.get(side) or 0:,} {side}" for side in ("in", "out", "rejected")]
    told += [f"{counters[side]:,} {name}" for side, name in _ALSO.items() if counters.get(side)]
    return ", ".join(told)


_ALSO = {"filtered": "filtered", "unknown_marks": "marks of no record"}


def tell_part(watcher: Watcher, total: int | None, kept: int = 0) -> None:
    """Tells a watcher that wants to know: see ``DetailedWatcher.part``."""
    if isinstance(watcher, DetailedWatcher):
        watcher.part(total, kept)


def tell_rejected(watcher: Watcher, reasons: Mapping[str, int]) -> None:
    """Tells a watcher that wants to know: see ``DetailedWatcher.rejected``."""
    if reasons and isinstance(watcher, DetailedWatcher):
        watcher.rejected(reasons)
