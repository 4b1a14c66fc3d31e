"""What is looked for in records and rejects: a line of ``name:value`` and words, and which rows of a table it finds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError

BoolArray = npt.NDArray[np.bool_]

#: What a filter's line may say: name, its values.
SYNTAX: tuple[tuple[str, str], ...] = (
    ("corpus:X", "a source's corpus has X in its name"),
    ("policy:X", "the alignment policy has X in its name"),
    ("stream:X", "a stream has X in its name"),
    ("role:X", "a stream has this role"),
    ("pattern:X", "the scenario of a written record has X in its name"),
    ("split:X", "train, test or input_only"),
    ("leak:yes", "an event leaks, or may: the verdict is leak or weak"),
    ("overlap:yes", "an output speaks while another stream does"),
    ("mark:X", "good, bad, any, or none"),
    ("reason:X", 'rejects: X is their stage, reason, or "stage: reason"'),
    ('words "a phrase"', "each stands in what one part says, in any case of letters"),
)

_TOKEN = re.compile(r'(?:(?P<name>[A-Za-z_]+):)?(?:"(?P<quoted>[^"]*)"|(?P<bare>\S+))')
_TERM = re.compile(r'"([^"]*)"|(\S+)')
_NAMES = {"leak": "leaks", "leaks": "leaks", "overlap": "overlap"}
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_SHOWN = [name.partition(":")[0] for name, _ in SYNTAX if ":" in name]
_MARKS = ("good", "bad", "any", "none")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must have to be shown; empty: no matter. ``text``: words and quoted phrases, all of which must occur.

    Names match where they contain the value, in any case of letters; ``role`` and ``split`` are whole.
    ``leaks`` and ``overlap`` are None where it does not matter. ``mark`` is ``good``, ``bad``, ``any`` or ``none``.
    ``reason`` is for rejects only: the whole of their stage, their code, or ``stage: code``, in any case of letters.
    """

    text: str = ""
    corpus: str = ""
    policy: str = ""
    stream: str = ""
    role: str = ""
    pattern: str = ""
    leaks: bool | None = None
    overlap: bool | None = None
    split: str = ""
    mark: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def terms(self) -> list[str]:
        """The words and phrases that must occur, without their quotes."""
        return [term for quoted, bare in _TERM.findall(self.text) if (term := quoted or bare) and term != '""']

    def asks(self, names: str) -> list[str]:
        """Which of the names (separated by spaces) this filter asks for."""
        return [name for name in names.split() if getattr(self, name) not in ("", None)]


def parse_filter(line: str) -> Filter:
    """A filter from what a user types: ``corpus:gsm8k policy:evidence leak:yes words "a phrase"``. Raises InputError.

    Words with a colon are searched for in quotes: ``"note: this"``.
    """
    known = {f.name for f in fields(Filter)} - {"text"}
    values: dict[str, Any] = {}
    words: list[str] = []
    for match in _TOKEN.finditer(line):
        typed = match["name"]
        value = match["bare"] if match["quoted"] is None else match["quoted"]
        if typed is None:
            words.append(match[0])
            continue
        name = _NAMES.get(typed, typed)
        if name not in known:
            raise InputError(
                f"filter: there is no {typed!r}, but {', '.join(_SHOWN)}; a text with a colon is searched for in quotes"
            )
        if name in values:
            raise InputError(f"filter: {typed} is named twice")
        if name in ("leaks", "overlap"):
            if value.lower() not in _YES:
                raise InputError(f"filter: {typed}:{value} is neither yes nor no")
            values[name] = _YES[value.lower()]
        elif name == "mark" and value not in _MARKS:
            raise InputError(f"filter: mark:{value} is none of {', '.join(_MARKS)}")
        else:
            values[name] = value
    return Filter(text=" ".join(words), **values)


def columns_of(filter_: Filter) -> list[str]:
    """The columns of a records table that a filter reads (``events.text``: of a list, one field)."""
    wanted: dict[str, list[str]] = {
        "text": ["events.text", "events.stream", "events.message", "events.part"],
        "corpus": ["sources.corpus"],
        "policy": ["alignment.policy"],
        "stream": ["streams.name"],
        "role": ["streams.role"],
        "pattern": ["extra"],
        "leaks": ["events.lexical"],
        "overlap": ["events.stream", "events.start", "events.end", "streams.direction"],
        "mark": ["id"],
        "split": [],
    }
    columns = dict.fromkeys(column for name in filter_.asks(" ".join(wanted)) for column in wanted[name])
    return list(columns) or ["rows"]


