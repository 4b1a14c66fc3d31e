"""The screen of one record: its lanes, what is selected, and the ways from record to record."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from pipeline.errors import InputError, PipelineError
from pipeline.viewer.compared import Compared
from pipeline.viewer.cursor import Cursor
from pipeline.viewer.details import entry_lines, record_lines, where_words
from pipeline.viewer.dialogs import Help, Prompt
from pipeline.viewer.filters import SYNTAX, Filter, parse_filter
from pipeline.viewer.keys import help_sections, record_bindings
from pipeline.viewer.lane_view import LaneView
from pipeline.viewer.lanes import View, one_line, view_of
from pipeline.viewer.marks import Judgement, Mark, add_mark
from pipeline.viewer.playing import Player
from pipeline.viewer.rejects import Rejects
from pipeline.viewer.rejects_screen import RejectsScreen
from pipeline.viewer.samples import Samples
from pipeline.viewer.searching import look
from pipeline.viewer.tokens import record_tokens
from pipeline.viewer.turns import in_turns

_FRAME_SECONDS = 1 / 20


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


class RecordScreen(Screen[None]):
    """Looks at the records of ``samples``, one at a time."""

    DEFAULT_CSS = """
    RecordScreen #where { height: 1; background: $panel; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RecordScreen #details { height: 7; border-top: solid $foreground 40%; }
    RecordScreen #told { height: auto; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = record_bindings()

    def __init__(self, samples: Samples, rejects: Rejects, start: Start) -> None:
        super().__init__()
        self.samples, self.rejects, self.start = samples, rejects, start
        self.cursor = Cursor(len(samples), start.at)
        self.player = Player()
        self.record: Shown | None = None
        self.marks: dict[str, Mark] = {}
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
        self.run_worker(self._load_marks, thread=True, group="marks")
        if len(self.samples):
            self._go(self.cursor.at)
        if self.start.filter:
            self._search(self.start.filter)
        if self.start.rejects or not len(self.samples):
            self.action_rejects()

    @property
    def lanes(self) -> Compared:
        """The lanes, alone or compared."""
        return self.query_one(Compared)

    # From record to record

    def _go(self, number: int) -> None:
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
                self._say(str(error), "warning")
        if self._with_turns:
            try:
                turned = view_of(await asyncio.to_thread(in_turns, shown.record))
            except PipelineError as error:
                self._with_turns = False
                self._say(str(error), "warning")
        self.player.stop()
        self.record = shown
        self.lanes.show(shown.view, turned, tokens, self.cursor.filter.terms, selected)
        self._tell()

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
            self._go(number)
            return
        found = " that is found" if self.cursor.filter else ""
        searching = ", still searching" if self.cursor.is_searching and by > 0 else ""
        self._say(f"this is the {'last' if by > 0 else 'first'}{found}{searching}")

    def action_jump(self) -> None:
        """Asks for a record."""
        hints = [f"a number from 0 to {max(0, len(self.samples) - 1):,}, or the start of an id"]
        self.app.push_screen(Prompt("Jump to a record", hints=hints), self._jump)

    def _jump(self, wanted: str | None) -> None:
        def find() -> None:
            try:
                number = self.samples.number((wanted or "").strip().replace(",", ""))
            except PipelineError as error:
                self.app.call_from_thread(self._say, str(error), "error")
            else:
                self.app.call_from_thread(self._go, number)

        if wanted and wanted.strip():
            self.run_worker(find, thread=True, exclusive=True, group="jump")

    def action_search(self) -> None:
        """Asks for a filter."""
        width = max(len(name) for name, _ in SYNTAX)
        hints = [f"{name:<{width}}  {what}" for name, what in SYNTAX if not name.startswith("reason")]
        prompt = Prompt("Search and filter; nothing: all records", self.cursor.line, hints, parse_filter)
        self.app.push_screen(prompt, lambda line: None if line is None else self._search(line.strip()))

    def _search(self, line: str) -> None:
        filter_ = parse_filter(line)
        self.workers.cancel_group(self, "search")
        self.cursor.search(filter_, line)
        self.lanes.find(filter_.terms)
        self._tell()
        if filter_:
            self.run_worker(lambda: self._look(filter_), thread=True, exclusive=True, group="search")

    def _look(self, filter_: Filter) -> None:
        worker = get_current_worker()
        try:
            look(
                lambda progress: self.samples.matching(filter_, progress),
                lambda: worker.is_cancelled,
                lambda *found: self.app.call_from_thread(self._found, filter_, *found),
            )
        except PipelineError as error:
            self.app.call_from_thread(self._found, filter_, [], len(self.samples), True)
            self.app.call_from_thread(self._say, str(error), "error")

    def _found(self, filter_: Filter, hits: list[int], looked_at: int, is_done: bool) -> None:
        if filter_ is not self.cursor.filter:
            return
        if self.cursor.found(hits, looked_at, is_done):
            self._go(hits[0])
        elif is_done and not self.cursor.hits:
            self._say(f"nothing is found for: {self.cursor.line}", "warning")
        self._tell()

    def action_all(self) -> None:
        """Ends playing, or else the search."""
        if self.player.at is not None:
            self.player.stop()
            self.lanes.play_to(None)
        elif self.cursor.filter:
            self._search("")
        self._tell()

    # Within a record

    def on_lane_view_selected(self, event: LaneView.Selected) -> None:
        """Tells of what is selected."""
        self._tell()

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
            self._say("it waits for no other event" if name == "after" else "no other event waits for it")

    def action_leak(self) -> None:
        """Selects the next leak."""
        leaks = [entry.index for entry in self.record.view.leaks] if self.record else []
        if leaks:
            self.lanes.main.select(next((index for index in leaks if index > self.lanes.main.selected), leaks[0]))
        else:
            self._say("this record has no leak; search for leak:yes")

    def action_tokens(self) -> None:
        """Tokens, or text."""
        self._with_tokens = not self._with_tokens
        self._draw_again()

    def action_turns(self) -> None:
        """With the record under turns, or without it."""
        self._with_turns = not self._with_turns
        self._draw_again()

    def action_about(self) -> None:
        """What the record is, or the event."""
        self._about = not self._about
        self._tell()

    def action_play(self) -> None:
        """Plays on, or pauses."""
        if self.record is not None:
            self.player.toggle(time.monotonic(), self.record.view.ms_per_row)
            self._tell()

    def action_speed(self, by: int) -> None:
        """Faster or slower."""
        self.player.faster(by, time.monotonic())
        self._tell()

    def _frame(self) -> None:
        if not self.player.is_running or self.record is None:
            return
        self.player.tick(time.monotonic())
        turned = self.lanes.turned
        if self.player.at is not None and self.player.at >= max(self.record.view.rows, turned.rows if turned else 0):
            self.player.stop()
        self.lanes.play_to(self.player.at)
        self._tell()

    # What stays of it

    def action_copy(self) -> None:
        """The record as JSON, to the clipboard of the terminal."""
        if self.record is not None:
            value = json.dumps(self.record.record, ensure_ascii=False)
            self.app.copy_to_clipboard(value)
            self._say(f"record {self.record.number:,} is copied: {len(value):,} characters of JSON")

    def action_mark(self, mark: Judgement) -> None:
        """Asks for a note, and marks."""
        if (shown := self.record) is None:
            return
        id_ = shown.record["id"]
        known = self.marks.get(id_)
        prompt = Prompt(f"Mark record {shown.number:,} {mark}: a note, or nothing", known.note if known else "")
        keep = self._keep_mark
        self.app.push_screen(prompt, lambda note: None if note is None else keep(id_, mark, note.strip()))

    def action_unmark(self) -> None:
        """Takes the mark back."""
        if self.record is not None and self.record.record["id"] in self.marks:
            self._keep_mark(self.record.record["id"], None, "")

    def _keep_mark(self, id_: str, mark: Judgement | None, note: str) -> None:
        def keep() -> None:
            path = self.samples.marks_path
            try:
                add_mark(path, id_, mark, note)
                marks = self.samples.marks()
            except OSError as error:
                said = f"the mark is not kept in {path}: {error.strerror or error}"
                self.app.call_from_thread(self._say, said, "error")
            except PipelineError as error:
                self.app.call_from_thread(self._say, str(error), "error")
            else:
                self.app.call_from_thread(self._marked, marks)

        self.run_worker(keep, thread=True, group="mark")

    def _load_marks(self) -> None:
        try:
            self.app.call_from_thread(self._marked, self.samples.marks())
        except PipelineError as error:
            self.app.call_from_thread(self._say, str(error), "error")

    def _marked(self, marks: dict[str, Mark]) -> None:
        self.marks = marks
        self._tell()

    # Elsewhere

    def action_rejects(self) -> None:
        """The rejects."""
        if len(self.rejects):
            self.app.push_screen(RejectsScreen(self.rejects, leaves=len(self.samples) > 0))
        else:
            self._say("there are no rejects here: rejects-*.parquet lie in a build, or in the folder of a stage")

    def action_help(self) -> None:
        """Keys and marks."""
        self.app.push_screen(Help(help_sections()))

    def _say(self, message: str, severity: Literal["information", "warning", "error"] = "information") -> None:
        self.notify(one_line(message, 500), severity=severity, markup=False, timeout=4)

    def _tell(self) -> None:
        """The first line, and what is selected."""
        if self.record is None:
            return
        view, entry = self.record.view, self.lanes.main.entry
        mark = self.marks.get(self.record.record["id"])
        where = where_words(view, self.cursor.told(), self.lanes.turned, mark, self.player.told(view.rows))
        self.query_one("#where", Static).update(Text(where))
        lines = record_lines(view) if self._about or entry is None else entry_lines(view, entry)
        self.query_one("#told", Static).update(Text("\n".join(lines)))
