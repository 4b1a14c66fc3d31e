"""The clock of a record that is played: rows that have happened, at a speed in rows per second."""

from __future__ import annotations

SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Player:
    """``at``: rows that have happened, None where all are shown. Times are seconds of any clock that only goes forward."""

    def __init__(self, speed: float = 20.0) -> None:
        self.speed = speed
        self.at: float | None = None
        self._since: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether rows pass."""
        return self._since is not None

    def toggle(self, now: float, ms_per_row: float | None) -> None:
        """Plays, from the first row if nothing was played, or pauses. A record of real time begins at its own speed."""
        if self._since is not None:
            self.tick(now)
            self._since = None
        else:
            if self.at is None:
                self.at = 0.0
                self.speed = 1000 / ms_per_row if ms_per_row else self.speed
            self._since = now

    def tick(self, now: float) -> None:
        """Lets the time that has gone by pass."""
        if self._since is not None and self.at is not None:
            self.at += (now - self._since) * self.speed
            self._since = now

    def faster(self, by: int, now: float) -> None:
        """The next higher or lower speed."""
        self.tick(now)
        steps = sorted({*SPEEDS, self.speed})
        self.speed = steps[max(0, min(len(steps) - 1, steps.index(self.speed) + by))]

    def stop(self) -> None:
        """Shows all again."""
        self.at = self._since = None

    def told(self, rows: int) -> str:
        """Where it is, in words; nothing where it is not playing."""
        if self.at is None:
            return ""
        return f"{'▶' if self.is_running else '‖'} row {min(int(self.at), rows)} of {rows}, {self.speed:g} rows/s"
