"""Where one is in a data set: all records, or those that a filter finds, while it is still looking."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from pipeline.viewer.filters import Filter
from pipeline.viewer.lanes import one_line


@dataclass(slots=True)
class Cursor:
    """``at``: the number of the record that is shown; ``hits`` ascend; ``looked_at``: records that have been searched."""

    total: int
    at: int = 0
    filter: Filter = field(default_factory=Filter)
    line: str = ""
    hits: list[int] = field(default_factory=list)
    looked_at: int = 0
    is_searching: bool = False

    def search(self, filter_: Filter, line: str) -> None:
        """Begins a search; an empty filter shows all."""
        self.filter, self.line, self.hits, self.looked_at = filter_, line, [], 0
        self.is_searching = bool(filter_)

    def found(self, hits: list[int], looked_at: int, is_done: bool) -> bool:
        """Takes what a search has found since the last time; whether these are the first."""
        is_first = bool(hits) and not self.hits
        self.hits += hits
        self.looked_at = self.total if is_done else looked_at
        self.is_searching = not is_done
        return is_first

    def next(self, by: int) -> int | None:
        """The number of the next record, or of the one before for ``by`` < 0; None where there is none (yet)."""
        if not self.filter:
            return self.at + by if 0 <= self.at + by < self.total else None
        place = bisect_right(self.hits, self.at) if by > 0 else bisect_left(self.hits, self.at) - 1
        return self.hits[place] if 0 <= place < len(self.hits) else None

    def told(self) -> str:
        """Where one is, in words."""
        here = f"record {self.at:,} of {self.total:,}"
        if not self.filter:
            return here
        place = bisect_left(self.hits, self.at)
        is_hit = place < len(self.hits) and self.hits[place] == self.at
        found = f"{len(self.hits):,} found"
        which = f"{place + 1:,} of {found}" if is_hit else found
        percent = 100 * self.looked_at // max(1, self.total)
        return f"{here} · {which}{f', {percent}% searched' if self.is_searching else ''} · {one_line(self.line)}"
