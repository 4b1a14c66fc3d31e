"""Formats of one question and its answer: alpaca, think_tagged, math_qa, context_qa."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from converters import alpaca, context_qa, convert, math_qa, think_tagged
from pipeline.conversation import Conversation, Message, Part, RecordError


def one(format: str, unit: Any) -> Conversation:
    (conversation,) = convert(format, unit)
    return conversation


def text(role: Any, words: str) -> Message:
    return Message(role, (Part("text", words),))


def test_alpaca_input_is_context() -> None:
    conversation = one("alpaca", {"instruction": "sum", "input": "1 2", "output": " 3\n", "id": 1})
    assert conversation.messages == (
        Message("user", (Part("text", "sum"), Part("context", "1 2"))),
        text("assistant", " 3\n"),
    )
    assert conversation.extra == {"id": 1}


@pytest.mark.parametrize(
    "unit", [{"input": "", "output": "b"}, {"input": None, "response": "b"}, {"output": "", "response": "b"}]
)
def test_alpaca_without_input_and_with_either_answer(unit: dict[str, Any]) -> None:
    assert one("alpaca", {"instruction": "a", **unit}).messages == (text("user", "a"), text("assistant", "b"))


def test_alpaca_system_and_history_come_first() -> None:
    unit = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "<think>x</think>b"]]}
    assert [(m.role, m.rebuild()) for m in one("alpaca", unit).messages] == [
        ("system", "s"), ("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c"), ("assistant", "d"),
    ]  # fmt: skip
    assert one("alpaca", unit).extra == {}


def test_alpaca_output_with_think_tags_is_split() -> None:
    assert [p.kind for p in one("alpaca", {"instruction": "a", "output": "<think>x</think>y"}).messages[1].parts] == [
        "thinking",
        "text",
    ]


def test_think_tagged_parts_and_ground_truth() -> None:
    unit = {
        "question": "q",
        "answer": "2",
        "solution": "gold",
        "code": ["<|begin_of_thought|>\n\na"],
        "idx": 3,
        "score": [True],
    }
    conversation = one("think_tagged", unit)
    cut = Part("thinking", "a", before="<|begin_of_thought|>\n\n", interrupted=True)
    assert conversation.messages == (text("user", "q"), Message("assistant", (cut,)))
    assert conversation.extra == {"answer": "2", "solution": "gold", "idx": 3, "score": [True]}


def test_think_tagged_takes_the_tagged_field_whatever_its_name() -> None:
    unit = {"question": "q", "response": "plain", "trace": "a</think>\nb"}
    conversation = one("think_tagged", unit)
    assert conversation.messages[1].rebuild() == "a</think>\nb"
    assert conversation.extra == {"response": "plain"}


def test_think_tagged_without_tags_is_text_as_a_whole() -> None:
    unit = {"question": "q", "answer": "2", "solution": "gold", "code": ["The answer is 2.\n"]}
    assert not think_tagged.detect(unit)
    assert one("think_tagged", unit).messages[1] == text("assistant", "The answer is 2.\n")


def test_think_tagged_context_fields_are_context() -> None:
    unit = {"instruction": "i", "input": "c", "response": "<think>a</think>b"}
    assert one("think_tagged", unit).messages[0].parts == (Part("text", "i"), Part("context", "c"))


def test_math_steps_are_thinking_and_the_marked_line_is_the_answer() -> None:
    answer = "48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72 \n#### 1,072 \n"
    conversation = one("math_qa", {"question": "q", "answer": answer, "id": 1})
    assert conversation.messages[1].parts == (
        Part("thinking", "48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72"),
        Part("text", "1,072", before=" \n#### ", after=" \n"),
    )
    assert conversation.messages[1].rebuild() == answer
    assert conversation.extra == {"id": 1}


def test_math_last_mark_counts_and_steps_may_lack() -> None:
    assert one("math_qa", {"question": "q", "answer": "#### 1\na\n#### 2"}).messages[1].parts == (
        Part("thinking", "#### 1\na"),
        Part("text", "2", before="\n#### "),
    )
    assert one("math_qa", {"question": "q", "answer": "#### 2"}).messages[1].parts == (
        Part("text", "2", before="#### "),
    )


PUBMED = {
    "QUESTION": "q?",
    "CONTEXTS": ["a", "b"],
    "LABELS": ["X", "Y"],
    "LONG_ANSWER": "long",
    "final_decision": "yes",
    "YEAR": None,
}


def test_context_qa_question_contexts_long_answer_decision() -> None:
    conversation = one("context_qa", PUBMED)
    assert conversation.messages == (
        Message("user", (Part("text", "q?"), Part("context", "a"), Part("context", "b"))),
        Message("assistant", (Part("text", "long"), Part("text", "yes"))),
    )
    assert conversation.extra == {"LABELS": ["X", "Y"], "YEAR": None}


def test_context_qa_lower_case_forms() -> None:
    hub = {
        "pubid": 1,
        "question": "q?",
        "context": {"contexts": ["a", "b"], "labels": ["X"]},
        "long_answer": "l",
        "final_decision": "no",
    }
    assert one("context_qa", hub).messages[0] == one("context_qa", PUBMED).messages[0]
    assert one("context_qa", hub).extra == {"pubid": 1, "context": {"labels": ["X"]}}
    plain = {"question": "q?", "context": "a", "answer": "x"}
    assert one("context_qa", plain).messages == (
        Message("user", (Part("text", "q?"), Part("context", "a"))),
        text("assistant", "x"),
    )


@pytest.mark.parametrize(
    ("format", "unit", "code"),
    [
        ("alpaca", [], "wrong_type"),
        ("alpaca", {"instruction": "a"}, "missing_field"),
        ("alpaca", {"instruction": "a", "output": ""}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": " \n"}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": "<think></think>"}, "empty_answer"),
        ("alpaca", {"instruction": "a", "output": 3}, "wrong_type"),
        ("alpaca", {"instruction": "", "input": "", "output": "a"}, "empty_question"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["x"]]}, "wrong_type"),
        ("think_tagged", {"response": "<think>a</think>"}, "missing_field"),
        ("think_tagged", {"question": "q"}, "missing_field"),
        ("think_tagged", {"question": "q", "response": ["<think>a", "b"]}, "wrong_type"),
        ("think_tagged", {"question": "q", "response": [""]}, "empty_answer"),
        ("think_tagged", {"question": " ", "response": "<think>a"}, "empty_question"),
        ("math_qa", {"question": "q"}, "missing_field"),
        ("math_qa", {"question": "q", "answer": "72"}, "missing_answer"),
        ("math_qa", {"question": "q", "answer": "a\n#### "}, "missing_answer"),
        ("math_qa", {"question": "q", "answer": 72}, "wrong_type"),
        ("math_qa", {"question": "", "answer": "a\n#### 1"}, "empty_question"),
        ("context_qa", {"question": "q", "answer": "a"}, "missing_field"),
        ("context_qa", {"question": "q", "context": [], "answer": "a"}, "no_context"),
        ("context_qa", {"question": "q", "context": [1], "answer": "a"}, "wrong_type"),
        ("context_qa", {"question": "q", "context": "c", "answer": ["a"]}, "wrong_type"),
        ("context_qa", {"question": "q", "context": "c"}, "empty_answer"),
        ("context_qa", {"question": "", "context": "c", "answer": "a"}, "empty_question"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(format: str, unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        one(format, unit)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("detect", "unit"),
    [
        (alpaca.detect, {"instruction": "a", "instances": [{"input": "", "output": "b"}]}),
        (alpaca.detect, {"instruction": "a", "output": "b", "messages": []}),
        (think_tagged.detect, {"question": "a", "response": "b"}),
        (math_qa.detect, {"question": "a", "answer": "72"}),
        (context_qa.detect, {"question": "q", "context": "c", "options": ["A) x"], "answer": "A"}),
        (context_qa.detect, {"question": "q", "context": "c", "ideal": "x"}),
        (context_qa.detect, {"question": "q", "context": "c", "answers": {"text": ["x"], "answer_start": [0]}}),
    ],
)
def test_detect_leaves_other_shapes_alone(detect: Callable[[Any], bool], unit: Any) -> None:
    assert not detect(unit)
