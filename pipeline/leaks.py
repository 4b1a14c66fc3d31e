"""Lexical leak detection: does an output event say what its author could only have read later?

Deterministic, on every record whatever made it. An event leaks if it has a number, name, identifier, quoted word or rare
n-gram that stands in something its author had read before writing it (source order) which has not ended by the event's
start row, and no occurrence of it has. What the author brought in himself is none. Thoughts count as read by the answer
that follows them. Where a record has no source order, later inputs count, and the verdict is ``weak``.

What was written anew tells more of who had read what (``synth/``). Its outputs are of one author, who has nothing to learn
from them: only inputs count as read. Of ``synth/concurrent`` the source order is that of the start rows, since all that is
said in a slice was written at once from all that had been said before (the finisher holds every chunk against its slice);
a message that goes on over several slices has no one place in it. Of ``synth/table`` it is the order of the messages, and a
message counts from its first row on: a user who repeats the assistant in the middle of his own message cannot be told from
an assistant who knew what the user would say, and is a leak.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.columns import BoolArray, EventColumns, IntArray, event_columns, with_event_field
from pipeline.words import CJK, Mentions, key_text, scan

Verdict = Literal["clear", "leak", "weak"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Verdict on one output event that started before everything its author had read had ended.

    ``record`` and ``event`` are indices (of the batch; within the record); ``evidence`` is what was said too early, with
    the index of the event that it was read in.
    """

    record: int
    event: int
    verdict: Verdict
    evidence: tuple[tuple[str, int], ...] = ()


def lexical(table: pa.Table) -> list[Finding]:
    """Findings for every output event of a table of records that has anything to check; events without one cannot leak."""
    columns = event_columns(table)
    policy = table.column("alignment").combine_chunks().field("policy")
    # What its source has placed may say the same on two streams at once.
    is_anew, is_placed, is_sliced = (
        chosen.to_numpy(zero_copy_only=False)[columns.record]
        for chosen in (
            pa.compute.starts_with(policy, "synth/"),
            pa.compute.not_equal(policy, "source"),
            pa.compute.equal(policy, "synth/concurrent"),
        )
    )
    watches = np.isin(columns.role, ("audit", "monitor")) & (columns.message >= 0) & is_placed & ~is_anew
    is_source = _is_source(columns) & (columns.is_input | ~is_anew)
    # Within a slice streams start as far apart as the lag.
    by_row = columns.start + np.where(is_source, columns.lag[columns.record], 0)
    order_key = np.where(is_sliced, by_row, ((columns.message + 1) << 20) | (columns.part + 1))
    found = list(_findings(columns, is_source, ~watches, order_key))
    if watches.any():
        # Who watches what the model says learns from that too.
        found.extend(_findings(columns, is_source | (columns.is_output & ~watches), watches, order_key))
        found.sort(key=lambda finding: (finding.record, finding.event))
    return found


def with_verdicts(table: pa.Table, findings: list[Finding]) -> pa.Table:
    """The table with each finding's verdict stored in its event's ``lexical`` column."""
    counts = pa.compute.list_value_length(table.column("events").combine_chunks())
    offsets = np.concatenate([[0], np.cumsum(np.array(counts))]).astype(np.int64)
    verdicts: list[str | None] = [None] * int(offsets[-1])
    for finding in findings:
        verdicts[int(offsets[finding.record]) + finding.event] = finding.verdict
    return with_event_field(table, "lexical", verdicts)


def _findings(c: EventColumns, is_source: BoolArray, among: BoolArray, order_key: IntArray) -> Iterator[Finding]:
    if not len(c.record):
        return
    ready = c.end + c.lag[c.record]
    suspects = np.flatnonzero(_suspect(c, is_source, ready, order_key) & among)
    late = [_waits_for_lag_only(c, event, is_source, ready, order_key) for event in suspects.tolist()]
    suspects = suspects[~np.array(late, dtype=bool)]
    if not len(suspects):
        return
    evidence = _too_early(c, suspects, is_source, ready, order_key)
    for event in suspects.tolist():
        record = int(c.record[event])
        # What a process has read before must not show in what it says.
        found = tuple(sorted(evidence.get(event, ()), key=lambda told: (told[1], told[0])))
        verdict: Verdict = "clear" if not found else "leak" if c.message[event] >= 0 else "weak"
        yield Finding(record, event - int(c.offsets[record]), verdict, found)


