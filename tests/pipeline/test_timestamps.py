"""timestamps: gaps become rows, interruptions stay as they happened, and nothing is said before it was read."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from conversation_cases import (
    QUICK,
    by_part,
    call,
    conversations,
    events_on,
    message,
    result,
    said_parts,
    talk,
    thought,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from pipeline.alignment import AlignmentError, align_all, parse_align_spec, timestamps
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Part
from pipeline.convert import ConvertConfig, Converter
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.tokenization import TextTokenizer


def tables(told: list[Conversation], spec: str, tokenizer: TextTokenizer) -> Tables:
    found = align_all(told, parse_align_spec(spec), Resources())
    documents = [
        Document(c, a.timeline, a.spec, labels=a.labels, ms_per_row=a.ms_per_row)
        for c, a in zip(told, found, strict=True)
    ]
    encoded, first = encode_spans([d.timeline for d in documents], tokenizer)
    return build_tables(documents, Clock(tokenizer), encoded, first)


def record(conversation: Conversation, tokenizer: TextTokenizer, spec: str = "timestamps") -> dict[str, Any]:
    found = tables([conversation], spec, tokenizer)
    assert record_violations(found.records) == []
    assert [f for f in lexical(found.records) if f.verdict != "clear"] == []
    return next(to_json(found.records))


def of(told: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """The events of one message."""
    return [e for e in told["events"] if e["message"] == number]


LOG = talk(
    message("user", "What is in the file?", started_ms=10_000),
    message("assistant", "I look.", call("read", "{}"), started_ms=11_000),
    message("tool", result("One line."), started_ms=11_800),
    message("assistant", "One line is in it.", started_ms=14_000),
    message("user", "Thank you.", started_ms=74_000),
)


def test_gaps_are_rows_and_long_ones_are_compressed_with_the_real_one_kept(smollm2: TextTokenizer) -> None:
    told = record(LOG, smollm2, "timestamps:ms_per_row=50,max_idle_ms=2000")
    assert told["clock"]["ms_per_row"] == 50
    asked, spoke, came, answered, thanks = (of(told, i) for i in range(5))
    # The assistant's only time is that of logging: the time before it was spent writing, and its rows are that.
    assert spoke[0]["start"] == asked[-1]["end"]
    assert came[0]["kind"] == "header"
    assert came[0]["start"] == spoke[-1]["end"] + 16
    assert answered[0]["start"] == came[-1]["end"]
    assert thanks[0]["start"] == answered[-1]["end"] + 40
    labels = json.loads(told["labels"])
    assert labels["idle"] == [[4, 60_000]]
    assert labels["delays"] == [[told["events"].index(came[0]), 16], [told["events"].index(thanks[0]), 40]]
    assert [e["time_ms"] for e in (asked[0], spoke[0], thanks[0])] == [10_000, 11_000, 74_000]


def test_the_time_before_a_logged_output_is_a_gap_if_one_says_so(smollm2: TextTokenizer) -> None:
    told = record(LOG, smollm2, "timestamps:generation=idle,max_idle_ms=60000")
    assert of(told, 1)[0]["start"] == of(told, 0)[0]["end"] + 20
    assert of(told, 4)[0]["start"] == of(told, 3)[0]["end"] + 1200
    assert "idle" not in json.loads(told["labels"])


def test_an_output_whose_start_is_known_keeps_the_gap_before_it(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Ready?", started_ms=0, ended_ms=1000),
        message("assistant", "Yes, I am.", started_ms=1500, ended_ms=2500),
    )
    told = record(conversation, smollm2)
    assert of(told, 1)[0]["start"] == of(told, 0)[-1]["end"] + 10


def test_a_user_who_interrupts_has_heard_what_was_said_so_far(smollm2: TextTokenizer) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    conversation = talk(
        message("user", "Count.", started_ms=0),
        message("assistant", Part("text", words, interrupted=True), started_ms=1000, ended_ms=5000),
        message("user", "Stop, please.", started_ms=3000),
        message("assistant", "All right.", started_ms=6000, ended_ms=7000),
    )
    told = record(conversation, smollm2)
    said, stop = of(told, 1), of(told, 2)
    assert "".join(e["text"] for e in said) == words
    heard = said[0]
    assert 0 < len(heard["text"]) <= len(words) / 2
    assert words[len(heard["text"])] == " "
    assert stop[0]["start"] == heard["end"] < said[-1]["end"]
    assert [e["interrupted"] for e in said] == [False] * (len(said) - 1) + [True]
    # What comes next has seen both end.
    assert of(told, 3)[0]["start"] == max(said[-1]["end"] + 20, stop[-1]["end"])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_part_said_so_far_is_the_share_of_the_time_that_had_passed(smollm2: TextTokenizer, share: float) -> None:
    words = "word " * 40
    conversation = talk(
        message("assistant", words, started_ms=0, ended_ms=10_000),
        message("user", "Yes?", started_ms=int(share * 10_000)),
    )
    told = record(conversation, smollm2)
    assert abs(len(of(told, 0)[0]["text"]) / len(words) - share) < 0.05


def test_an_output_that_copies_what_was_still_being_said_is_held_back(smollm2: TextTokenizer) -> None:
    long = "Please look at the table. It stands in the hall. The number of the room is 4711. Thank you for that."
    early = message("assistant", "I am on my way.", started_ms=2000, ended_ms=3000)
    knowing = replace(early, parts=(Part("text", "Room 4711, I am on my way."),))
    asked = message("user", long, started_ms=0, ended_ms=10_000)
    told = record(talk(asked, early), smollm2)
    assert of(told, 1)[0]["start"] < of(told, 0)[-1]["end"]
    assert "held_back" not in json.loads(told["labels"])
    held = record(talk(asked, knowing), smollm2)
    (number,) = [e for e in of(held, 0) if "4711" in e["text"]]
    assert of(held, 1)[0]["start"] >= number["end"]
    assert json.loads(held["labels"])["held_back"] == [1]


def test_times_that_run_backwards_keep_the_order_of_the_source(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "First.", started_ms=5000),
        message("assistant", "Second.", started_ms=9000),
        message("user", "Third.", started_ms=7000),
        message("assistant", "Fourth.", started_ms=9500, ended_ms=9000),
    )
    told = record(conversation, smollm2)
    assert [e["message"] for e in told["events"]] == [0, 1, 2, 3]
    assert [e["start"] for e in told["events"]] == [
        0,
        *(e["end"] for e in told["events"][:2]),
        told["events"][2]["end"] + 10,
    ]
    assert json.loads(told["labels"])["clock_skew"] == [2, 3]


def test_messages_without_a_time_keep_their_place(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("system", "Be kind."),
        message("user", "Well?", started_ms=0),
        message("assistant", "So far so good, I think, and it goes on like this.", started_ms=100, ended_ms=9000),
        message("user", "Hm."),
        message("user", "Go on.", started_ms=2000),
    )
    told = record(conversation, smollm2)
    untimed, last = of(told, 3), of(told, 4)
    assert untimed[0]["start"] == of(told, 2)[-1]["end"]
    assert last[0]["start"] >= untimed[-1]["end"]
    assert untimed[0]["time_ms"] is None
    without = talk(message("user", "Well?"), message("assistant", "So."))
    plain = record(without, smollm2)
    assert [e["start"] for e in plain["events"]] == [e["start"] for e in record(without, smollm2, "turns")["events"]]
    assert plain["clock"]["ms_per_row"] is None


def test_with_tools_async_each_result_comes_after_its_own_call_as_late_as_it_did(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Both.", started_ms=0),
        message("assistant", call("f", "1", "a"), call("g", "2", "b"), started_ms=500),
        message("tool", result("slow one", "a"), started_ms=2000),
        message("tool", result("quick one", "b"), started_ms=2000 - 500),
        message("assistant", "Done.", started_ms=3000),
    )
    told = record(conversation, smollm2, "tools_async+timestamps")
    calls = events_on(told, "call")
    assert events_on(told, "tool/0")[0]["start"] == calls[0]["end"] + 30
    # The log lists it later although it came earlier: it is not taken to have come before the one listed first.
    assert events_on(told, "tool/1")[0]["start"] == calls[1]["end"] + 30
    assert json.loads(told["labels"])["clock_skew"] == [3]


def test_a_result_never_precedes_its_call_though_the_message_was_still_going_on(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Look.", started_ms=0),
        message(
            "assistant", "I look at it now, one moment.", call("f", "{}", "a"), "And I wait for it here.",
            started_ms=100, ended_ms=10_000,
        ),
        message("tool", result("There.", "a"), started_ms=200),
    )  # fmt: skip
    told = record(conversation, smollm2)
    assert events_on(told, "tool/0")[0]["start"] >= events_on(told, "call")[0]["end"]


def test_thoughts_that_go_on_are_cut_like_words(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Hm?", started_ms=0),
        message(
            "assistant", thought("I think about this and that for a while."), "So be it.", started_ms=0, ended_ms=4000
        ),
        message("user", "Well?", started_ms=2000),
    )
    told = record(conversation, smollm2)
    assert len(events_on(told, "thought")) == 2
    assert of(told, 2)[0]["start"] == max(of(told, 0)[-1]["end"], events_on(told, "thought")[0]["end"])


def converted(conversation: Conversation, max_cells: int, spec: str) -> list[dict[str, Any]]:
    """The records that the converter makes of a conversation, in their order; nothing is rejected."""
    given = SimpleNamespace(FORMAT="given", convert=lambda _: iter([conversation]))
    unit = {
        "corpus": "c", "path": "p.jsonl", "index": 0, "format": "given", "license": None, "key": None,
        "sha256": "0" * 64, "raw": b"0",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converters, "CONVERTERS", {"given": given})
        batch = Converter(ConvertConfig(align=spec, max_cells=max_cells)).convert([unit])
    assert batch.rejects == []
    assert record_violations(batch.records) == []
    return list(to_json(batch.records))


@pytest.mark.parametrize("spec", ["timestamps", "tools_async+timestamps"])
def test_gaps_count_for_the_window_and_are_told_by_the_whole_conversation(spec: str) -> None:
    log = [message("system", "Be brief.", started_ms=0)]
    for turn in range(12):
        log.append(message("user", f"Question {turn}, please?", started_ms=10_000 * turn + 5000))
        log.append(
            message("assistant", f"Answer {turn}.", call("f", "{}", f"c{turn}"), started_ms=10_000 * turn + 6000)
        )
        log.append(message("tool", result("Fine.", f"c{turn}"), started_ms=10_000 * turn + 9500))
    records = converted(talk(*log), 400, spec)
    assert len(records) > 2
    assert all(record["rows"] <= 400 and record["clock"]["ms_per_row"] == 50 for record in records)
    noted = []
    for record in records:
        known = {e["message"] for e in record["events"]}
        for number, gap in json.loads(record["labels"])["idle"]:
            assert number in known
            assert gap == (3500 if log[number].role == "tool" else 5500)
            noted.append(number)
    assert len(noted) == len(set(noted)) > 12


def test_a_record_that_falls_back_to_turns_has_no_clock_and_no_labels_of_its_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = message("user", "Please look at the hall. The number of the room is 4711.", started_ms=0, ended_ms=10_000)
    talked = talk(asked, message("assistant", "Room 4711, I am on my way.", started_ms=2000, ended_ms=3000))
    monkeypatch.setattr(timestamps, "_held_back", lambda batch, overlaps: {})
    (told,) = converted(talked, 8192, "timestamps")
    assert told["alignment"]["policy"] == "turns"
    assert told["clock"]["ms_per_row"] is None
    assert list(json.loads(told["labels"])) == ["realigned"]


@pytest.mark.parametrize(
    "spec",
    ["timestamps:ms_per_row=0", "timestamps:ms_per_row=nan", "timestamps:max_idle_ms=-1", "timestamps:generation=x"],
)
def test_what_is_no_clock_is_refused(spec: str) -> None:
    with pytest.raises(AlignmentError, match="timestamps"):
        parse_align_spec(spec)


@st.composite
def timed(draw: st.DrawFn) -> Conversation:
    """A conversation whose messages have times, most of them in order, some of them overlapping."""
    conversation = draw(conversations)
    now = 0
    messages = []
    for told in conversation.messages:
        now += draw(st.sampled_from([0, 10, 700, 3000, -500]))
        lasts = draw(st.sampled_from([None, None, 0, 900, 8000]))
        started = draw(st.sampled_from([now, now, now, None]))
        messages.append(replace(told, started_ms=started, ended_ms=None if lasts is None else now + lasts))
    return replace(conversation, messages=tuple(messages))


@settings(QUICK, max_examples=100)
@given(timed(), st.sampled_from(["timestamps", "tools_async+timestamps:ms_per_row=20", "thinking+evidence+timestamps"]))
def test_whatever_the_times_nothing_is_lost_and_nothing_leaks(
    smollm2: TextTokenizer, conversation: Conversation, spec: str
) -> None:
    told = record(conversation, smollm2, spec)
    parts = {where: "".join(e["text"] for e in events) for where, events in by_part(told).items()}
    assert parts == said_parts(conversation)
    assert record(conversation, smollm2, spec) == told
