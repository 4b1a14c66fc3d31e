"""The screen of one record: its lanes, what is selected, and the ways from record to record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from pipeline.errors import InputError, PipelineError
from pipeline.viewer.compared import Compared
from pipeline.viewer.details import entry_lines, record_lines, where_words
from pipeline.viewer.dialogs import Help, Prompt
from pipeline.viewer.filters import SYNTAX, Filter, parse_filter
from pipeline.viewer.keys import help_sections, record_bindings
from pipeline.viewer.lane_view import LaneView
from pipeline.viewer.lanes import View, one_line, view_of
from pipeline.viewer.marking import Marking
from pipeline.viewer.playing import Player
from pipeline.viewer.rejects import Rejects
from pipeline.viewer.rejects_screen import RejectsScreen
from pipeline.viewer.samples import Samples
from pipeline.viewer.tokens import record_tokens
from pipeline.viewer.turns import in_turns

_FRAME_SECONDS = 1 / 20
_NO_REJECTS = "there are no rejects here: rejects-*.parquet lie in a build, or in the folder of a stage"


@dataclass(frozen=True, slots=True)
class Start:
    """What is shown first. ``tokenizer``: the spec of what made the tokens, where it is not the packaged one."""

    at: int = 0
    filter: str = ""
    turns: bool = False
    rejects: bool = False
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The record that is shown."""

    number: int
    record: dict[str, Any]
    view: View


