"""What holds of every policy and of their combinations, whatever is said: text, order, causes, rows; and no leak."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from conversation_cases import (
    QUICK,
    by_part,
    call,
    conversations,
    message,
    part_text,
    result,
    said_parts,
    starts_by_the_rule,
    thought,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alignment import POLICIES, align_all, parse_align_spec
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, Message
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.tokenization import TextTokenizer, token_ends

LATENCY = "tools_async:latency=search:30:1;get_user:3;*:12:0.5"
SPECS = (
    "turns",
    "thinking",
    "thinking:min_coverage=0,chunk=paragraph",
    "evidence",
    "evidence:over=all,min_coverage=0",
    "evidence:over=data,min_coverage=0.5,chunk=paragraph",
    "tools_async",
    "tools_async:early=any,reads=*",
    "tools_async:early=off",
    LATENCY,
    "tools_async:latency=log",
    "wait_k",
    "wait_k:k=2,chunk=token",
    "wait_k:k=1,chunk=paragraph",
    "timestamps",
    "timestamps:generation=idle,max_idle_ms=100",
    "thinking+evidence+tools_async",
    "thinking:min_coverage=0+evidence:min_coverage=0,over=all",
    "thinking:min_coverage=0+evidence:min_coverage=0,over=all+tools_async:early=any,reads=*",
    f"thinking+evidence+{LATENCY}",
    "thinking+wait_k",
    "evidence:over=all+wait_k",
    "tools_async+wait_k",
    f"{LATENCY}+timestamps",
    "thinking+evidence+tools_async+wait_k+timestamps",
)
#: Policies that speak themselves are looked at in tests of their own, and ``information`` needs a scorer.
ELSEWHERE = {"audit", "monitor", "information"}

_IDS = ("HAT001", "HAT002", "ann_42", "bob_7", "Paris", "1250", "2024-05-20")


@st.composite
def lookups(draw: st.DrawFn) -> Conversation:
    """Turns in which tools are asked one after the other and at once, with what earlier results told, and fail sometimes."""
    messages: list[Message] = [message("user", f"Tell me about {draw(st.sampled_from(_IDS))}.")]
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        names = draw(
            st.lists(st.sampled_from(["search", "get_user", "get_price", "book_flight"]), min_size=1, max_size=3)
        )
        calls = []
        for name in names:
            calls.append(call(name, json.dumps({"id": draw(st.sampled_from(_IDS))}), f"c{number}"))
            number += 1
        said = draw(st.sampled_from(["", "", "I look that up.", "First HAT001, then ann_42."]))
        thinks = [thought(f"Maybe {draw(st.sampled_from(_IDS))} helps.")] if draw(st.booleans()) else []
        messages.append(message("assistant", *thinks, *([said] if said else []), *calls))
        for asked in draw(st.permutations(calls)):
            told = draw(st.lists(st.sampled_from(_IDS), max_size=3))
            lines = "\n".join(f"{item} costs {draw(st.sampled_from(['51', '93', 'nothing']))}." for item in told)
            answer = result(lines, asked.call_id)
            messages.append(message("tool", replace(answer, error=draw(st.integers(0, 5)) == 0)))
        if draw(st.integers(0, 3)) == 0:
            messages.append(message("user", "Go on."))
    known = " ".join(f"{item} costs 51." for item in draw(st.lists(st.sampled_from(_IDS), max_size=3)))
    messages.append(message("assistant", f"{known} That is all."))
    return _timed(draw, messages)


def _timed(draw: st.DrawFn, messages: list[Message]) -> Conversation:
    now = 0
    told = []
    for one in messages:
        now += draw(st.sampled_from([0, 40, 900, 5000, -100]))
        ended = draw(st.sampled_from([None, None, now + 300]))
        told.append(replace(one, started_ms=draw(st.sampled_from([now, now, None])), ended_ms=ended))
    return Conversation(tuple(told))


everything = conversations | lookups()


def tables(told: Conversation, spec: str, tokenizer: TextTokenizer, lag: int = 0, question: str = "first") -> Tables:
    """What the policies make of a conversation, as it is: no leak is mended."""
    parsed = parse_align_spec(spec, question)  # type: ignore[arg-type]
    (found,) = align_all([told], parsed, Resources(partial(token_ends, tokenizer)))
    document = Document(told, found.timeline, found.spec, labels=found.labels, ms_per_row=found.ms_per_row)
    encoded, first = encode_spans([found.timeline], tokenizer)
    return build_tables([document], Clock(tokenizer, lag), encoded, first)


def with_delays(record: dict[str, Any]) -> list[int]:
    """Where events would start by the rule alone: each as late as it is, its delay taken into account."""
    events, lag = record["events"], record["clock"]["lag"]
    delays = dict(json.loads(record["labels"]).get("delays", []))
    free: dict[int, int] = {}
    due = []
    for i, event in enumerate(events):
        start = free.get(event["stream"], 0)
        for other in event["after"]:
            same = events[other]["stream"] == event["stream"]
            start = max(start, events[other]["end"] + (0 if same else lag))
        due.append(start + delays.get(i, 0))
        free[event["stream"]] = event["end"]
    return due


def test_every_policy_is_tried() -> None:
    tried = {name for spec in SPECS for name, _ in parse_align_spec(spec).policies}
    assert tried | ELSEWHERE >= set(POLICIES)


@pytest.mark.parametrize("spec", SPECS)
@settings(QUICK, max_examples=40)
@given(everything, st.sampled_from([0, 0, 1]), st.sampled_from(["first", "first", "last"]))
def test_whatever_the_policy_text_and_causes_are_kept_and_nothing_leaks(
    smollm2: TextTokenizer, spec: str, conversation: Conversation, lag: int, question: str
) -> None:
    found = tables(conversation, spec, smollm2, lag, question)
    assert not found.failed
    (record,) = to_json(found.records)
    assert {k: "".join(e["text"] for e in events) for k, events in by_part(record).items()} == said_parts(conversation)
    assert record_violations(found.records) == []
    assert token_violations(found.records, found.tokens, smollm2) == []
    assert [e["start"] for e in record["events"]] == with_delays(record)
    if "delays" not in json.loads(record["labels"]):
        assert [e["start"] for e in record["events"]] == starts_by_the_rule(record)
    assert [f for f in lexical(found.records) if f.verdict != "clear"] == []


@pytest.mark.parametrize("spec", SPECS)
@settings(QUICK, max_examples=15)
@given(everything)
def test_the_same_conversation_is_told_the_same_way_also_beside_others(
    smollm2: TextTokenizer, spec: str, conversation: Conversation
) -> None:
    parsed, resources = parse_align_spec(spec), Resources(partial(token_ends, smollm2))
    other = Conversation((message("user", "HAT001 costs 51."), message("assistant", thought("So."), "It costs 51.")))
    (alone,) = align_all([conversation], parsed, resources)
    (_, beside, _) = align_all([other, conversation, other], parsed, resources)
    assert (alone.timeline, alone.labels, alone.silent) == (beside.timeline, beside.labels, beside.silent)


@pytest.mark.parametrize("spec", SPECS)
@settings(QUICK, max_examples=25)
@given(everything)
def test_no_input_precedes_what_its_author_reacts_to(
    smollm2: TextTokenizer, spec: str, conversation: Conversation
) -> None:
    """Users and systems wait for all before them (but a user by the times of a log); a result waits for its call."""
    (record,) = to_json(tables(conversation, spec, smollm2).records)
    calls = {e["call"]: e for e in record["events"] if e["kind"] == "tool_call"}
    for event in record["events"]:
        if event["kind"] in ("header", "tool_result") and event["call"] is not None:
            assert event["start"] >= calls[event["call"]]["end"]
        if "timestamps" in spec or event["message"] is None:
            continue
        role = record["streams"][event["stream"]]["role"]
        if role in ("system", "user"):
            earlier = [
                e["end"] for e in record["events"] if e["message"] is not None and e["message"] < event["message"]
            ]
            assert event["start"] >= max(earlier, default=0)


@settings(QUICK, max_examples=60)
@given(lookups(), st.sampled_from([LATENCY, f"thinking+evidence+{LATENCY}", "tools_async:latency=*:9:0.7,early=any"]))
def test_results_come_their_latency_after_their_call_in_whatever_order(
    smollm2: TextTokenizer, conversation: Conversation, spec: str
) -> None:
    (record,) = to_json(tables(conversation, spec, smollm2).records)
    events = record["events"]
    delays = dict(json.loads(record["labels"]).get("delays", []))
    headers = [(i, e) for i, e in enumerate(events) if e["kind"] == "header" and e["call"] is not None]
    calls = {e["call"]: e for e in events if e["kind"] == "tool_call"}
    for i, header in headers:
        assert header["start"] >= calls[header["call"]]["end"] + delays.get(i, 0)
    assert all(events[i]["kind"] == "header" for i in delays)


@settings(QUICK, max_examples=40)
@given(lookups())
def test_what_policies_let_overlap_saves_rows_and_loses_none(
    smollm2: TextTokenizer, conversation: Conversation
) -> None:
    rows = {
        spec: tables(conversation, spec, smollm2).records.column("rows")[0].as_py()
        for spec in ("turns", "tools_async:early=off", "tools_async", "evidence", "evidence+tools_async", "wait_k")
    }
    assert rows["turns"] == max(rows.values())
    assert rows["tools_async"] <= rows["tools_async:early=off"]
    spoken = sum(len(smollm2.encode([part_text(p)]).ids) for m in conversation.messages for p in m.parts)
    assert spoken <= rows["turns"]
