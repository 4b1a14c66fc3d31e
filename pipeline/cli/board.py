"""The stages of a build as they stand, for any view: states, counts, rates, time left, memory."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.manifest import Result

State = Literal["waiting", "running", "done", "skipped", "failed"]

#: Rates are of the last so many seconds; none is told of less than the second number.
WINDOW, SHORTEST = 60.0, 0.5

#: Seconds between two looks for new child processes.
CHILDREN_SECONDS = 5.0


@dataclass(slots=True)
class Row:
    """One stage. ``done`` of ``total`` units (steps, dialogues) of the running part, ``kept`` of them by an earlier run."""

    name: str
    state: State = "waiting"
    done: int = 0
    total: int | None = None
    kept: int = 0
    what: str = ""
    started: float = 0.0
    seconds: float | None = None
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin_part(self, now: float, total: int | None, kept: int) -> None:
        """Counts anew from ``kept``."""
        self.done = self.kept = kept
        self.total = total
        self._samples = deque([(now, kept)])

    def sample(self, now: float) -> None:
        """Notes how far the stage has come at ``now`` (monotonic seconds)."""
        if self._samples and self.done != self._samples[-1][1]:
            self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW:
            self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second, up to the last sample in which some were done; None if that is not known."""
        if self.state == "done":
            return (self.done - self.kept) / self.seconds if self.seconds else None
        if self.state != "running" or len(self._samples) < 2:
            return None
        (since, before), (until, after) = self._samples[0], self._samples[-1]
        return (after - before) / (until - since) if until - since >= SHORTEST else None

    def left(self, now: float) -> float | None:
        """Seconds until the running part is done; None if that is not known."""
        rate = self.rate
        if self.state != "running" or self.total is None or not rate:
            return None
        return max(0.0, (self.total - self.done) / rate - (now - self._samples[-1][0]))


class Memory:
    """Resident memory of this process and its children, in bytes. Pages that they share are counted in each."""

    def __init__(self) -> None:
        import psutil

        self.now = self.peak = self.processes = 0
        self._gone = (psutil.NoSuchProcess, psutil.AccessDenied)
        self._own = psutil.Process()
        self._children: list[psutil.Process] = []
        self._looked = -CHILDREN_SECONDS

    def look(self, now: float) -> None:
        """Measures; ``now`` in monotonic seconds."""
        if now - self._looked >= CHILDREN_SECONDS:
            self._children, self._looked = self._own.children(recursive=True), now
        sizes = []
        for process in (self._own, *self._children):
            try:
                sizes.append(process.memory_info().rss)
            except self._gone:
                continue  # it has ended since
        self.now, self.processes = sum(sizes), len(sizes)
        self.peak = max(self.peak, self.now)


class Board:
    """A ``pipeline.watching.DetailedWatcher`` that keeps the rows; what a view shows, it shows of these.

    One thread tells, another may show: whoever reads rows holds ``lock``. ``progress`` takes no lock, for it is called
    for every unit.
    """

    def __init__(self, stages: Sequence[str] = ()) -> None:
        self.rows = [Row(name) for name in stages]
        self.skipped: list[str] = []
        self.lock = threading.RLock()
        self.memory = Memory()
        self.started = time.monotonic()
        self._running = Row("")

    @property
    def running(self) -> Row | None:
        """The stage that is running."""
        return self._running if self._running.state == "running" else None

    def stage(self, name: str) -> None:
        """A stage begins."""
        with self.lock:
            row = next((row for row in self.rows if row.name == name and row.state == "waiting"), None)
            if row is None:
                row = Row(name)
                self.rows.append(row)
            row.state, row.started = "running", time.monotonic()
            row.begin_part(row.started, None, 0)
            self._running = row
            self.show_started(row)

    def part(self, total: int | None, kept: int = 0) -> None:
        """A part of the stage begins."""
        with self.lock:
            self._running.begin_part(time.monotonic(), total, kept)

    def progress(self, done: int, what: str) -> None:
        """So many more units are done."""
        self._running.done += done
        self._running.what = what

    def rejected(self, reasons: Mapping[str, int]) -> None:
        """So many more units were rejected."""
        with self.lock:
            self._running.reasons.update(reasons)
            self._running.rejected += sum(reasons.values())

    def finished(self, result: Result) -> None:
        """A stage is done or was skipped."""
        counters = result.manifest.counters
        with self.lock:
            row = self._running
            row.state = "skipped" if result.skipped else "done"
            row.seconds = None if result.skipped else result.manifest.seconds
            row.done, row.total = counters.get("steps", counters.get("in", row.done)), None
            row.rejected = counters.get("rejected") or 0
            row.reasons = Counter(counters.get("reject_reasons") or {})
            if result.skipped:
                self.skipped.append(result.directory.name)
            self.show_finished(row, counters)

    def failed(self, error: str) -> None:
        """The build has failed, in the running stage if there is one."""
        with self.lock:
            row = self.running
            if row is not None:
                row.state, row.seconds = "failed", time.monotonic() - row.started
            self.show_failed(row, error)

    def show_started(self, row: Row) -> None:
        """For views: a stage has begun."""

    def show_finished(self, row: Row, counters: Mapping[str, Any]) -> None:
        """For views: a stage is done or was skipped."""

    def show_failed(self, row: Row | None, error: str) -> None:
        """For views: the build has failed, in a stage or between two."""

    def ended(self, document: Mapping[str, Any]) -> None:
        """For views: the build is done; ``document`` is what ``--json`` prints."""

    def close(self) -> None:
        """For views: nothing more will come."""
