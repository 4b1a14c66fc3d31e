"""Grounding: how much of a reading must have passed before a chunk may be said. Words are looked up, never searched for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.alignment.plan import Plan
from pipeline.words import Words, scan

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: A word that stands in more pieces of a reading than this does not tell which of them a text rests on.
_COMMON = 32


@dataclass(slots=True)
class Questions:
    """Chunks that may be said early, each with the reading it answers. Chunks are counted over the whole batch.

    Chunk ``chunk[i]`` follows the reading that begins at chunk ``first[i]`` and ends before chunk ``stop[i]``. What lies
    in between and is no reading (see ``reading``) it waits for anyway. ``alone[i]``: what its author said after the reading
    is on other streams, and need not be there when it starts.
    """

    chunk: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    reading: list[tuple[int, int]] = field(default_factory=list)

    def add(self, chunk: int, first: int, stop: int, alone: bool = False) -> None:
        """Asks about one chunk."""
        self.chunk.append(chunk)
        self.first.append(first)
        self.stop.append(stop)
        self.alone.append(alone)


class Ground:
    """The words of every chunk of a batch of plans, and where each of them was first read or said."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = plans
        sizes = [len(plan.chunk_end) for plan in plans]
        #: The first chunk of each plan.
        self.base = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        per_span = [n for p in plans for n in np.diff(p.first).tolist()]
        spans = [span for p in plans for span in p.spans]
        self._span = np.repeat(np.arange(len(spans)), per_span)
        self._is_call = np.repeat(np.array([span.kind == "tool_call" for span in spans], dtype=bool), per_span)
        self._is_output = np.repeat(
            np.array([p.is_output(s) for p in plans for s in range(len(p.spans))], bool), per_span
        )
        self._plan_of = np.repeat(np.arange(len(plans)), sizes)

    @cached_property
    def _words(self) -> Words:
        """The words of every plan that a question could be about: those in which a span is cut, or that call tools."""
        texts: list[str] = []
        for plan in self.plans:
            asked = len(plan.chunk_end) > len(plan.spans) or any(span.kind == "tool_call" for span in plan.spans)
            texts.extend(_chunk_texts(plan) if asked else [""] * len(plan.chunk_end))
        return scan(texts, self._span, self._is_output)

    def needed(self, questions: Questions, min_coverage: float, *, fresh: bool = True) -> list[int]:
        """Per question, the last chunk that must have ended before it may be said; -1: it waits for everything.

        All that a chunk mentions must have been read or said: numbers, names, identifiers and quoted words without
        exception, and at least ``min_coverage`` (0 to 1) of its content words; with ``fresh``, at least one of them must
        come from the reading, else the chunk says nothing that the reading grounds. It also waits for the piece of the
        reading that it resembles most, the last of equals, and for every run of words copied from it: a word may
        occur long before the statement that the text rests on. What it denies must be denied there.
        """
        if not questions.chunk:
            return []
        q = self._lookup(questions)
        count = len(questions.chunk)
        first = np.array(questions.first, dtype=np.int64)
        ungrounded = np.zeros(count, bool)
        ungrounded[q.asked[q.required & ~q.covered]] = True
        covered = np.bincount(q.asked, weights=q.covered, minlength=count)
        content = np.bincount(q.asked, minlength=count)
        ungrounded |= (covered < min_coverage * content) | (content == 0)
        needed = first - 1
        np.maximum.at(needed, q.asked, np.where(q.place >= 0, q.place, first[q.asked] - 1))
        if fresh:
            ungrounded |= needed < first
            alike, alike_at = q.most_alike(count)
            ungrounded |= ~alike
            needed = np.maximum(needed, np.where(alike, alike_at, -1))
        denials = np.concatenate([[0], np.cumsum(q.words.denies & q.is_reading)])
        denied = denials[np.maximum(needed, first - 1) + 1] - denials[first] > 0
        ungrounded |= q.words.denies[np.array(questions.chunk)] & ~denied
        np.maximum.at(needed, q.run_asked, q.run_place)
        return np.where(ungrounded, -1, needed).tolist()  # type: ignore[no-any-return]

    def copied(self, questions: Questions) -> list[int]:
        """Per question, the last chunk of the reading that it copies a fact or a run of words from which stood nowhere before.

        The least that it must wait for, whatever else says that it may start; ``first - 1`` where it copies nothing.
        """
        if not questions.chunk:
            return []
        q = self._lookup(questions)
        needed = np.array(questions.first, dtype=np.int64) - 1
        must = q.required & (q.place >= 0)
        np.maximum.at(needed, q.asked[must], q.place[must])
        np.maximum.at(needed, q.run_asked, q.run_place)
        return needed.tolist()  # type: ignore[no-any-return]

    def _lookup(self, questions: Questions) -> _Answers:
        is_reading = np.zeros(len(self._plan_of), bool)
        for first, stop in questions.reading:
            is_reading[first:stop] = True
        return _Answers(self._words, questions, self._plan_of, is_reading, self._is_call)


