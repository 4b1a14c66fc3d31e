"""The plain viewer: a record as text, a column per stream, rows downwards. For pipes, logs and screen readers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage import shown
from pipeline.viewer.bands import SILENT, Line, evidence_lines, fit, folded, text_lines
from pipeline.viewer.lanes import View, one_line, view_of
from pipeline.viewer.lanes import shown as harmless
from pipeline.viewer.samples import open_samples

MIN_COLUMN = 14
LABEL = 6
#: Lines of one band that are printed; more are counted.
_MOST_LINES = 14


def find_record(path: Path, wanted: str | None) -> dict[str, Any]:
    """The record with an id (or the start of one), by number, or the first. Raises InputError."""
    samples = open_samples(path)
    if not len(samples):
        raise InputError(f"{shown(path)} holds no records")
    return samples.record(samples.number("0" if wanted is None else wanted))


def render(record: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """The lines of a record in its JSON form: what it is, its events in columns, its leaks with their evidence.

    ``◂`` input, ``▸`` output, ``■`` end of message, ``✂`` cut off, ``>`` speaks while another stream does, ``‼`` leak,
    ``⁇`` weak evidence of one, ``‹`` header, ``⚒`` tool call, ``§`` definitions, ``·`` silence, ``┊`` goes on.
    """
    yield from render_view(view_of(record), width)


def render_view(view: View, width: int | None = None) -> Iterator[str]:
    """``render`` of what is drawn of a record."""
    width = width or shutil.get_terminal_size((120, 40)).columns
    yield from _head(view)
    yield ""
    column = column_width(width, len(view.lanes))
    rule = "─" * LABEL + "".join("─┼─" + "─" * column for _ in view.lanes)
    yield " rows  │ " + " │ ".join(fit(lane.label, column) for lane in view.lanes).rstrip()
    yield rule
    for line in folded(text_lines(view, column), _MOST_LINES):
        if isinstance(line, int):
            yield f"{'':>{LABEL}} │ … {line} lines …"
        elif line.gap:
            yield f"{line.begins:>{LABEL}} │ ⋯ {line.gap} silent row{'s' * (line.gap > 1)}"
        else:
            yield _columns(line, column)
    yield rule
    yield f"{view.rows:>{LABEL}}   rows; {view.cells} spoken cells"
    yield from evidence_lines(view)


def column_width(width: int, lanes: int) -> int:
    """The columns of the terminal that each lane has; not fewer than ``MIN_COLUMN``, however many lanes there are."""
    return max(MIN_COLUMN, (width - LABEL - 3 * lanes) // max(1, lanes))


def render_reject(reject: dict[str, Any], raw: str, width: int | None = None) -> Iterator[str]:
    """The lines of a reject: where it was, why, and the first bytes of it."""
    width = width or shutil.get_terminal_size((120, 40)).columns
    yield one_line(f"{reject['stage']}: {reject['code']}: {reject['message']}", 2000)
    source = f"{reject['corpus']}/{reject['path']} #{reject['index']}"
    yield one_line(f"source {source}  licence {reject['license'] or 'unknown'}  {reject['bytes']:,} bytes", 2000)
    yield "─" * width
    yield from harmless(raw).split("\n")


def _head(view: View) -> Iterator[str]:
    told = dict(view.about)
    yield f"record {told['record']}  (conversation {told['conversation']})"
    for name, value in view.about:
        if name == "source":
            yield f"source {value}"
    segment = f"  segment {told['segment']}" if "segment" in told else ""
    yield f"policy {told['policy']}  clock {told['clock']}{segment}"
    if "labels" in told:
        yield f"labels {told['labels']}"


def _columns(line: Line, column: int) -> str:
    label = f"{'' if line.row is None else line.row:>{LABEL}} "
    texts = (cell.text if cell is not None else SILENT if line.row is not None else "" for cell in line.cells)
    return (label + "".join("│ " + fit(text, column) + " " for text in texts)).rstrip()


def to_text(records: Sequence[dict[str, Any]], width: int | None = None) -> str:
    """Several records, one after the other."""
    return "\n\n".join("\n".join(render(record, width)) for record in records)
