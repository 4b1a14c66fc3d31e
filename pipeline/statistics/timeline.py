"""A record as a picture: streams as lanes over rows, what is said on them, and what waits for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import to_json
from pipeline.statistics.drawing import MONO_LETTER, Shape, fitted, label, line, path, picture, rect, ticks
from pipeline.statistics.timing import columns_of, timed, turns_of
from pipeline.viewer.lanes import Entry, View, view_of

#: Records that are looked at for one that shows what streams are for, and rows of a picture at most.
LOOKED_AT, MOST_ROWS = 4096, 200

#: A picture is of these many streams at most: those that say something in the rows that are shown.
MOST_LANES = 12

_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 1080, 108, 20, 52, 46
_COLOURS = {"thought": "thought", "call": "call"}


def choose(shards: Sequence[Path]) -> dict[str, Any] | None:
    """A record for a picture: of the first that there are, the one that fits into it and has most overlap by its rows.

    Where none overlaps, the one with most streams; None without records. Reads no text but that of the record.
    """
    best: tuple[tuple[float, ...], Path, int] | None = None
    seen = 0
    for shard in shards:
        at = 0
        with pq.ParquetFile(shard) as file:
            columns = columns_of(file.schema.column(i).path for i in range(len(file.schema)))
            for batch in file.iter_batches(1024, columns=columns):
                t = timed(pa.Table.from_batches([batch]))
                overlap, speaks = turns_of(t).overlap, np.diff(t.offsets) > 0
                streams = np.diff(t.stream_offsets)
                fits = (t.rows >= 24) & (t.rows <= MOST_ROWS) & (streams <= MOST_LANES)
                several = np.where(overlap > 0, streams >= 3, 0)
                scores = np.stack([speaks, fits, several, overlap / np.maximum(t.rows, 1), streams], axis=1)
                place = max(range(len(scores)), key=lambda i: (*scores[i].tolist(), -i))
                if best is None or tuple(scores[place].tolist()) > best[0]:
                    best = tuple(scores[place].tolist()), shard, at + place
                at += batch.num_rows
                if (seen := seen + batch.num_rows) >= LOOKED_AT:
                    break
        if seen >= LOOKED_AT:
            break
    return None if best is None else _record(best[1], best[2])


def draw_timeline(record: Mapping[str, Any]) -> tuple[str, str]:
    """The picture of a record, of its first overlap or output where it is too long, and what it shows in words."""
    view = view_of(record)
    first, last = _window(view, int(record["rows"]))
    entries = [e for e in view.entries if e.start < last and e.end > first]
    lanes = [lane for lane in view.lanes if any(e.lane == lane.index for e in entries)][:MOST_LANES]
    place = {lane.index: number for number, lane in enumerate(lanes)}
    entries = [e for e in entries if e.lane in place]
    step = (_WIDTH - _LEFT - _RIGHT) / max(last - first, 1)
    bottom = _TOP + len(lanes) * _LANE

    def x(row: float) -> float:
        return _LEFT + (min(max(row, first), last) - first) * step

    shapes: list[Shape] = []
    for row in ticks(first, last, 10):
        shapes += [
            line(x(row), _TOP - 6, x(row), bottom, "grid"),
            label(x(row), bottom + 16, f"{row:g}", "dim small", "middle"),
        ]
    shapes.append(
        label(_WIDTH - _RIGHT, 24, "row; one token per stream and row · ◂ read · ▸ written", "dim small", "end")
    )
    for lane in lanes:
        middle = _TOP + place[lane.index] * _LANE + 17
        shapes.append(label(_LEFT - 8, middle + 4, fitted(lane.label, _LEFT - 16), anchor="end"))
        shapes.append(line(_LEFT, middle, _WIDTH - _RIGHT, middle, "grid"))
    blocks = {e.index: e for e in entries}
    kinds = {lane.index: _COLOURS.get(lane.role, "read" if lane.direction == "input" else "written") for lane in lanes}
    for entry in entries:
        left, width, y = x(entry.start), x(entry.end) - x(entry.start), _TOP + place[entry.lane] * _LANE
        shapes.append(
            rect(
                left,
                y,
                max(width - 1, 1),
                34,
                kinds[entry.lane],
                4,
                tip=f"rows {entry.start} to {entry.end}: {entry.text}",
            )
        )
        if text := fitted(" ".join(entry.text.split()), width - 9, MONO_LETTER):
            shapes.append(label(left + 4, y + 21, text, "mono on"))
    for entry in entries:
        for other in (blocks[a] for a in entry.after if a in blocks):
            if other.lane != entry.lane:
                shapes.append(_edge(other, entry, place, x))
    streams = ", ".join(lane.name for lane in lanes)
    words = f"Record {record['id']}, rows {first} to {last} of {record['rows']}, on the streams {streams}"
    title = (
        "One record"
        if (first, last) == (0, record["rows"])
        else f"One record, rows {first} to {last} of {record['rows']}"
    )
    return picture(_WIDTH, bottom + 28, title, words, shapes), words


def _edge(before: Entry, entry: Entry, place: Mapping[int, int], x: Any) -> Shape:
    """From the end of what was waited for to the start of who waited."""
    x1, y1 = x(before.end), _TOP + place[before.lane] * _LANE + 17
    x2, y2 = x(entry.start), _TOP + place[entry.lane] * _LANE + 17
    y1, y2 = (y1 + 17, y2 - 17) if y2 > y1 else (y1 - 17, y2 + 17)
    bend = (y2 - y1) / 2
    return path(
        f"M{x1 - 2:.1f} {y1:.1f} C{x1 - 2:.1f} {y1 + bend:.1f} {x2 + 2:.1f} {y2 - bend:.1f} {x2 + 2:.1f} {y2:.1f}",
        "edge",
        dashed=True,
    )


def _window(view: View, rows: int) -> tuple[int, int]:
    if rows <= MOST_ROWS:
        return 0, rows
    shown = [entry.start for entry in view.entries if entry.overlaps]
    shown = shown or [entry.start for entry in view.entries if view.lanes[entry.lane].direction == "output"]
    first = max(0, min(shown, default=0) - MOST_ROWS // 4)
    return first, min(rows, first + MOST_ROWS)


def _record(shard: Path, place: int) -> dict[str, Any]:
    with pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(64):
            if place < batch.num_rows:
                return next(to_json(pa.Table.from_batches([batch.slice(place, 1)])))
            place -= batch.num_rows
    raise IndexError(place)
