"""What the screens of records and of rejects have in common: a cursor, a search that goes on in a thread, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from textual.screen import Screen
from textual.worker import get_current_worker

from pipeline.errors import PipelineError
from pipeline.viewer.cursor import Cursor
from pipeline.viewer.filters import Filter
from pipeline.viewer.lanes import one_line
from pipeline.viewer.searching import look

Severity = Literal["information", "warning", "error"]


class Browsing(Screen[None]):
    """Goes through ``total`` numbered things: all, or those that a filter finds."""

    def __init__(self, total: int, at: int = 0) -> None:
        super().__init__()
        self.cursor = Cursor(total, at)

    def go(self, number: int) -> None:
        """Shows one of them."""
        raise NotImplementedError

    def tell(self) -> None:
        """Tells where one is."""
        raise NotImplementedError

    def matching(self, filter_: Filter, progress: Callable[[int], None]) -> Iterator[int]:
        """What a filter finds, in a thread: see ``searching.look``."""
        raise NotImplementedError

    def begin_search(self, filter_: Filter, line: str) -> None:
        """Searches in place of the search before; an empty filter shows all."""
        self.workers.cancel_group(self, "search")
        self.cursor.search(filter_, line)
        if filter_:
            self.run_worker(lambda: self._look(filter_), thread=True, group="search")

    def _look(self, filter_: Filter) -> None:
        worker = get_current_worker()
        try:
            look(
                lambda progress: self.matching(filter_, progress),
                lambda: worker.is_cancelled,
                lambda *found: self.from_thread(self._found, filter_, *found),
            )
        except PipelineError as error:
            self.from_thread(self._failed, filter_, str(error))

    def _found(self, filter_: Filter, hits: list[int], looked_at: int, is_done: bool) -> None:
        if filter_ is not self.cursor.filter:
            return
        if self.cursor.found(hits, looked_at, is_done):
            self.go(hits[0])
        elif is_done and not self.cursor.hits:
            self.say(f"nothing is found for: {self.cursor.line}", "warning")
        self.tell()

    def _failed(self, filter_: Filter, message: str) -> None:
        """A search that cannot go on keeps what it has found."""
        if filter_ is self.cursor.filter:
            self.cursor.found([], self.cursor.looked_at, True)
            self.say(message, "error")
            self.tell()

    def from_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        """Calls in the application's own thread, unless this screen has been left meanwhile."""

        def still_there() -> None:
            if self.is_running and self.is_attached:
                call(*arguments)

        self.app.call_from_thread(still_there)

    def say(self, message: str, severity: Severity = "information") -> None:
        """A message for a few seconds; whatever it quotes is harmless."""
        self.notify(one_line(message, 500), severity=severity, markup=False, timeout=4)
