"""Grounding: how much of a reading must have passed before a chunk may be said. Words are looked up, never searched for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.alignment.plan import Plan
from pipeline.words import Mentions, Words, scan

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
        #: Chunks that are all of their span.
        self._is_whole = np.repeat(np.array(per_span, dtype=np.int64) == 1, per_span)
        self._plan_of = np.repeat(np.arange(len(plans)), sizes)
        self._scanned: set[int] = set()
        self._words: Words | None = None

    def _words_of(self, plans: set[int]) -> Words:
        """The words of at least these plans; of those about which nobody can ask there are none."""
        if self._words is None or not plans <= self._scanned:
            # Another policy asks about others: all that has something to ask about is looked at once.
            self._scanned |= plans | {number for number, plan in enumerate(self.plans) if _may_be_asked(plan)}
            texts: list[str] = []
            for number, plan in enumerate(self.plans):
                texts.extend(_chunk_texts(plan) if number in self._scanned else [""] * len(plan.chunk_end))
            self._words = scan(texts, self._span)
        return self._words

    def needed(
        self, questions: Questions, min_coverage: float, *, fresh: bool = True, thought: bool = False
    ) -> list[int]:
        """Per question, the last chunk that must have ended before it may be said; -1: it waits for everything.

        All that a chunk mentions must have been read or said: numbers, names, identifiers and quoted words without
        exception, and at least ``min_coverage`` (0 to 1) of its content words; with ``fresh``, at least one of them must
        come from the reading, else the chunk says nothing that the reading grounds. It also waits for the piece of the
        reading that it resembles most, the last of equals, and for every run of words copied from it: a word may
        occur long before the statement that the text rests on. What speaks of everything (a superlative, a total, all, only)
        waits for everything. What it denies must have been denied for the last time,
        and a piece that begins with a but is read with the one before it. Where the reading is a ``thought``, a judgement
        (yes, no) waits for all of it, and so does what comes before its author changes his mind for the last time.
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
            if not thought:
                ungrounded |= q.words.of_all[np.array(questions.chunk)]
            alike, alike_at = q.most_alike(count)
            ungrounded |= ~alike
            needed = np.maximum(needed, np.where(alike, alike_at, -1))
        np.maximum.at(needed, q.run_asked, q.run_place)
        chunk, stop = np.array(questions.chunk), np.array(questions.stop)
        denied = _last(q.words.denies & q.is_reading)[stop - 1]
        denies = q.words.denies[chunk]
        ungrounded |= denies & (denied < first)
        needed = np.where(denies, np.maximum(needed, denied), needed)
        if thought:
            ungrounded |= q.words.judges[chunk]
            ungrounded |= _last(q.words.second_thoughts & q.is_reading)[stop - 1] > needed
        whole = np.append(~q.words.contrasts[1:], True)
        with_buts = np.minimum.accumulate(np.where(whole, np.arange(len(whole)), len(whole))[::-1])[::-1]
        needed = np.where(needed >= first, np.minimum(with_buts[np.maximum(needed, 0)], stop - 1), needed)
        return np.where(ungrounded, -1, needed).tolist()  # type: ignore[no-any-return]

    def copied(self, questions: Questions, *, words: bool = False) -> list[int]:
        """Per question, the last chunk of the reading that it copies a fact or a run of words from which stood nowhere before.

        The least that it must wait for, whatever else says that it may start; ``first - 1`` where it copies nothing.
        ``words``: every word that says something counts, and every number, computed or not.
        """
        if not questions.chunk:
            return []
        q = self._lookup(questions, computed=words)
        needed = np.array(questions.first, dtype=np.int64) - 1
        must = (q.required | words) & (q.place >= 0)
        np.maximum.at(needed, q.asked[must], q.place[must])
        np.maximum.at(needed, q.run_asked, q.run_place)
        return needed.tolist()  # type: ignore[no-any-return]

    def _lookup(self, questions: Questions, computed: bool = False) -> _Answers:
        is_reading = np.zeros(len(self._plan_of), bool)
        for first, stop in questions.reading:
            is_reading[first:stop] = True
        words = self._words_of(set(self._plan_of[np.array(questions.chunk)].tolist()))
        mentions = words.mentions(_marked(questions.chunk, len(is_reading)), computed)
        return _Answers(words, mentions, questions, self.base[self._plan_of], is_reading, self._is_call, self._is_whole)


def _may_be_asked(plan: Plan) -> bool:
    """Whether there is a chunk that a policy may let go early: a piece of what is said, or a call behind another."""
    return len(plan.chunk_end) > len(plan.spans) or sum(span.kind == "tool_call" for span in plan.spans) > 1


def _marked(places: Sequence[int], size: int) -> BoolArray:
    marked = np.zeros(size, bool)
    marked[places] = True
    return marked


def _last(flags: BoolArray) -> IntArray:
    """The last place up to each that is flagged, -1 for none."""
    places: IntArray = np.maximum.accumulate(np.where(flags, np.arange(len(flags)), -1))
    return places


