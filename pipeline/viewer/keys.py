"""The keys and marks of the viewer: bound, and told in the help, from one list."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from pipeline.viewer.filters import SYNTAX
from pipeline.viewer.lane_view import SELECTED, WAITED_FOR, WAITING

#: Keys, action, name in the footer, whether it is shown there, what the help says.
RECORDS: tuple[tuple[str, str, str, bool, str], ...] = (
    ("n", "record(1)", "next", True, "next record (of those found)"),
    ("p", "record(-1)", "back", True, "previous record"),
    ("g", "jump", "jump", False, "jump to a record: its number, its id or the start of one"),
    ("r", "row", "row", False, "go to a row of this record"),
    ("slash", "search", "search", True, "search and filter; results come as they are found"),
    ("escape", "all", "all", False, "stop playing, then leave the search"),
    ("space", "play", "play", True, "play the record as it would have happened; again: pause"),
    ("plus,equals_sign", "speed(1)", "faster", False, "play faster"),
    ("minus", "speed(-1)", "slower", False, "play slower"),
    ("t", "tokens", "tokens", True, "tokens, a row per line, or text"),
    ("s", "turns", "turns", True, "side by side with the same record under turns"),
    ("e", "leak", "leak", False, "next leak"),
    ("a", "edge('after')", "after", False, "select what the selected event waits for"),
    ("d", "edge('awaited_by')", "then", False, "select what waits for the selected event"),
    ("J,shift+down", "details(1)", "more", False, "scroll what is told below the lanes"),
    ("K,shift+up", "details(-1)", "back", False, "scroll it back"),
    ("i", "about", "about", False, "about the record, or about the event"),
    ("y", "copy", "copy", False, "copy the record as JSON (through the terminal, OSC 52)"),
    ("m", "mark('good')", "good", False, "mark good, with a note"),
    ("b", "mark('bad')", "bad", False, "mark bad, with a note"),
    ("u", "unmark", "unmark", False, "take the mark back"),
    ("x", "rejects", "rejects", False, "the rejects: what could not be used, and why"),
    ("question_mark,f1", "help", "help", True, "this help"),
    ("q", "app.quit", "quit", True, "leave"),
)
LANES: tuple[tuple[str, str, str], ...] = (
    ("up,k", "step(-1)", "previous event"),
    ("down,j", "step(1)", "next event, by rows"),
    ("left,h", "step_lane(-1)", "event of the lane to the left"),
    ("right,l", "step_lane(1)", "event of the lane to the right"),
    ("home", "first", "first event"),
    ("end", "last", "last event"),
    ("pageup,ctrl+b", "page_up", "a page up"),
    ("pagedown,ctrl+f", "page_down", "a page down"),
)
MARKS: tuple[tuple[str, str], ...] = (
    ("◂ ▸", "a stream that is read; one that the model writes"),
    (f"{SELECTED} {WAITED_FOR} {WAITING}", "the selected event; one that it waits for; one that waits for it"),
    ("‼ ⁇", "a leak; weak evidence of one"),
    (">", "an output that speaks while another stream does"),
    ("■ ✂", "end of a message; cut off"),
    ("‹ ⚒ §", "header of a result; tool call; definitions"),
    ("· ┊ ⋯", "silent; goes on without a word here; rows in which nobody speaks"),
    ("␛ ⟨202E⟩", "a control character, an invisible one, in the data"),
)
_PLAIN = {
    "slash": "/", "plus": "+", "equals_sign": "=", "minus": "-", "question_mark": "?", "f1": "F1", "escape": "Esc",
    "pageup": "PgUp", "pagedown": "PgDn", "up": "↑", "down": "↓",
    "shift+up": "Shift+↑", "shift+down": "Shift+↓", "left": "←", "right": "→",
}  # fmt: skip


def record_bindings() -> list[BindingType]:
    """The bindings of the screen of a record."""
    return [
        Binding(keys, action, name, show=show, key_display=_shown(keys).split(" ")[0])
        for keys, action, name, show, _ in RECORDS
    ]


def lane_bindings() -> list[BindingType]:
    """The bindings of the lanes."""
    return [Binding(keys, action, what, show=False) for keys, action, what in LANES]


def help_sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles, and rows of two columns."""
    return [
        ("Keys", [(_shown(keys), what) for keys, _, _, _, what in RECORDS]),
        ("In the lanes", [(_shown(keys), what) for keys, _, what in LANES]),
        ("Marks", list(MARKS)),
        ("Search", list(SYNTAX)),
    ]


def _shown(keys: str) -> str:
    return " ".join(_PLAIN.get(key, key) for key in keys.split(","))
