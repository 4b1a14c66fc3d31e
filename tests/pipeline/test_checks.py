"""The checkers find every violation that is planted, and name it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from conversation_cases import call, message, replace_events, replace_value, result, tables_of, talk, thought

from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, Part
from pipeline.records import Tables
from pipeline.tokenization import TextTokenizer

CONVERSATIONS: tuple[Conversation, ...] = (
    talk(message("user", "Hello there."), message("assistant", "Hi. How are you?")),
    talk(
        message("system", "Be brief."),
        message("user", "What do HAT001 and HAT002 cost?"),
        message(
            "assistant",
            thought("I look both up. Then I compare."),
            call("price", "HAT001", "a"),
            call("price", "HAT002", "b"),
        ),
        message("tool", result("HAT001 costs 51 dollars.\nIt is blue.\nIt is made of wool.", "a")),
        message("tool", result("HAT002 costs 93 dollars.", "b")),
        message(
            "assistant",
            "HAT001 costs 51 dollars. HAT002 costs 93 dollars, but",
            Part("text", " so is that", interrupted=True),
        ),
        message("user", "Thanks."),
    ),
    talk(message("user", "你好 👩‍👩‍👧"), message("assistant", "你好！", weight=0.0)),
)
#: The record that is harmed; the others must not be blamed.
VICTIM = 1


@pytest.fixture(scope="module")
def valid(smollm2: TextTokenizer) -> Tables:
    tables = tables_of(CONVERSATIONS, "thinking+evidence+tools_async", smollm2)
    assert record_violations(tables.records) == []
    assert token_violations(tables.records, tables.tokens, smollm2) == []
    return tables


def _index(events: list[dict[str, Any]], **wanted: Any) -> int:
    return next(i for i, e in enumerate(events) if all(e[k] == v for k, v in wanted.items()))


def _set(where: dict[str, Any], **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(events: list[dict[str, Any]]) -> None:
        events[_index(events, **where)].update(values)

    return change


def _shift(events: list[dict[str, Any]], by: int) -> None:
    events[-1]["start"] += by
    events[-1]["end"] += by


def _drop_binding_after(events: list[dict[str, Any]]) -> None:
    event = events[_index(events, kind="tool_result", message=4)]
    header = events[_index(events, kind="header", message=4)]
    assert header["after"]
    assert event["start"] == header["end"]
    header["after"] = []


def _swap(events: list[dict[str, Any]]) -> None:
    events[0], events[1] = events[1], events[0]
    for event in events:
        event["after"] = sorted({0: 1, 1: 0}.get(a, a) for a in event["after"])


def _take_out_last(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events[:-1]


def _split(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last event told in two pieces, each of which ends the message."""
    last = events[-1]
    first = {**last, "end": last["start"] + 1, "text": last["text"][:1]}
    return [*events[:-1], first, {**last, "start": last["start"] + 1, "text": last["text"][1:], "after": []}]


def _with_rows(table: pa.Table) -> pa.Table:
    """The victim's number of rows made to fit its events."""
    return replace_value(table, VICTIM, "rows", max(e["end"] for e in table.column("events")[VICTIM].as_py()))


RECORD_MUTATIONS: dict[str, tuple[Any, str]] = {
    "an event moved back before what it waits for": (lambda e: _shift(e, -1), "layout"),
    "an event moved on though nothing keeps it": (lambda e: _shift(e, 1), "layout"),
    "a wait dropped": (_drop_binding_after, "layout"),
    "a wait on itself": (lambda e: e[-1].update(after=[len(e) - 1]), "layout"),
    "a wait on an event that is not there": (lambda e: e[-1].update(after=[len(e)]), "after_index"),
    "a wait on a negative event": (lambda e: e[-1].update(after=[-1]), "after_index"),
    "an event on a stream that is not there": (_set({"message": 1}, stream=9), "stream_index"),
    "an event that ends before it starts": (lambda e: e[-1].update(end=e[-1]["start"] - 1), "no_rows"),
    "an event before the first row": (lambda e: e[0].update(start=-1), "no_rows"),
    "two events out of order": (_swap, "order"),
    "an event that runs into the next of its stream": (lambda e: e[0].update(stream=1, end=e[0]["end"] + 3), "overlap"),
    "a character changed": (_set({"message": 1}, text="What do HAT001 and HAT003 cost?"), "part_text"),
    "a space trimmed": (lambda e: e[_index(e, text=" so is that")].update(text="so is that"), "part_text"),
    "an event gone": (_take_out_last, "part_missing"),
    "an event that says a part that is not listed": (_set({"message": 6}, message=7), "part_extra"),
    "a header taken for the result": (_set({"kind": "header"}, kind="tool_result"), "part_text"),
    "a message that does not end": (_set({"message": 1}, final=False), "ending"),
    "a message that ends twice": (_split, "ending"),
    "a message that ends though it was cut off": (_set({"interrupted": True}, final=True), "ending"),
    "a message cut off though it ended": (_set({"message": 1}, interrupted=True), "ending"),
    "a header with an end": (_set({"kind": "header"}, final=True), "ending"),
}


