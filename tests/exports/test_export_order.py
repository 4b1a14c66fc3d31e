"""Chat messages: nothing stands before what it waited for, whatever waits for whatever."""

from __future__ import annotations

from typing import Any

import pytest
from export_cases import read_chat
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import RecordError
from pipeline.exports.openai import chat_of
from pipeline.exports.targets import Books

ROLES = {
    "user": "input",
    "tool": "input",
    "assistant": "output",
    "thought": "output",
    "call": "output",
    "audit": "output",
}
KINDS = {"tool": "tool_result", "call": "tool_call"}
KEYS = ("reasoning_content", "content", "tool_calls")


def event(role: str, message: int, text: str, after: list[int], **more: Any) -> dict[str, Any]:
    """An event on the stream of a role; every stream has one part of a message."""
    stream = list(ROLES).index(role)
    return {
        "stream": stream, "message": message, "part": stream, "call": None, "start": 0, "end": 1, "text": text,
        "kind": KINDS.get(role, "message"), "interrupted": False, "weight": 1.0, "time_ms": None, "lexical": None,
        "after": after, **more,
    }  # fmt: skip


def record_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    streams = [{"name": role, "role": role, "slot": 0, "direction": side} for role, side in ROLES.items()]
    for row, each in enumerate(events):
        each["start"], each["end"] = row, row + 1
    return {"id": "0", "streams": streams, "events": events, "segment": {"k": 1, "n": 1}, "labels": "{}"}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Events that say their number, and wait for any that were before them."""
    events: list[dict[str, Any]] = []
    called: set[int] = set()
    for i in range(draw(st.integers(1, 12))):
        role = draw(st.sampled_from(list(ROLES)))
        message = draw(st.integers(0, 4))
        after = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        opens = role == "call" and message not in called
        called |= {message} if opens else set()
        events.append(event(role, message, f"f\n<{i}>" if opens else f"<{i}>", after))
    return record_of(events)


def places(chat: dict[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Where each number is said: message, what of it, character."""
    found = {}
    for at, message in enumerate(chat["messages"]):
        for rank, key in enumerate(KEYS):
            text = message.get(key) or ""
            text = "".join(c["function"]["arguments"] for c in text) if key == "tool_calls" else text
            for number in range(12):
                if f"<{number}>" in text:
                    assert number not in found
                    found[number] = at, rank, text.index(f"<{number}>")
    return found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(records())
def test_everything_stands_behind_what_it_waited_for(record: dict[str, Any]) -> None:
    books = Books()
    events = record["events"]
    roles = [record["streams"][e["stream"]]["role"] for e in events]
    refused = ""
    try:
        chat = chat_of(record, books)
    except RecordError as error:
        refused = error.code
    if refused:
        assert (refused == "no_answer") == (not {"assistant", "thought", "call"} & set(roles))
        assert refused == "no_answer" or roles.count("call") > 1
        return
    at = places(chat)
    assert set(at) == {i for i, role in enumerate(roles) if role != "audit"}
    waits: list[set[int]] = []
    last: dict[int, int] = {}
    for i, each in enumerate(events):
        direct = {*each["after"], *([last[each["stream"]]] if each["stream"] in last else [])}
        waits.append(direct.union(*(waits[other] for other in direct)))
        last[each["stream"]] = i
    for i in at:
        for other in waits[i] & at.keys():
            assert at[other] < at[i]
            assert at[other][0] < at[i][0] or ROLES[roles[other]] == ROLES[roles[i]]


def test_an_answer_that_goes_on_after_a_result_is_cut_there() -> None:
    record = record_of(
        [
            event("user", 0, "Where is she?", []),
            event("assistant", 1, "I look.", [0]),
            event("call", 2, "find\n{}", [0], call=0),
            event("user", 3, "Hurry.", [1]),
            event("assistant", 1, " Soon.", [3]),
            event("tool", 4, "Delphi", [2], call=0),
            event("assistant", 1, " She is in Delphi.", [5]),
        ]
    )
    books = Books()
    chat = chat_of(record, books)
    assert [(m["role"], m["content"]) for m in chat["messages"]] == [
        ("user", "Where is she?"), ("assistant", "I look."), ("assistant", None), ("user", "Hurry."),
        ("assistant", " Soon."), ("tool", "Delphi"), ("assistant", " She is in Delphi."),
    ]  # fmt: skip
    assert books.lost["cut_parts"] == 2
    assert [p.kind for m in read_chat(chat).messages for p in m.parts].count("tool_result") == 1


def test_parts_are_cut_only_where_they_wait_for_each_other() -> None:
    record = record_of(
        [
            event("user", 0, "One. ", []),
            event("assistant", 1, "First. ", [0]),
            event("user", 0, "Two.", []),
            event("assistant", 1, "Second.", [2]),
        ]
    )
    books = Books()
    assert [m["content"] for m in chat_of(record, books)["messages"]] == ["One. Two.", "First. Second."]
    assert not books.lost["cut_parts"]


def test_a_call_that_waits_for_what_answers_its_beginning_is_refused() -> None:
    record = record_of(
        [
            event("call", 1, "find\n{", [], call=0),
            event("user", 2, "Not her.", [0]),
            event("call", 1, "}", [1], call=0),
            event("assistant", 3, "Done.", [2]),
        ]
    )
    with pytest.raises(RecordError) as refused:
        chat_of(record, Books())
    assert refused.value.code == "entangled"


