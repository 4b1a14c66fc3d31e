"""What lies over the viewer for a moment: a line to type on, and the help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from pipeline.errors import InputError
from pipeline.viewer.lanes import one_line


class Prompt(ModalScreen[str | None]):
    """A line to type on; gives what was typed, or None. ``check`` raises InputError on what cannot be used."""

    DEFAULT_CSS = """
    Prompt { align: center bottom; background: $background 40%; }
    Prompt > Vertical { height: auto; max-height: 100%; background: $panel; padding: 0 1; }
    Prompt Static { height: auto; }
    Prompt #wrong { color: $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "leave")]

    def __init__(
        self, title: str, value: str = "", hints: Sequence[str] = (), check: Callable[[str], object] = str
    ) -> None:
        super().__init__()
        # What is shown may come from a file of marks, and is obeyed by no terminal.
        self._value = value if value.isprintable() else one_line(value, len(value))
        self._title, self._hints, self._check = title, hints, check

    def compose(self) -> ComposeResult:
        """Title, the line, what is wrong with it, hints: in small terminals the last of these are out of sight."""
        with Vertical():
            yield Static(Text(self._title, "bold").append("  Enter, or Esc to leave", "not bold dim"))
            yield Input(self._value, id="typed")
            yield Static("", id="wrong", markup=False)
            yield Static(Text("\n".join(self._hints), "dim"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter gives the line, if it can be used."""
        event.stop()
        try:
            self._check(event.value)
        except InputError as error:
            self.query_one("#wrong", Static).update(Text(f"✗ {one_line(str(error), 500)}"))
        else:
            self.dismiss(event.value)


class Help(ModalScreen[None]):
    """Every key and every mark."""

    DEFAULT_CSS = """
    Help { align: center middle; background: $background 40%; }
    Help > VerticalScroll { width: 78; max-width: 100%; height: auto; max-height: 95%; background: $panel; padding: 0 1; }
    Help Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "dismiss", "leave")]

    def __init__(self, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
        super().__init__()
        self._sections = sections

    def compose(self) -> ComposeResult:
        """A table per section."""
        with VerticalScroll():
            for title, rows in self._sections:
                table = Table.grid(padding=(0, 2))
                table.add_column(min_width=14, no_wrap=True)
                table.add_column()
                for left, right in rows:
                    table.add_row(Text(left, "bold"), Text(right))
                yield Static(Text(title, "bold underline"))
                yield Static(table)
                yield Static("")

    def on_mount(self) -> None:
        """Arrows scroll at once."""
        self.query_one(VerticalScroll).focus()
