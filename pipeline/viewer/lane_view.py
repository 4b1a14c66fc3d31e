"""The widget that draws a record: a column per lane, rows downwards, one entry selected, as far as it has been played."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pipeline.viewer.bands import SILENT, Cell, Line, fit, text_lines, token_lines
from pipeline.viewer.lanes import Entry, View

LABEL = 6
MIN_LANE = 13
HEAD = 2
#: What stands before the lines of an entry: the selected one, those that it waits for, those that wait for it.
SELECTED, WAITED_FOR, WAITING = "▌", "◆", "◇"

#: Every segment has a style: Textual's filter for terminals without colour needs one.
_PLAIN = Style()
_DIM = Style(dim=True)
_STYLES = {"input": Style(color="cyan"), "output": Style(color="green")}
_LEAK = Style(color="red", bold=True)
_WEAK = Style(color="yellow", bold=True)
_FOUND = Style(reverse=True, bold=True)
_SELECTED = Style(bold=True, bgcolor="grey23")
_EDGE = Style(color="magenta", bold=True)


class LaneView(ScrollView, can_focus=True):
    """A record's lanes. ``played``: rows that have happened (None: all). ``terms``: what is marked as found."""

    DEFAULT_CSS = """
    LaneView { height: 1fr; width: 1fr; overflow-y: scroll; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
    """

    class Selected(Message):
        """Another entry is selected."""

        def __init__(self, view: LaneView, entry: int) -> None:
            super().__init__()
            self.view, self.entry = view, entry

        @property
        def control(self) -> LaneView:
            """The widget that it is selected in."""
            return self.view

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view: View | None = None
        self.lines: list[Line] = []
        self.tokens: Mapping[tuple[int, int], str] | None = None
        self.selected = 0
        self.played: float | None = None
        self.terms: re.Pattern[str] | None = None
        self.lane_width = MIN_LANE
        self._first: dict[int, int] = {}
        self._reached: list[float] = []

    def show(self, view: View, tokens: Mapping[tuple[int, int], str] | None = None, selected: int = 0) -> None:
        """Draws another record, or the same one as tokens: from its first row, or where the selected entry is."""
        self.view, self.tokens, self.played = view, tokens, None
        self.selected = min(selected, max(0, len(view.entries) - 1))
        self._lay_out()
        self.scroll_to(0, 0, animate=False)
        if selected:
            self.reveal()

    def clear(self) -> None:
        """Draws nothing."""
        self.view, self.lines, self.selected, self.played = None, [], 0, None
        self.virtual_size = Size(0, 0)
        self.refresh()

    def find(self, terms: Iterable[str]) -> None:
        """Marks every occurrence of the terms in the lines."""
        alternatives = "|".join(re.escape(term) for term in terms)
        self.terms = re.compile(alternatives, re.IGNORECASE) if alternatives else None
        self.refresh()

    @property
    def entry(self) -> Entry | None:
        """The entry that is selected."""
        return self.view.entries[self.selected] if self.view and self.view.entries else None

    def select(self, entry: int, tell: bool = True) -> None:
        """Selects an entry and brings it into sight."""
        if self.view is None or not 0 <= entry < len(self.view.entries):
            return
        self.selected = entry
        self.reveal()
        self.refresh()
        if tell:
            self.post_message(self.Selected(self, entry))

    def step(self, by: int) -> None:
        """Selects the next or the previous entry in the order of rows."""
        self.select(self.selected + by)

    def step_lane(self, by: int) -> None:
        """Selects the entry of the next lane, left or right, that starts nearest to the selected one."""
        if self.view is None or (current := self.entry) is None:
            return
        lane = current.lane + by
        while 0 <= lane < len(self.view.lanes):
            beside = [e for e in self.view.entries if e.lane == lane]
            if beside:
                self.select(min(beside, key=lambda e: (abs(e.start - current.start), e.index)).index)
                return
            lane += by

    def reveal(self) -> None:
        """Scrolls to the selected entry."""
        entry = self.entry
        line = self._first.get(self.selected)
        if entry is None or line is None:
            return
        step = self.lane_width + 3
        height = max(1, min(self.size.height - HEAD, 8))
        # The head stands over the first lines: they are in sight once it is.
        self.scroll_to_region(
            Region(entry.lane * step, line, min(step, self.size.width) + LABEL, height + HEAD),
            animate=False,
            force=True,
        )

    def go_to_row(self, row: int) -> None:
        """Selects what is said at a row, or what comes next after it."""
        if self.view is None:
            return
        saying = [e for e in self.view.entries if e.start <= row < e.end]
        later = [e for e in self.view.entries if e.start >= row]
        chosen = max(saying, key=lambda e: e.start) if saying else later[0] if later else None
        if chosen is not None:
            self.select(chosen.index)

    def play_to(self, rows: float | None) -> None:
        """Shows what has happened before a row (fractions count), and follows it; None shows all."""
        self.played = rows
        if rows is not None:
            at = bisect_left(self._reached, rows) - 1
            bottom = self.scroll_offset.y + self.size.height - HEAD - 1
            if at > bottom or at < self.scroll_offset.y:
                self.scroll_to(y=max(0, at - (self.size.height - HEAD) // 2), animate=False)
        self.refresh()

    def on_resize(self) -> None:
        """Lanes share the width that there is."""
        if self.view is not None:
            self._lay_out()
            self.reveal()

    def _lay_out(self) -> None:
        assert self.view is not None
        lanes = max(1, len(self.view.lanes))
        self.lane_width = max(MIN_LANE, (self.scrollable_content_region.width - LABEL - 1 - 3 * lanes) // lanes)
        self.lines = (
            text_lines(self.view, self.lane_width) if self.tokens is None else token_lines(self.view, self.tokens)
        )
        self._first = {}
        self._reached = []
        so_far = 0.0
        for number, line in enumerate(self.lines):
            for cell in line.cells:
                if cell is not None:
                    self._first.setdefault(cell.entry, number)
            since = min((cell.since for cell in line.cells if cell is not None), default=float(line.begins))
            so_far = max(so_far, since)
            self._reached.append(so_far)
        self.virtual_size = Size(LABEL + 1 + lanes * (self.lane_width + 3), len(self.lines) + HEAD)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the names of the lanes, a rule, then the rows."""
        if self.view is None:
            return Strip.blank(self.size.width, _PLAIN)
        offset = self.scroll_offset
        line = None if y < HEAD else offset.y + y - HEAD
        if line is None:
            label, lanes = self._head(y)
        elif line < len(self.lines):
            label, lanes = self._line(line)
        else:
            return Strip.blank(self.size.width, _PLAIN)
        room = max(0, self.size.width - LABEL - 1)
        strip = Strip(lanes).crop(offset.x, offset.x + room)
        return Strip([label, *strip]).adjust_cell_length(self.size.width, _PLAIN)

    def _head(self, y: int) -> tuple[Segment, list[Segment]]:
        assert self.view is not None
        if y == 1:
            rule = "┼" + "─" * (self.lane_width + 2)
            return Segment("─" * (LABEL + 1), _DIM), [Segment(rule * len(self.view.lanes), _DIM)]
        made: list[Segment] = []
        for lane in self.view.lanes:
            made.append(Segment("│ ", _DIM))
            made.append(Segment(fit(lane.label, self.lane_width) + " ", _STYLES[lane.direction] + Style(bold=True)))
        return Segment("  row  "[: LABEL + 1], _DIM), made

    def _line(self, number: int) -> tuple[Segment, list[Segment]]:
        assert self.view is not None
        line = self.lines[number]
        label = Segment(f"{'' if line.row is None else line.row:>{LABEL}} ", _DIM)
        if self.played is not None and self._reached[number] >= self.played:
            return Segment(" " * (LABEL + 1), _PLAIN), [Segment("│" + " " * (self.lane_width + 2), _DIM)] * len(
                self.view.lanes
            )
        if line.gap:
            return label, [Segment(f"│ ⋯ {line.gap} silent row{'s' * (line.gap > 1)}", _DIM)]
        made: list[Segment] = []
        for lane, cell in zip(self.view.lanes, line.cells, strict=True):
            made.append(Segment("│", _DIM))
            if cell is None:
                made.append(Segment(" " + fit(SILENT if line.row is not None else "", self.lane_width) + " ", _DIM))
            else:
                made.extend(self._cell(cell, _STYLES[lane.direction], self._first.get(cell.entry) == number))
        return label, made

    def _cell(self, cell: Cell, style: Style, is_first: bool) -> Iterable[Segment]:
        assert self.view is not None
        text = cell.text
        if self.played is not None and cell.until > self.played:
            share = (self.played - cell.since) / max(cell.until - cell.since, 1e-9)
            text = text[: math.ceil(len(text) * share)] if share > 0 else ""
        gutter, mark = " ", _EDGE
        entry = self.view.entries[cell.entry] if cell.entry >= 0 else None
        current = self.entry
        if entry is not None and current is not None:
            if entry.index == current.index:
                gutter, style = SELECTED, style + _SELECTED
            elif is_first and entry.index in current.after:
                gutter = WAITED_FOR
            elif is_first and entry.index in current.awaited_by:
                gutter = WAITING
            if entry.leak is not None:
                style = style + (_LEAK if entry.leak.verdict == "leak" else _WEAK)
        yield Segment(gutter, mark)
        padded = fit(text, self.lane_width) + " "
        at = 0
        for found in self.terms.finditer(padded) if self.terms else ():
            yield Segment(padded[at : found.start()], style)
            yield Segment(found[0], style + _FOUND)
            at = found.end()
        yield Segment(padded[at:], style)
