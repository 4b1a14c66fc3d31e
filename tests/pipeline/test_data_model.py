"""Properties of the data model: whatever is said, under every policy, through both tokenizers."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import orjson
import pytest
import regex
from conversation_cases import (
    ALIGN,
    QUICK,
    Case,
    Cells,
    by_part,
    cases,
    conversations,
    message,
    said_parts,
    sha256,
    starts_by_the_rule,
    tables_of,
    talk,
    told,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alignment import align, parse_align_spec
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, Part, from_json, group_of, to_json
from pipeline.layout import lay_out
from pipeline.records import Clock, Document, build_tables, encode_spans
from pipeline.records import to_json as records_to_json
from pipeline.timeline import Span, Stream, Timeline
from pipeline.tokenization import TextTokenizer


@QUICK
@given(cases)
def test_every_part_is_told_once_and_its_events_join_to_its_text(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    joined = {where: "".join(e["text"] for e in events) for where, events in by_part(record).items()}
    assert joined == said_parts(case.conversation)
    assert {(p["message"], p["part"]): p["sha256"] for p in record["parts"]} == {
        k: sha256(t) for k, t in joined.items()
    }
    assert len(record["parts"]) == len(joined)


@QUICK
@given(cases)
def test_the_cells_of_an_event_decode_to_its_text(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, cells = told(case, tokenizer)
    for event in record["events"]:
        assert tokenizer.decode(cells.text_ids(event)) == event["text"]


@QUICK
@given(cases)
def test_a_part_is_encoded_whole_wherever_it_is_cut(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, cells = told(case, tokenizer)
    for events in by_part(record).values():
        text = "".join(e["text"] for e in events)
        assert [i for e in events for i in cells.text_ids(e)] == tokenizer.encode([text]).ids.tolist()


@QUICK
@given(cases)
def test_no_check_finds_anything_in_what_was_built(tokenizer: TextTokenizer, case: Case) -> None:
    tables, _, _ = told(case, tokenizer)
    assert record_violations(tables.records) == []
    assert token_violations(tables.records, tables.tokens, tokenizer) == []


@QUICK
@given(cases)
def test_events_split_no_character(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    for events in by_part(record).values():
        text = "".join(e["text"] for e in events)
        boundaries = {0, *(m.end() for m in regex.finditer(r"\X", text))}
        assert boundaries.issuperset(accumulate(len(e["text"]) for e in events))


@QUICK
@given(cases)
def test_an_event_has_a_row_per_token_and_one_more_if_it_ends_its_message(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, cells = told(case, tokenizer)
    assert len(cells.ids) == sum(e["end"] - e["start"] for e in record["events"])
    for (m, p), events in by_part(record).items():
        counts = [e["end"] - e["start"] - e["final"] for e in events]
        assert sum(counts) == len(tokenizer.encode(["".join(e["text"] for e in events)]).ids)
        interrupted = m is not None and p is not None and case.conversation.messages[m].parts[p].interrupted
        assert [e["final"] for e in events] == [False] * (len(events) - 1) + [not interrupted]
        assert [e["interrupted"] for e in events] == [False] * (len(events) - 1) + [interrupted]
        assert all(count > 0 for count in counts) or len(counts) == 1
    assert record["rows"] == max(e["end"] for e in record["events"])


@QUICK
@given(cases)
def test_rows_follow_the_layout_rule(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    assert [e["start"] for e in record["events"]] == starts_by_the_rule(record)
    assert [(e["start"], e["stream"]) for e in record["events"]] == sorted(
        (e["start"], e["stream"]) for e in record["events"]
    )


@QUICK
@given(cases)
def test_structural_ids_never_come_from_text_and_every_message_ends_once(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, cells = told(case, tokenizer)
    special = {tokenizer.bos_id, tokenizer.eom_id, tokenizer.silence_id}
    for event in record["events"]:
        assert special.isdisjoint(cells.text_ids(event))
        if event["final"]:
            assert cells.of(event)[-1] == tokenizer.eom_id
    assert cells.ids.count(tokenizer.eom_id) == sum(e["final"] for e in record["events"])


@QUICK
@given(cases)
def test_one_row_holds_at_most_one_token_of_a_stream_and_cells_are_row_major(
    tokenizer: TextTokenizer, case: Case
) -> None:
    _, _, cells = told(case, tokenizer)
    assert cells.places == sorted(set(cells.places))


@QUICK
@given(cases)
def test_what_is_trained_is_what_the_model_says_with_weight(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, cells = told(case, tokenizer)
    loss = dict(zip(cells.places, cells.loss, strict=True))
    for event in record["events"]:
        trained = record["streams"][event["stream"]]["direction"] == "output" and event["weight"] > 0
        rows = range(event["start"], event["end"])
        assert {loss[row, event["stream"]] & 1 for row in rows} <= {int(trained)}
        cut_off = event["interrupted"] and record["streams"][event["stream"]]["direction"] == "output"
        assert [bool(loss[row, event["stream"]] & 2) for row in rows][-1:] == [cut_off][: len(rows)]


@QUICK
@given(conversations, st.sampled_from([0, 1]))
def test_under_turns_nothing_is_said_before_all_earlier_messages_have_ended(
    tokenizer: TextTokenizer, conversation: Conversation, lag: int
) -> None:
    _, record, _ = told(Case(conversation, "turns", "first", lag), tokenizer)
    events = [e for e in record["events"] if e["message"] is not None]
    for event in events:
        for other in events:
            if other["message"] < event["message"]:
                assert event["start"] >= other["end"] + (lag if other["stream"] != event["stream"] else 0)


@QUICK
@given(cases)
def test_an_input_waits_for_all_that_its_author_had_read(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    calls = {e["call"]: e for e in record["events"] if e["kind"] == "tool_call"}
    for event in record["events"]:
        if record["streams"][event["stream"]]["direction"] == "output" or event["message"] is None:
            continue
        own_call = calls.get(event["call"]) if event["call"] is not None else None
        if "tools_async" in case.align and own_call is not None:
            waits_for = [own_call]
        else:
            waits_for = [e for e in record["events"] if e["message"] is not None and e["message"] < event["message"]]
        for other in waits_for:
            assert event["start"] >= other["end"] + (case.lag if other["stream"] != event["stream"] else 0)


@QUICK
@given(cases.filter(lambda case: "evidence" not in case.align))
def test_without_evidence_no_output_starts_before_its_input_has_ended(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    directions = [s["direction"] for s in record["streams"]]
    for event in record["events"]:
        for other in record["events"]:
            if (
                directions[event["stream"]] == "output"
                and directions[other["stream"]] == "input"
                and other["message"] is not None
                and other["message"] < event["message"]
            ):
                assert event["start"] >= other["end"] + case.lag


@QUICK
@given(cases)
def test_the_system_stream_comes_first_in_every_policy(tokenizer: TextTokenizer, case: Case) -> None:
    conversation = replace(case.conversation, messages=(message("system", "Be brief."), *case.conversation.messages))
    _, record, _ = told(replace(case, conversation=conversation), tokenizer)
    (first,) = by_part(record)[0, 0]
    assert (first["stream"], first["start"]) == (0, 0)
    assert all(e["start"] >= first["end"] for e in record["events"] if e is not first)


@QUICK
@given(st.lists(conversations, min_size=1, max_size=4), st.sampled_from(ALIGN), st.sampled_from([0, 1]))
def test_a_record_does_not_depend_on_its_batch_and_is_the_same_every_time(
    smollm2: TextTokenizer, batch: list[Conversation], spec: str, lag: int
) -> None:
    together, again = tables_of(batch, spec, smollm2, lag), tables_of(batch, spec, smollm2, lag)
    assert together.records.equals(again.records)
    assert together.tokens.equals(again.tokens)
    alone = [tables_of([c], spec, smollm2, lag) for c in batch]
    assert together.records.to_pylist() == [row for t in alone for row in t.records.to_pylist()]
    assert together.tokens.to_pylist() == [row for t in alone for row in t.tokens.to_pylist()]


@QUICK
@given(cases)
def test_the_timeline_rebuilt_from_a_record_is_laid_out_on_the_same_rows(tokenizer: TextTokenizer, case: Case) -> None:
    _, record, _ = told(case, tokenizer)
    timeline, order = _timeline_of(record)
    laid = lay_out(timeline, tokenizer.encode([s.text for s in timeline.spans]), 0, record["clock"]["lag"])
    assert len(laid.start) == len(order)
    for i, event in enumerate(order):
        assert (laid.start[i], laid.end[i]) == (record["events"][event]["start"], record["events"][event]["end"])


def _timeline_of(record: dict[str, Any]) -> tuple[Timeline, list[int]]:
    """A timeline with the record's events as chunks, stream by stream, and the event of each chunk."""
    events = record["events"]
    order = sorted(range(len(events)), key=lambda i: (events[i]["stream"], i))
    place = {event: chunk for chunk, event in enumerate(order)}
    keys = [
        (events[i]["stream"], events[i]["message"], events[i]["part"], events[i]["kind"] == "header") for i in order
    ]
    spans: list[Span] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    for chunk, i in enumerate(order):
        event = events[i]
        if chunk == 0 or keys[chunk] != keys[chunk - 1]:
            spans.append(Span(event["stream"], event["message"], event["part"], event["kind"], "", ends=event["final"]))
        spans[-1] = replace(spans[-1], text=spans[-1].text + event["text"], ends=event["final"])
        chunk_span.append(len(spans) - 1)
        chunk_end.append(len(spans[-1].text))
    after = [tuple(sorted(place[a] for a in events[i]["after"])) for i in order]
    return Timeline(tuple(Stream(**s) for s in record["streams"]), tuple(spans), chunk_span, chunk_end, after), order


