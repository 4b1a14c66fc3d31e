"""The ``turns`` layout of token grids: the same cells, one message after the other. The baseline of the price of overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.latency import Event, RecordEvents, turns_layout
from pipeline.tables import LOSS_END_UNTRAINED
from pipeline.training.grid import TokenGrid


@dataclass
class TurnsCounters:
    """How many records were laid out by their events, how many by their cells alone, how many not (in real time)."""

    by_events: int = 0
    by_cells: int = 0
    real_time: int = 0


def turns_grids(
    grids: Iterable[TokenGrid], records: Iterable[RecordEvents], *, lag: int, eom_id: int, counters: TurnsCounters
) -> Iterator[TokenGrid]:
    """Every record under ``turns``.

    ``records`` hold the events of the same records in the same order, as shards of one split do; they may be missing. A
    record in real time is left out, since the pauses of a log are no property of a policy. Without events that fit, the
    cells alone decide (``by_cells``).
    """
    for grid, record in zip_longest(grids, records):
        if grid is None:
            return
        events = record if record is not None and record.id == grid.id else None
        if events is not None and events.real_time:
            counters.real_time += 1
            continue
        laid = by_events(grid, events.events, events.lag) if events is not None else None
        if laid is not None:
            counters.by_events += 1
            yield laid
        else:
            counters.by_cells += 1
            yield by_cells(grid, lag, eom_id)


def by_events(grid: TokenGrid, events: Iterable[Event], lag: int) -> TokenGrid | None:
    """The record with its events one after the other in source order; None where its cells are not those of the events."""
    events = list(events)
    rows = np.full(len(grid.token_rows), -1, np.int64)
    for event, (start, _) in zip(events, turns_layout(events, lag), strict=True):
        own = (grid.token_streams == event.stream) & (grid.token_rows >= event.start) & (grid.token_rows < event.end)
        rows[own] = grid.token_rows[own] - event.start + start
    return _at(grid, rows) if (rows >= 0).all() else None


def by_cells(grid: TokenGrid, lag: int, eom_id: int) -> TokenGrid:
    """The record with its messages one after the other in the order in which they begin, inputs first.

    A message is a run of cells of one stream up to its end-of-message cell, or to where it was cut off. This is a guess at
    the order of the source, which only events know: a thought that begins late in one message belongs before the answer.
    """
    message = _messages(grid, eom_id)
    first = {number: int(np.flatnonzero(message == number)[0]) for number in np.unique(message).tolist()}
    is_output = [stream.direction == "output" for stream in grid.streams]

    def begins(number: int) -> tuple[int, bool, int]:
        cell, stream = first[number], int(grid.token_streams[first[number]])
        return int(grid.token_rows[cell]), is_output[stream], stream

    rows = np.zeros(len(message), np.int64)
    row, previous = 0, None
    for number in sorted(first, key=begins):
        own = np.flatnonzero(message == number)
        stream = int(grid.token_streams[own[0]])
        row += lag if previous is not None and previous != stream else 0
        rows[own] = row + np.arange(len(own))
        row, previous = row + len(own), stream
    return _at(grid, rows)


def _messages(grid: TokenGrid, eom_id: int) -> npt.NDArray[np.int64]:
    """A number for each cell's message: ends before it on its stream, made unique over the streams."""
    ends = (grid.token_ids == eom_id) | ((grid.token_loss & LOSS_END_UNTRAINED) != 0)
    number = np.zeros(len(ends), np.int64)
    for stream in range(len(grid.streams)):
        own = np.flatnonzero(grid.token_streams == stream)
        number[own] = np.cumsum(ends[own]) - ends[own]
    return number * len(grid.streams) + grid.token_streams


def _at(grid: TokenGrid, rows: npt.NDArray[np.int64]) -> TokenGrid:
    """The cells at other rows; as many silent rows follow the last as before."""
    order = np.lexsort((grid.token_streams, rows))
    tail = grid.rows - int(grid.token_rows.max(initial=-1))
    return replace(
        grid,
        rows=int(rows.max(initial=-1)) + tail,
        token_ids=grid.token_ids[order],
        token_rows=rows[order].astype(np.int32),
        token_streams=grid.token_streams[order],
        token_loss=grid.token_loss[order],
    )
