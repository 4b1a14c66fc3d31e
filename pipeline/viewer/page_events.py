"""What the HTML page says of one record's events: the timeline to scale, and every event with its facts and leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.viewer.lanes import INPUT_MARK, KIND_MARKS, LEAK_MARKS, OUTPUT_MARK, Entry, Lane, View, one_line

KIND_NAMES = {"header": "header", "tool_call": "tool call", "tool_result": "tool result", "note": "note"}

_HUES = {"user": 0, "assistant": 1, "thought": 2, "call": 3, "tool": 4, "monitor": 5, "audit": 6}
_LANE = 22  # height of a lane of the timeline, pixels
_BLOCK = 14
_LEAK_NAMES = {"leak": "leak", "weak": "may leak (no source order)"}


def count(number: int, what: str) -> str:
    """How many there are of something, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def hues_of(lanes: Sequence[Lane]) -> list[str]:
    """The colour class of every lane: roles have their own, others those that are left over."""
    left = (hue for hue in range(10) if hue not in {_HUES[lane.role] for lane in lanes if lane.role in _HUES})
    others: dict[str, int] = {}
    for lane in lanes:
        if lane.role not in _HUES and lane.role != "system" and lane.role not in others:
            others[lane.role] = next(left, len(others) % 10)
    known = {**_HUES, **others}
    return [f"hue hue-{known[lane.role]}" if lane.role in known else "hue hue-grey" for lane in lanes]


def sign_of(lane: Lane) -> str:
    return INPUT_MARK if lane.direction == "input" else OUTPUT_MARK


class Strip:
    """A timeline to scale: positions in percent of its rows, so that it fits any width.

    ``width``: percent of the strip of ``scale`` rows that it takes beside another.
    """

    def __init__(
        self, view: View, hues: Sequence[str], starts: Sequence[int], scale: int, name: str, rows: int
    ) -> None:
        self.rows = max(rows, 1)
        self.width = f"{100 * self.rows / scale:.3f}"
        self.caption = f"{name}: {count(rows, 'row')}, to scale. A block is speech, a dotted line is silence."
        self.label = (
            f"{name}: {count(len(view.lanes), 'stream')} over {count(rows, 'row')}; the list below says the same"
        )
        self.ticks = list(self._ticks(rows))
        self.blocks = [
            {
                "event": entry.index,
                "classes": f"{view.lanes[entry.lane].direction} {hues[entry.lane]}{' leak' if entry.leak else ''}",
                "x": self._percent(start),
                "width": f"{max(100 * entry.tokens / self.rows, 0.12):.3f}",
                "y": entry.lane * _LANE + (_LANE - _BLOCK) // 2,
                "sign": LEAK_MARKS[entry.leak.verdict].strip() if entry.leak and name != "Under turns" else "",
            }
            for entry, start in zip(view.entries, starts, strict=True)
        ]

    def _percent(self, row: int) -> str:
        return f"{100 * row / self.rows:.3f}"

    def _ticks(self, rows: int) -> Iterator[dict[str, Any]]:
        step = next(s * 10**p for p in range(10) for s in (1, 2, 5) if s * 10**p * 5 >= rows)
        for row in range(0, rows, step):
            if rows - row >= step * 0.6:
                yield {"x": self._percent(row), "row": row, "anchor": "middle" if row else "start"}
        yield {"x": self._percent(rows), "row": rows, "anchor": "end"}


def event_of(view: View, entry: Entry, turn: int, hues: Sequence[str]) -> dict[str, Any]:
    lane = view.lanes[entry.lane]
    kind = KIND_NAMES.get(entry.kind)
    classes = [lane.direction, hues[entry.lane], entry.kind, entry.leak.verdict if entry.leak else ""]
    classes.append("final" if entry.final else "interrupted" if entry.interrupted else "")
    return {
        "entry": entry,
        "classes": " ".join(filter(None, classes)),
        "part": f"{entry.lane}.{entry.message}.{entry.part}",
        "turn": turn,
        "who": lane.name,
        "sign": sign_of(lane),
        "kind": f"{KIND_MARKS.get(entry.kind, '')}{kind}" if kind else "",
        "untrained": lane.direction == "output" and not entry.trained,
        "leaks": list(_leaks(view, entry)),
        "facts": list(_facts(view, entry, lane)),
    }


def _leaks(view: View, entry: Entry) -> Iterator[dict[str, Any]]:
    if entry.leak is None:
        return
    name = f"{LEAK_MARKS[entry.leak.verdict].strip()} {_LEAK_NAMES[entry.leak.verdict]}"
    for said, event in entry.leak.evidence:
        yield {"name": name, "said": said, "event": event, "end": view.entries[event].end}
    if not entry.leak.evidence:
        yield {"name": f"{name}, says the record; this version finds no evidence", "event": None}


def _facts(view: View, entry: Entry, lane: Lane) -> Iterator[tuple[str, str]]:
    """What is said of an event where it is shown by itself: name, value."""
    yield "stream", f"{lane.name} ({'read' if lane.direction == 'input' else 'written'} by the model)"
    yield "rows", f"{entry.start}–{entry.end}: {count(entry.tokens, 'row')}"
    if view.ms_per_row is not None:
        yield "time", f"{entry.start * view.ms_per_row:,.0f} to {entry.end * view.ms_per_row:,.0f} ms"
    yield "kind", KIND_NAMES.get(entry.kind) or one_line(entry.kind)
    if entry.message is not None:
        yield "from", f"message {entry.message}" + ("" if entry.part is None else f", part {entry.part}")
    if entry.call is not None:
        yield "call", f"{entry.call}"
    yield "ends", "its message" if entry.final else "cut off" if entry.interrupted else "the message goes on"
    yield "weight", f"{entry.weight:g}" + ("" if entry.trained else ", no target")
    if entry.time_ms is not None:
        yield "spoken at", _clock_time(entry.time_ms)
    yield "lexical", one_line(entry.lexical or "nothing to check")
    if entry.gain is not None:
        yield "gain", f"{entry.gain:.4g} nats per token"
    if entry.judged is not None:
        yield "judged", one_line(entry.judged)


def _clock_time(ms: int) -> str:
    """Milliseconds since 1970 as a date, those that are none as they are."""
    if not 10**10 <= ms < 10**14:
        return f"{ms:,} ms"
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
