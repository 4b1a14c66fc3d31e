"""A watcher of builds for tests: it prints nothing and notes which stages were skipped."""

from __future__ import annotations

from pipeline.manifest import Result


class Quiet:
    """``done``: by the stage's folder, whether it was skipped."""

    def __init__(self) -> None:
        self.done: dict[str, bool] = {}

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, done: int, what: str) -> None:
        """Nothing is told."""

    def finished(self, result: Result) -> None:
        """Notes it."""
        self.done[result.directory.name] = result.skipped