@QUICK
@given(conversations)
def test_a_conversation_survives_its_json_form(conversation: Conversation) -> None:
    value = orjson.loads(orjson.dumps(to_json(conversation)))
    assert from_json(value) == replace(conversation, group=group_of(conversation))


@QUICK
@given(conversations, st.sampled_from(ALIGN))
def test_alignment_only_takes_waits_away(smollm2: TextTokenizer, conversation: Conversation, spec: str) -> None:
    def start_of_parts(align_spec: str) -> dict[Any, int]:
        record = next(records_to_json(tables_of([conversation], align_spec, smollm2).records))
        return {where: events[0]["start"] for where, events in by_part(record).items()}

    baseline, aligned = start_of_parts("turns"), start_of_parts(spec)
    assert all(aligned[where] <= start for where, start in baseline.items())


def test_an_empty_result_is_one_end_of_message_cell_and_an_empty_message_is_no_event(tokenizer: TextTokenizer) -> None:
    asked = message("assistant", Part("tool_call", "{}", name="f"))
    conversation = talk(
        message("user", "Go."), asked, message("tool", Part("tool_result", "")), message("assistant", "")
    )
    timeline, silent = align(conversation, parse_align_spec("turns"))
    assert silent == [3]
    assert {s.message for s in timeline.spans} == {0, 1, 2}
    _, record, cells = told(Case(conversation, "turns", "first", 0), tokenizer)
    (empty,) = by_part(record)[2, 0]
    assert (empty["text"], cells.of(empty)) == ("", [tokenizer.eom_id])


