"""The future-information gain of what records say: by how much was it likelier to one who had read on?

gain(event) = mean over its tokens of log p(token | all that its author had read) − log p(token | what had been read by its
start row), in nats per token.

*All that its author had read*: the events before it in source order; where it has none (``message`` is null), all input
events, whenever they come, and what its own stream said before. *Read by its start row*: of those, the ones that had
ended by then (with the clock's lag for other streams), and its own stream's. An event that waited for all of them has gain
0 without being scored. Headers are no text of anybody; what an auditor or a monitor adds to a conversation is in nobody's
context and has no gain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.columns import BoolArray, EventColumns, IntArray, event_columns, with_event_field
from pipeline.scoring.prefixes import Compiled, encode_chunks
from pipeline.scoring.rendering import Piece, chat_role, in_one_message
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.store import Progress, ScoreStore, compiled_key, fill
from pipeline.training.masks import Int32Array

#: Context tokens that are held at once.
_HELD_TOKENS = 4 << 20
_WATCHERS = ("audit", "monitor")


#: What became of an event: it is read, not said; it says nothing of a conversation (no text, or a watcher's); it waited for
#: all that its author had read (gain 0); it was scored; it is longer than the scorer's window with what it follows.
State = Literal["read", "nothing", "waited", "scored", "over_window"]


@dataclass(frozen=True, slots=True)
class GainCounters:
    """Output events, and how many of them had each state."""

    events: int
    waited: int
    scored: int
    over_window: int
    nothing: int


@dataclass(frozen=True, slots=True)
class EventGains:
    """Per event of a table, in the order of the flattened events: the gain in nats per token, None without one; the state."""

    values: list[float | None]
    states: list[State]

    def counters(self) -> GainCounters:
        """The states counted."""
        count = Counter(self.states)
        events = len(self.states) - count["read"]
        return GainCounters(events, count["waited"], count["scored"], count["over_window"], count["nothing"])


@dataclass(frozen=True, slots=True)
class _Question:
    """An event that started early: its index in the table, and the query."""

    event: int
    query: Compiled


def record_gains(
    scorer: Scorer, table: pa.Table, store: ScoreStore | None = None, progress: Progress | None = None
) -> tuple[list[float | None], GainCounters]:
    """The gain of every event of a table of ``tables.RECORDS``, in nats per token, in the order of the flattened events.

    None for input events, what is over the window, and what says nothing. ``store``: nothing in it is scored again.
    ``progress`` gets how many more events are scored.
    """
    gains = event_gains(scorer, table, store, progress)
    return gains.values, gains.counters()


def event_gains(
    scorer: Scorer, table: pa.Table, store: ScoreStore | None = None, progress: Progress | None = None
) -> EventGains:
    """``record_gains`` with the state of every event."""
    columns = event_columns(table)
    gains = EventGains([None] * len(columns.record), ["read"] * len(columns.record))
    waiting: list[_Question] = []
    held = 0
    for question in _questions(scorer, table, columns, gains):
        waiting.append(question)
        held += sum(map(len, question.query.contexts))
        if held >= _HELD_TOKENS:
            _score(scorer, waiting, store, progress, gains)
            waiting, held = [], 0
    _score(scorer, waiting, store, progress, gains)
    return gains


def with_gains(table: pa.Table, gains: Sequence[float | None]) -> pa.Table:
    """The table with the gains of ``record_gains`` in the ``gain`` column of its events."""
    return with_event_field(table, "gain", gains)


def _score(
    scorer: Scorer,
    questions: Sequence[_Question],
    store: ScoreStore | None,
    progress: Progress | None,
    gains: EventGains,
) -> None:
    queries = [question.query for question in questions]

    def chosen(numbers: Sequence[int]) -> list[Compiled]:
        return [queries[i] for i in numbers]

    keys = [compiled_key(scorer, query) for query in queries]
    for question, scores in zip(questions, fill(scorer, keys, chosen, store, progress=progress), strict=True):
        gains.values[question.event] = None if scores is None else float(scores.gains()[0, 0])
        gains.states[question.event] = "over_window" if scores is None else "scored"


def _questions(scorer: Scorer, table: pa.Table, columns: EventColumns, gains: EventGains) -> Iterator[_Question]:
    """The events that did not wait; ``gains`` is told of the others."""
    policies = table.column("alignment").combine_chunks().field("policy").to_pylist()
    for record, policy in enumerate(policies):
        one = _Record(columns, record, placed=policy != "source")
        for event in one.outputs.tolist():
            if one.says_nothing[event]:
                gains.states[one.first + event] = "nothing"
                continue
            known = one.known_to_author(event)
            read = known[one.read_by_start(event, known)]
            if len(read) == len(known):
                gains.states[one.first + event] = "waited"
                gains.values[one.first + event] = 0.0
                continue
            one.encode(scorer)
            yield _Question(one.first + event, one.query(scorer, event, known, read))


class _Record:
    """The events of one record, by their index in it."""

    def __init__(self, columns: EventColumns, record: int, placed: bool) -> None:
        self.first = int(columns.offsets[record])
        part = slice(self.first, int(columns.offsets[record + 1]))
        self._message, self._part = columns.message[part], columns.part[part]
        self._stream, self._start, self._end = columns.stream[part], columns.start[part], columns.end[part]
        self._ready = self._end + columns.lag[record]
        self._is_input: BoolArray = columns.is_input[part]
        self._texts: list[str] = columns.text[self.first : part.stop].to_pylist()
        role = columns.role[part]
        self._roles = [chat_role(r, bool(out)) for r, out in zip(role, columns.is_output[part], strict=True)]
        self.outputs: IntArray = np.flatnonzero(columns.is_output[part])
        watches = np.isin(role, _WATCHERS) & (self._message >= 0) & placed
        empty = np.array([not text for text in self._texts], bool)
        self.says_nothing: BoolArray = empty | watches | (columns.kind[part] == "header")
        order = np.lexsort((np.arange(len(self._texts)), self._part, self._message))
        self._in_order: IntArray = order[~self.says_nothing[order]]
        self._place = np.zeros(len(order), np.int64)
        self._place[self._in_order] = np.arange(len(self._in_order))
        ends = columns.final[part] | columns.interrupted[part]
        self._unit = self._units(ends)
        self._tokens: list[Int32Array] = []

    def _units(self, ends: BoolArray) -> IntArray:
        """A number per event, the same for the events of one part: what is encoded together."""
        units = np.zeros(len(self._texts), np.int64)
        open_units: dict[tuple[int, int, int], int] = {}
        for event in range(len(units)):
            if self.says_nothing[event] and self._texts[event]:
                units[event] = -1 - event
                continue
            key = (int(self._stream[event]), int(self._message[event]), int(self._part[event]))
            units[event] = open_units.setdefault(key, event)
            if ends[event]:
                del open_units[key]
        return units

    def known_to_author(self, event: int) -> IntArray:
        """What the author of an event had read and said before, in the order in which it is rendered."""
        if self._message[event] >= 0:
            before = self._in_order[: self._place[event]]
            return before[(self._message[before] >= 0) | self._is_input[before]]
        own = (self._stream == self._stream[event]) & (np.arange(len(self._stream)) < event)
        chosen: IntArray = np.flatnonzero((self._is_input | own) & ~self.says_nothing)
        return chosen

    def read_by_start(self, event: int, known: IntArray) -> BoolArray:
        """Which of the events had ended when ``event`` starts."""
        own = self._stream[known] == self._stream[event]
        done: BoolArray = np.where(own, self._end[known], self._ready[known]) <= self._start[event]
        return done

    def encode(self, scorer: Scorer) -> None:
        """The tokens of every event, each part encoded whole."""
        if self._tokens:
            return
        members: dict[int, list[int]] = {}
        for event, unit in enumerate(self._unit.tolist()):
            members.setdefault(unit, []).append(event)
        spans = []
        for events in members.values():
            texts = [self._texts[event] for event in events]
            spans.append(("".join(texts), np.cumsum([len(text) for text in texts]).tolist()))
        self._tokens = [np.zeros(0, np.int32)] * len(self._texts)
        for events, (ids, upto) in zip(members.values(), encode_chunks(scorer.tokenizer, spans), strict=True):
            for event, low, high in zip(events, [0, *upto[:-1].tolist()], upto.tolist(), strict=True):
                self._tokens[event] = ids[low:high]

    def query(self, scorer: Scorer, event: int, known: IntArray, read: IntArray) -> Compiled:
        """Two prefixes, what had been read and everything; one chunk, the event."""
        target = self._tokens[event]
        contexts = tuple(self._context(scorer, event, known, seen) for seen in (read, known))
        return Compiled(contexts, target, np.zeros(len(target), np.int32), 1)

    def _context(self, scorer: Scorer, event: int, known: IntArray, read: IntArray) -> Int32Array:
        seen = set(read.tolist())
        pieces: list[Piece] = []
        unit = None
        following = [*known.tolist()[1:], None]
        for one, after in zip(known.tolist(), following, strict=True):
            if one not in seen:
                continue
            more = after is not None and after not in seen and self._goes_on(one, after)
            ids = self._tokens[one]
            if pieces and unit == self._unit[one]:
                ids = np.concatenate([pieces.pop().ids, ids])
            pieces.append(Piece(self._roles[one], ids, more))
            unit = self._unit[one]
        return scorer.chat.context(pieces, scorer.cue, goes_on=unit == self._unit[event])

    def _goes_on(self, one: int, after: int) -> bool:
        same = self._unit[one] == self._unit[after]
        return bool(same) or in_one_message(self._roles[one], self._roles[after])
