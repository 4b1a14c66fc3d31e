"""bfcl: turns of messages with the gold calls of a second file."""

from __future__ import annotations

from typing import Any

import pytest
from corpus_checks import missing, read_any

from converters import bfcl, convert, format_votes
from pipeline.conversation import Conversation, Message, Part, RecordError


def one(unit: Any, joined: Any = None) -> Conversation:
    (conversation,) = convert("bfcl", {"unit": unit, "joined": joined})
    assert isinstance(conversation, Conversation)
    return conversation


def turn(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def user(text: str) -> Message:
    return Message("user", (Part("text", text),))


def call(name: str, arguments: str) -> Part:
    return Part("tool_call", arguments, name=name, source=f"{name}({arguments})")


def test_each_turn_is_followed_by_its_calls() -> None:
    question = {"id": "m_0", "question": [turn("u1"), turn("u2", "Add 1 and 2.")], "path": ["A.b"]}
    gold = {"id": "m_0", "ground_truth": [["ls()", "cd(folder='a (b)')"], ["math.add(1, 2)"]]}
    conversation = one(question, gold)
    assert conversation.messages == (
        user("u1"),
        Message("assistant", (call("ls", ""), call("cd", "folder='a (b)'"))),
        user("u2"),
        user("Add 1 and 2."),
        Message("assistant", (call("math.add", "1, 2"),)),
    )
    assert conversation.extra == {"id": "m_0", "path": ["A.b"]}


def test_a_call_rebuilds_the_string_it_was_read_from() -> None:
    source = " echo(content='a\\nb)(',\n  n = 2 ) "
    part = one({"id": "a", "question": [turn("u")]}, {"ground_truth": [[source]]}).messages[1].parts[0]
    assert part.rebuild() == source
    assert (part.name, part.text) == ("echo", "content='a\\nb)(',\n  n = 2 ")


def test_a_turn_that_calls_nothing_says_nothing() -> None:
    conversation = one({"id": "a", "question": [turn("u1"), turn("u2")]}, {"ground_truth": [[], ["f()"]]})
    assert conversation.messages[1] == Message("assistant")
    assert conversation.has_output()


def test_the_calls_of_a_turn_without_messages_are_not_trained() -> None:
    conversation = one({"id": "a", "question": [turn("u1"), []]}, {"ground_truth": [["f()"], ["g()"]]})
    assert [message.weight for message in conversation.messages] == [1.0, 1.0, 0.0]


def test_without_gold_there_is_only_input_and_unused_keys_of_gold_are_kept() -> None:
    question = {"id": "a", "question": [turn("u")]}
    assert not one(question).has_output()
    assert one(question, {"id": "a", "ground_truth": ["no call"], "source": ["s"]}).extra["gold"] == {
        "ground_truth": ["no call"],
        "source": ["s"],
    }


DEFINITION = {"name": "area", "parameters": {"type": "dict"}}


def test_single_turn_gold_with_one_value_each_is_a_call() -> None:
    question = {"id": "s_0", "question": [turn("u")], "function": [DEFINITION]}
    gold = {"id": "s_0", "ground_truth": [{"area": {"base": [10], "sides": [[1, 2]], "unit": ["é"]}}, {"stop": {}}]}
    conversation = one(question, gold)
    assert conversation.tools == '[{"name":"area","parameters":{"type":"dict"}}]'
    assert [(p.name, p.text) for p in conversation.messages[1].parts] == [
        ("area", '{"base":10,"sides":[1,2],"unit":"é"}'),
        ("stop", "{}"),
    ]
    assert conversation.extra == {"id": "s_0"}


@pytest.mark.parametrize("unit", [["m", ""], ["m", "metres"], [], [""], [{"name": ["m"]}], "m"])
def test_gold_with_several_allowed_values_is_no_single_truth(unit: Any) -> None:
    gold = {"id": "s_0", "ground_truth": [{"area": {"base": [10], "unit": unit}}]}
    conversation = one({"id": "s_0", "question": [turn("u")], "function": [DEFINITION]}, gold)
    assert not conversation.has_output()
    assert conversation.extra["gold"] == {"ground_truth": gold["ground_truth"]}


def test_gold_inside_the_record_counts_where_none_is_joined() -> None:
    question = {"id": "e_0", "question": [turn("u")], "ground_truth": ["f(x=1)"]}
    assert one(question).messages[1].parts == (call("f", "x=1"),)
    assert "ground_truth" not in one(question).extra


def test_companions_of_a_file() -> None:
    assert bfcl.companions("B.json") == ("possible_answer/B.json", "possible_answer_B.json")
    assert bfcl.JOIN == "id"


@pytest.mark.parametrize(
    ("unit", "joined", "code"),
    [
        ({"id": "a", "ground_truth": [["f()"]]}, None, "no_question"),
        ({"id": "a", "question": []}, None, "no_messages"),
        ({"id": "a", "question": [turn("u")]}, {"ground_truth": [["f()"], ["g()"]]}, "turn_mismatch"),
        ({"id": "a", "question": [turn("u"), turn("v")]}, {"ground_truth": [["f()"], ["g"]]}, "bad_tool_call"),
        ({"id": "a", "question": [turn("u")]}, {"ground_truth": [["f()", 3]]}, "wrong_type"),
        ({"id": "a", "question": [[{"role": "alien", "content": "x"}]]}, None, "unknown_role"),
        ({"id": "a", "question": [[{"role": "user"}]]}, None, "missing_field"),
        ({"id": "a", "question": "u"}, None, "wrong_type"),
        (None, None, "wrong_type"),
        ({"id": "a", "question": [turn("u")]}, [], "wrong_type"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(unit: Any, joined: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        one(unit, joined)
    assert caught.value.code == code


def test_bfcl_multi_turn_base() -> None:
    name = "BFCL_v4_multi_turn_base.json"
    questions, gold = (read_any(f"openai-bfcl-multi-turn/{prefix}{name}") for prefix in ("", "possible_answer_"))
    assert format_votes(questions[:64]) == format_votes(gold[:64]) == {"bfcl": 64}
    by_id = {record["id"]: record for record in gold}
    calls = trained = 0
    for question in questions:
        truth = by_id[question["id"]]
        conversation = one(question, truth)
        outputs = [message for message in conversation.messages if message.role == "assistant"]
        inputs = [message.rebuild() for message in conversation.messages if message.role == "user"]
        assert inputs == [message["content"] for said in question["question"] for message in said]
        told = [part.source for message in outputs for part in message.parts]
        assert told == [call for turn in truth["ground_truth"] for call in turn]
        calls += len(told)
        trained += sum(len(message.parts) for message in outputs if message.weight)
        assert missing([question, truth], [conversation], structure=("user",)) == set()
    assert (len(questions), calls, trained) == (80, 483, 307)


def test_a_call_that_rests_on_a_result_nobody_told_is_not_trained() -> None:
    question = {"id": "a", "question": [[{"role": "user", "content": "Sort notes.txt, then copy 3 lines."}]]}
    calls = [
        "sort(file_name='notes.txt')",
        "head(file='notes.txt', lines=3)",
        "copy(source='out_17.txt')",
        "close(id=17)",
    ]
    conversation = one(question, {"id": "a", "ground_truth": [calls]})
    told = [(m.weight, [p.source for p in m.parts]) for m in conversation.messages if m.role == "assistant"]
    assert told == [(1.0, calls[:2]), (0.0, calls[2:])]
