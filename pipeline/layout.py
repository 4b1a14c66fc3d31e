"""Layout: timelines and token counts become events with rows.

One row holds at most one token of a stream. ``start = max(end of the stream's previous event; end of each same-stream
``after``; end + lag of each other ``after``) + own delay``, and no earlier than its own earliest row. Chunk ends snap to
token boundaries of the span's own encoding; a straddling token joins the earlier chunk on an input stream and the later one
on an output stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np
import numpy.typing as npt

from pipeline.conversation import RecordError
from pipeline.text import is_grapheme_boundary
from pipeline.timeline import Timeline
from pipeline.tokenization import Encoded


@dataclass(frozen=True, slots=True)
class Events:
    """The events of one record in source order, columns as lists.

    ``span`` indexes the timeline's spans; ``low``/``high`` are character offsets in the span's text; ``first_token`` and
    ``tokens`` point into the span's encoding; ``final`` events have an end-of-message cell as their last row.
    """

    span: list[int]
    low: list[int]
    high: list[int]
    first_token: list[int]
    tokens: list[int]
    final: list[bool]
    after: list[tuple[int, ...]]
    start: list[int]
    end: list[int]
    delay: list[int]


def lay_out(timeline: Timeline, encoded: Encoded, first_span: int, lag: int) -> Events:
    """Events of one timeline. Span ``s`` is text ``first_span + s`` of ``encoded``.

    Raises RecordError (``cycle``) where the waits contradict each other.
    """
    events, earliest = _snap(timeline, encoded, first_span)
    _assign_rows(timeline, events, earliest, lag)
    return events


def _snap(timeline: Timeline, encoded: Encoded, first_span: int) -> tuple[Events, list[int]]:
    """Chunks with token and character ranges, and the first row that each may start at.

    Emptied chunks merge into a neighbour and unite their ``after``; the later of their earliest rows counts.
    """
    events = Events([], [], [], [], [], [], [], [], [], [])
    where: list[int] = []
    chunk, chunks = 0, len(timeline.chunk_span)
    while chunk < chunks:
        span = timeline.chunk_span[chunk]
        last = chunk
        while last + 1 < chunks and timeline.chunk_span[last + 1] == span:
            last += 1
        text = timeline.spans[span].text
        count = int(encoded.offsets[first_span + span + 1] - encoded.offsets[first_span + span])
        if last == chunk:
            _append(events, span, 0, len(text), 0, count, timeline.after[chunk])
            where.append(len(events.span) - 1)
        else:
            ends = encoded.ends[encoded.offsets[first_span + span] : encoded.offsets[first_span + span + 1]]
            forward = timeline.streams[timeline.spans[span].stream].direction == "input"
            cuts = _snap_ends(text, ends, timeline.chunk_end[chunk:last], forward)
            cuts.append((count, len(text)))
            where.extend(_merge_empty(events, span, cuts, timeline.after[chunk : last + 1], forward))
        if timeline.spans[span].ends:
            events.final[-1] = True
        chunk = last + 1
    events.after[:] = [tuple(sorted({where[a] for a in waits} - {i})) for i, waits in enumerate(events.after)]
    earliest = [0] * len(events.span)
    for event, row in zip(where, timeline.earliest or (), strict=False):
        earliest[event] = max(earliest[event], row)
    events.delay.extend([0] * len(events.span))
    for event, rows in zip(where, timeline.delay or (), strict=False):
        events.delay[event] = max(events.delay[event], rows)
    return events, earliest


def _append(events: Events, span: int, low: int, high: int, first: int, last: int, after: tuple[int, ...]) -> None:
    events.span.append(span)
    events.low.append(low)
    events.high.append(high)
    events.first_token.append(first)
    events.tokens.append(last - first)
    events.final.append(False)
    events.after.append(after)


def _merge_empty(
    events: Events, span: int, cuts: list[tuple[int, int]], after: list[tuple[int, ...]], forward: bool
) -> list[int]:
    """Appends the non-empty chunks of a span; returns the event that each chunk went to."""
    where: list[int] = []
    token = char = 0
    pending: tuple[int, ...] = ()
    waiting = 0
    for (token_end, char_end), waits in zip(cuts, after, strict=True):
        if token_end > token:
            _append(events, span, char, char_end, token, token_end, pending + waits)
            where.extend([len(events.span) - 1] * (waiting + 1))
            token, char, pending, waiting = token_end, char_end, (), 0
        elif forward and where:
            events.after[-1] += waits
            where.append(len(events.span) - 1)
        else:
            pending += waits
            waiting += 1
    if not where:
        _append(events, span, 0, 0, 0, 0, ())
    if waiting:
        events.after[-1] += pending
        where.extend([len(events.span) - 1] * waiting)
    events.high[-1] = cuts[-1][1]
    return where


def _snap_ends(
    text: str, ends: npt.NDArray[np.int64], chunk_ends: Sequence[int], forward: bool
) -> list[tuple[int, int]]:
    """(token, character) boundary of each chunk end but the last: the nearest token end that splits no character."""
    whole = np.append(ends[1:] != ends[:-1], True)
    if text.isascii():
        chars_at = None
        targets = list(chunk_ends)
        valid = np.flatnonzero(whole)
    else:
        raw = np.frombuffer(text.encode(), dtype=np.uint8)
        starts = np.append((raw & 0xC0) != 0x80, True)
        chars_at = np.concatenate([[0], np.cumsum(starts[:-1])])
        byte_of_char = np.flatnonzero(starts)
        targets = [int(byte_of_char[end]) for end in chunk_ends]
        valid = np.flatnonzero(starts[ends] & whole)
    at = ends[valid]
    found = np.searchsorted(at, targets, side="left" if forward else "right") - (0 if forward else 1)
    step = 1 if forward else -1
    snapped = []
    for i in found.tolist():
        while 0 <= i < len(at) and not is_grapheme_boundary(text, _char(chars_at, int(at[i]))):
            i += step
        if i < 0:
            snapped.append((0, 0))
        else:
            i = min(i, len(at) - 1)
            snapped.append((int(valid[i]) + 1, _char(chars_at, int(at[i]))))
    return snapped


def _char(chars_at: npt.NDArray[np.int64] | None, byte: int) -> int:
    return byte if chars_at is None else int(chars_at[byte])


def _assign_rows(timeline: Timeline, events: Events, earliest: list[int], lag: int) -> None:
    stream = [timeline.spans[s].stream for s in events.span]
    count = len(stream)
    events.start.extend([0] * count)
    events.end.extend([0] * count)
    free = [0] * len(timeline.streams)
    for i in _order(events.after, stream):
        own = stream[i]
        start = free[own]
        for other in events.after[i]:
            ready = events.end[other] + (lag if stream[other] != own else 0)
            if ready > start:
                start = ready
        start = max(start + events.delay[i], earliest[i])
        events.start[i] = start
        events.end[i] = free[own] = start + events.tokens[i] + events.final[i]


def _order(after: list[tuple[int, ...]], stream: list[int]) -> Sequence[int]:
    """An order in which every event comes after what it waits for: source order if that is one."""
    if all(not waits or waits[-1] < i for i, waits in enumerate(after)):
        return range(len(after))
    graph: dict[int, set[int]] = {}
    previous: dict[int, int] = {}
    for i, waits in enumerate(after):
        graph[i] = set(waits)
        if stream[i] in previous:
            graph[i].add(previous[stream[i]])
        previous[stream[i]] = i
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise RecordError("cycle", f"chunks wait for each other in a circle: {error.args[1]}") from error
