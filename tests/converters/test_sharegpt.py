"""ShareGPT."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.shared.fields import json_text
from converters.sharegpt import convert, detect
from pipeline.conversation import Conversation, Message, Part, RecordError

HUMAN = {"from": "human", "value": "hi"}


def one(unit: Any) -> Conversation:
    (conversation,) = convert(unit)
    return conversation


def messages(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return one({"conversations": [{"from": role, "value": text} for role, text in turns]}).messages


def test_roles() -> None:
    named = (
        "system",
        "human",
        "user",
        "gpt",
        "assistant",
        "chatgpt",
        "model",
        "bing",
        "bard",
        "observation",
        "tool",
        "function_response",
        "tool_response",
    )
    roles = [m.role for m in messages(*((name, "x") for name in named))]
    assert roles == ["system", "user", "user", *["assistant"] * 6, *["tool"] * 4]


def test_an_empty_value_is_a_message_without_parts() -> None:
    assert messages(("human", "a"), ("gpt", ""), ("human", "b"))[1] == Message("assistant")


def test_a_call_keeps_its_arguments_and_its_source_verbatim() -> None:
    source = ' {"name": "f\\u00e9", "arguments": {"b" : 1.50, "a": "\\u00e9"}, "id": 1}\n'
    message = messages(("human", "a"), ("function_call", source), ("gpt", "b"))[1]
    assert message.parts == (Part("tool_call", '{"b" : 1.50, "a": "\\u00e9"}', name="fé", source=source),)
    assert message.rebuild() == source


def test_arguments_that_are_a_string_are_its_content() -> None:
    (part,) = messages(("human", "a"), ("tool_call", '{"name": "f", "arguments": "{\\"a\\": 1}"}'))[1].parts
    assert part.text == '{"a": 1}'


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_list_of_calls_is_cut_into_calls_that_rebuild_it(arguments: list[dict[str, Any]], spaced: bool) -> None:
    space = " \n" if spaced else ""
    raw = [json_text(a) for a in arguments]
    items = (f'{{"name":{space}"f",{space}"arguments":{space}{a}}}{space}' for a in raw)
    source = f"{space}[{space}{f',{space}'.join(items)}]{space}"
    message = messages(("human", "a"), ("function_call", source))[1]
    assert message.rebuild() == source
    assert [part.text for part in message.parts] == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(1)",
        "[]",
        "{}",
        '{"name": 1}',
        "[1]",
        '{"name": "f", "arguments": [1]}',
        "{'name': 'f'}",
        '{"name": "\\ud800"}',
        "[" * 5000,
    ],
)
def test_a_call_that_is_no_json_call_is_rejected(text: str) -> None:
    with pytest.raises(RecordError) as caught:
        messages(("human", "a"), ("function_call", text))
    assert caught.value.code == "bad_tool_call"


def test_a_call_and_what_is_said_next_are_two_messages() -> None:
    call = '{"name": "f", "arguments": {}}'
    assert [m.role for m in messages(("human", "a"), ("function_call", call), ("gpt", "wait"))] == [
        "user",
        "assistant",
        "assistant",
    ]


CALLS = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'


def test_one_observation_of_several_calls_is_cut_where_its_list_matches_them() -> None:
    observation = '[ {"a": 1} , "x" ]\n'
    result = messages(("human", "a"), ("function_call", CALLS), ("observation", observation))[2]
    assert result.parts == (
        Part("tool_result", '{"a": 1}', before="[ "),
        Part("tool_result", '"x"', before=" , ", after=" ]\n"),
    )
    assert result.rebuild() == observation


@pytest.mark.parametrize("observation", ["[1]", "[1, 2, 3]", "{}", "text", "", "[" * 5000])
def test_another_observation_of_several_calls_stays_one_result(observation: str) -> None:
    result = messages(("human", "a"), ("function_call", CALLS), ("observation", observation))[2]
    assert result.parts == (Part("tool_result", observation),)


def test_observations_as_many_as_calls_stay_whole() -> None:
    turns = (("human", "a"), ("function_call", CALLS), ("observation", "[1, 2]"), ("observation", "[3, 4]"))
    assert [m.parts for m in messages(*turns)[2:]] == [
        (Part("tool_result", "[1, 2]"),),
        (Part("tool_result", "[3, 4]"),),
    ]


def test_think_tags_of_the_model_are_split() -> None:
    assert [p.kind for p in messages(("human", "a"), ("gpt", "<think>x</think>y"))[1].parts] == ["thinking", "text"]


def test_system_tools_and_the_rest() -> None:
    unit = {
        "id": 1,
        "system": "be kind",
        "tools": "[ ]",
        "conversations": [HUMAN, {"from": "gpt", "value": "a", "k": 2, "weight": 0}],
    }
    conversation = one(unit)
    assert conversation.messages[0] == Message("system", (Part("text", "be kind"),))
    assert conversation.messages[2].weight == 0
    assert conversation.extra["messages"] == {"2": {"k": 2}}
    assert one({"conversations": [HUMAN], "tools": '[{"name": "f"}]'}).tools == '[{"name": "f"}]'


def test_role_and_content_stand_in_for_from_and_value() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    unit = {
        "conversations": [
            {"role": "human", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "observation", "content": "b"},
        ]
    }
    assert [m.parts[0].kind for m in one(unit).messages] == ["text", "tool_call", "tool_result"]
    assert detect(unit)


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        (3, "wrong_type"),
        ({}, "missing_field"),
        ({"conversations": []}, "no_messages"),
        ({"conversations": "a"}, "wrong_type"),
        ({"conversations": [{"from": "human"}]}, "missing_field"),
        ({"conversations": [{"value": "a"}]}, "missing_field"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "unknown_role"),
        ({"conversations": [{"from": "human", "value": None}]}, "wrong_type"),
        ({"conversations": [{"from": "human", "value": ""}]}, "empty_conversation"),
        ({"conversations": [HUMAN], "system": 1}, "wrong_type"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        one(unit)
    assert caught.value.code == code


def test_unused_message_keys_do_not_overwrite_the_records_own() -> None:
    conversation = one({"messages": "mine", "conversations": [{**HUMAN, "k": 1}]})
    assert conversation.extra == {"messages": "mine", "messages_": {"0": {"k": 1}}}


def test_hermes_calls_and_responses_stand_between_tags() -> None:
    calls = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    out = messages(
        ("system", "<tools>[]</tools>"),
        ("human", "a"),
        ("gpt", f"One moment.\n{calls}\n{calls}"),
        ("tool", "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"),
        ("gpt", "b"),
    )
    assert [[(p.kind, p.text) for p in m.parts] for m in out[2:]] == [
        [("text", "One moment."), ("tool_call", '{"a": 1}'), ("tool_call", '{"a": 1}')],
        [("tool_result", "1"), ("tool_result", "2")],
        [("text", "b")],
    ]
    assert messages(("human", "a"), ("function_call", calls))[1].parts[0].name == "f"


def test_one_response_tag_around_the_list_of_several_results() -> None:
    out = messages(("human", "a"), ("function_call", CALLS), ("tool", "<tool_response>[1, 2]</tool_response>"))
    assert out[2] == Message(
        "tool",
        (
            Part("tool_result", "1", before="<tool_response>["),
            Part("tool_result", "2", before=", ", after="]</tool_response>"),
        ),
    )


@pytest.mark.parametrize(
    "unit",
    [
        {"conversation": [HUMAN, {"from": "gpt", "value": "a"}]},
        {"items": [HUMAN, {"from": "bard", "value": "a"}]},
        {"conversations": [{"user": "human", "text": "hi"}, {"user": "gpt", "text": "a"}]},
        {"conversations": [{"role": "user", "value": "hi"}, {"role": "model", "value": "a"}]},
        {"conversations": [{"from": "human", "content": "hi"}, {"from": "gpt", "content": "a"}]},
    ],
)
def test_other_names_of_the_list_and_of_its_keys(unit: Any) -> None:
    assert detect(unit)
    assert one(unit).messages == (Message("user", (Part("text", "hi"),)), Message("assistant", (Part("text", "a"),)))
    assert one(unit).extra == {}


def test_detect_leaves_other_shapes_alone() -> None:
    assert not detect({"conversation": [{"role": "user", "text": "a", "apis": []}]})
    assert not detect({"items": [{"name": "saw"}]})
    assert not detect({"conversations": [{"from": "human"}]})