@pytest.mark.parametrize("what", RECORD_MUTATIONS)
def test_a_planted_violation_is_reported_for_its_record_by_its_code(valid: Tables, what: str) -> None:
    change, code = RECORD_MUTATIONS[what]
    harmed = replace_events(valid.records, VICTIM, change)
    if code == "layout":
        harmed = _with_rows(harmed)
    found = record_violations(harmed)
    assert code in {v.code for v in found}
    assert {v.record for v in found} == {valid.records.column("id")[VICTIM].as_py()}
    assert all(v.message for v in found)


@pytest.mark.parametrize(
    ("column", "change", "code"),
    [
        ("rows", lambda rows: rows + 1, "rows"),
        ("rows", lambda rows: rows - 1, "rows"),
        ("parts", lambda parts: parts[:-1], "part_extra"),
        ("parts", lambda parts: [*parts, {**parts[0], "part": 5}], "part_missing"),
        ("parts", lambda parts: [*parts, parts[0]], "part_missing"),
        ("parts", lambda parts: [{**parts[0], "sha256": "0" * 64}, *parts[1:]], "part_text"),
        ("streams", lambda streams: streams[:-1], "stream_index"),
        ("clock", lambda clock: {**clock, "lag": 1}, "layout"),
        ("events", lambda events: [], "part_missing"),
    ],
)
def test_a_changed_column_of_a_record_is_reported(valid: Tables, column: str, change: Any, code: str) -> None:
    old = valid.records.column(column)[VICTIM].as_py()
    found = record_violations(replace_value(valid.records, VICTIM, column, change(old)))
    assert code in {v.code for v in found}
    assert {v.record for v in found} == {valid.records.column("id")[VICTIM].as_py()}


@pytest.mark.parametrize("event", range(1, 9))
def test_any_event_moved_by_a_row_breaks_the_layout(valid: Tables, event: int) -> None:
    def later(events: list[dict[str, Any]]) -> None:
        events[event]["start"] += 1
        events[event]["end"] += 1

    assert record_violations(_with_rows(replace_events(valid.records, VICTIM, later)))


def test_on_a_clock_of_real_time_an_event_may_start_later_but_never_earlier(valid: Tables) -> None:
    clock = {**valid.records.column("clock")[VICTIM].as_py(), "ms_per_row": 80.0}
    records = replace_value(valid.records, VICTIM, "clock", clock)
    assert record_violations(_with_rows(replace_events(records, VICTIM, lambda e: _shift(e, 7)))) == []
    earlier = _with_rows(replace_events(records, VICTIM, lambda e: _shift(e, -1)))
    assert {v.code for v in record_violations(earlier)} == {"layout"}


def _without_last(values: list[int]) -> list[int]:
    return values[:-1]


