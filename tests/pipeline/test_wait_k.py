"""wait_k: chunk by chunk, verified against what is copied, and turns once k covers the input."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from conversation_cases import QUICK, call, conversations, events_on, message, result, talk, thought
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alignment import AlignmentError, align_all, choose, parse_align_spec
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Part
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.timeline import draft_of
from pipeline.tokenization import TextTokenizer, token_ends


def tables(told: list[Conversation], spec: str, tokenizer: TextTokenizer) -> Tables:
    """Both tables, with the tokens that chunks may be."""
    found = align_all(told, parse_align_spec(spec), Resources(partial(token_ends, tokenizer)))
    documents = [Document(c, a.timeline, a.spec, labels=a.labels) for c, a in zip(told, found, strict=True)]
    encoded, first = encode_spans([d.timeline for d in documents], tokenizer)
    return build_tables(documents, Clock(tokenizer), encoded, first)


def record(conversation: Conversation, spec: str, tokenizer: TextTokenizer) -> dict[str, Any]:
    return next(to_json(tables([conversation], spec, tokenizer).records))


LINES = talk(
    message("user", "The cat sleeps.\nThe dog barks.\nThe bird sings.\nThe fish swims.\nThe horse runs."),
    message(
        "assistant", "Die Katze schläft.\nDer Hund bellt.\nDer Vogel singt.\nDer Fisch schwimmt.\nDas Pferd rennt."
    ),
)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_chunk_i_starts_when_input_chunk_i_and_k_minus_one_more_have_been_read(smollm2: TextTokenizer, k: int) -> None:
    told = record(LINES, f"wait_k:k={k}", smollm2)
    names, said = ("cat", "dog", "bird", "fish", "horse"), ("Katze", "Hund", "Vogel", "Fisch", "Pferd")
    free = 0
    for event in events_on(told, "assistant"):
        i = next(i for i, word in enumerate(said) if word in event["text"])
        (line,) = [e for e in events_on(told, "user") if names[min(i + k - 1, 4)] in e["text"]]
        assert line["text"].split()[-2] == names[min(i + k - 1, 4)]
        assert event["start"] == max(free, line["end"])
        free = event["end"]
    assert events_on(told, "assistant")[0]["start"] < events_on(told, "user")[-1]["end"]


@pytest.mark.parametrize(("line", "word"), [("Code HAT042 is valid.", "HAT042"), ("All from our orchard.", "orchard")])
def test_a_chunk_also_waits_for_the_line_that_brings_a_fact_or_word_it_says(
    smollm2: TextTokenizer, line: str, word: str
) -> None:
    conversation = talk(
        message("user", f"One red apple.\nTwo green pears.\n{line}\nThree plums.\nFour figs."),
        message("assistant", f"Ein roter Apfel.\nZwei {word} Birnen.\nAlle.\nDrei Pflaumen.\nVier Feigen."),
    )
    told = record(conversation, "wait_k", smollm2)
    (brings,) = [e for e in events_on(told, "user") if word in e["text"]]
    answers = events_on(told, "assistant")
    assert answers[0]["start"] < brings["end"]
    assert answers[1]["start"] == brings["end"]


def test_a_chunk_waits_for_a_run_of_words_though_each_word_was_read_before(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Green cream.\nHeavy pound.\nFour pears.\nOne heavy cream pound.\nTwo plums."),
        message("assistant", "Grün.\nUn heavy cream pound.\nVier.\nEin Pfund.\nZwei."),
    )
    told = record(conversation, "wait_k", smollm2)
    (brings,) = [e for e in events_on(told, "user") if "heavy cream pound" in e["text"]]
    (says,) = [e for e in events_on(told, "assistant") if "heavy cream pound" in e["text"]]
    assert says["start"] == brings["end"]


def test_tokens_that_copy_wait_for_the_place_they_copy_from(smollm2: TextTokenizer) -> None:
    """Each word of the answer has been read before its run of words is read."""
    user = "Time is all the cat can see, it said to Sam. Now the cat can see it all the time, and then Sam went home to sleep."
    conversation = talk(message("user", user), message("assistant", "The cat can see it all the time and goes."))
    told = record(conversation, "wait_k:k=1,chunk=token", smollm2)
    place = next(e["end"] for e in events_on(told, "user") if e["text"].endswith(" time"))
    last = next(e for e in events_on(told, "assistant") if e["text"].startswith(" time"))
    assert last["start"] >= place


def test_the_last_chunk_waits_for_all_input_since_its_end_says_that_nothing_follows(smollm2: TextTokenizer) -> None:
    short = talk(LINES.messages[0], message("assistant", "Die Katze schläft.\nDer Hund bellt."))
    told = record(short, "wait_k", smollm2)
    first, last = events_on(told, "assistant")
    assert first["start"] < last["start"] == events_on(told, "user")[-1]["end"]


def test_thoughts_and_answers_are_counted_on_and_calls_wait_for_everything(smollm2: TextTokenizer) -> None:
    conversation = talk(
        LINES.messages[0],
        message("assistant", thought("Katze.\nHund."), "Vogel.\nFisch.\nPferd.", call("save", "{}")),
        message("tool", result("Done.\nWell done.")),
        message("assistant", "Gut.\nSehr gut."),
    )
    told = record(conversation, "wait_k", smollm2)
    read = events_on(told, "user")
    assert events_on(told, "thought")[0]["start"] == read[0]["end"] < read[-1]["end"]
    assert events_on(told, "assistant")[0]["start"] == max(read[2]["end"], events_on(told, "thought")[-1]["end"])
    assert events_on(told, "call")[0]["start"] >= read[-1]["end"]
    assert events_on(told, "tool/0")[0]["start"] == events_on(told, "call")[0]["end"]
    assert events_on(told, "assistant")[-2]["start"] == events_on(told, "tool/0")[1]["end"]


def test_system_messages_and_definitions_are_read_before_anything_is_said(smollm2: TextTokenizer) -> None:
    conversation = talk(message("system", "Translate.\nLine by line."), *LINES.messages, tools='[{"name": "f"}]')
    told = record(conversation, "wait_k", smollm2)
    assert events_on(told, "assistant")[0]["start"] == events_on(told, "user")[0]["end"]
    assert events_on(told, "user")[0]["start"] == events_on(told, "system")[-1]["end"]


def test_tokens_are_counted_and_words_stay_whole(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "alpha beta gamma delta 1234567 epsilon zeta eta theta iota"),
        message("assistant", "eins zwei drei vier 1234567 sechs sieben acht neun zehn"),
    )
    told = record(conversation, "wait_k:chunk=token,k=2", smollm2)
    (number,) = [e for e in events_on(told, "user") if "1234567" in e["text"]]
    said = events_on(told, "assistant")
    (copied,) = [e for e in said if "1234567" in e["text"]]
    assert said[0]["start"] < number["start"]
    assert copied["start"] >= number["end"]
    assert "".join(e["text"] for e in said) == "eins zwei drei vier 1234567 sechs sieben acht neun zehn"
    assert said[-1]["start"] == max(said[-2]["end"], events_on(told, "user")[-1]["end"])


def test_it_is_never_chosen_by_auto_and_says_what_it_would_do() -> None:
    assert all(name != "wait_k" for name, _ in parse_align_spec("auto").policies)
    assert choose(draft_of(LINES), parse_align_spec("auto")).policy == "turns"
    assert choose(draft_of(LINES), parse_align_spec("wait_k")).policy == "wait_k"


@pytest.mark.parametrize("spec", ["wait_k:k=0", "wait_k:k=-1", "wait_k:k=1.5", "wait_k:chunk=word", "wait_k:n=1"])
def test_what_is_no_k_or_chunk_is_refused(spec: str) -> None:
    with pytest.raises(AlignmentError, match="wait_k"):
        parse_align_spec(spec)


@pytest.mark.parametrize("spec", ["evidence+wait_k:chunk=token", "wait_k:chunk=token+timestamps"])
def test_tokens_go_with_no_policy_that_looks_at_words(spec: str) -> None:
    with pytest.raises(AlignmentError, match="chunks that are tokens"):
        parse_align_spec(spec)


def test_what_nothing_is_cut_of_is_verified_too(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "What is known?", Part("context", "HAT001 costs 51.")),
        message("assistant", thought("HAT001 costs 51."), "It is 51."),
    )
    told = record(conversation, "wait_k:chunk=paragraph", smollm2)
    assert events_on(told, "thought")[0]["start"] == events_on(told, "user")[-1]["end"]


@settings(QUICK, max_examples=40)
@given(conversations, st.sampled_from(["token", "sentence", "paragraph"]))
def test_a_k_that_covers_the_input_is_turns(smollm2: TextTokenizer, conversation: Conversation, chunk: str) -> None:
    told, turns = (record(conversation, s, smollm2) for s in (f"wait_k:k=100000,chunk={chunk}", "turns"))
    assert [(e["start"], e["end"], e["text"]) for e in told["events"]] == [
        (e["start"], e["end"], e["text"]) for e in turns["events"]
    ]
    assert told["rows"] == turns["rows"]


@settings(QUICK, max_examples=60)
@given(conversations, st.sampled_from(["token", "sentence", "paragraph"]), st.integers(1, 3))
def test_whatever_is_said_nothing_leaks(smollm2: TextTokenizer, conversation: Conversation, chunk: str, k: int) -> None:
    found = tables([conversation], f"wait_k:k={k},chunk={chunk}", smollm2)
    assert not found.failed
    assert record_violations(found.records) == []
    assert [f for f in lexical(found.records) if f.verdict != "clear"] == []
    assert (
        found.records.column("rows")[0].as_py()
        <= tables([conversation], "turns", smollm2).records.column("rows")[0].as_py()
    )
