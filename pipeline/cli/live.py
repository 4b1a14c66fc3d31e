"""A build as it runs, on standard error: a table on a terminal, lines elsewhere, events for programs."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.cli.board import Board, Row
from pipeline.cli.console import err
from pipeline.cli.stopping import stoppable
from pipeline.watching import books_of

#: Times that the table is drawn in a second. One drawing takes some 2 ms.
REFRESH = 3.0

#: Seconds between two lines of progress, two events of progress, two events while nothing changes.
LINE_SECONDS, EVENT_SECONDS, IDLE_SECONDS = 10.0, 1.0, 10.0

#: Reasons of rejects that are named; events name all.
MOST_REASONS = 5

_STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "skipped": "dim", "failed": "bold red"}
#: The columns of the table and the least width of each, so that they stay where they are; 72 characters in all.
_COLUMNS = {"stage": 10, "state": 7, "units": 13, "rate": 8, "left": 7, "time": 7, "rejected": 8}


@contextmanager
def watching(stages: Sequence[str], as_json: bool = False) -> Iterator[Board]:
    """A watcher of a build of these stages. An error is shown in it; when the block is left the terminal is as it was.

    SIGTERM and SIGHUP raise ``pipeline.cli.stopping.Stopped`` in the block.
    """
    with stoppable():
        yield from _watching(stages, as_json)


def _watching(stages: Sequence[str], as_json: bool) -> Iterator[Board]:
    if as_json:
        board: Board = EventView(stages)
    elif sys.stderr.isatty() and err.is_interactive and not err.is_dumb_terminal:
        board = TableView(stages)
    else:
        board = PlainView(stages)
    try:
        yield board
    except KeyboardInterrupt:
        board.failed("interrupted")
        raise
    except BaseException as error:
        board.failed(" ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        board.close()


class _Ticker:
    """Calls a function every so many seconds, in a thread, until it is closed."""

    def __init__(self, seconds: float, tick: Callable[[], None]) -> None:
        self._seconds, self._tick = seconds, tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._tick()

    def close(self) -> None:
        """Returns when no call is running and none will follow."""
        self._stop.set()
        self._thread.join()


class TableView(Board):
    """A table that stays in place while the build runs. It is gone when the build is done, and stays where it failed."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__(stages)
        self._looked = 0.0
        self._live = Live(
            get_renderable=self.drawn,
            console=Console(stderr=True, highlight=False),
            refresh_per_second=REFRESH,
            redirect_stdout=sys.stdout.isatty(),
        )

    def stage(self, name: str) -> None:
        """The first stage brings the table; every other one is seen at once. (Drawing takes both locks, Live's first.)"""
        super().stage(name)
        if self._live.is_started:
            self._live.refresh()
        else:
            self._live.start(refresh=True)

    def ended(self, document: Mapping[str, Any]) -> None:
        """The summary takes the table's place, where it is seen."""
        self._live.transient = sys.stdout.isatty()

    def close(self) -> None:
        """Draws the last state and gives the terminal back."""
        self._live.stop()

    def drawn(self) -> RenderableType:
        """The table as it is now."""
        now = time.monotonic()
        with self.lock:
            if self.running is not None:
                self.running.sample(now)
            if now - self._looked >= 1.0:
                self.memory.look(now)
                self._looked = now
            cells = [_cells(row, now) for row in self.rows]
            notes = _notes(self.rows)
        table = Table.grid(padding=(0, 2))
        for i, least in enumerate(_COLUMNS.values()):
            width = max(least, *(len(row[i]) for row in cells))
            table.add_column(width=width, no_wrap=True, justify="left" if i < 2 else "right")
        table.add_row(*_COLUMNS, style="bold")
        for row in cells:
            style = _STYLES[row[1]]
            table.add_row(row[0], Text(row[1], style), *row[2:], style="dim" if style == "dim" else "")
        memory = self.memory
        books = f"{_size(memory.now)} (peak {_size(memory.peak)}) in {_count(memory.processes, 'process', 'es')}"
        last = Text.assemble(("memory    ", "bold"), books, ("   elapsed ", "bold"), _clock(now - self.started))
        return Group(table, *notes, last)


class PlainView(Board):
    """A line when a stage begins and one when it ends; between them one now and then, while it lasts."""

    def __init__(self, stages: Sequence[str] = ()) -> None:
        super().__init__(stages)
        self._ticker = _Ticker(LINE_SECONDS, self.tick)

    def show_started(self, row: Row) -> None:
        """The stage's name."""
        err.print(f"{row.name} …", markup=False)

    def show_finished(self, row: Row, counters: Mapping[str, Any]) -> None:
        """What came in and out of it."""
        did = "skipped, finished before" if row.state == "skipped" else f"{row.seconds:.1f} s"
        err.print(f"{row.name}: {books_of(counters)} ({did})", markup=False)

    def tick(self) -> None:
        """How far the running stage is."""
        now = time.monotonic()
        with self.lock:
            row = self.running
            if row is None:
                return
            row.sample(now)
            self.memory.look(now)
            left, rate = row.left(now), row.rate
            parts = [
                f"{row.done:,}" + (f" of {row.total:,}" if row.total is not None else "") + f" {row.what}".rstrip()
            ]
            parts += [_per_second(rate)] if rate else []
            parts += [f"{_clock(left)} left"] if left is not None else []
            parts += [f"{row.rejected:,} rejected ({_reasons(row)})"] if row.rejected else []
            err.print(f"{row.name}: {', '.join(parts)}, {_size(self.memory.now)}", markup=False)

    def close(self) -> None:
        """No line comes after this."""
        self._ticker.close()


