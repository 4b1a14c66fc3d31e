"""The terminal application of ``multistream chat``: streams side by side over rows, and a line to type on."""

from __future__ import annotations

import asyncio
import re
import time
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Footer, Input, Static

from pipeline.cli.chat import harmless
from pipeline.decoding.session import Cell, Session

#: Rows that one line shows at most, so that words stand side by side and not one below the other.
ROWS_PER_LINE = 8
END_OF_MESSAGE = "■"
#: Lines that are kept, and how many go at once: the time of a row would grow with all that has been said.
KEPT_LINES, DROPPED_LINES = 120, 20
#: Whole words, which are said at once, and the white space and the word that is still being typed.
_WORDS = re.compile(r"(.*\S)(\s.*)", re.DOTALL)
_IDLE_SECONDS = 0.02


class Line(Static):
    """A few rows: what every stream says in them, or a run of silent rows, folded."""

    def __init__(self, row: int, streams: int, speaks: bool) -> None:
        super().__init__()
        self.first, self.last, self.speaks = row, row, speaks
        self.texts = [""] * streams

    def takes(self, row: int, speaks: bool) -> bool:
        """Whether a row belongs to this line: silent rows are folded, however many."""
        return row < self.first + ROWS_PER_LINE if self.speaks else not speaks

    def add(self, row: int, cells: list[Cell], styles: list[str]) -> None:
        """Adds a row and shows it."""
        self.last = row
        for cell in cells:
            self.texts[cell.stream] += END_OF_MESSAGE if cell.final else cell.text
        if self.speaks:
            lanes = [Text(_visible(text), style) for text, style in zip(self.texts, styles, strict=True)]
            self.update(lanes_of(str(self.first), lanes))
        else:
            rows = f"{self.last - self.first + 1} silent rows" if row > self.first else "a silent row"
            self.update(Text(f"{self.first:>6}  ⋯ {rows}", "dim"))


class Say(Input):
    """The line to type on. Of a text of several lines that is pasted, all but the last are said at once."""

    class Pasted(Message):
        """Whole lines, with their ends."""

        def __init__(self, lines: str) -> None:
            super().__init__()
            self.lines = lines

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        start, end = sorted(self.selection)
        pasted = "\n".join(event.text.splitlines()).strip("\n")
        lines, ends, last = (self.value[:start] + pasted + self.value[end:]).rpartition("\n")
        if ends:
            self.post_message(self.Pasted(lines + ends))
        behind = len(self.value) - end
        self.value = last
        self.cursor_position = len(last) - behind


def lanes_of(label: str, lanes: list[Text]) -> Table:
    """One line: a label and columns of the same width."""
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(width=6, justify="right", style="dim")
    for _ in lanes:
        line.add_column(ratio=1, overflow="fold")
    line.add_row(label, *lanes)
    return line


class ChatApp(App[None]):
    """Types into a session while its rows pass. ``rows_per_second`` 0: as fast as it goes, until all are silent."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #names { height: auto; background: $panel; padding-right: 2; }
    #lanes { height: 1fr; scrollbar-gutter: stable; }
    #status { height: 1; color: $text-muted; }
    Line { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", "leave", priority=True),
        Binding("ctrl+p", "pause", "pause", priority=True),
        Binding("escape", "look_back", "look back"),
        Binding("q", "quit", "leave", show=False),
        Binding("i", "type", "type", show=False),
    ]

    def __init__(self, session: Session, rows_per_second: float, patience: int) -> None:
        super().__init__()
        self.session = session
        self.paused = False
        self._seconds = 1 / rows_per_second if rows_per_second else 0.0
        self._patience = patience
        self._styles = ["cyan" if stream.direction == "input" else "green" for stream in session.streams]
        self._line: Line | None = None
        self._speed = 0.0
        self._status = ""

    def compose(self) -> ComposeResult:
        """The names of the streams, their lanes, the state, the line to type on."""
        names = [
            Text(f"{stream.name} {'◂' if stream.direction == 'input' else '▸'}", f"bold {style}")
            for stream, style in zip(self.session.streams, self._styles, strict=True)
        ]
        yield Static(lanes_of("row", names), id="names")
        yield VerticalScroll(id="lanes")
        yield Static(id="status")
        yield Say(placeholder=f"say something as {self.session.streams[self.session.hears].name}", id="say")
        yield Footer()

    def on_mount(self) -> None:
        """Rows begin to pass."""
        self.query_one("#say").focus()
        self.run_worker(self._let_rows_pass(), exclusive=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """What is typed is said word by word."""
        words = _WORDS.fullmatch(event.input.value)
        if words is not None:
            self.session.say(words[1])
            event.input.value = words[2]
            event.input.cursor_position = len(words[2])

    def on_say_pasted(self, event: Say.Pasted) -> None:
        """Whole lines are said as they are."""
        self.session.say(event.lines)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter ends the message."""
        self.session.say(event.input.value.rstrip())
        self.session.end_message()
        event.input.value = ""

    def action_pause(self) -> None:
        """Stops the rows, or lets them pass again."""
        self.paused = not self.paused
        self._show_status()

    def action_look_back(self) -> None:
        """Leaves the line to type on: arrows scroll, i types again, q leaves."""
        self.query_one("#lanes").focus()

    def action_type(self) -> None:
        """Back to the line to type on."""
        self.query_one("#say").focus()

    async def _let_rows_pass(self) -> None:
        lanes = self.query_one("#lanes", VerticalScroll)
        while not self.session.is_over:
            self._show_status()
            if self.paused or self._rests:
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            started = time.monotonic()
            row = self.session.rows
            cells = await asyncio.to_thread(self.session.row)
            if not lanes.is_attached:
                return
            await self._show(lanes, row, cells)
            await asyncio.sleep(max(0.0, self._seconds - (time.monotonic() - started)))
            self._speed = 1 / max(time.monotonic() - started, 1e-9)
        self._show_status()

    @property
    def _rests(self) -> bool:
        """Without a clock no rows are spent while nobody has anything to say."""
        return not self._seconds and not self.session.waiting and self.session.silent_rows >= self._patience

    async def _show(self, lanes: VerticalScroll, row: int, cells: list[Cell]) -> None:
        follows = lanes.is_vertical_scroll_end
        if self._line is None or not self._line.takes(row, bool(cells)):
            self._line = Line(row, len(self.session.streams), bool(cells))
            await lanes.mount(self._line)
            if len(lanes.children) > KEPT_LINES:
                await lanes.remove_children(lanes.children[:DROPPED_LINES])
        self._line.add(row, cells, self._styles)
        if follows:
            lanes.scroll_end(animate=False)

    def _show_status(self) -> None:
        session = self.session
        if session.is_over:
            state = "over: no rows are left"
        elif self.paused:
            state = "paused"
        elif self._rests:
            state = "your turn"
        else:
            state = f"{self._speed:.0f} rows/s"
        waiting = f" · {session.waiting} tokens to be heard" if session.waiting else ""
        status = f"row {session.rows} of {session.decoder.max_rows} · {state}{waiting}"
        if status != self._status:
            self._status = status
            for line in self.query("#status").results(Static):
                line.update(status)


def _visible(text: str) -> str:
    return harmless(text.replace("\n", "⏎").replace("\t", "⇥"))