def _waits_for_lag_only(
    c: EventColumns, event: int, is_source: BoolArray, ready: IntArray, order_key: IntArray
) -> bool:
    """Whether all that was not ready when the event starts is its own stream, which it need not wait for any longer."""
    record = int(c.record[event])
    if not c.lag[record]:
        return False
    part = slice(int(c.offsets[record]), int(c.offsets[record + 1]))
    earlier = order_key[part] < order_key[event] if c.message[event] >= 0 else np.ones(len(order_key[part]), bool)
    done = (ready[part] <= c.start[event]) | ((c.stream[part] == c.stream[event]) & (c.end[part] <= c.start[event]))
    return not bool((is_source[part] & earlier & ~done).any())


def _is_source(c: EventColumns) -> BoolArray:
    """Events that others learn from: what is read, and what is thought before it is said."""
    sources: BoolArray = (c.is_input | (c.role == "thought")) & (c.kind != "header")
    return sources


def _suspect(c: EventColumns, is_source: BoolArray, ready: IntArray, order_key: IntArray) -> BoolArray:
    """Output events that start before the last source before them (in source order) has ended."""
    rows = int(max(c.end.max(initial=0), c.start.max(initial=0)) + c.lag.max(initial=0) + 2)
    order = np.lexsort((order_key, c.record))
    running = np.maximum.accumulate(c.record[order] * rows + np.where(is_source[order], ready[order], 0))
    key = c.record[order] * (int(order_key.max()) + 2) + order_key[order]
    first_of_key = np.searchsorted(key, key, side="left")
    before = np.where(first_of_key > 0, running[np.maximum(first_of_key - 1, 0)], 0)
    last_before = np.empty(len(order), dtype=np.int64)
    last_before[order] = before - c.record[order] * rows
    if (c.message[c.is_output] < 0).any():
        last = np.zeros(len(c.rows), dtype=np.int64)
        np.maximum.at(last, c.record[c.is_input], ready[c.is_input])
        last_before = np.where(c.message < 0, last[c.record], last_before)
    return c.is_output & (last_before > c.start)


def _too_early(
    c: EventColumns, suspects: IntArray, is_source: BoolArray, ready: IntArray, order_key: IntArray
) -> dict[int, list[tuple[str, int]]]:
    """Per suspect, what it says that stands in a source it had not read, and in nothing that it had; and that source."""
    chosen = _by_part(c, np.flatnonzero(np.isin(c.record, c.record[suspects])))
    local = np.full(len(c.record), -1)
    local[chosen] = np.arange(len(chosen))
    asked = np.zeros(len(chosen), bool)
    asked[local[suspects]] = True
    parts = _numbered(c, chosen)
    words = scan(_whole_words(c.text.take(pa.array(chosen)).to_pylist(), parts, c.is_output[chosen]), parts)
    said = words.mentions(asked)
    facts = words.facts(np.ones(len(chosen), bool))
    evidence: dict[int, list[tuple[str, int]]] = {}

    required = np.flatnonzero(said.required | _named(c, chosen, facts, said, is_source, order_key))
    counts = np.diff(said.pieces_at)[required]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    asking = chosen[np.concatenate([said.text[required], np.repeat(said.text[required], counts)])]
    key = np.concatenate([said.key[required], said.pieces[np.repeat(said.pieces_at[required], counts) + within]])
    mention = np.concatenate([required, np.full(len(within), -1)])
    known = _Occurrences(c, chosen[words.known_text], words.known_key, is_source, ready, order_key)
    for i, source in known.unread(asking, key):
        event = int(asking[i])
        pieces = said.pieces[said.pieces_at[mention[i]] : said.pieces_at[mention[i] + 1]][
            : None if mention[i] >= 0 else 0
        ]
        shown = said.shown(int(mention[i])) if mention[i] >= 0 else key_text(int(key[i]))
        told = (shown, source - int(c.offsets[c.record[event]]))
        if told not in evidence.get(event, ()) and not (len(pieces) and known.together(event, pieces)):
            evidence.setdefault(event, []).append(told)

    # What an auditor says is computed: "48 / 2 = 24" is no copy of what is said later. Its numbers tell.
    copying = asked & (c.role[chosen] != "audit") & (c.kind[chosen] == "message")
    runs = words.runs_for(copying, _is_all_that_is_said(c, chosen))
    inside = np.flatnonzero((runs.first == runs.last) & copying[runs.last])
    # The places of runs that nobody asks for are not wanted.
    hashes, number = np.unique(runs.hash[inside], return_inverse=True)
    at = np.minimum(np.searchsorted(hashes, runs.hash), max(len(hashes) - 1, 0))
    copied = np.flatnonzero(hashes[at] == runs.hash) if len(hashes) else at[:0]
    places = _Occurrences(c, chosen[runs.last[copied]], at[copied], is_source, ready, order_key)
    asking = chosen[runs.last[inside]]
    for i, source in places.unread(asking, number):
        event = int(asking[i])
        told = (runs.text(int(inside[i]), words), source - int(c.offsets[c.record[event]]))
        if told not in evidence.get(event, ()):
            evidence.setdefault(event, []).append(told)
    return evidence