class EventView(Board):
    """JSON, one object a line; docs/pipeline.md has the keys."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__(stages)
        self._told: tuple[Any, ...] = ()
        self._told_at = 0.0
        self._tell("build_started", None, stages=list(stages))
        self._ticker = _Ticker(EVENT_SECONDS, self.tick)

    def show_started(self, row: Row) -> None:
        """``stage_started``."""
        self._tell("stage_started", row.name)

    def show_finished(self, row: Row, counters: Mapping[str, Any]) -> None:
        """``stage_finished`` or ``stage_skipped``."""
        if row.state == "skipped":
            self._tell("stage_skipped", row.name, counters=dict(counters))
        else:
            self._tell("stage_finished", row.name, seconds=row.seconds, counters=dict(counters))

    def show_failed(self, row: Row | None, error: str) -> None:
        """``stage_failed`` if it was in a stage, and ``finished``."""
        if row is not None:
            self._tell("stage_failed", row.name, seconds=round(row.seconds or 0.0, 3), error=error)
        self._finish(ok=False, error=error)

    def ended(self, document: Mapping[str, Any]) -> None:
        """``finished``."""
        self._finish(ok=True, **document)

    def tick(self) -> None:
        """``progress``, if there is any."""
        now = time.monotonic()
        with self.lock:
            self.memory.look(now)
            row = self.running
            if row is None:
                return
            row.sample(now)
            told = (row.name, row.done, row.total, row.what, row.rejected)
            if told == self._told and now - self._told_at < IDLE_SECONDS:
                return
            self._told, self._told_at = told, now
            rate, left = row.rate, row.left(now)
            self._tell(
                "progress",
                row.name,
                seconds=round(now - row.started, 3),
                done=row.done,
                total=row.total,
                what=row.what,
                rate=None if rate is None else round(rate, 3),
                seconds_left=None if left is None else round(left, 1),
                rejected=row.rejected,
                reject_reasons=dict(row.reasons.most_common()),
                memory=self.memory.now,
                peak_memory=self.memory.peak,
            )

    def close(self) -> None:
        """No event comes after this."""
        self._ticker.close()

    def _finish(self, ok: bool, **values: Any) -> None:
        self.memory.look(time.monotonic())
        seconds = round(time.monotonic() - self.started, 3)
        self._tell("finished", None, ok=ok, seconds=seconds, peak_memory=self.memory.peak, **values)

    def _tell(self, event: str, stage: str | None, **values: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "event": event, "stage": stage, **values}, ensure_ascii=False)
        with self.lock:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _cells(row: Row, now: float) -> tuple[str, ...]:
    """A row of the table, as ``_COLUMNS``."""
    if row.state == "waiting":
        return (row.name, row.state, *[""] * (len(_COLUMNS) - 2))
    seconds = row.seconds if row.state != "running" else now - row.started
    left, rate = row.left(now), row.rate
    return (
        row.name,
        row.state,
        _number(row.done) + (f"/{_number(row.total)}" if row.total is not None else ""),
        _per_second(rate) if rate else "",
        _clock(left) if left is not None else "",
        "" if seconds is None else f"{seconds:.1f} s" if seconds < 60 else _clock(seconds),
        _number(row.rejected) if row.rejected else "",
    )


def _notes(rows: Sequence[Row]) -> list[Text]:
    """What the running stage does, if that is more than the name of its units, and why what was rejected."""
    notes = [("now", row.what) for row in rows if row.state == "running" and " " in row.what]
    notes += [("rejected", f"{row.name}: {_reasons(row)}") for row in rows if row.reasons]
    return [Text.assemble((f"{name:10}", "bold"), what, no_wrap=True, overflow="ellipsis") for name, what in notes]


def _reasons(row: Row) -> str:
    named = [f"{count:,} {code}" for code, count in row.reasons.most_common(MOST_REASONS)]
    more = len(row.reasons) - len(named)
    return ", ".join(named) + (f", {more} more reasons" if more else "")


def _number(n: int) -> str:
    """In so few characters that the table fits into 80 columns."""
    return f"{n:,}" if n < 10_000_000 else f"{n / 1e6:,.1f}M"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s" if rate >= 0.1 else f"{rate:.1g}/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _count(n: int, what: str, plural: str) -> str:
    return f"{n} {what}{plural if n != 1 else ''}"
