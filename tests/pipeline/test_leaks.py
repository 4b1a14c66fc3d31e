"""The lexical leak detector: what was said before it could be read is found, with evidence, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from conversation_cases import (
    QUICK,
    Case,
    call,
    cases,
    conversations,
    message,
    replace_events,
    result,
    tables_of,
    talk,
    thought,
    told,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline import alignment, leaks
from pipeline.conversation import Conversation
from pipeline.convert import ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.tokenization import TextTokenizer


def moved(table: pa.Table, text: str, start: int = 0) -> pa.Table:
    """The table with the event of that text (the last one) moved to a row."""

    def move(events: list[dict[str, Any]]) -> None:
        event = [e for e in events if text in e["text"]][-1]
        event["start"], event["end"] = start, start + event["end"] - event["start"]

    return replace_events(table, 0, move)


def evidence_of(table: pa.Table) -> list[tuple[str, str, str]]:
    """(verdict, what was said too early, where it stood) of every piece of evidence."""
    record = next(to_json(table))
    return [(f.verdict, key, record["events"][at]["text"]) for f in leaks.lexical(table) for key, at in f.evidence]


def verdicts(table: pa.Table) -> list[str]:
    return [f.verdict for f in leaks.lexical(table)]


QUESTION = "The order number is 7731, shipped to Lisbon."


@pytest.mark.parametrize(
    ("source", "answer", "key"),
    [
        (QUESTION, "Order 7731 is on its way.", "7731"),
        (QUESTION, "It went to Lisbon.", "lisbon"),
        ("The id is user_ab12.", "I found user_ab12.", "user_ab12"),
        ("Call get_flight_status now.", "I use get_flight_status.", "get_flight_status"),
        ("It costs 1,250.50 dollars.", "That is 1250.5 dollars.", "1250.5"),
        ("Write to ann@example.org.", "I wrote to ann@example.org.", "ann@example.org"),
        ("He said that 'grumpy cats' rule.", 'You said "grumpy cats" rule.', "grumpy"),
        (
            "the quick brown fox jumps over lazy dogs",
            "he sees the quick brown fox jumps over it",
            "the quick brown fox",
        ),
        ("明天下午三點在台北車站南門見面吧", "好，明天下午三點在台北車站南門", "明天下午三點在台"),
        ("El envío sale el 2024-05-20.", "Sale el 2024-05-20.", "2024-05-20"),
    ],
)
def test_what_is_said_before_it_was_read_is_a_leak_with_the_evidence_quoted(
    smollm2: TextTokenizer, source: str, answer: str, key: str
) -> None:
    table = tables_of([talk(message("user", source), message("assistant", answer))], "turns", smollm2).records
    assert leaks.lexical(table) == []
    assert ("leak", key, source) in evidence_of(moved(table, answer))


@pytest.mark.parametrize(
    "conversation",
    [
        talk(message("user", QUESTION), message("assistant", thought("Hm."), call("track", "7731"))),
        talk(
            message("user", "Look it up."),
            message("assistant", call("f", "{}")),
            message("tool", result("No. 7731")),
            message("assistant", "It is 7731."),
        ),
        talk(message("system", "Your number is 7731."), message("user", "Which?"), message("assistant", "7731.")),
        talk(message("user", "Why?"), message("assistant", thought("I count 7731 cells."), "There are 7731 cells.")),
        talk(message("user", QUESTION), message("assistant", thought("It is order 7731."), "Wait.")),
    ],
    ids=["a call", "a tool result", "the system message", "a thought behind its answer", "a thought"],
)
def test_every_kind_of_reading_and_speaking_counts(smollm2: TextTokenizer, conversation: Conversation) -> None:
    table = tables_of([conversation], "turns", smollm2).records
    assert leaks.lexical(table) == []
    speaking = [e["text"] for e in next(to_json(table))["events"] if "7731" in e["text"]][-1]
    assert [key for verdict, key, _ in evidence_of(moved(table, speaking)) if verdict == "leak"] == ["7731"]


def test_a_number_that_the_author_brought_in_himself_is_no_leak(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Guess."),
        message("assistant", "I say 7731."),
        message("user", "Why 7731?"),
        message("assistant", "7731 is a prime guess."),
    )
    table = tables_of([conversation], "turns", smollm2).records
    first = moved(table, "I say 7731.", 0)
    assert evidence_of(first) == []
    # Moved before the user's repetition, but after his own words: he knew it.
    again = moved(table, "7731 is a prime guess.", next(to_json(table))["events"][1]["end"])
    assert (verdicts(again), evidence_of(again)) == (["clear"], [])
    # Before his own words too: then it is one.
    assert [key for _, key, _ in evidence_of(moved(table, "7731 is a prime guess.", 0))] == ["7731"]


def test_a_number_nobody_else_mentions_is_no_leak(smollm2: TextTokenizer) -> None:
    table = tables_of(
        [talk(message("user", QUESTION), message("assistant", "Roughly 42 days."))], "turns", smollm2
    ).records
    assert verdicts(moved(table, "Roughly 42 days.")) == ["clear"]


def test_common_words_and_numbers_of_a_list_are_no_evidence(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Give me 2 of the things that you would have"),
        message("assistant", "1. this\n2. that of the things that you would"),
    )
    table = tables_of([conversation], "turns", smollm2).records
    assert verdicts(moved(table, "1. this")) == ["clear"]


def test_one_earlier_mention_that_has_been_read_is_enough(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("system", "Orders: 7731."), message("user", "What about 7731?"), message("assistant", "7731 is late.")
    )
    table = tables_of([conversation], "turns", smollm2).records
    assert verdicts(moved(table, "7731 is late.", next(to_json(table))["events"][0]["end"])) == ["clear"]


@pytest.mark.parametrize(("lag", "verdict"), [(0, []), (1, ["leak"])])
def test_under_lag_the_row_in_which_a_word_ends_is_too_early(
    smollm2: TextTokenizer, lag: int, verdict: list[str]
) -> None:
    table = tables_of(
        [talk(message("user", QUESTION), message("assistant", "Order 7731."))], "turns", smollm2, lag
    ).records
    read = next(to_json(table))["events"][0]["end"]
    assert verdicts(moved(table, "Order 7731.", read)) == verdict


def test_without_a_source_order_later_input_counts_as_weaker_evidence(smollm2: TextTokenizer) -> None:
    table = tables_of([talk(message("assistant", "Order 7731."), message("user", QUESTION))], "turns", smollm2).records
    assert leaks.lexical(table) == []

    def forget_order(events: list[dict[str, Any]]) -> None:
        for event in events:
            event["message"] = event["part"] = None

    assert [(v, k) for v, k, _ in evidence_of(replace_events(table, 0, forget_order))] == [("weak", "7731")]


@QUICK
@given(st.integers(1000, 10**9), st.sampled_from(["user", "tool", "system"]), st.integers(0, 3))
def test_every_planted_number_is_found(smollm2: TextTokenizer, number: int, role: str, fillers: int) -> None:
    text = f"The value is {number} units."
    source = (
        [message("assistant", call("f", "{}")), message("tool", result(text))]
        if role == "tool"
        else [message(role, text)]
    )
    between = [
        m for i in range(fillers) for m in (message("user", f"And then{'?' * i}"), message("assistant", "Well."))
    ]
    conversation = talk(*source, *between, message("assistant", f"So we have {number}."))
    table = tables_of([conversation], "turns", smollm2).records
    found = evidence_of(moved(table, "So we have"))
    assert found == [("leak", str(number), text)]


@QUICK
@given(st.lists(conversations, min_size=1, max_size=3), st.sampled_from([0, 1]))
def test_clean_turns_have_nothing_to_find(smollm2: TextTokenizer, batch: list[Conversation], lag: int) -> None:
    assert leaks.lexical(tables_of(batch, "turns", smollm2, lag).records) == []


@QUICK
@given(cases)
def test_no_policy_says_before_it_was_read_what_can_be_proven_so(smollm2: TextTokenizer, case: Case) -> None:
    tables, _, _ = told(case, smollm2)
    assert [f for f in leaks.lexical(tables.records) if f.verdict != "clear"] == []


def test_a_finding_does_not_depend_on_the_batch(smollm2: TextTokenizer) -> None:
    leaking = moved(
        tables_of([talk(message("user", QUESTION), message("assistant", "Order 7731."))], "turns", smollm2).records,
        "Order",
    )
    clean = tables_of([talk(message("user", "7731 7731"), message("assistant", "7731"))], "turns", smollm2).records
    found = leaks.lexical(pa.concat_tables([clean, leaking, clean, leaking]))
    assert [(f.record, f.event, f.verdict) for f in found] == [(1, 1, "leak"), (3, 1, "leak")]


def test_verdicts_are_stored_with_their_events_and_change_nothing_else(smollm2: TextTokenizer) -> None:
    table = moved(
        tables_of([talk(message("user", QUESTION), message("assistant", "Order 7731."))], "turns", smollm2).records,
        "Order",
    )
    marked = leaks.with_verdicts(table, leaks.lexical(table))
    assert [e["lexical"] for e in marked.to_pylist()[0]["events"]] == [None, "leak"]
    assert leaks.with_verdicts(marked, []).equals(table)


def placed_by(table: pa.Table, policy: str) -> pa.Table:
    """The table with that policy as what placed its records."""
    rows = table.to_pylist()
    for row in rows:
        row["alignment"]["policy"] = policy
    return pa.Table.from_pylist(rows, schema=table.schema)


def at_rows(table: pa.Table, *starts: int) -> pa.Table:
    """The table with the events of its record moved to these rows, in their order."""

    def move(events: list[dict[str, Any]]) -> None:
        for event, start in zip(events, starts, strict=True):
            event["start"], event["end"] = start, start + event["end"] - event["start"]

    return replace_events(table, 0, move)


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [("evidence", ["leak"]), ("synth/teacher", []), ("synth/table", []), ("synth/concurrent", [])],
)
def test_a_thought_is_no_reading_of_what_was_written_anew(
    smollm2: TextTokenizer, policy: str, verdict: list[str]
) -> None:
    conversation = talk(
        message("user", "Why?"), message("assistant", thought("I count 7731 cells."), "There are 7731 cells.")
    )
    table = tables_of([conversation], "turns", smollm2).records
    end = next(to_json(table))["events"][0]["end"]
    assert verdicts(placed_by(at_rows(table, 0, end, end), policy)) == verdict


@pytest.mark.parametrize("policy", ["evidence", "synth/teacher", "synth/table"])
def test_the_order_of_messages_holds_for_what_is_read(smollm2: TextTokenizer, policy: str) -> None:
    table = tables_of([talk(message("user", QUESTION), message("assistant", "Order 7731."))], "turns", smollm2).records
    assert verdicts(placed_by(at_rows(table, 0, 0), policy)) == ["leak"]


def test_of_slices_the_order_is_that_of_the_start_rows(smollm2: TextTokenizer) -> None:
    table = tables_of([talk(message("user", QUESTION), message("assistant", "Order 7731."))], "turns", smollm2).records
    sliced = placed_by(table, "synth/concurrent")
    # In one slice nobody has heard the other; who starts while the other speaks has heard the beginning.
    assert verdicts(at_rows(sliced, 0, 0)) == []
    assert verdicts(at_rows(sliced, 0, 1)) == ["leak"]
    assert verdicts(sliced) == []


def test_streams_of_one_slice_start_as_far_apart_as_the_lag(smollm2: TextTokenizer) -> None:
    conversation = talk(message("user", QUESTION), message("assistant", "Order 7731."))
    sliced = placed_by(tables_of([conversation], "turns", smollm2, 1).records, "synth/concurrent")
    assert verdicts(at_rows(sliced, 0, 1)) == []
    assert verdicts(at_rows(sliced, 0, 2)) == ["leak"]


@dataclass(frozen=True)
class _NoParams:
    """A policy without parameters."""


def _wait_for_nothing(batch: Any, params: _NoParams) -> None:
    for plan in batch.plans:
        plan.requires[:] = [0] * len(plan.requires)


def test_a_record_in_which_a_policy_leaks_is_laid_out_under_turns_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(
        NAME="blind", Params=_NoParams, prepare=lambda *_: None, cuts=lambda *_: {}, relax=_wait_for_nothing
    )
    monkeypatch.setitem(alignment.POLICIES, "blind", blind)  # type: ignore[arg-type]
    raws = [
        b'{"messages": [{"role": "user", "content": "Order 7731?"}, {"role": "assistant", "content": "7731 is late."}]}',
        b'{"messages": [{"role": "user", "content": "Tell me a joke"}, {"role": "assistant", "content": "Knock knock."}]}',
    ]
    units = [
        {
            "corpus": "c",
            "path": "p",
            "index": i,
            "format": "openai_messages",
            "license": None,
            "key": None,
            "sha256": "0" * 64,
            "raw": raw,
        }
        for i, raw in enumerate(raws)
    ]
    batch = Converter(ConvertConfig(align="blind")).convert(units)
    leaked, overlapped = to_json(batch.records)
    assert (leaked["alignment"]["policy"], overlapped["alignment"]["policy"]) == ("turns", "blind")
    assert leaked["labels"] == '{"realigned":{"from":"blind","reason":"lexical leak"}}'
    assert [e["start"] for e in overlapped["events"]] == [0, 0]
    assert [e["lexical"] for e in overlapped["events"]] == [None, "clear"]
    assert (batch.counts.realigned, batch.counts.leaks, batch.counts.overlapped) == (1, 0, 1)
    assert leaks.lexical(batch.records.slice(0, 1)) == []