def _is_all_that_is_said(c: EventColumns, chosen: IntArray) -> BoolArray:
    """Whether an event is the whole of its part."""
    key = np.stack([c.record[chosen], c.stream[chosen], c.message[chosen], c.part[chosen]])
    _, which, count = np.unique(key, axis=1, return_inverse=True, return_counts=True)
    alone: BoolArray = count[which.ravel()] == 1
    return alone


def _named(
    c: EventColumns,
    chosen: IntArray,
    every: tuple[IntArray, IntArray],
    said: Mentions,
    is_source: BoolArray,
    order_key: IntArray,
) -> BoolArray:
    """Mentions that are numbers, names or identifiers in an earlier source of their record, if not where they are said."""
    source, key = chosen[every[0]], every[1]
    source, key = source[is_source[source]], key[is_source[source]]
    width = max(int(key.max(initial=0)), int(said.key.max(initial=0))) + 1
    facts = c.record[source] * width + key
    order = np.lexsort((order_key[source], facts))
    facts, first = np.unique(facts[order], return_index=True)
    if not len(facts):
        return np.zeros(len(said.text), bool)
    event = chosen[said.text]
    wanted = c.record[event] * width + said.key
    at = np.minimum(np.searchsorted(facts, wanted), len(facts) - 1)
    earliest = order_key[source][order][first][at]
    named: BoolArray = (facts[at] == wanted) & ((earliest < order_key[event]) | (c.message[event] < 0))
    return named


def _by_part(c: EventColumns, chosen: IntArray) -> IntArray:
    """The events in an order in which those of one part follow one another."""
    ordered: IntArray = chosen[
        np.lexsort((chosen, c.part[chosen], c.message[chosen], c.stream[chosen], c.record[chosen]))
    ]
    return ordered


def _numbered(c: EventColumns, chosen: IntArray) -> IntArray:
    """One number for the events of one part, so that a run of words may cross from one to the next."""
    changes = np.zeros(len(chosen), bool)
    for column in (c.record, c.stream, c.message, c.part):
        changes[1:] |= np.diff(column[chosen]) != 0
    return np.cumsum(changes)


_LETTER = rf"[^\W{CJK}]"
_WORD_END = re.compile(rf"{_LETTER}(?:{_LETTER}|['’@./:,\-])*$")
_WORD_ON = re.compile(rf"['’@./:,\-]?{_LETTER}(?:{_LETTER}|['’@./:,\-])*")


def _whole_words(texts: list[str], part: IntArray, is_output: BoolArray) -> list[str]:
    """Words that are cut in two, as tokens are, put together: said where they begin, read where they end."""
    cuts = [
        i
        for i in np.flatnonzero(np.diff(part) == 0).tolist()
        if texts[i + 1][:1].strip() and _WORD_END.search(texts[i][-64:]) and _WORD_ON.match(texts[i + 1])
    ]
    for i in cuts:
        if not is_output[i] and (tail := _WORD_END.search(texts[i])):
            texts[i], texts[i + 1] = texts[i][: tail.start()], tail[0] + texts[i + 1]
    for i in reversed(cuts):
        if is_output[i] and (head := _WORD_ON.match(texts[i + 1])):
            texts[i], texts[i + 1] = texts[i] + head[0], texts[i + 1][head.end() :]
    return texts