class RecordScreen(Marking):
    """Looks at the records of ``samples``, one at a time."""

    DEFAULT_CSS = """
    RecordScreen #where { height: 1; background: $panel; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RecordScreen #details { height: 7; max-height: 33%; border-top: solid $foreground 40%; }
    RecordScreen #told { height: auto; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = record_bindings()

    def __init__(self, samples: Samples, rejects: Rejects, start: Start) -> None:
        super().__init__(samples, start.at)
        self.rejects, self.start = rejects, start
        self.player = Player()
        self.record: Shown | None = None
        self._with_tokens = self._about = False
        self._with_turns = start.turns

    def compose(self) -> ComposeResult:
        """Where one is; the lanes; what is selected; the keys."""
        yield Static(id="where", markup=False)
        yield Compared()
        with VerticalScroll(id="details", can_focus=False):
            yield Static(id="told", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The first record, or the first that is found."""
        self.set_interval(_FRAME_SECONDS, self._frame)
        self.run_worker(self.load_marks, thread=True, group="marks")
        if len(self.samples):
            self.go(self.cursor.at)
        elif not len(self.rejects):
            self.query_one("#where", Static).update(Text("no records here, and no rejects · q leaves"))
        if self.start.rejects or not len(self.samples):
            self._show_rejects(self.start.filter)
        elif self.start.filter:
            self._search(self.start.filter)

    @property
    def lanes(self) -> Compared:
        """The lanes, alone or compared."""
        return self.query_one(Compared)

    # From record to record

    def go(self, number: int) -> None:
        """Shows a record; one that is still being read is given up."""
        self.cursor.at = number
        self.run_worker(self._open(number), exclusive=True, group="open")

    async def _open(self, number: int) -> None:
        def load() -> Shown:
            record = self.samples.record(number)
            return Shown(number, record, view_of(record))

        try:
            shown = await asyncio.to_thread(load)
        except PipelineError as error:
            self.record = None
            self.player.stop()
            self.lanes.clear()
            self.query_one("#where", Static).update(Text(self.cursor.told()))
            self.query_one("#told", Static).update(Text(one_line(str(error), 500)))
            return
        await self._draw(shown, self._first_found(shown.view))

    async def _draw(self, shown: Shown, selected: int) -> None:
        """Draws a record, as tokens or text, and under turns where that is wanted."""
        tokens = turned = None
        if self._with_tokens:
            try:
                tokens = await asyncio.to_thread(record_tokens, self.samples, shown.number, self.start.tokenizer)
            except PipelineError as error:
                self._with_tokens = False
                self.say(str(error), "warning")
        if self._with_turns:
            try:
                turned = view_of(await asyncio.to_thread(in_turns, shown.record))
            except PipelineError as error:
                self._with_turns = False
                self.say(str(error), "warning")
        self.player.stop()
        self.record = shown
        self.lanes.show(shown.view, turned, tokens, self.cursor.filter.terms, selected)
        self.tell()

    def _draw_again(self) -> None:
        if self.record is not None:
            self.run_worker(self._draw(self.record, self.lanes.main.selected), exclusive=True, group="open")

    def _first_found(self, view: View) -> int:
        for term in self.cursor.filter.terms:
            for entry in view.entries:
                if term.casefold() in entry.text.casefold():
                    return entry.index
        return view.leaks[0].index if self.cursor.filter.leaks and view.leaks else 0

    def action_record(self, by: int) -> None:
        """The next or the previous record."""
        number = self.cursor.next(by)
        if number is not None:
            self.go(number)
            return
        found = " that is found" if self.cursor.filter else ""
        searching = ", still searching" if self.cursor.is_searching and by > 0 else ""
        if self.cursor.filter and not self.cursor.hits:
            self.say(f"nothing is found{searching or ''}: Esc shows all records again")
        elif len(self.samples):
            self.say(f"this is the {'last' if by > 0 else 'first'}{found}{searching}")

    def action_jump(self) -> None:
        """Asks for a record."""
        hints = [f"a number from 0 to {max(0, len(self.samples) - 1):,}, or the start of an id"]
        self.app.push_screen(Prompt("Jump to a record", hints=hints), self._jump)

    def _jump(self, wanted: str | None) -> None:
        def find() -> None:
            try:
                number = self.samples.number((wanted or "").strip().replace(",", ""))
            except PipelineError as error:
                self.from_thread(self.say, str(error), "error")
            else:
                self.from_thread(self.go, number)

        if wanted and wanted.strip():
            self.run_worker(find, thread=True, exclusive=True, group="jump")

    def action_search(self) -> None:
        """Asks for a filter."""
        width = max(len(name) for name, _ in SYNTAX)
        hints = [f"{name:<{width}}  {what}" for name, what in SYNTAX]
        prompt = Prompt("Search and filter; nothing: all records.", self.cursor.line, hints, self._filter)
        self.app.push_screen(prompt, lambda line: None if line is None else self._search(line.strip()))

    def _search(self, line: str) -> None:
        filter_ = self._filter(line)
        if filter_.reason:
            self._show_rejects(line)
            return
        self.begin_search(filter_, line)
        self.lanes.find(filter_.terms)
        self.tell()

    def _filter(self, line: str) -> Filter:
        """What is typed, as a filter of records, or of rejects where it names a reason. Raises InputError."""
        filter_ = parse_filter(line)
        if filter_.reason:
            Rejects.check(filter_)
            if not len(self.rejects):
                raise InputError(_NO_REJECTS)
        return filter_

    def matching(self, filter_: Filter, progress: Callable[[int], None]) -> Iterator[int]:
        """The records that a filter finds."""
        return self.samples.matching(filter_, progress)

    def action_all(self) -> None:
        """Ends playing, or else the search."""
        if self.player.at is not None:
            self.player.stop()
            self.lanes.play_to(None)
        elif self.cursor.filter:
            self._search("")
        self.tell()

    # Within a record

    def on_lane_view_selected(self, event: LaneView.Selected) -> None:
        """Tells of what is selected."""
        self.tell()

    def action_row(self) -> None:
        """Asks for a row of this record."""

        def check(typed: str) -> None:
            if not (typed.strip().isascii() and typed.strip().isdigit()):
                raise InputError("a row is a number from 0 on")

        if self.record is not None:
            prompt = Prompt(f"Go to a row, 0 to {max(0, self.record.view.rows - 1):,}", check=check)
            self.app.push_screen(prompt, lambda row: None if row is None else self.lanes.main.go_to_row(int(row)))

    def action_edge(self, name: Literal["after", "awaited_by"]) -> None:
        """Selects what the selected event waits for, or what waits for it."""
        entry = self.lanes.main.entry
        others = getattr(entry, name) if entry is not None else ()
        if others:
            self.lanes.main.select(others[-1] if name == "after" else others[0])
        else:
            self.say("it waits for no other event" if name == "after" else "no other event waits for it")

    def action_leak(self) -> None:
        """Selects the next leak."""
        leaks = [entry.index for entry in self.record.view.leaks] if self.record else []
        if leaks:
            self.lanes.main.select(next((index for index in leaks if index > self.lanes.main.selected), leaks[0]))
        else:
            self.say("this record has no leak; search for leak:yes")

    def action_tokens(self) -> None:
        """Tokens, or text."""
        self._with_tokens = not self._with_tokens
        self._draw_again()

    def action_turns(self) -> None:
        """With the record under turns, or without it."""
        self._with_turns = not self._with_turns
        self._draw_again()

    def action_details(self, by: int) -> None:
        """Scrolls what is told below the lanes."""
        self.query_one("#details", VerticalScroll).scroll_relative(y=by, animate=False)

    def action_about(self) -> None:
        """What the record is, or the event."""
        self._about = not self._about
        self.tell()

    def action_play(self) -> None:
        """Plays on, or pauses."""
        if self.record is not None:
            self.player.toggle(time.monotonic(), self.record.view.ms_per_row)
            self.tell()

    def action_speed(self, by: int) -> None:
        """Faster or slower."""
        self.player.faster(by, time.monotonic())
        self.tell()

    def _frame(self) -> None:
        if not self.player.is_running or self.record is None:
            return
        self.player.tick(time.monotonic())
        turned = self.lanes.turned
        if self.player.at is not None and self.player.at >= max(self.record.view.rows, turned.rows if turned else 0):
            self.player.stop()
        self.lanes.play_to(self.player.at)
        self.tell()

    # What stays of it

    def action_copy(self) -> None:
        """The record as JSON, to the clipboard of the terminal."""
        if self.record is not None:
            value = json.dumps(self.record.record, ensure_ascii=False)
            self.app.copy_to_clipboard(value)
            self.say(f"record {self.record.number:,} is copied: {len(value):,} characters of JSON")

    @property
    def marked_id(self) -> str | None:
        """The id of the record that is shown."""
        return self.record.record["id"] if self.record is not None else None

    # Elsewhere

    def action_rejects(self) -> None:
        """The rejects."""
        self._show_rejects("")

    def _show_rejects(self, line: str) -> None:
        if len(self.rejects):
            self.app.push_screen(RejectsScreen(self.rejects, leaves=len(self.samples) > 0, line=line))
        else:
            self.say(_NO_REJECTS)

    def action_help(self) -> None:
        """Keys and marks."""
        self.app.push_screen(Help(help_sections()))

    def tell(self) -> None:
        """The first line, and what is selected."""
        if self.record is None:
            return
        view, entry = self.record.view, self.lanes.main.entry
        mark = self.marks.get(self.record.record["id"])
        where = where_words(view, self.cursor.told(), self.lanes.turned, mark, self.player.told(view.rows))
        self.query_one("#where", Static).update(Text(where))
        lines = record_lines(view) if self._about or entry is None else entry_lines(view, entry)
        self.query_one("#told", Static).update(Text("\n".join(lines)))
