"""The rejects browser: reasons with their counts, and one reject at a time with the first bytes of its unit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from pipeline.errors import PipelineError
from pipeline.viewer.browsing import Browsing
from pipeline.viewer.dialogs import Help, Prompt
from pipeline.viewer.filters import SYNTAX, Filter, parse_filter
from pipeline.viewer.lanes import one_line
from pipeline.viewer.lanes import shown as harmless
from pipeline.viewer.rejects import Rejects

#: Terminals at least this wide have the reasons beside the reject, others above it.
_BESIDE = 100


class RejectsScreen(Browsing):
    """What could not be used. ``leaves``: whether there are records to go back to. ``line``: what is searched for at first."""

    DEFAULT_CSS = """
    RejectsScreen #where { height: 1; background: $panel; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    RejectsScreen #both { height: 1fr; layout: vertical; }
    RejectsScreen #both.beside { layout: horizontal; }
    RejectsScreen #reasons { height: auto; max-height: 33%; border: none; }
    RejectsScreen #both.beside #reasons { width: 38; height: 1fr; max-height: 100%; }
    RejectsScreen #unit { width: 1fr; height: 1fr; padding: 0 1; border-top: solid $foreground 40%; }
    RejectsScreen #both.beside #unit { border-top: none; border-left: solid $foreground 40%; }
    RejectsScreen #raw { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "reject(1)", "next"),
        Binding("p", "reject(-1)", "back"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("tab", "app.focus_next", "reasons or unit", show=False),
        Binding("y", "copy", "copy"),
        Binding("escape,x", "leave", "records", key_display="Esc"),
        Binding("question_mark,f1", "help", "help", key_display="?"),
        Binding("q", "app.quit", "quit"),
    ]

    def __init__(self, rejects: Rejects, leaves: bool = True, line: str = "") -> None:
        super().__init__(len(rejects))
        self.rejects, self._leaves, self._line = rejects, leaves, line
        self.reject: dict[str, Any] | None = None
        self._reasons: list[str] = []

    def compose(self) -> ComposeResult:
        """Where one is, the reasons, the reject, the keys."""
        yield Static(id="where", markup=False)
        with Container(id="both"):
            yield OptionList(id="reasons", markup=False)
            with VerticalScroll(id="unit"):
                yield Static(id="raw", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The first reject; the reasons are counted meanwhile."""
        self.run_worker(self._count, thread=True, group="reasons")
        self.query_one("#reasons").focus()
        self.go(0)
        if self._line:
            self._search(self._line)

    def on_resize(self) -> None:
        """Reasons stand beside the reject where there is room."""
        self.query_one("#both").set_class(self.size.width >= _BESIDE, "beside")

    def _count(self) -> None:
        try:
            self.from_thread(self._counted, self.rejects.reasons())
        except PipelineError as error:
            self.from_thread(self.say, str(error), "error")

    def _counted(self, counts: Counter[str]) -> None:
        found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        self._reasons = ["", *(reason for reason, _ in found)]
        reasons = self.query_one("#reasons", OptionList)
        reasons.clear_options()
        rows = [("all reasons", counts.total()), *((one_line(reason, 60), count) for reason, count in found)]
        reasons.add_options([Option(Text(f"{count:>9,}  {reason}", no_wrap=True)) for reason, count in rows])
        reasons.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter on a reason shows its rejects."""
        event.stop()
        reason = self._reasons[event.option_index]
        self.begin_search(Filter(reason=reason), f'reason:"{reason}"' if reason else "")
        self.tell()

    def action_reject(self, by: int) -> None:
        """The next or the previous reject."""
        number = self.cursor.next(by)
        if number is None:
            self.say("this is the last" if by > 0 else "this is the first")
            return
        self.go(number)

    def action_search(self) -> None:
        """Asks for a filter."""
        hints = [f"{name:<18} {what}" for name, what in SYNTAX if name.startswith(("reason", "corpus", "words"))]
        self.app.push_screen(
            Prompt("Search rejects; nothing: all.", self.cursor.line, hints, _rejects_filter),
            lambda line: None if line is None else self._search(line.strip()),
        )

    def _search(self, line: str) -> None:
        self.begin_search(_rejects_filter(line), line)
        self.tell()

    def matching(self, filter_: Filter, progress: Callable[[int], None]) -> Iterator[int]:
        """The rejects that a filter finds."""
        return self.rejects.matching(filter_, progress)

    def action_copy(self) -> None:
        """The reject as JSON, to the clipboard of the terminal."""
        if self.reject is not None:
            value = json.dumps(self.reject, ensure_ascii=False)
            self.app.copy_to_clipboard(value)
            self.say(f"reject {self.cursor.at:,} is copied: {len(value):,} characters of JSON")

    def action_help(self) -> None:
        """The keys."""
        told = [(str(b.key_display or b.key), b.description) for b in self.BINDINGS if isinstance(b, Binding)]
        self.app.push_screen(Help([("Keys", [*told, ("Enter", "only the rejects of this reason")])]))

    def action_leave(self) -> None:
        """Back to the records, if there are any."""
        if self._leaves:
            self.dismiss()
        else:
            self.say("there are no records here; q leaves")

    def go(self, number: int) -> None:
        """Shows a reject."""
        self.cursor.at = number
        try:
            reject, raw = self.rejects.reject(number), self.rejects.text(number)
        except PipelineError as error:
            self.reject, told = None, Text(one_line(str(error), 500))
        else:
            self.reject = reject
            told = Text(one_line(f"{reject['stage']}: {reject['code']}", 200) + "\n", "bold")
            told.append(one_line(reject["message"], 2000) + "\n", "not bold")
            source = f"{reject['corpus']}/{reject['path']} #{reject['index']}"
            licence = reject["license"] or "unknown"
            about = one_line(f"{source} · licence {licence} · {reject['bytes']:,} bytes", 500)
            told.append(about + "\n\n", "not bold dim")
            told.append(harmless(raw), "not bold")
        self.query_one("#raw", Static).update(told)
        self.query_one("#unit", VerticalScroll).scroll_home(animate=False)
        self.tell()

    def tell(self) -> None:
        """The first line."""
        self.query_one("#where", Static).update(Text(self.cursor.told().replace("record", "reject", 1)))


def _rejects_filter(line: str) -> Filter:
    filter_ = parse_filter(line)
    Rejects.check(filter_)
    return filter_
