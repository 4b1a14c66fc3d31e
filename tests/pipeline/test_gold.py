"""Gold evidence: what a corpus says that its answers rest on, and what may overlap because of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conversation_cases import events_on, message, tables_of, talk

from converters import context_qa, hotpot, squad
from pipeline import leaks
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Part
from pipeline.gold import Place, supports
from pipeline.records import to_json
from pipeline.tokenization import TextTokenizer

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"

CONTEXT = (
    "The old lighthouse was lit in 1811. Its lamp burned whale oil, which ships brought. Nobody tends it. It is dark."
)


def asked(question: str, answer: str, start: int | None = None, context: str = CONTEXT, **more: Any) -> Conversation:
    at = context.index(answer) if start is None else start
    row = {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [at]}, **more}
    return next(squad.convert(row))


def record(conversation: Conversation, spec: str, tokenizer: TextTokenizer, question: str = "first") -> dict[str, Any]:
    table = tables_of([conversation], spec, tokenizer, question=question).records
    assert record_violations(table) == []
    assert {f.verdict for f in leaks.lexical(table)} <= {"clear"}
    return next(to_json(table))


# SQuAD form


def test_an_answer_rests_on_its_sentence_and_on_the_question() -> None:
    end = CONTEXT.index(" Nobody")
    assert supports(asked("What did it burn?", "whale oil")) == {1: (Place(0, 0, 17), Place(0, 1, end))}


def test_an_answer_starts_once_its_sentence_has_been_read(smollm2: TextTokenizer) -> None:
    told = record(asked("What did it burn?", "whale oil"), "evidence", smollm2)
    _, read, rest = events_on(told, "user")
    (answer,) = events_on(told, "assistant")
    assert read["text"] == CONTEXT[: CONTEXT.index(" Nobody")]
    assert answer["start"] == read["end"] == rest["start"]
    assert answer["end"] < rest["end"]


def test_a_question_behind_its_context_is_waited_for(smollm2: TextTokenizer) -> None:
    told = record(asked("What did it burn?", "whale oil"), "evidence", smollm2, "last")
    assert events_on(told, "assistant")[0]["start"] == max(e["end"] for e in events_on(told, "user"))


def test_gold_may_be_switched_off(smollm2: TextTokenizer) -> None:
    told = record(asked("What did it burn?", "whale oil"), "evidence:gold=off", smollm2)
    assert events_on(told, "assistant")[0]["start"] == events_on(told, "user")[-1]["end"]


def test_the_whole_sentence_is_waited_for_where_it_is_long(smollm2: TextTokenizer) -> None:
    context = f"It was lit in 1811{', and lit again' * 15}, by nobody in particular. It is dark now."
    told = record(asked("When?", "1811", context=context), "evidence", smollm2)
    end = next(e["end"] for e in events_on(told, "user") if e["text"].endswith("particular."))
    assert events_on(told, "assistant")[0]["start"] == end


@pytest.mark.parametrize(
    ("context", "answer", "read"),
    [
        ("灯塔建于1811年。它的灯烧鲸油。现在没有人看守。", "鲸油", "灯塔建于1811年。它的灯烧鲸油。"),
        ("Lit in 1811\nBurned whale oil\nNow dark", "whale oil", "Lit in 1811\nBurned whale oil"),
        ("One. Two. Three.", "One. Two", "One. Two."),
        ("Nothing behind it", "behind", "Nothing behind it"),
    ],
)
def test_the_sentence_or_line_of_an_answer_is_found(context: str, answer: str, read: str) -> None:
    ((_, place),) = supports(asked("What?", answer, context=context)).values()
    assert context[: place.end].rstrip() == read


@pytest.mark.parametrize(
    "conversation",
    [
        asked("What?", "whale oil", start=3),
        asked("What?", "whale oil", is_impossible=True),
        talk(message("user", "Hi."), message("assistant", "Hello.")),
        talk(message("user", "Hi.", Part("context", CONTEXT)), message("assistant", "1811"), extra={"answers": "1811"}),
        talk(message("user", "Hi.", Part("context", CONTEXT)), message("assistant", "1811"), extra={"answers": [{"text": 1}]}),
        talk(message("user", "Hi."), message("assistant", "1811"), extra={"answers": [{"text": "1811", "answer_start": 30}]}),
        next(context_qa.convert(context_qa.EXAMPLE)),
    ],
)  # fmt: skip
def test_without_a_place_that_fits_there_is_no_gold(conversation: Conversation) -> None:
    assert supports(conversation) == {}


def test_a_planted_attack_leaves_no_offset_that_is_off(smollm2: TextTokenizer) -> None:
    told = record(asked("What did it burn?", "whale oil"), "evidence+monitor:plant=1,position=start", smollm2)
    assert events_on(told, "assistant")[0]["start"] == events_on(told, "user")[-1]["end"]
    told = record(asked("What did it burn?", "whale oil"), "evidence+monitor:plant=1,position=end", smollm2)
    assert events_on(told, "assistant")[0]["start"] < events_on(told, "user")[-1]["end"]


# HotpotQA form


PONDS: dict[str, Any] = {
    **hotpot.EXAMPLE,
    "context": [*hotpot.EXAMPLE["context"], ["Oak", ["Oaks are trees.", " Some of them are four hundred years old."]]],
}


@pytest.mark.parametrize(
    "facts",
    [[["Elm Pond", 1], ["Mill Pond", 0]], {"title": ["Elm Pond", "Mill Pond"], "sent_id": [1, 0]}],
)  # fmt: skip
def test_an_answer_rests_on_the_last_supporting_fact(smollm2: TextTokenizer, facts: Any) -> None:
    conversation = next(hotpot.convert({**PONDS, "supporting_facts": facts}))
    ((index, places),) = supports(conversation).items()
    last = places[-1]
    assert (index, conversation.messages[0].parts[last.part].text) == (1, "Mill Pond is 5 metres deep.")
    told = record(conversation, "evidence", smollm2)
    end = next(e["end"] for e in told["events"] if e["text"] == "Mill Pond is 5 metres deep.")
    assert events_on(told, "assistant")[0]["start"] == end
    assert end < events_on(told, "user")[-1]["start"]


def test_where_an_empty_sentence_was_left_out_a_later_place_is_waited_for() -> None:
    facts = [["Mill Pond", 1]]
    context = [["Mill Pond", ["", "Mill Pond is 5 metres deep."]], ["Oak", ["Oaks are trees."]]]
    conversation = next(hotpot.convert({**PONDS, "context": context, "supporting_facts": facts}))
    ((_, places),) = supports(conversation).items()
    parts = [p.text for p in conversation.messages[0].parts]
    assert places[-1].part >= parts.index("Mill Pond is 5 metres deep.")


@pytest.mark.parametrize(
    "facts", [[], [["Nowhere", 0]], [["Elm Pond"]], "Elm Pond", [["Elm Pond", "1"]], [["Elm Pond", -1]], None]
)
def test_facts_that_name_nothing_are_no_gold(facts: Any) -> None:
    assert supports(next(hotpot.convert({**PONDS, "supporting_facts": facts}))) == {}


# the corpus


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not there")
@pytest.mark.parametrize("language", ["en", "zh", "ar"])
@pytest.mark.parametrize("question", ["first", "last"])
def test_real_answers_overlap_with_their_context_and_nothing_leaks(
    smollm2: TextTokenizer, language: str, question: str
) -> None:
    data = json.loads((CORPORA / "rc-xquad" / f"xquad.{language}.json").read_bytes())
    conversations = list(squad.convert(data))[:60]
    table = tables_of(conversations, "evidence", smollm2, question=question).records
    assert record_violations(table) == []
    assert {f.verdict for f in leaks.lexical(table)} <= {"clear"}
    overlapping = 0
    for told in to_json(table):
        outputs = events_on(told, "assistant")
        overlapping += bool(outputs) and outputs[0]["start"] < max(e["end"] for e in events_on(told, "user"))
    assert (overlapping > 20) is (question == "first")
