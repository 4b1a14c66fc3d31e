"""Calls that only read and may leave before the ones ahead of them, and those that may not; the slots of their results."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conversation_cases import call, events_on, message, result, tables_of, talk

from pipeline.alignment.calls import only_reads
from pipeline.checks import record_violations
from pipeline.conversation import Conversation
from pipeline.leaks import lexical
from pipeline.records import to_json
from pipeline.tokenization import TextTokenizer

LISTED = message("tool", result('{"orders": ["AX71", "BQ32", "CW05"]}'))


def told(conversation: Conversation, tokenizer: TextTokenizer, spec: str = "tools_async") -> dict[str, Any]:
    tables = tables_of([conversation], spec, tokenizer)
    assert record_violations(tables.records) == []
    assert [f for f in lexical(tables.records) if f.verdict != "clear"] == []
    return next(to_json(tables.records))


def steps(*calls: tuple[str, str, str]) -> Conversation:
    """A list of orders, then calls (name, argument, result) one message after the other, then an answer."""
    messages = [message("user", "Where are my orders?"), message("assistant", call("list_orders", "{}")), LISTED]
    for name, argument, came in calls:
        messages += [message("assistant", call(name, json.dumps({"id": argument}))), message("tool", result(came))]
    return talk(*messages, message("assistant", "There they are."))


def overtakes(record: dict[str, Any], later: int, earlier: int) -> bool:
    """Whether a call leaves before the result of an earlier one has been read."""
    (left,) = [e["start"] for e in record["events"] if e["kind"] == "tool_call" and e["call"] == later]
    return left < max(e["end"] for e in record["events"] if e["kind"] == "tool_result" and e["call"] == earlier)


def test_a_list_is_gone_through_side_by_side(smollm2: TextTokenizer) -> None:
    record = told(
        steps(
            ("get_order", "AX71", "In the post since Monday, with the red van of the north."),
            ("get_order", "BQ32", "On the way to Turku by ship."),
            ("get_order", "CW05", "Delivered to the neighbour."),
        ),
        smollm2,
    )
    assert overtakes(record, 2, 1)
    assert overtakes(record, 3, 1)
    assert not overtakes(record, 1, 0)
    slots = {e["call"]: e["stream"] for e in record["events"] if e["kind"] == "tool_result"}
    assert len({slots[1], slots[2], slots[3]}) == 3
    assert slots[0] == slots[1]
    headers = {e["call"]: e["text"] for e in record["events"] if e["kind"] == "header"}
    assert headers == {0: "list_orders#0", 1: "get_order#1", 2: "get_order#2", 3: "get_order#3"}
    answer = events_on(record, "assistant")[-1]
    assert answer["start"] >= max(e["end"] for e in record["events"] if e["kind"] == "tool_result")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("get_job", "AX71", "Still running, come back later today."), ("get_job", "AX71", "Done.")),
        (("read_page", "1", "Page one of the long report on orders."), ("read_page", "2", "Page two.")),
        (("search_order", "AX71", "[]"), ("search_order", "BQ32", "Found.")),
        (("search_order", "AX71", "No such order was found."), ("search_order", "BQ32", "Found.")),
        (("get_order", "AX71", "It went with the van DH99 to Turku."), ("get_order", "DH99", "A red van.")),
        (("get_order", "AX71", "It is in the post since Monday."), ("get_van", "BQ32", "A red van.")),
        (("cancel_order", "AX71", "It has been cancelled for you."), ("cancel_order", "BQ32", "Cancelled.")),
    ],
    ids=[
        "a poll",
        "the next page",
        "nothing found",
        "denied",
        "an argument from the result",
        "another tool",
        "a change",
    ],
)
def test_what_the_last_result_decided_waits_for_it(
    smollm2: TextTokenizer, first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    assert not overtakes(told(steps(first, second), smollm2), 2, 1)


def test_an_error_and_the_user_are_waited_for(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Where are AX71 and BQ32?"),
        message("assistant", call("get_order", '{"id": "AX71"}')),
        message("tool", result("It is in the post since Monday.")),
        message("assistant", "AX71 is in the post."),
        message("user", "And the other one?"),
        message("assistant", call("get_order", '{"id": "BQ32"}')),
        message("tool", result("It is in the post as well.")),
    )
    assert not overtakes(told(conversation, smollm2), 1, 0)


def test_early_calls_can_be_switched_off_or_widened(smollm2: TextTokenizer) -> None:
    conversation = steps(
        ("get_order", "AX71", "It is in the post since Monday."),
        ("get_van", "BQ32", "It is red."),
        ("fetch", "CW05", "Fine."),
    )
    assert overtakes(told(conversation, smollm2, "tools_async:early=any"), 2, 1)
    assert not overtakes(told(conversation, smollm2, "tools_async:early=any,reads=get_order"), 2, 1)
    assert not overtakes(told(conversation, smollm2, "tools_async:early=off"), 2, 1)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("get_user_details", True), ("searchFlights", True), ("list-files", True), ("Read", True), ("think", False),
        ("update_reservation", False), ("get_or_create_user", False), ("calculate", False), ("bash", False), ("edit", False),
    ],
)  # fmt: skip
def test_tools_that_only_read_are_told_by_their_names(name: str, reads: bool) -> None:
    assert only_reads(name) is reads
    assert only_reads(name, "bash;think") is (name in ("bash", "think"))
    assert only_reads(name, "*")


def test_results_come_after_their_latency_and_out_of_order(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Both."),
        message("assistant", call("slow", "{}", "a"), call("fast", "{}", "b")),
        message("tool", result("One.", "a")),
        message("tool", result("Two.", "b")),
        message("assistant", "There."),
    )
    record = told(conversation, smollm2, "tools_async:latency=slow:90;*:10")
    (slow,), (fast,) = ([e for e in record["events"] if e["kind"] == "header" and e["call"] == c] for c in (0, 1))
    ends = {e["call"]: e["end"] for e in record["events"] if e["kind"] == "tool_call"}
    assert (slow["start"] - ends[0], fast["start"] - ends[1]) == (90, 10)
    assert fast["start"] < slow["start"]
    assert sorted(rows for _, rows in json.loads(record["labels"])["delays"]) == [10, 90]
    again = told(conversation, smollm2, "tools_async:latency=*:40:0.9,seed=5")
    assert again == told(conversation, smollm2, "tools_async:latency=*:40:0.9,seed=5")
    assert again["rows"] != told(conversation, smollm2, "tools_async:latency=*:40:0.9,seed=6")["rows"]