def matches(filter_: Filter, batch: pa.RecordBatch, shard: Path, marks: Mapping[str, str]) -> BoolArray:
    """Which records of a batch (with at least ``columns_of``) a filter finds; ``marks``: record id → good or bad."""
    found = np.ones(batch.num_rows, dtype=bool)
    if filter_.split and shard.parent.name != filter_.split:
        return np.zeros(batch.num_rows, dtype=bool)
    if filter_.policy:
        found &= _contains(pc.struct_field(batch.column("alignment"), "policy"), filter_.policy)
    for value, column, name in (
        (filter_.corpus, "sources", "corpus"),
        (filter_.stream, "streams", "name"),
    ):
        if value:
            found &= _any(batch.column(column), _contains(_field(batch.column(column), name), value))
    if filter_.role:
        found &= _any(batch.column("streams"), _bools(pc.equal(_field(batch.column("streams"), "role"), filter_.role)))
    if filter_.pattern:
        scenario = re.escape(filter_.pattern)
        found &= _bools(
            pc.match_substring_regex(batch.column("extra"), rf'"scenario":\s*"[^"]*{scenario}', ignore_case=True)
        )
    if filter_.leaks is not None:
        verdicts = _field(batch.column("events"), "lexical")
        leaking = _bools(pc.is_in(verdicts, value_set=pa.array(["leak", "weak"])))
        found &= _any(batch.column("events"), leaking) == filter_.leaks
    if filter_.overlap is not None:
        found &= _overlapping(batch) == filter_.overlap
    if filter_.mark:
        given = [marks.get(id_, "none") for id_ in batch.column("id").to_pylist()]
        found &= np.array([g == filter_.mark or (filter_.mark == "any" and g != "none") for g in given], dtype=bool)
    if filter_.terms and found.any():
        texts, owner = _parts(batch)
        for term in filter_.terms:
            here = np.zeros(batch.num_rows, dtype=bool)
            here[owner[_contains(texts, term)]] = True
            found &= here
    return found


def reject_columns(filter_: Filter) -> list[str]:
    """The columns of a rejects table that a filter reads."""
    wanted = {"text": ["raw", "message", "path"], "corpus": ["corpus"], "reason": ["stage", "code"]}
    return list(dict.fromkeys(c for name in filter_.asks(" ".join(wanted)) for c in wanted[name])) or ["code"]


def rejects_match(filter_: Filter, batch: pa.RecordBatch) -> BoolArray:
    """Which rejects of a batch a filter finds: by ``corpus``, ``reason`` and words of message, path or raw text."""
    found = np.ones(batch.num_rows, dtype=bool)
    if filter_.corpus:
        found &= _contains(batch.column("corpus"), filter_.corpus)
    if filter_.reason:
        named = (whole_reasons(batch), batch.column("stage"), batch.column("code"))
        found &= np.any([_bools(pc.equal(pc.utf8_lower(n), filter_.reason.lower())) for n in named], axis=0)
    for term in filter_.terms:
        units = (value.decode(errors="replace") for value in batch.column("raw").to_pylist())
        raw = np.array([term.casefold() in unit.casefold() for unit in units], dtype=bool)
        found &= _contains(batch.column("message"), term) | _contains(batch.column("path"), term) | raw
    return found


def whole_reasons(batch: pa.RecordBatch) -> pa.Array:
    """``stage: code`` of every reject of a batch."""
    return pc.binary_join_element_wise(batch.column("stage"), batch.column("code"), ": ")


def _field(column: pa.Array, name: str) -> pa.Array:
    return column.flatten().field(name)


def _bools(values: pa.Array) -> BoolArray:
    found: BoolArray = pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)
    return found


def _contains(values: pa.Array, wanted: str) -> BoolArray:
    return _bools(pc.match_substring(values, wanted, ignore_case=True))


def _owner(column: pa.Array) -> npt.NDArray[np.int64]:
    """The row of each item of a list column."""
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(counts)), counts)


def _any(column: pa.Array, of_items: BoolArray) -> BoolArray:
    found = np.zeros(len(column), dtype=bool)
    found[_owner(column)[of_items]] = True
    return found


def _ints(values: pa.Array) -> npt.NDArray[np.int64]:
    whole: npt.NDArray[np.int64] = pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return whole


def _parts(batch: pa.RecordBatch) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """What every part says on its stream, whole (a word may be cut between two events), and the record of each."""
    events = batch.column("events")
    owner = _owner(events)
    keys = [_ints(_field(events, name)) for name in ("part", "message", "stream")]
    order = np.lexsort((np.arange(len(owner)), *keys, owner))
    changes = np.zeros(len(order), dtype=bool)
    changes[:1] = True
    for key in (*keys, owner):
        changes[1:] |= np.diff(key[order]) != 0
    first = np.flatnonzero(changes)
    texts = _field(events, "text").take(pa.array(order))
    whole = pa.LargeListArray.from_arrays(pa.array([*first.tolist(), len(order)], pa.int64()), texts)
    return pc.binary_join(whole, ""), owner[order][first]


def _overlapping(batch: pa.RecordBatch) -> BoolArray:
    """Records in which an output event shares a row with an event of another stream."""
    events, streams = batch.column("events"), batch.column("streams")
    owner, on = _owner(events), _ints(_field(events, "stream"))
    start, end = _ints(_field(events, "start")), _ints(_field(events, "end"))
    counts = pc.list_value_length(streams).to_numpy(zero_copy_only=False)
    base = np.cumsum(counts) - counts
    is_output = _bools(pc.equal(_field(streams, "direction"), "output"))
    speaks = is_output[base[owner] + np.minimum(on, counts[owner] - 1)] if len(is_output) else np.zeros(len(on), bool)
    width = int(end.max(initial=0)) + 2
    order = np.lexsort((start, owner))
    order = order[end[order] > start[order]]
    owner, start, end, speaks = owner[order], start[order], end[order], speaks[order]
    base_row = owner * width
    before_all = np.concatenate([[0], np.maximum.accumulate(base_row + end)[:-1]]) if len(order) else base_row
    outputs_end = np.maximum.accumulate(np.where(speaks, base_row + end, 0))
    before_output = np.concatenate([[0], outputs_end[:-1]]) if len(order) else base_row
    at = base_row + start
    shares = np.where(speaks, before_all > at, before_output > at)
    found = np.zeros(batch.num_rows, dtype=bool)
    found[owner[shares]] = True
    return found