class _Answers:
    """Every mention of every asked chunk: whether it was known, and where in the reading it is first read.

    ``asked``: the question that mention ``i`` belongs to; ``place``: the chunk of the reading that brings it, -1 where it
    was known before, was said since, or is nowhere; ``covered``: it is somewhere. ``run_asked``, ``run_place``: the runs of
    words that a chunk copies from its reading.
    """

    def __init__(
        self, words: Words, questions: Questions, plan_of: IntArray, is_reading: BoolArray, is_call: BoolArray
    ) -> None:
        self.words, self.is_reading = words, is_reading
        self._plan_of, self._is_call = plan_of, is_call
        self._chunk = np.array(questions.chunk, dtype=np.int64)
        self._first = np.array(questions.first, dtype=np.int64)
        self._stop = np.array(questions.stop, dtype=np.int64)
        self._alone = np.array(questions.alone, dtype=bool)
        self._known = _Places(plan_of[words.known_text], words.known_key, words.known_text)
        self.asked, mention = _joined(words.text, self._chunk)
        self.required = words.required[mention]
        key = words.key[mention]
        self._low, self._high = self._known.range(plan_of[self._chunk[self.asked]], key)
        self.covered, self.place = self._find(self.asked, self._low, self._high)
        self._pieces(mention)
        runs = _Places(plan_of[words.run_last], _as_keys(words.run_hash), words.run_last)
        inside = words.run_first == words.run_last
        self.run_asked, run = _joined(words.run_last, self._chunk, inside)
        low, high = runs.range(plan_of[self._chunk[self.run_asked]], _as_keys(words.run_hash)[run])
        first, stop = self._first[self.run_asked], self._stop[self.run_asked]
        at = runs.next(low, high, first)
        earlier = (low < high) & (runs.text[np.minimum(low, len(runs.text) - 1)] < first) if len(low) else low > 0
        taken = (at >= 0) & (at < stop) & ~earlier
        taken[taken] &= is_reading[at[taken]]
        self.run_asked, self.run_place = self.run_asked[taken], at[taken]

    def _find(self, asked: IntArray, low: IntArray, high: IntArray) -> tuple[BoolArray, IntArray]:
        """(is it anywhere, the chunk of the reading that brings it or -1) of keys at ``low:high`` of the known places."""
        first, stop, chunk = self._first[asked], self._stop[asked], self._chunk[asked]
        text = self._known.text
        if not len(text):
            return np.zeros(len(asked), bool), np.full(len(asked), -1)
        before = (low < high) & (text[np.minimum(low, len(text) - 1)] < first)
        read = self._known.next(low, high, first)
        in_reading = (read >= 0) & (read < stop)
        since = self._known.next(low, high, stop)
        said = (since >= 0) & (since < chunk) & ~self._alone[asked]
        said[said] &= ~self._is_call[since[said]]
        counts = in_reading & ~before & ~said
        counts[counts] &= self.is_reading[read[counts]]
        return before | in_reading | said, np.where(counts, read, -1)

    def _pieces(self, mention: IntArray) -> None:
        """A compound that is nowhere as a whole is known once all its pieces are."""
        counts = self.words.pieces_at[mention + 1] - self.words.pieces_at[mention]
        whole = np.flatnonzero(~self.covered & (counts > 0))
        if not len(whole):
            return
        counts = counts[whole]
        owner = np.repeat(whole, counts)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        piece = self.words.pieces[np.repeat(self.words.pieces_at[mention[whole]], counts) + within]
        asked = self.asked[owner]
        found, place = self._find(asked, *self._known.range(self._plan_of[self._chunk[asked]], piece))
        missing = np.zeros(len(self.asked), bool)
        missing[owner[~found]] = True
        self.covered[whole] = ~missing[whole]
        last = np.full(len(self.asked), -1)
        np.maximum.at(last, owner, place)
        self.place[whole] = np.where(missing[whole], -1, last[whole])

    def most_alike(self, count: int) -> tuple[BoolArray, IntArray]:
        """Per question, the piece of its reading that shares most of its words, the last of equals; whether there is one."""
        stop, first = self._stop[self.asked], self._first[self.asked]
        low = self._known.at(self._low, self._high, first)
        high = self._known.at(self._low, self._high, stop)
        size = np.where(high - low <= _COMMON, high - low, 0)
        owner = np.repeat(self.asked, size)
        within = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        text = self._known.text[np.repeat(low, size) + within]
        keep = self.is_reading[text]
        width = len(self.is_reading) + 1
        pairs, shared = np.unique(owner[keep] * width + text[keep], return_counts=True)
        owner, text = pairs // width, pairs % width
        order = np.lexsort((text, shared, owner))
        alike = np.zeros(count, bool)
        place = np.full(count, -1)
        alike[owner] = True
        place[owner[order]] = text[order]
        return alike, place


