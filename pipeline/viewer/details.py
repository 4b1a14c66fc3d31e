"""What is told of the selected entry and of the whole record, as lines of harmless text."""

from __future__ import annotations

from pipeline.viewer.bands import evidence_lines
from pipeline.viewer.lane_view import WAITED_FOR, WAITING
from pipeline.viewer.lanes import Entry, View, one_line
from pipeline.viewer.marks import Mark


def entry_lines(view: View, entry: Entry) -> list[str]:
    """Who says it and when; what it waits for and what waits for it; its leak with evidence; its verdicts."""
    lane = view.lanes[entry.lane]
    told = [
        f"event {entry.index} of {len(view.entries)}, {entry.kind}",
        f"{lane.name} ({lane.direction})",
        f"rows {entry.start}–{entry.end}" + (f" ({entry.tokens} tokens)" if entry.tokens != 1 else " (1 token)"),
    ]
    if entry.message is not None:
        told.append(f"message {entry.message}, part {entry.part}")
    if entry.call is not None:
        told.append(f"call {entry.call}")
    told += [word for word, is_so in (("ends its message", entry.final), ("cut off", entry.interrupted)) if is_so]
    if lane.direction == "output":
        told.append("trained" if entry.trained else "not trained")
    if entry.time_ms is not None:
        told.append(f"{entry.time_ms} ms")
    lines = [" · ".join(told)]
    if entry.leak is not None:
        lines += [
            line for line in evidence_lines(view) if line.startswith(f"{entry.leak.verdict}: event {entry.index} ")
        ]
    if not entry.after:
        lines.append("waits for nothing but what its own stream has said")
    for mark, what, others in (
        (WAITED_FOR, "waits for", entry.after),
        (WAITING, "is waited for by", entry.awaited_by),
    ):
        lines += [f"{mark} {what} {_named(view, view.entries[other])}" for other in others]
    verdicts = [("lexical", entry.lexical), ("judged", entry.judged)]
    if entry.gain is not None:
        verdicts.append(("gain", f"{entry.gain:.3f} nats per token"))
    if shown := [f"{name} {one_line(value)}" for name, value in verdicts if value is not None]:
        lines.append(" · ".join(shown))
    return lines


def record_lines(view: View) -> list[str]:
    """What the record is, one line per name, and its leaks."""
    return [f"{name:<12} {value}" for name, value in view.about] + evidence_lines(view)


def against_turns(view: View, turned: View) -> str:
    """What the record saves."""
    saved = 1 - view.rows / turned.rows if turned.rows else 0.0
    return f"{view.rows} rows, {turned.rows} under turns: {saved:.0%} saved"


def where_words(view: View, told: str, turned: View | None, mark: Mark | None, played: str) -> str:
    """The first line of the screen: ``told`` is where one is in the data set, ``played`` how far the record has been played."""
    about = dict(view.about)
    words = [played] if played else []
    if mark is not None:
        words.append(
            ("✓ good" if mark.mark == "good" else "✗ bad") + (f": {one_line(mark.note, 40)}" if mark.note else "")
        )
    words += [told, about["policy"]]
    words.append(f"{view.rows} rows" if turned is None else against_turns(view, turned))
    if view.leaks:
        words.append(f"‼ {len(view.leaks)} leak{'s' * (len(view.leaks) > 1)}")
    return " · ".join([*words, view.id[:8], about.get("source", "").split("  ")[0]])


def _named(view: View, entry: Entry) -> str:
    where = f"event {entry.index}, {view.lanes[entry.lane].name}, rows {entry.start}–{entry.end}"
    return f"{where}: {one_line(entry.text.strip(), 60)}"