def test_results_open_with_a_header_of_name_and_ordinal_that_is_no_part(tokenizer: TextTokenizer) -> None:
    calls = message(
        "assistant", Part("tool_call", "1", name="f", call_id="x"), Part("tool_call", "2", name="g", call_id="x")
    )
    conversation = talk(
        calls,
        message("tool", Part("tool_result", "one", call_id="x")),
        message("tool", Part("tool_result", "two", call_id="x")),
    )
    _, record, cells = told(Case(conversation, "turns", "first", 0), tokenizer)
    headers = [e for e in record["events"] if e["kind"] == "header"]
    # Reused ids pair with the nearest open call.
    assert [(e["text"], e["call"], e["final"]) for e in headers] == [("g#1", 1, False), ("f#0", 0, False)]
    assert all(e["weight"] == 0 for e in headers)
    assert len(record["parts"]) == 4
    loss = dict(zip(cells.places, cells.loss, strict=True))
    assert not any(loss[row, e["stream"]] for e in headers for row in range(e["start"], e["end"]))


def test_tool_streams_are_slots_as_many_as_calls_are_in_flight(smollm2: TextTokenizer) -> None:
    def ask(*ids: str) -> Any:
        return message("assistant", *(Part("tool_call", "{}", name="f", call_id=i) for i in ids))

    def answer(call_id: str) -> Any:
        return message("tool", Part("tool_result", "r", call_id=call_id))

    one_at_a_time = talk(*(m for i in "abcd" for m in (ask(i), answer(i))))
    two_at_once = talk(ask("a", "b"), answer("b"), ask("c"), answer("a"), answer("c"), ask("d"))
    for conversation, slots in ((one_at_a_time, ["tool/0"]), (two_at_once, ["tool/0", "tool/1"])):
        record = next(records_to_json(tables_of([conversation], "turns", smollm2).records))
        assert [s["name"] for s in record["streams"] if s["role"] == "tool"] == slots


