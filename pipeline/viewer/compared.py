"""The lanes of a record, alone or with those of the same record under ``turns``: beside it, or below where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.widgets import Static

from pipeline.viewer.keys import lane_bindings
from pipeline.viewer.lane_view import LaneView
from pipeline.viewer.lanes import Entry, View

#: From this width on both are side by side.
BESIDE = 132


class Lanes(LaneView):
    """Lanes with their keys."""

    BINDINGS: ClassVar[list[BindingType]] = lane_bindings()

    def action_step(self, by: int) -> None:
        """The next or the previous event."""
        self.step(by)

    def action_step_lane(self, by: int) -> None:
        """An event of the next lane."""
        self.step_lane(by)

    def action_first(self) -> None:
        """The first event."""
        self.select(0)

    def action_last(self) -> None:
        """The last event."""
        self.select(len(self.view.entries) - 1 if self.view else 0)


class Compared(Container):
    """Two lanes that select and play together; the second is hidden unless there is something to compare with."""

    DEFAULT_CSS = """
    Compared { height: 1fr; layout: vertical; }
    Compared.beside { layout: horizontal; }
    Compared.beside #turns { border-left: solid $foreground 40%; }
    Compared #turns, Compared #turns-name { display: none; }
    Compared.both #turns, Compared.both #turns-name { display: block; }
    Compared #turns-name { height: 1; background: $panel; padding: 0 1; }
    Compared.beside #turns-name { display: none; }
    """

    def compose(self) -> ComposeResult:
        """The record; under turns."""
        yield Lanes(id="record")
        yield Static(id="turns-name", markup=False)
        yield Lanes(id="turns")

    @property
    def main(self) -> Lanes:
        """The lanes of the record as it is."""
        return self.query_one("#record", Lanes)

    @property
    def turns(self) -> Lanes:
        """The lanes of the record under turns."""
        return self.query_one("#turns", Lanes)

    @property
    def turned(self) -> View | None:
        """The record under turns, where it is shown."""
        return self.turns.view if self.has_class("both") else None

    def show(
        self,
        view: View,
        turned: View | None,
        tokens: Mapping[tuple[int, int], str] | None,
        terms: Sequence[str],
        selected: int,
    ) -> None:
        """Draws a record, and the same under turns where there is one."""
        self.set_class(turned is not None, "both")
        if not self.main.has_focus and not self.turns.has_focus:
            self.main.focus()
        if turned is None and self.turns.has_focus:
            self.main.focus()
        self.find(terms)
        self.main.show(view, tokens, selected)
        if turned is not None:
            self.turns.show(turned)
            self.query_one("#turns-name", Static).update(Text(f"under turns: {turned.rows} rows"))
            self._follow(self.turns, self.main.entry)

    def clear(self) -> None:
        """Draws nothing."""
        self.main.clear()
        self.turns.clear()

    def find(self, terms: Sequence[str]) -> None:
        """Marks what is searched for."""
        self.main.find(terms)
        self.turns.find(terms)

    def play_to(self, rows: float | None) -> None:
        """Plays both."""
        self.main.play_to(rows)
        if self.turned is not None:
            self.turns.play_to(rows)

    def on_resize(self) -> None:
        """Side by side where there is room."""
        self.set_class(self.size.width >= BESIDE, "beside")

    def on_lane_view_selected(self, event: LaneView.Selected) -> None:
        """The other one selects the same; the message goes on to whoever tells of it."""
        if self.turned is not None:
            self._follow(self.turns if event.view is self.main else self.main, event.view.entry)

    def _follow(self, lanes: Lanes, entry: Entry | None) -> None:
        for other in lanes.view.entries if lanes.view is not None and entry is not None else ():
            if _place(other) == _place(entry):
                lanes.select(other.index, tell=False)
                return


def _place(entry: Entry | None) -> tuple[int | None, int | None, bool] | None:
    return None if entry is None else (entry.message, entry.part, entry.kind == "header")