class _Occurrences:
    """Where each key of each record stands, and from which row on it was known."""

    def __init__(
        self,
        c: EventColumns,
        event: IntArray,
        key: IntArray,
        is_source: BoolArray,
        ready: IntArray,
        order_key: IntArray,
    ) -> None:
        self._c, self._ready, self._order_key = c, ready, order_key
        last = int(order_key.max(initial=0)) + 1
        rank = np.where(is_source[event], order_key[event], last)
        # Stable, so that the events may be sorted first: they are few beside their words.
        by_rank = np.empty(len(c.record), np.int64)
        by_rank[np.lexsort((np.where(is_source, order_key, last),))] = np.arange(len(c.record))
        wide = int(key.max(initial=0)) + 1
        order = np.argsort((c.record[event] * wide + key) * len(c.record) + by_rank[event])
        self._event, key, rank = event[order], key[order], rank[order]
        record = c.record[self._event]
        starts = np.ones(len(order), bool)
        starts[1:] = (np.diff(key) != 0) | (np.diff(record) != 0)
        self._start = np.flatnonzero(starts)
        self._stop = np.append(self._start[1:], len(order))
        self._keys = np.unique(key)
        self._group = record[self._start] * (len(self._keys) + 1) + np.searchsorted(self._keys, key[self._start])
        self._first_ready = (
            np.minimum.reduceat(ready[self._event], self._start) if len(order) else np.zeros(0, np.int64)
        )
        #: The earliest source of each key, in source order; ``last`` where no source holds it.
        self._rank, self._last = rank, last

    def _groups(self, record: IntArray, key: IntArray) -> tuple[IntArray, BoolArray]:
        """The group of each (record, key), and whether there is one."""
        if not len(self._start):
            return np.zeros(len(key), np.int64), np.zeros(len(key), bool)
        number = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        wanted = record * (len(self._keys) + 1) + number
        group = np.minimum(np.searchsorted(self._group, wanted), len(self._group) - 1)
        return group, (self._group[group] == wanted) & (self._keys[number] == key)

    def unread(self, event: IntArray, key: IntArray) -> Iterator[tuple[int, int]]:
        """The questions whether ``event`` may say ``key`` that are denied, each with the source that it was not to know."""
        c = self._c
        group, exists = self._groups(c.record[event], key)
        early = np.flatnonzero(exists)
        early = early[self._first_ready[group[early]] > c.start[event[early]]]
        source = self._start[group[early]]
        ordered = c.message[event[early]] >= 0
        earlier = np.where(ordered, self._rank[source] < self._order_key[event[early]], self._rank[source] < self._last)
        for i, at in zip(early[earlier].tolist(), source[earlier].tolist(), strict=True):
            if not self._said(int(event[i]), int(group[i])):
                yield i, int(self._event[at])

    def _said(self, event: int, group: int) -> bool:
        """Whether the event's own stream has said it before."""
        c = self._c
        others = self._event[self._start[group] : self._stop[group]]
        return bool(((c.stream[others] == c.stream[event]) & (c.end[others] <= c.start[event])).any())

    def together(self, event: int, pieces: IntArray) -> bool:
        """Whether one event that had ended holds all the pieces of a compound."""
        c = self._c
        group, exists = self._groups(np.full(len(pieces), c.record[event]), pieces)
        if not exists.all():
            return False
        holders: set[int] | None = None
        for g in group.tolist():
            others = self._event[self._start[g] : self._stop[g]]
            read = others[
                (self._ready[others] <= c.start[event])
                | ((c.stream[others] == c.stream[event]) & (c.end[others] <= c.start[event]))
            ]
            holders = set(read.tolist()) if holders is None else holders & set(read.tolist())
        return bool(holders)
