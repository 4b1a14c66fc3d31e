"""bipia and cyberseceval: attacks are read, never said."""

from __future__ import annotations

from typing import Any

import pytest
from corpus_checks import missing, read_any

from converters import convert, format_votes
from pipeline.conversation import Conversation, Message, Part, RecordError


def converted(format: str, unit: Any) -> list[Conversation]:
    return list(convert(format, unit))  # type: ignore[arg-type]


def test_bipia_task() -> None:
    (conversation,) = converted("bipia", {"ideal": "i", "context": "| a |\n", "question": "q", "id": 1})
    assert conversation.messages == (
        Message("user", (Part("text", "q"), Part("context", "| a |\n"))),
        Message("assistant", (Part("text", "i"),)),
    )
    assert conversation.extra == {"id": 1}


def test_bipia_summaries_have_no_question_and_several_ideals_keep_their_list() -> None:
    (summary,) = converted("bipia", {"ideal": "i", "context": "c"})
    assert summary.messages[0] == Message("user", (Part("context", "c"),))
    (listed,) = converted("bipia", {"ideal": ["", "i", "j"], "context": "c", "question": "q"})
    assert listed.messages[1].rebuild() == "i"
    assert listed.extra == {"ideal": ["", "i", "j"]}


def test_tasks_over_one_context_share_a_group() -> None:
    one, two, three = (
        converted("bipia", {"ideal": "i", "context": context, "question": question})[0].group
        for context, question in (("c", "q1"), ("c", "q2"), ("d", "q1"))
    )
    assert one == two != three


def test_bipia_attacks_are_input_only_one_for_each_string() -> None:
    unit = {"Clickbait": ["Look here!", "You won't believe it."], "Anagramming": ["olleh"]}
    assert format_votes([unit]) == {"bipia": 1}
    conversations = converted("bipia", unit)
    assert [(c.messages[0].rebuild(), c.extra["attack_class"], c.extra["attack_index"]) for c in conversations] == [
        ("Look here!", "Clickbait", 0),
        ("You won't believe it.", "Clickbait", 1),
        ("olleh", "Anagramming", 0),
    ]
    assert not any(c.has_output() for c in conversations)


def test_an_object_of_lists_is_not_taken_for_attacks() -> None:
    assert format_votes([{"text": ["a"], "label": ["b"]}]) == {}


def test_cyberseceval_system_and_user() -> None:
    unit = {
        "prompt_id": 3,
        "test_case_prompt": "s",
        "user_input": "u",
        "judge_question": "j",
        "injection_type": "direct",
    }
    (conversation,) = converted("cyberseceval", unit)
    assert conversation.messages == (
        Message("system", (Part("text", "s"),)),
        Message("user", (Part("text", "u"),)),
    )
    assert conversation.extra == {"prompt_id": 3, "judge_question": "j", "injection_type": "direct"}
    assert not conversation.has_output()


def test_a_test_of_insecure_code_is_what_the_user_asks() -> None:
    (conversation,) = converted(
        "cyberseceval", {"test_case_prompt": "u", "cwe_identifier": "CWE-89", "origin_code": "x"}
    )
    assert conversation.messages == (Message("user", (Part("text", "u"),)),)
    assert conversation.extra == {"cwe_identifier": "CWE-89", "origin_code": "x"}


@pytest.mark.parametrize(
    ("format", "unit", "code"),
    [
        ("bipia", {"ideal": "", "context": "c"}, "empty_answer"),
        ("bipia", {"ideal": [], "context": "c"}, "empty_answer"),
        ("bipia", {"ideal": "i", "context": " "}, "no_context"),
        ("bipia", {"context": "c"}, "missing_field"),
        ("bipia", {"ideal": "i", "context": ["line"]}, "wrong_type"),
        ("bipia", {"Clickbait": [1]}, "wrong_type"),
        ("cyberseceval", {"user_input": "u"}, "missing_field"),
        ("cyberseceval", {"test_case_prompt": "s", "user_input": ""}, "empty_question"),
        ("cyberseceval", {"test_case_prompt": "s", "user_input": 1}, "wrong_type"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(format: str, unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        converted(format, unit)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("path", "format", "units", "conversations"),
    [
        ("injection-bipia/train.jsonl", "bipia", 150, 150),
        ("injection-bipia/text_attack_train.json", "bipia", 1, 75),
        ("injection-cyberseceval/prompt_injection.json", "cyberseceval", 251, 251),
        ("injection-cyberseceval/prompt_injection_multilingual_machine_translated.json", "cyberseceval", 120, 120),
    ],
)
def test_injection_corpora(path: str, format: str, units: int, conversations: int) -> None:
    values = read_any(path)
    assert len(values) == units
    assert format_votes(values[:64]) == {format: min(units, 64)}
    results = [converted(format, value) for value in values]
    assert sum(map(len, results)) == conversations
    answered = [c.has_output() for result in results for c in result]
    assert answered == [path == "injection-bipia/train.jsonl"] * conversations
    for value, result in zip(values, results, strict=True):
        assert missing(value, result) == set()