class _Places:
    """Where keys stand: sorted by (plan, key, chunk), so that a range of places holds one key of one plan."""

    def __init__(self, plan: IntArray, key: IntArray, text: IntArray) -> None:
        order = np.lexsort((text, key, plan))
        self.text = text[order]
        self._size = int(text.max(initial=0)) + 2
        plan, key = plan[order], key[order]
        starts = np.ones(len(order), bool)
        starts[1:] = (np.diff(plan) != 0) | (np.diff(key) != 0)
        self._start = np.flatnonzero(starts)
        self._plan, self._key = plan[self._start], key[self._start]
        self._stop = np.append(self._start[1:], len(order))
        group = np.cumsum(starts) - 1
        self._sorted = group * self._size + self.text
        self._group = group

    def range(self, plan: IntArray, key: IntArray) -> tuple[IntArray, IntArray]:
        """The range of places of each (plan, key); empty where it is nowhere."""
        if not len(self._start):
            return np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
        known = np.unique(self._key)
        rank = np.searchsorted(known, self._key)
        have = np.minimum(np.searchsorted(known, key), len(known) - 1)
        exists = known[have] == key
        at = np.searchsorted(self._plan * len(known) + rank, plan * len(known) + have)
        at = np.minimum(at, len(self._start) - 1)
        exists &= (self._plan[at] == plan) & (self._key[at] == key)
        return np.where(exists, self._start[at], 0), np.where(exists, self._stop[at], 0)

    def at(self, low: IntArray, high: IntArray, text: IntArray) -> IntArray:
        """The first place in each range that lies in ``text`` or later."""
        if not len(self._sorted):
            return low
        group = self._group[np.minimum(low, len(self._group) - 1)]
        found = np.searchsorted(self._sorted, group * self._size + np.minimum(text, self._size - 1))
        return np.minimum(np.maximum(found, low), high)

    def next(self, low: IntArray, high: IntArray, text: IntArray) -> IntArray:
        """The first chunk from ``text`` on that holds the key of each range, -1 for none."""
        at = self.at(low, high, text)
        if not len(self.text):
            return np.full(len(low), -1)
        return np.where(at < high, self.text[np.minimum(at, len(self.text) - 1)], -1)


def _as_keys(hashes: npt.NDArray[np.uint64]) -> IntArray:
    return hashes.view(np.int64)


def _joined(text: IntArray, chunk: IntArray, keep: BoolArray | None = None) -> tuple[IntArray, IntArray]:
    """All pairs (question, row) where the row's text is the question's chunk."""
    order = np.argsort(text, kind="stable")
    if keep is not None:
        order = order[keep[order]]
    low, high = np.searchsorted(text[order], chunk), np.searchsorted(text[order], chunk, side="right")
    count = high - low
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(chunk)), count), order[np.repeat(low, count) + within]


def _chunk_texts(plan: Plan) -> list[str]:
    texts = []
    for s, span in enumerate(plan.spans):
        low = 0
        for chunk in range(plan.first[s], plan.first[s + 1]):
            text = span.text[low : plan.chunk_end[chunk]]
            texts.append(_said(text) if span.kind == "tool_call" else text)
            low = plan.chunk_end[chunk]
    return texts


def _said(call: str) -> str:
    """What a call says that its author had to know: the values of its arguments."""
    arguments = call.partition("\n")[2]
    try:
        value = json.loads(arguments)
    except (json.JSONDecodeError, RecursionError):
        return arguments
    return "\n".join(_values(value))


def _values(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _values(item)]
    if isinstance(value, list):
        return [text for item in value for text in _values(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]