def test_an_event_that_waits_for_nothing_that_is_there_is_refused() -> None:
    with pytest.raises(RecordError, match="not there"):
        chat_of(record_of([event("assistant", 0, "Hm.", [7])]), Books())


def test_what_is_not_trained_has_a_message_of_its_own() -> None:
    record = record_of(
        [
            event("thought", 1, "2 + 2 = 5.", [], weight=0.0),
            event("assistant", 1, "4", [0]),
        ]
    )
    assert chat_of(record, Books())["messages"] == [
        {"role": "assistant", "content": "", "reasoning_content": "2 + 2 = 5.", "weight": 0},
        {"role": "assistant", "content": "4"},
    ]


@pytest.mark.parametrize("first", [True, False])
def test_a_placeholder_is_neither_trained_nor_takes_the_weight_of_a_text(first: bool) -> None:
    note = event("assistant", 1, "[image]", [], kind="note", weight=0.0, part=0 if first else 9)
    said = event("assistant", 1, "A cat.", [], part=5)
    books = Books()
    chat = chat_of(record_of([note, said] if first else [said, note]), books)
    assert chat["messages"] == [{"role": "assistant", "content": "A cat."}]
    assert books.lost["placeholders"] == 1
    alone = chat_of(record_of([note, event("assistant", 2, "A cat.", [], part=5)]), Books())
    assert alone["messages"][0] == {"role": "assistant", "content": "[image]", "weight": 0}


def test_what_stands_beside_a_result_joins_it_and_results_without_a_call_are_counted() -> None:
    note = {"kind": "note", "weight": 0.0, "part": 7}
    record = record_of(
        [
            event("call", 0, "f\n{}", [], call=0),
            event("call", 1, "g\n{}", [], call=1),
            event("tool", 2, "one", [0], call=0, part=1),
            event("tool", 2, "[image]", [2], **note),
            event("tool", 3, "[audio]", [1], **{**note, "part": 0}),
            event("tool", 3, "two", [1], call=1, part=1),
            event("tool", 4, "three", [], part=1),
            event("assistant", 5, "Well.", [3, 6]),
            event("tool", 6, "[video]", [], **note),
        ]
    )
    books = Books()
    tools = [m for m in chat_of(record, books)["messages"] if m["role"] == "tool"]
    assert tools == [
        {"role": "tool", "content": "one\n\n[image]", "tool_call_id": "call_0"},
        {"role": "tool", "content": "[audio]\n\ntwo", "tool_call_id": "call_1"},
        {"role": "tool", "content": "three"},
        {"role": "tool", "content": "[video]"},
    ]
    assert books.lost["without_call"] == 2
    assert books.lost["joined_parts"] == 2


@pytest.mark.parametrize(("weights", "lost"), [((1.0, 0.5), 1), ((0.5, 0.5), 1), ((1.0, 1.0), 0), ((0.0, 0.0), 0)])
def test_weights_inside_a_message_that_a_chat_cannot_hold_are_counted(weights: tuple[float, float], lost: int) -> None:
    first, second = weights
    record = record_of(
        [event("assistant", 1, "One.", [], weight=first), event("assistant", 1, " Two.", [], weight=second)]
    )
    books = Books()
    (message,) = chat_of(record, books)["messages"]
    assert message == {"role": "assistant", "content": "One. Two."} | ({"weight": 0} if first == 0 else {})
    assert books.lost["weights"] == lost


def test_a_text_that_is_trained_in_part_is_cut_where_its_weight_changes() -> None:
    weights = (1.0, 0.0, 0.0, 1.0)
    events = [event("assistant", 1, f"{i} ", [], weight=weight) for i, weight in enumerate(weights)]
    books = Books()
    assert chat_of(record_of(events), books)["messages"] == [
        {"role": "assistant", "content": "0 "},
        {"role": "assistant", "content": "1 2 ", "weight": 0},
        {"role": "assistant", "content": "3 "},
    ]
    assert (books.lost["cut_parts"], books.lost["weights"]) == (2, 0)


def test_a_call_with_several_weights_stays_one_call() -> None:
    record = record_of(
        [
            event("call", 0, "f\n{", [], call=0, weight=0.0),
            event("call", 0, '"a": 1}', [], call=0),
            event("tool", 1, "one", [1], call=0),
        ]
    )
    books = Books()
    called, result = chat_of(record, books)["messages"]
    assert [c["function"] for c in called["tool_calls"]] == [{"name": "f", "arguments": '{"a": 1}'}]
    assert "weight" not in called
    assert result["tool_call_id"] == called["tool_calls"][0]["id"]
    assert (books.lost["weights"], books.lost["cut_parts"]) == (1, 0)


def test_results_name_calls_that_are_there_and_calls_without_a_result_are_counted() -> None:
    record = record_of(
        [
            event("tool", 0, "of an earlier segment", [], call=3, part=1),
            event("call", 1, "f\n{}", [0], call=0),
            event("call", 2, "g\n{}", [0], call=1),
            event("tool", 3, "one", [1], call=0),
            event("user", 4, "And?", []),
        ]
    )
    books = Books()
    messages = chat_of(record, books)["messages"]
    assert [m.get("tool_call_id") for m in messages if m["role"] == "tool"] == [None, "call_0"]
    assert (books.lost["without_call"], books.lost["late_results"], books.lost["unanswered_calls"]) == (1, 1, 1)