TOKEN_MUTATIONS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "an id changed": (("token_ids",), lambda v: [v[0] + 1, *v[1:]], "token_text"),
    "an end of message turned into text": (("token_ids",), lambda v: [19 if i == 2 else i for i in v], "token_text"),
    "an end of message in the middle": (("token_ids",), lambda v: [2, *v[1:]], "token_text"),
    "two ids swapped": (("token_ids",), lambda v: [v[1], v[0], *v[2:]], "token_text"),
    "a cell dropped": (("token_ids", "token_rows", "token_streams", "token_loss"), _without_last, "token_cells"),
    "a cell twice": (("token_ids", "token_rows", "token_streams", "token_loss"), lambda v: [*v, v[-1]], "token_cells"),
    "an id dropped": (("token_ids",), _without_last, "token_cells"),
    "a row dropped": (("token_rows",), _without_last, "token_cells"),
    "a stream dropped": (("token_streams",), _without_last, "token_cells"),
    "a target dropped": (("token_loss",), _without_last, "token_cells"),
    "a cell moved by a row": (("token_rows",), lambda v: [*v[:-1], v[-1] + 1], "token_places"),
    "all cells moved by a row": (("token_rows",), lambda v: [r + 1 for r in v], "token_places"),
    "a cell on another stream": (("token_streams",), lambda v: [v[0] + 1, *v[1:]], "token_places"),
    "cells not row-major": (
        ("token_ids", "token_rows", "token_streams", "token_loss"),
        lambda v: [v[1], v[0], *v[2:]],
        "token_places",
    ),
    "an input trained": (("token_loss",), lambda v: [1, *v[1:]], "token_loss"),
    "an output not trained": (("token_loss",), lambda v: [0] * len(v), "token_loss"),
    "the cut of an interrupted message trained": (("token_loss",), lambda v: [i & 1 for i in v], "token_loss"),
    "another number of rows": (("rows",), lambda v: v + 1, "token_rows"),
    "another group": (("group",), lambda v: v + "x", "token_group"),
    "another conversation": (("conversation_id",), lambda v: v[::-1], "token_conversation"),
    "a stream turned round": (("streams",), lambda v: [{**v[0], "direction": "output"}, *v[1:]], "token_streams"),
    "another record": (("id",), lambda v: v[::-1], "token_ids"),
}


@pytest.mark.parametrize("what", TOKEN_MUTATIONS)
def test_a_planted_difference_between_record_and_tokens_is_reported(
    valid: Tables, smollm2: TextTokenizer, what: str
) -> None:
    columns, change, code = TOKEN_MUTATIONS[what]
    tokens = valid.tokens
    for column in columns:
        tokens = replace_value(tokens, VICTIM, column, change(tokens.column(column)[VICTIM].as_py()))
    assert not tokens.equals(valid.tokens)
    found = token_violations(valid.records, tokens, smollm2)
    assert {v.code for v in found} == {code}
    if code != "token_ids":
        assert {v.record for v in found} == {valid.records.column("id")[VICTIM].as_py()}


def test_text_changed_behind_the_hash_is_found_by_encoding_it_again(valid: Tables, smollm2: TextTokenizer) -> None:
    def other_name(events: list[dict[str, Any]]) -> None:
        events[_index(events, kind="header")]["text"] = "cost#0"

    records = replace_events(valid.records, VICTIM, other_name)
    assert record_violations(records) == []
    assert {v.code for v in token_violations(records, valid.tokens, smollm2)} == {"token_text"}
    assert token_violations(records, valid.tokens, None) == []


def test_a_header_of_another_length_is_a_difference_in_count(valid: Tables, smollm2: TextTokenizer) -> None:
    records = replace_events(
        valid.records, VICTIM, _set({"kind": "header"}, text="the price of the thing, number zero")
    )
    assert {v.code for v in token_violations(records, valid.tokens, smollm2)} == {"token_count"}


def test_records_without_their_tokens_and_tokens_without_records_are_reported(valid: Tables) -> None:
    assert [v.code for v in token_violations(valid.records, valid.tokens.slice(0, 2), None)] == ["token_ids"]
    assert [v.code for v in token_violations(valid.records.slice(0, 0), valid.tokens, None)] == ["token_ids"]


def test_a_table_without_records_has_no_violations(valid: Tables) -> None:
    nothing = pa.Table.from_batches([], schema=valid.records.schema)
    assert record_violations(nothing) == []
    assert token_violations(nothing, valid.tokens.slice(0, 0), None) == []


def test_checks_read_slices_as_well_as_whole_tables(valid: Tables, smollm2: TextTokenizer) -> None:
    for start in range(3):
        assert record_violations(valid.records.slice(start, 1)) == []
        assert token_violations(valid.records.slice(start, 1), valid.tokens.slice(start, 1), smollm2) == []