class _Answers:
    """Every mention of every asked chunk: whether it was known, and where in the reading it is first read.

    ``asked``: the question that mention ``i`` belongs to; ``place``: the chunk of the reading that brings it, -1 where it
    was known before, was said since, or is nowhere; ``covered``: it is somewhere. ``run_asked``, ``run_place``: the runs of
    words that a chunk copies from its reading.
    """

    def __init__(
        self,
        words: Words,
        mentions: Mentions,
        questions: Questions,
        base: IntArray,
        is_reading: BoolArray,
        is_call: BoolArray,
        whole: BoolArray,
    ) -> None:
        self.words, self.is_reading = words, is_reading
        self._is_call = is_call
        self._chunk = np.array(questions.chunk, dtype=np.int64)
        self._first = np.array(questions.first, dtype=np.int64)
        self._stop = np.array(questions.stop, dtype=np.int64)
        self._alone = np.array(questions.alone, dtype=bool)
        self._base = base[self._chunk]
        asked = _marked(questions.chunk, len(is_reading))
        self._mentions = mentions
        read, fact = words.facts(is_reading)
        names = _Places(fact, read)
        self._known = _Places(words.known_key, words.known_text)
        self.asked, mention = _joined(self._mentions.text, self._chunk)
        self.required = self._mentions.required[mention]
        self.key = self._mentions.key[mention]
        named = names.next(self.key, self._first[self.asked])
        self.required |= (named >= 0) & (named < self._stop[self.asked])
        self.covered, self.place = self._find(self.asked, self.key)
        self._pieces(mention)
        runs = words.runs_for(asked, whole)
        inside = (runs.first == runs.last) & asked[runs.last]
        self.run_asked, run = _joined(runs.last, self._chunk, inside)
        # The places of runs whose hash nobody asks for are not wanted.
        hashes = _short(runs.hash)
        copied = np.isin(hashes, np.unique(hashes[run])) if len(run) else np.zeros(len(hashes), bool)
        places = _Places(hashes[copied], runs.last[copied])
        first, stop = self._first[self.run_asked], self._stop[self.run_asked]
        at = places.next(hashes[run], first)
        taken = (at >= 0) & (at < stop) & (places.next(hashes[run], self._base[self.run_asked]) >= first)
        taken[taken] &= is_reading[at[taken]]
        self.run_asked, self.run_place = self.run_asked[taken], at[taken]

    def _find(self, asked: IntArray, key: IntArray) -> tuple[BoolArray, IntArray]:
        """(is it anywhere, the chunk of the reading that brings it or -1) of keys that questions ``asked`` mention."""
        first, stop, chunk = self._first[asked], self._stop[asked], self._chunk[asked]
        earliest = self._known.next(key, self._base[asked])
        before = (earliest >= 0) & (earliest < first)
        read = self._known.next(key, first)
        in_reading = (read >= 0) & (read < stop)
        since = self._known.next(key, stop)
        said = (since >= 0) & (since < chunk) & ~self._alone[asked]
        said[said] &= ~self._is_call[since[said]]
        counts = in_reading & ~before & ~said
        counts[counts] &= self.is_reading[read[counts]]
        return before | in_reading | said, np.where(counts, read, -1)

    def _pieces(self, mention: IntArray) -> None:
        """A compound that is nowhere as a whole is known once all its pieces are."""
        pieces_at = self._mentions.pieces_at
        counts = pieces_at[mention + 1] - pieces_at[mention]
        whole = np.flatnonzero(~self.covered & (counts > 0))
        if not len(whole):
            return
        counts = counts[whole]
        owner = np.repeat(whole, counts)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        piece = self._mentions.pieces[np.repeat(pieces_at[mention[whole]], counts) + within]
        found, place = self._find(self.asked[owner], piece)
        missing = np.zeros(len(self.asked), bool)
        missing[owner[~found]] = True
        self.covered[whole] = ~missing[whole]
        last = np.full(len(self.asked), -1)
        np.maximum.at(last, owner, place)
        self.place[whole] = last[whole]

    def most_alike(self, count: int) -> tuple[BoolArray, IntArray]:
        """Per question, the piece of its reading that shares most of its words, the last of equals; whether there is one."""
        low = self._known.at(self.key, self._first[self.asked])
        high = self._known.at(self.key, self._stop[self.asked])
        size = np.where(high - low <= _COMMON, high - low, 0)
        owner = np.repeat(self.asked, size)
        within = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        text = self._known.text(np.repeat(low, size) + within)
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
    """Where keys stand: every (key, chunk) once, sorted, as one number. A plan's chunks are a range, so it needs no key."""

    def __init__(self, key: IntArray, text: IntArray) -> None:
        self._size = int(text.max(initial=0)) + 2
        both = np.sort(key * self._size + text)
        distinct = np.ones(len(both), bool)
        distinct[1:] = both[1:] != both[:-1]
        self._both = both[distinct]

    def at(self, key: IntArray, text: IntArray) -> IntArray:
        """The place of each key's first chunk from ``text`` on, or of whatever comes next."""
        found: IntArray = np.searchsorted(self._both, key * self._size + np.minimum(text, self._size - 1))
        return found

    def text(self, place: IntArray) -> IntArray:
        """The chunks at places."""
        texts: IntArray = self._both[place] % self._size
        return texts

    def next(self, key: IntArray, text: IntArray) -> IntArray:
        """The first chunk from ``text`` on that holds each key, -1 for none."""
        if not len(self._both):
            return np.full(len(key), -1)
        at = self.at(key, text)
        found = self._both[np.minimum(at, len(self._both) - 1)]
        return np.where((at < len(self._both)) & (found // self._size == key), found % self._size, -1)


def _short(hashes: npt.NDArray[np.uint64]) -> IntArray:
    """Hashes of 40 bits, so that a place fits beside them."""
    return (hashes >> np.uint64(24)).astype(np.int64)


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
            if span.source_kind in ("audit", "monitor"):
                text = ""  # Nothing rests on what an auditor says of it.
            texts.append(_said(text) if span.kind == "tool_call" else text)
            low = plan.chunk_end[chunk]
    return texts


def _said(call: str) -> str:
    """What a call says that its author had to know: the values of its arguments, texts in quotation marks."""
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
    if isinstance(value, str):
        return [f'"{value}"']
    return [] if value is None or isinstance(value, bool) else [str(value)]