def test_look_alikes_of_special_tokens_stay_text(tokenizer: TextTokenizer) -> None:
    text = "<|im_start|>user<|im_end|><|endoftext|><|begin_of_text|><|eot_id|> - <repo_name>"
    tables = tables_of([talk(message("user", "Hi"), message("assistant", text))], "turns", tokenizer)
    record, cells = next(records_to_json(tables.records)), Cells(tables.tokens, 0)
    (answer,) = by_part(record)[1, 0]
    assert tokenizer.decode(cells.text_ids(answer)) == text
    assert {tokenizer.bos_id, tokenizer.eom_id, tokenizer.silence_id}.isdisjoint(cells.text_ids(answer))


@pytest.mark.parametrize("change", ["text", "role", "tools", "weight", "name"])
def test_the_conversation_id_depends_on_what_is_said_and_not_on_where_it_stood(
    change: str, smollm2: TextTokenizer
) -> None:
    base = talk(message("user", "Hi"), message("assistant", "Hello"))
    changed = {
        "text": talk(message("user", "Hi!"), message("assistant", "Hello")),
        "role": talk(message("system", "Hi"), message("assistant", "Hello")),
        "tools": replace(base, tools="[]"),
        "weight": talk(message("user", "Hi"), message("assistant", "Hello", weight=0.5)),
        "name": talk(message("user", "Hi", name="ann"), message("assistant", "Hello")),
    }[change]
    here, elsewhere, other = (
        tables_of([c], "turns", smollm2).records.to_pylist()[0]
        for c in (replace(base, extra={"a": 1}), replace(base, extra={"b": 2}), changed)
    )
    assert here["conversation_id"] == elsewhere["conversation_id"] != other["conversation_id"]


def test_the_record_id_depends_on_alignment_tokenizer_lag_and_source(
    smollm2: TextTokenizer, llama3: TextTokenizer
) -> None:
    from pipeline.conversation import Source

    base = talk(message("user", "Hi"), message("assistant", "Hello"))
    moved = replace(base, sources=(Source("c", "f", 3, None, None, "0" * 64),))
    tables = [
        tables_of([base], "turns", smollm2), tables_of([base], "thinking", smollm2), tables_of([base], "turns", llama3),
        tables_of([base], "turns", smollm2, lag=1), tables_of([moved], "turns", smollm2),
        tables_of([base], "evidence", smollm2), tables_of([base], "evidence:min_coverage=0.7", smollm2),
    ]  # fmt: skip
    ids = [t.records.column("id")[0].as_py() for t in tables]
    assert len(set(ids)) == len(ids)
    assert len({t.records.column("conversation_id")[0].as_py() for t in tables}) == 1


def test_text_that_the_tokenizer_has_no_tokens_for_is_refused_and_never_thinned(
    smollm2: TextTokenizer, llama3: TextTokenizer
) -> None:
    spec = parse_align_spec("turns")
    odd, plain = talk(message("user", "one\x04two\U00040000")), talk(message("user", "one"))
    documents = [Document(c, align(c, spec)[0], spec) for c in (odd, plain)]
    timelines = [d.timeline for d in documents]
    tables = build_tables(documents, Clock(smollm2), *encode_spans(timelines, smollm2))
    ((index, error),) = tables.failed
    assert (index, error.code, tables.records.num_rows, tables.tokens.num_rows) == (0, "unencodable", 1, 1)
    assert "U+0004, U+40000" in str(error)
    assert not build_tables(documents, Clock(llama3), *encode_spans(timelines, llama3)).failed
