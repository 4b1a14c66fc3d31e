"""What each policy lets overlap on conversations made for it, and how align specs are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conversation_cases import call, events_on, message, result, tables_of, talk, thought

from pipeline import alignment
from pipeline.alignment import AlignmentError, align, parse_align_spec
from pipeline.conversation import Conversation, Part
from pipeline.records import to_json
from pipeline.tokenization import TextTokenizer


def record(conversation: Conversation, spec: str, tokenizer: TextTokenizer, question: str = "first") -> dict[str, Any]:
    return next(to_json(tables_of([conversation], spec, tokenizer, question=question).records))


def event(record: dict[str, Any], start_of_text: str) -> dict[str, Any]:
    (found,) = [e for e in record["events"] if e["text"].strip().startswith(start_of_text)]
    return found


# turns


def test_turns_lays_messages_one_after_the_other_and_leaves_parts_whole(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("system", "Be brief."),
        message("user", "Why?"),
        message("assistant", thought("I think. So it is."), "It is. Because I think.", call("f", "{}")),
        message("tool", result("Done. Fine.")),
        message("assistant", "OK."),
    )
    told = record(conversation, "turns", smollm2)
    assert [e["text"] for e in told["events"]] == [
        "Be brief.", "Why?", "I think. So it is.", "It is. Because I think.", "f\n{}", "f#0", "Done. Fine.", "OK.",
    ]  # fmt: skip
    assert [e["start"] for e in told["events"]] == [0, *(e["end"] for e in told["events"][:-1])]
    assert [s["name"] for s in told["streams"]] == ["system", "user", "thought", "assistant", "call", "tool/0"]


def test_tool_definitions_are_an_untrained_note_behind_the_system_message(smollm2: TextTokenizer) -> None:
    told = record(
        talk(message("system", "Hi."), message("user", "Go."), message("assistant", "OK."), tools="[1]"),
        "turns",
        smollm2,
    )
    assert [(e["text"], e["kind"], e["message"]) for e in told["events"][:3]] == [
        ("Hi.", "message", 0),
        ("[1]", "note", None),
        ("Go.", "message", 1),
    ]
    assert told["events"][1]["stream"] == 0


@pytest.mark.parametrize(("question", "order"), [("first", ["Who?", "Long ago."]), ("last", ["Long ago.", "Who?"])])
def test_a_question_is_laid_out_before_or_after_its_context(
    smollm2: TextTokenizer, question: str, order: list[str]
) -> None:
    conversation = talk(message("user", "Who?", Part("context", "Long ago.")), message("assistant", "Nobody."))
    told = record(conversation, "turns", smollm2, question)
    assert [e["text"] for e in told["events"]] == [*order, "Nobody."]
    assert json.loads(told["alignment"]["params"])["question"] == question


# thinking


SOLUTION = talk(
    message("user", "How many?"),
    message(
        "assistant",
        thought("The red box holds 17 apples. The blue box holds 25 pears. Together that makes 42 fruits."),
        "The red box holds 17 apples. The blue box holds 25 pears. All in all 42 fruits.",
    ),
)


def test_an_answer_starts_once_the_thought_it_rests_on_is_there(smollm2: TextTokenizer) -> None:
    told = record(SOLUTION, "thinking", smollm2)
    thoughts, answers = events_on(told, "thought"), events_on(told, "assistant")
    assert [t["text"] for t in thoughts] == [
        "The red box holds 17 apples.",
        " The blue box holds 25 pears.",
        " Together that makes 42 fruits.",
    ]
    assert answers[0]["text"] == "The red box holds 17 apples."
    assert answers[0]["start"] == thoughts[0]["end"]
    assert answers[-1]["start"] >= thoughts[-1]["end"]
    for answer, ground in zip(answers, thoughts, strict=True):
        assert answer["start"] >= ground["end"]
    assert told["rows"] < record(SOLUTION, "turns", smollm2)["rows"]


@pytest.mark.parametrize(
    "answer",
    [
        "The red box holds 18 apples.",
        "Nothing of the kind was ever considered.",
        "The red box holds no apples.",
        "The red box, says Maria, holds apples.",
    ],
    ids=["another number", "other words", "a denial", "a name from nowhere"],
)
def test_an_answer_that_its_thought_does_not_ground_waits_for_all_of_it(smollm2: TextTokenizer, answer: str) -> None:
    conversation = talk(
        message("user", "How many?"),
        message("assistant", thought("The red box holds 17 apples. I am sure. Let me say so."), answer),
    )
    told = record(conversation, "thinking", smollm2)
    (said,) = events_on(told, "assistant")
    assert said["start"] == events_on(told, "thought")[-1]["end"]


def test_coverage_decides_how_much_of_an_answer_must_be_grounded(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "How many?"),
        message(
            "assistant",
            thought("The red box holds 17 apples. I am sure. Let me say so."),
            "Seventeen ripe juicy apples: 17. That is all.",
        ),
    )
    waits = {
        c: events_on(record(conversation, f"thinking:min_coverage={c}", smollm2), "assistant")[0]["start"]
        for c in (0, 0.8, 1)
    }
    assert waits[0] < waits[0.8] == waits[1]


@pytest.mark.parametrize(
    ("thinking", "answer"),
    [
        (
            "Is the red bridge open or closed? It has 17 planks. So it is closed.",
            "Yes, the red bridge is closed. It has 17 planks.",
        ),
        (
            "The red bridge has 17 planks. Wait, that is wrong. It has 18 planks.",
            "The red bridge has 17 planks. I am sure.",
        ),
        (
            "The red bridge has no planks. It has 17 ropes. No ropes hold it.",
            "No planks has the red bridge. I am sure.",
        ),
        ("The red bridge has 17 planks. But none of them holds.", "The red bridge has 17 planks. I am sure."),
    ],
    ids=["a judgement", "a second thought", "a denial", "a but"],
)
def test_what_a_thought_may_still_take_back_waits_for_it(smollm2: TextTokenizer, thinking: str, answer: str) -> None:
    told = record(talk(message("user", "And?"), message("assistant", thought(thinking), answer)), "thinking", smollm2)
    assert events_on(told, "assistant")[0]["start"] >= events_on(told, "thought")[-1]["end"]


def test_the_end_of_an_answer_waits_for_the_end_of_its_thought(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "And?"),
        message("assistant", thought("17 apples. 25 pears. Nothing else at all."), "17 apples. 25 pears."),
    )
    told = record(conversation, "thinking", smollm2)
    first, last = events_on(told, "assistant")
    assert first["start"] < events_on(told, "thought")[-1]["end"] <= last["start"]


def test_thinking_never_overlaps_with_what_its_author_reads(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "17 apples. 25 pears."), message("assistant", thought("17 apples. 25 pears."), "17 apples.")
    )
    told = record(conversation, "thinking", smollm2)
    assert min(e["start"] for e in told["events"] if e["message"] == 1) == max(
        e["end"] for e in told["events"] if e["message"] == 0
    )


def test_a_thought_behind_the_answer_is_waited_for_in_turn(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Why?"), message("assistant", "17 apples.", thought("17 apples. Was that right?"), "Yes.")
    )
    told = record(conversation, "thinking", smollm2)
    first, last = events_on(told, "assistant")
    assert events_on(told, "thought")[0]["start"] == first["end"]
    assert last["start"] == events_on(told, "thought")[-1]["end"]


# evidence


RESULT = """\
HAT001 flies at 08:00 for 51 dollars.
HAT002 flies at 09:30 for 93 dollars.
HAT003 flies at 11:15 for 70 dollars.
End of list."""
LOOKUP = talk(
    message("user", "Which flights are there?"),
    message("assistant", call("search", "{}")),
    message("tool", result(RESULT)),
    message(
        "assistant", "HAT001 flies at 08:00 for 51 dollars. HAT003 flies at 11:15 for 70 dollars. I like the cheap one."
    ),
)


def test_evidence_lets_an_answer_start_while_the_result_is_still_being_read(smollm2: TextTokenizer) -> None:
    told = record(LOOKUP, "evidence", smollm2)
    lines, answers = events_on(told, "tool/0"), events_on(told, "assistant")
    line_of = {flight: next(e for e in lines if flight in e["text"]) for flight in ("HAT001", "HAT003")}
    assert answers[0]["text"].startswith("HAT001")
    assert answers[0]["start"] == line_of["HAT001"]["end"] < line_of["HAT003"]["end"]
    assert answers[1]["start"] >= line_of["HAT003"]["end"]
    ungrounded = event(told, "I like")
    assert ungrounded["start"] >= lines[-1]["end"]
    assert told["rows"] < record(LOOKUP, "turns", smollm2)["rows"]


@pytest.mark.parametrize(
    ("answer", "early"),
    [("Hotel Alba costs 50 euros.", True), ("The cheapest hotel is Alba with 50 euros.", False)],
)
def test_what_compares_everything_waits_for_everything(smollm2: TextTokenizer, answer: str, early: bool) -> None:
    found = "Hotel Alba costs 50 euros.\nHotel Berna costs 70 euros.\nHotel Corso costs 80 euros."
    conversation = talk(
        message("user", "What are the hotels like?"),
        message("assistant", call("hotels", "{}", "1")),
        message("tool", result(found, "1")),
        message("assistant", f"{answer} Corso costs 80 euros."),
    )
    told = record(conversation, "evidence", smollm2)
    last = events_on(told, "tool/0")[-1]
    assert (events_on(told, "assistant")[0]["start"] < last["end"]) is early


def test_a_fact_that_stands_in_the_result_twice_waits_for_the_last_and_best_match(smollm2: TextTokenizer) -> None:
    text = "HAT001 flies at 08:00 for 51 dollars.\nNothing else.\nHAT001 flies at 08:00 for 51 dollars.\nEnd of list."
    conversation = talk(
        *LOOKUP.messages[:2],
        message("tool", result(text)),
        message("assistant", "HAT001 flies at 08:00 for 51 dollars."),
    )
    told = record(conversation, "evidence", smollm2)
    (answer,) = events_on(told, "assistant")
    again = [e for e in events_on(told, "tool/0") if "HAT001" in e["text"]][-1]
    assert answer["start"] == again["end"] < told["rows"] - 1


CONTEXT = talk(
    message(
        "user",
        "When?",
        Part("context", "The bridge was built in 1931. It was painted in 1954. It is closed today. Few remember it."),
    ),
    message("assistant", "The bridge was built in 1931. It was painted in 1954."),
)
REQUEST = talk(
    message(
        "user",
        "Say it again? The bridge was built in 1931. It was painted in 1954. It is closed today. Thank you very much.",
    ),
    message("assistant", "The bridge was built in 1931. It was painted in 1954."),
)


@pytest.mark.parametrize(
    ("conversation", "over", "overlaps"),
    [
        (LOOKUP, "results", True), (LOOKUP, "data", True), (LOOKUP, "all", True),
        (CONTEXT, "results", False), (CONTEXT, "data", True), (CONTEXT, "all", True),
        (REQUEST, "results", False), (REQUEST, "data", False), (REQUEST, "all", True),
    ],
)  # fmt: skip
def test_what_may_be_spoken_over_is_chosen(
    smollm2: TextTokenizer, conversation: Conversation, over: str, overlaps: bool
) -> None:
    told, turns = record(conversation, f"evidence:over={over}", smollm2), record(conversation, "turns", smollm2)
    assert (told["rows"] < turns["rows"]) is overlaps
    if not overlaps:
        assert [e["text"] for e in told["events"]] == [e["text"] for e in turns["events"]]


def test_by_default_evidence_speaks_over_results_only(smollm2: TextTokenizer) -> None:
    assert parse_align_spec("evidence").params == parse_align_spec("evidence:over=results").params
    assert record(CONTEXT, "evidence", smollm2)["rows"] == record(CONTEXT, "turns", smollm2)["rows"]


def test_the_question_is_read_before_the_answer_starts_however_early(smollm2: TextTokenizer) -> None:
    told = record(CONTEXT, "evidence:over=data", smollm2, "last")
    # The question comes last: it is no data, so the answer waits for it and for the context before it.
    assert min(e["start"] for e in events_on(told, "assistant")) == max(e["end"] for e in events_on(told, "user"))


def test_paragraphs_are_coarser_than_sentences(smollm2: TextTokenizer) -> None:
    text = RESULT.replace("\n", "\n\n", 2)
    conversation = talk(*LOOKUP.messages[:2], message("tool", result(text)), LOOKUP.messages[3])
    sentences, paragraphs = (
        events_on(record(conversation, f"evidence:chunk={u}", smollm2), "tool/0") for u in ("sentence", "paragraph")
    )
    assert len(sentences) >= len(paragraphs)


def test_a_second_user_turn_waits_for_the_answer_it_reacts_to(smollm2: TextTokenizer) -> None:
    conversation = talk(*LOOKUP.messages, message("user", "Thanks."))
    told = record(conversation, "thinking+evidence:over=all+tools_async", smollm2)
    assert event(told, "Thanks.")["start"] >= max(
        e["end"] for e in told["events"] if e["message"] is not None and e["message"] < 4
    )


def test_a_call_whose_arguments_were_read_is_issued_while_the_rest_is_read(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Book it."),
        message("assistant", call("find", "{}")),
        message("tool", result("user_id: ann_42\nname: Ann\ncity: Oslo\nnotes: likes tea and window seats.")),
        message("assistant", call("get_user", "ann_42")),
    )
    told = record(conversation, "evidence", smollm2)
    issued = events_on(told, "call")[1]
    assert issued["start"] == event(told, "user_id: ann_42")["end"] < event(told, "name:")["end"]


# tools_async


def test_parallel_calls_run_side_by_side_and_each_result_waits_for_its_own_call(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Both, please."),
        message("assistant", call("price", '{"id": "HAT001"}', "a"), call("price", '{"id": "HAT002"}', "b")),
        message("tool", result("First result, rather long in words: one two three four five six seven.", "a")),
        message("tool", result("Second result.", "b")),
        message("assistant", "There."),
    )
    told = record(conversation, "tools_async", smollm2)
    calls = events_on(told, "call")
    first, second = events_on(told, "tool/0"), events_on(told, "tool/1")
    assert [e["text"] for e in (*first, *second)] == [
        "price#0",
        "First result, rather long in words: one two three four five six seven.",
        "price#1",
        "Second result.",
    ]
    assert calls[1]["start"] == calls[0]["end"]
    assert first[0]["start"] == calls[0]["end"]
    assert second[0]["start"] == calls[1]["end"]
    assert second[0]["start"] < first[1]["end"]
    assert event(told, "There.")["start"] == max(first[1]["end"], second[1]["end"])


def test_words_and_calls_of_one_message_are_spoken_at_once(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Weather?"),
        message("assistant", "Let me look that up for you.", call("weather", "{}"), "One moment, please."),
        message("tool", result("Sunny.")),
        message("assistant", "Sunny."),
    )
    told = record(conversation, "tools_async", smollm2)
    words, (issued,) = events_on(told, "assistant"), events_on(told, "call")
    assert issued["start"] == words[0]["start"] == event(told, "Weather?")["end"]
    assert words[1]["start"] == words[0]["end"]
    assert event(told, "weather#0")["start"] == issued["end"]
    # The answer waits for the result and, on its own stream, for the words before it.
    assert words[2]["start"] == max(events_on(told, "tool/0")[-1]["end"], words[1]["end"])


def test_a_call_waits_for_the_thought_before_it(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Weather?"), message("assistant", thought("I need a tool for this."), call("weather", "{}"))
    )
    told = record(conversation, "tools_async", smollm2)
    assert event(told, "weather")["start"] == event(told, "I need")["end"]


def test_what_follows_a_result_waits_for_it_even_in_another_message(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Go."),
        message("assistant", call("f", "1", "a")),
        message("tool", result("one", "a")),
        message("assistant", call("g", "2", "b")),
        message("tool", result("two", "b")),
    )
    told = record(conversation, "tools_async", smollm2)
    assert events_on(told, "call")[1]["start"] == event(told, "one")["end"]


def test_a_result_without_a_call_waits_for_everything(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Go."), message("assistant", "I wait here for a while."), message("tool", result("Late news."))
    )
    told = record(conversation, "tools_async", smollm2)
    assert event(told, "tool")["start"] == event(told, "I wait")["end"]
    assert event(told, "Late news.")["call"] is None


# combinations


def test_policies_compose_each_taking_away_the_waits_it_answers_for(smollm2: TextTokenizer) -> None:
    conversation = talk(*SOLUTION.messages, *LOOKUP.messages)
    rows = {
        s: record(conversation, s, smollm2)["rows"]
        for s in ("turns", "thinking", "evidence", "thinking+evidence", "thinking+evidence+tools_async")
    }
    saved = {s: rows["turns"] - r for s, r in rows.items()}
    assert saved["thinking"] > 0
    assert saved["evidence"] > 0
    assert saved["thinking+evidence"] == saved["thinking"] + saved["evidence"]
    assert saved["thinking+evidence+tools_async"] >= saved["thinking+evidence"]


def test_the_order_in_a_spec_does_not_matter(smollm2: TextTokenizer) -> None:
    one, other = (
        tables_of([LOOKUP], s, smollm2).records
        for s in ("tools_async+evidence+thinking", "thinking+evidence+tools_async")
    )
    assert one.equals(other)


def test_alignment_is_a_pure_function(smollm2: TextTokenizer) -> None:
    spec = parse_align_spec("thinking+evidence+tools_async")
    assert align(LOOKUP, spec) == align(LOOKUP, spec)


def test_a_conversation_of_too_many_chunks_is_told_whole(
    smollm2: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "MAX_CHUNKS", 5)
    told, turns = (record(LOOKUP, s, smollm2) for s in ("thinking+evidence", "turns"))
    assert [(e["text"], e["start"]) for e in told["events"]] == [(e["text"], e["start"]) for e in turns["events"]]


# align specs


def test_a_spec_names_its_policies_in_canonical_order_with_every_parameter() -> None:
    spec = parse_align_spec(" evidence:min_coverage=0.6 + thinking")
    assert spec.policy == "thinking+evidence"
    assert json.loads(spec.params) == {
        "question": "first",
        "thinking": {"min_coverage": 0.8, "chunk": "sentence"},
        "evidence": {"min_coverage": 0.6, "chunk": "sentence", "over": "results", "gold": "on"},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("evidnce", "unknown alignment policy 'evidnce' (did you mean 'evidence'?)"),
        ("xyzzy", "unknown alignment policy 'xyzzy'; known: auto, turns, "),
        ("", "unknown alignment policy ''"),
        ("thinking+", "unknown alignment policy ''"),
        ("thinking+thinking", "named twice"),
        ("evidence:min_coverge=0.5", "no parameter 'min_coverge' (did you mean 'min_coverage'?)"),
        ("evidence:0.5", "no parameter '0.5'"),
        ("evidence:min_coverage", "needs a value, min_coverage="),
        ("auto+audit", "auto stands alone"),
        ("turns:k=1", "no parameter 'k'; it has: none"),
        ("evidence:min_coverage=1.5", "evidence:min_coverage=1.5: input should be less than or equal to 1"),
        ("evidence:min_coverage=-0.1", "greater than or equal to 0"),
        ("evidence:min_coverage=nan", "input should be"),
        ("evidence:min_coverage=lots", "should be a valid number"),
        ("evidence:chunk=word", "evidence:chunk=word: input should be 'sentence' or 'paragraph'"),
        ("evidence:over=everything", "should be 'results', 'data' or 'all'"),
    ],
)  # fmt: skip
def test_a_spec_that_cannot_be_read_says_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(AlignmentError) as error:
        parse_align_spec(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_question_is_first_or_last() -> None:
    with pytest.raises(AlignmentError, match="first or last"):
        parse_align_spec("turns", "middle")  # type: ignore[arg-type]
