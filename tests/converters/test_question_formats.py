"""Formats of one question and its answer: alpaca, think_tagged, word problems, multiple choice, context_qa."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from corpus_checks import missing, read_any

from converters import alpaca, context_qa, convert, detect_format, format_votes, math_qa, think_tagged
from converters.markup.choices import labels_in
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


def assistant(*parts: tuple[str, str]) -> Message:
    return Message("assistant", tuple(Part(kind, words) for kind, words in parts))  # type: ignore[arg-type]


def user(*texts: str, context: tuple[str, ...] = ()) -> Message:
    return Message("user", (*(Part("text", t) for t in texts), *(Part("context", c) for c in context)))


def test_svamp_body_and_question_then_equation_and_number() -> None:
    unit = {"ID": "w", "Body": "b", "Question": "q", "Equation": "( 3.0 - 1.0 )", "Answer": 2.0, "Type": "Subtraction"}
    conversation = one("svamp", unit)
    assert conversation.messages == (user("b", "q"), assistant(("thinking", "( 3.0 - 1.0 )"), ("text", "2.0")))
    assert conversation.extra == {"ID": "w", "Type": "Subtraction"}
    assert one("svamp", {**unit, "Answer": "2.50"}).messages[1].parts[1].text == "2.50"
    assert one("svamp", {**unit, "Answer": 2**70}).messages[1].parts[1].text == str(2**70)


def test_metamath_last_line_is_the_answer() -> None:
    response = "2+2 = 4\n#### 4\nThe answer is: 4"
    conversation = one("metamath", {"query": "q", "response": response, "type": "GSM"})
    assert conversation.messages[1].parts == (
        Part("thinking", "2+2 = 4\n#### 4", after="\n"),
        Part("text", "The answer is: 4"),
    )
    assert conversation.messages[1].rebuild() == response
    assert conversation.extra == {"type": "GSM"}
    assert one("metamath", {"query": "q", "response": "The answer is: 4"}).messages[1] == text(
        "assistant", "The answer is: 4"
    )


def test_a_solution_is_thinking_only_where_the_answer_has_a_field() -> None:
    unit = {"problem": "p", "solution": "so \\boxed{4}.", "level": "Level 2"}
    assert one("math_solution", unit).messages[1] == text("assistant", "so \\boxed{4}.")
    assert one("math_solution", unit).extra == {"level": "Level 2"}
    answered = one("math_solution", {**unit, "answer": 4})
    assert answered.messages[1] == assistant(("thinking", "so \\boxed{4}."), ("text", "4"))
    assert answered.extra == {"level": "Level 2"}
    proof = one("math_solution", {**unit, "answer": "proof"})
    assert proof.messages[1] == text("assistant", "so \\boxed{4}.")
    assert proof.extra["answer"] == "proof"


AQUA = {"question": "q", "options": ["A)1", "B)20", "C)3"], "rationale": "r\nAnswer: B", "correct": "B"}


def test_aqua_options_are_shown_rationale_is_thinking_letter_is_the_answer() -> None:
    conversation = one("aqua", {**AQUA, "id": 7})
    assert conversation.messages == (
        user("q", "A)1", "B)20", "C)3"),
        assistant(("thinking", "r\nAnswer: B"), ("text", "B")),
    )
    assert conversation.extra == {"id": 7}


def test_a_letter_that_no_option_shows_is_not_said() -> None:
    conversation = one("aqua", {**AQUA, "options": ["1", "20", "3"], "rationale": ""})
    assert conversation.messages[1] == text("assistant", "20")
    assert conversation.extra == {"correct": "B"}


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (["A)1", "B)2"], ["A", "B"]),
        (["(a) x", "(b) y"], ["a", "b"]),
        (["1. x", "2. y"], ["1", "2"]),
        (["1.5", "2.5"], []),
        (["A)1", "C)2"], []),
        (["A cat", "B flat"], []),
        ([], []),
    ],
)
def test_labels_count_where_all_options_show_them_in_order(options: list[str], labels: list[str]) -> None:
    assert labels_in(options) == labels


def test_prontoqa_sentences_are_thoughts() -> None:
    unit = {
        "id": "x",
        "context": "c",
        "question": "q",
        "options": ["A) True", "B) False"],
        "answer": "B",
        "explanation": ["s1.", "s2."],
    }
    conversation = one("prontoqa", unit)
    assert conversation.messages == (
        user("q", "A) True", "B) False", context=("c",)),
        assistant(("thinking", "s1."), ("thinking", "s2."), ("text", "B")),
    )
    assert conversation.extra == {"id": "x"}


def test_prosqa_steps_are_thoughts_and_the_graph_is_kept() -> None:
    unit = {"question": "q", "steps": ["s1.", "", "s2."], "answer": "a", "edges": [[0, 1]], "root": 0}
    conversation = one("prosqa", unit)
    assert conversation.messages == (
        user("q"),
        assistant(("thinking", "s1."), ("thinking", "s2."), ("text", "a")),
    )
    assert conversation.extra == {"edges": [[0, 1]], "root": 0}


@pytest.mark.parametrize(
    ("unit", "asked", "answer", "extra"),
    [
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2", "id": "i"},
            ["q", "x", "y"],
            "y",
            {"id": "i", "answerKey": "2", "choices": {"label": ["1", "2"]}},
        ),
        (
            {"question": {"stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
             "answerKey": "B"},
            ["q", "x", "y"],
            "y",
            {"answerKey": "B", "question": {"choices": [{"label": "A"}, {"label": "B"}]}},
        ),
        ({"question": "q", "choices": ["x", "y"], "answer": 0, "subject": "s"}, ["q", "x", "y"], "x",
         {"answer": 0, "subject": "s"}),
        ({"question": "q", "options": ["x", "y"], "answer": "B", "answer_index": 1}, ["q", "x", "y"], "y",
         {"answer": "B", "answer_index": 1}),
        ({"question": "q", "options": ["A. x", "B. y"], "answer": "B"}, ["q", "A. x", "B. y"], "B", {}),
        ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"}, ["q", "x", "y"], "y",
         {"answer_idx": "B", "options": ["A", "B"]}),
        ({"question": "q", "options": ["A) True", "B) False"], "answer": 1}, ["q", "A) True", "B) False"], "B) False",
         {"answer": 1}),
    ],
)  # fmt: skip
def test_choice_qa_says_what_the_options_show(unit: Any, asked: list[str], answer: str, extra: dict[str, Any]) -> None:
    assert detect_format([unit]) == "choice_qa"
    conversation = one("choice_qa", unit)
    assert conversation.messages == (user(*asked), text("assistant", answer))
    assert conversation.extra == extra


def test_choice_qa_context_explanation_and_image() -> None:
    unit = {
        "article": "c",
        "question": "q",
        "options": ["x", "y"],
        "answer": "A",
        "explanation": "e",
        "image": {"path": "p.png"},
    }
    conversation = one("choice_qa", unit)
    assert [(part.kind, part.text) for part in conversation.messages[0].parts] == [
        ("text", "q"), ("text", "x"), ("text", "y"), ("context", "c"), ("media", '{"path":"p.png"}'),
    ]  # fmt: skip
    assert conversation.messages[1] == assistant(("thinking", "e"), ("text", "x"))


@pytest.mark.parametrize("answer", [None, "", -1])
def test_a_withheld_choice_is_not_made_up(answer: Any) -> None:
    conversation = one("choice_qa", {"question": "q", "choices": ["x", "y"], "answer": answer, "explanation": "e"})
    assert conversation.messages == (user("q", "x", "y"),)
    assert not conversation.has_output()
    assert conversation.extra == {"answer": answer, "explanation": "e"}


@pytest.mark.parametrize(
    ("format", "unit", "code"),
    [
        ("svamp", {"Body": "", "Question": " ", "Equation": "e", "Answer": 1.0}, "empty_question"),
        ("svamp", {"Body": "b", "Question": "q", "Equation": "e"}, "missing_field"),
        ("svamp", {"Body": "b", "Question": "q", "Equation": "e", "Answer": [1]}, "wrong_type"),
        ("svamp", {"Body": "b", "Question": "q", "Equation": "e", "Answer": float("nan")}, "wrong_type"),
        ("svamp", {"Body": "b", "Question": "q", "Equation": "e", "Answer": ""}, "empty_answer"),
        ("metamath", {"query": "", "response": "The answer is: 1"}, "empty_question"),
        ("metamath", {"query": "q", "response": ""}, "empty_answer"),
        ("math_solution", {"problem": "p"}, "missing_field"),
        ("math_solution", {"problem": "p", "solution": " "}, "empty_answer"),
        ("aqua", {**AQUA, "correct": "D"}, "unknown_choice"),
        ("aqua", {**AQUA, "options": ["1", 2]}, "wrong_type"),
        ("aqua", {**AQUA, "question": ""}, "empty_question"),
        ("aqua", {**AQUA, "options": ["B", "A", "C"]}, "ambiguous_choice"),
        ("prontoqa", {"question": "q", "options": ["A) x"], "answer": "C", "explanation": ["e"]}, "unknown_choice"),
        ("prontoqa", {"question": "q", "options": ["A) x"], "answer": "A"}, "missing_field"),
        ("prosqa", {"question": "q", "steps": "s", "answer": "a"}, "wrong_type"),
        ("prosqa", {"question": "q", "steps": [], "answer": ""}, "empty_answer"),
        ("choice_qa", {"question": "q", "choices": [], "answer": 0}, "no_options"),
        ("choice_qa", {"question": "q", "choices": ["x"], "answer": 1}, "unknown_choice"),
        ("choice_qa", {"question": "q", "choices": ["x"], "answer": True}, "wrong_type"),
        ("choice_qa", {"question": "q", "choices": ["x"]}, "missing_field"),
        ("choice_qa", {"question": "q", "choices": {"text": ["x"], "label": ["A", "B"]}, "answer": "A"}, "wrong_type"),
    ],
)  # fmt: skip
def test_question_sets_reject_with_their_codes(format: str, unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        one(format, unit)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("unit", "format"),
    [
        ({"question": "q", "answer": "a\n#### 1"}, "math_qa"),
        ({"problem": "p", "solution": "s", "answer": "1"}, "math_solution"),
        ({"problem": "p", "solution": "<think>s</think>1"}, "think_tagged"),
        ({"problem": "p", "solution": "s", "messages": [{"role": "user", "content": "p"}]}, "openai_messages"),
        ({"question": "q", "passage": "p", "answer": True}, "context_qa"),
        ({"question": "q", "support": "", "correct_answer": "a", "distractor1": "b"}, "context_qa"),
        ({"question": "q", "context": "c", "options": ["A) x"], "answer": "A"}, "choice_qa"),
        ({"question": "q", "context": "c", "ideal": "a"}, "bipia"),
        ({"question": "q", "context": "c", "answers": {"text": ["x"], "answer_start": [0]}}, "squad"),
        ({"question": "q", "context": [["t", ["s"]]], "answer": "a"}, "hotpot"),
        ({"question": "q", "context": ["s"], "answer": "a"}, "context_qa"),
        ({"query": "q", "response": "a"}, "prompt_completion"),
        ({"question": "q", "answer": "a"}, "open_qa"),
    ],
)
def test_similar_shapes_are_told_apart(unit: Any, format: str | None) -> None:
    assert list(format_votes([unit])) == ([format] if format else [])


def test_context_qa_boolean_answers_and_sciq() -> None:
    boolq = one("context_qa", {"question": "q", "passage": "p", "answer": False, "title": "t"})
    assert boolq.messages == (user("q", context=("p",)), text("assistant", "false"))
    sciq = one("context_qa", {"question": "q", "support": "", "correct_answer": "a", "distractor1": "b"})
    assert sciq.messages == (user("q"), text("assistant", "a"))
    assert sciq.extra == {"distractor1": "b"}


@pytest.mark.parametrize(
    ("path", "format", "count", "thoughts"),
    [
        ("math-svamp/SVAMP.json", "svamp", 300, 300),
        ("math-aqua/dev.json", "aqua", 254, 254),
        ("rc-prontoqa/dev.json", "prontoqa", 150, None),
        ("rc-prosqa/prosqa_valid.json", "prosqa", 100, None),
    ],
)
def test_question_corpora(path: str, format: str, count: int, thoughts: int | None) -> None:
    units = read_any(path)
    assert len(units) == count
    assert format_votes(units[:64]) == {format: 64}
    seen = 0
    for unit in units:
        conversation = one(format, unit)
        question, answer = conversation.messages
        said = [part.text for part in answer.parts if part.kind == "text"]
        thought = [part.text for part in answer.parts if part.kind == "thinking"]
        seen += len(thought)
        if format == "svamp":
            assert [question.rebuild(), thought, said] == [
                unit["Body"] + unit["Question"], [unit["Equation"]], [str(unit["Answer"])],
            ]  # fmt: skip
        elif format == "aqua":
            assert question.rebuild() == unit["question"] + "".join(unit["options"])
            assert [thought, said] == [[unit["rationale"]], [unit["correct"]]]
        elif format == "prontoqa":
            assert question.rebuild() == unit["question"] + "".join(unit["options"]) + unit["context"]
            assert [thought, said] == [unit["explanation"], [unit["answer"]]]
        else:
            assert [question.rebuild(), thought, said] == [unit["question"], unit["steps"], [unit["answer"]]]
        assert missing(unit, [conversation]) == set()
    assert thoughts is None or seen == thoughts


def test_what_the_code_in_a_solution_puts_out_is_the_tools() -> None:
    solution = "Count.\n<llm-code>\nprint(4)\n</llm-code>\n<llm-code-output>\n4\n</llm-code-output>\nSo it is 4."
    (conversation,) = convert("math_solution", {"problem": "p", "generated_solution": solution, "answer": "4"})
    assert isinstance(conversation, Conversation)
    assert "".join(m.rebuild() for m in conversation.messages[1:]) == solution
    results = [p.text for m in conversation.messages if m.role == "tool" for p in m.parts]
    assert [text.strip() for text in results] == ["4"]
    assert conversation.extra["answer"] == "4"
