"""A record as lines: a column per lane, rows downwards; what stands on one line was said at the same time.

A *band* begins at every row at which something starts. What an event says is spread evenly over its rows and cut at words, so
that a long event runs on beside what others say meanwhile. Exact rows of every word are the tokens' (``token_lines``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len, split_graphemes

from pipeline.viewer.lanes import Entry, View, one_line

#: What stands in a lane that is silent, and in one whose event goes on without a word of its own here.
SILENT, GOES_ON = "·", "┊"
#: Characters that a cut is moved back by at most, to the end of a word.
_WORD = 24
_WORD_END = re.compile(r"\s+(?=\S*\Z)")


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of an entry on one line. ``since``, ``until``: the rows in which it is said (fractions of rows)."""

    entry: int
    text: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line: ``row`` where it begins a band, the first row it is about, and a cell per lane (None: silent).

    ``gap`` is the number of rows in which nobody speaks, where the line stands for these.
    """

    row: int | None
    begins: int
    cells: tuple[Cell | None, ...]
    gap: int = 0


def text_lines(view: View, width: int) -> list[Line]:
    """The lines of a record with lanes of ``width`` terminal columns. No text is left out."""
    by_lane: list[list[Entry]] = [[] for _ in view.lanes]
    for entry in view.entries:
        by_lane[entry.lane].append(entry)
    bounds = sorted({entry.start for entry in view.entries})
    at = [0] * len(by_lane)
    lines: list[Line] = []
    spoken_until = 0
    for begins, ends in pairwise([*bounds, max(view.rows, *bounds) + 1] if bounds else []):
        if begins > spoken_until:
            lines.append(_gap(view, spoken_until, begins))
        columns: list[list[Cell]] = []
        for lane, entries in enumerate(by_lane):
            column: list[Cell] = []
            while at[lane] < len(entries) and entries[at[lane]].start < ends:
                entry = entries[at[lane]]
                column += _pieces(entry, begins, ends, width)
                spoken_until = max(spoken_until, min(entry.end, ends))
                if entry.end > ends:
                    break
                at[lane] += 1
            columns.append(column)
        for i in range(max(len(c) for c in columns)):
            cells = tuple(c[i] if i < len(c) else None for c in columns)
            lines.append(Line(begins if i == 0 else None, begins, cells))
    return lines


def token_lines(view: View, tokens: Mapping[tuple[int, int], str]) -> list[Line]:
    """The lines of a record, one per row. ``tokens``: the harmless text of the token at (row, lane)."""
    owner = {(row, entry.lane): entry.index for entry in view.entries for row in range(entry.start, entry.end)}
    lines: list[Line] = []
    silent_since = 0
    for row in sorted({row for row, _ in tokens}):
        if row > silent_since:
            lines.append(_gap(view, silent_since, row))
        cells = tuple(
            Cell(owner.get((row, lane.index), -1), tokens[row, lane.index], row, row + 1)
            if (row, lane.index) in tokens
            else None
            for lane in view.lanes
        )
        lines.append(Line(row, row, cells))
        silent_since = row + 1
    return lines


def _gap(view: View, since: int, until: int) -> Line:
    return Line(since, since, (None,) * len(view.lanes), until - since)


def _pieces(entry: Entry, begins: int, ends: int, width: int) -> Iterator[Cell]:
    """What an entry says in the rows ``[begins, ends)``, wrapped."""
    first, last = _offset(entry, begins), _offset(entry, ends)
    is_first, is_last = entry.start >= begins, entry.end <= ends
    text = entry.text[first:last]
    held = entry.marks.replace(" ", "\u00a0") if is_first else ""  # no line is broken between marks and text
    text = held + text.lstrip("\n") if is_first else text.removeprefix(" ")
    if is_last:
        text = text.rstrip("\n") + entry.ending
    since, until = max(entry.start, begins), min(entry.end, ends)
    spans = wrap(text, width)
    for at, (start, end) in enumerate(spans):
        rows = (until - since) / len(spans)
        piece = entry.marks + text[len(held) : end] if at == 0 and end >= len(held) else text[start:end]
        yield Cell(entry.index, piece or GOES_ON, since + rows * at, since + rows * (at + 1))


def _offset(entry: Entry, row: int) -> int:
    """How many characters of an entry are said before a row: its share, moved back to the start of a word."""
    length = len(entry.text)
    spoken = entry.tokens - entry.final
    if row <= entry.start or spoken <= 0:
        return 0 if row <= entry.start and row < entry.end else length
    if row >= entry.start + spoken:
        return length
    offset = length * (row - entry.start) // spoken
    found = _WORD_END.search(entry.text, max(0, offset - _WORD), offset)
    return found.start() if found and found.start() > 0 else offset


def wrap(text: str, width: int) -> list[tuple[int, int]]:
    """Where the lines of a text begin and end, each of at most ``width`` terminal columns, broken at spaces where it can be.

    At least one line; line breaks and the spaces at which lines are broken belong to none. A character wider than ``width`` has
    a line of its own.
    """
    lines: list[tuple[int, int]] = []
    at = 0
    for paragraph in text.split("\n"):
        breaks = _breaks_ascii if paragraph.isascii() else _breaks
        lines.extend((at + start, at + end) for start, end in breaks(paragraph, width))
        at += len(paragraph) + 1
    return lines


def _breaks_ascii(text: str, width: int) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > width:
        space = text.rfind(" ", start + 1, start + width + 1)
        end = space if space > start else start + width
        yield start, end
        start = end + (space > start)
    yield start, len(text)


def _breaks(text: str, width: int) -> Iterator[tuple[int, int]]:
    spans, total = split_graphemes(text)
    if total <= width:
        yield 0, len(text)
        return
    start, used = 0, 0
    space, since_space = -1, 0
    for begin, end, cells in spans:
        if used + cells > width and begin > start:
            if text[begin] == " ":
                yield start, begin
                start, used, space, since_space = end, 0, -1, 0
                continue
            if space > start:
                yield start, space
                start, used = space + 1, since_space
            else:
                yield start, begin
                start, used = begin, 0
            space, since_space = -1, 0
        used += cells
        since_space += cells
        if text[begin:end] == " ":
            space, since_space = begin, 0
    yield start, len(text)


def fit(text: str, width: int) -> str:
    """The text, made ``width`` terminal columns wide: cut, or filled with spaces. It has no line breaks."""
    used = cell_len(text)
    if used > width:
        (first, last), *_ = _breaks_hard(text, width - 1)
        text, used = text[first:last] + "…", cell_len(text[first:last]) + 1
    return text + " " * (width - used)


def _breaks_hard(text: str, width: int) -> Iterator[tuple[int, int]]:
    used = 0
    for begin, _, cells in split_graphemes(text)[0]:
        if used + cells > width:
            yield 0, begin
            return
        used += cells
    yield 0, len(text)


def folded(lines: Sequence[Line], most: int) -> list[Line | int]:
    """The lines with the middle of every band of more than ``most`` lines replaced by the number of lines left out."""
    made: list[Line | int] = []
    band: list[Line] = []

    def close() -> None:
        if len(band) > most:
            head, tail = most * 2 // 3, most - most * 2 // 3 - 1
            made.extend([*band[:head], len(band) - head - tail, *band[len(band) - tail :]])
        else:
            made.extend(band)

    for line in lines:
        if line.row is not None:
            close()
            band = []
        band.append(line)
    close()
    return made


def evidence_lines(view: View) -> list[str]:
    """One line per piece of evidence of every leak of the record."""
    made = []
    for entry in view.leaks:
        assert entry.leak is not None
        who = f"{entry.leak.verdict}: event {entry.index} ({view.lanes[entry.lane].name}, from row {entry.start})"
        if not entry.leak.evidence:
            made.append(f"{who}: its verdict was stored; nothing is found to show for it")
        for said, at in entry.leak.evidence:
            source = view.entries[at]
            where = f"event {at} ({view.lanes[source.lane].name}, read by row {source.end})"
            made.append(f'{who} says "{said}", which stands in {where}: {one_line(source.text.strip(), 60)}')
    return made
