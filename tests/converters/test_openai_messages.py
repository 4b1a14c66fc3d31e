"""OpenAI messages."""

from __future__ import annotations

from typing import Any

import pytest

from converters.openai_messages import convert, detect
from pipeline.conversation import Conversation, Part, RecordError


def one(unit: Any) -> Conversation:
    (conversation,) = convert(unit)
    return conversation


def assistant(**message: Any) -> tuple[Part, ...]:
    return one([{"role": "user", "content": "hi"}, {"role": "assistant", **message}]).messages[1].parts


def code_of(unit: Any) -> str:
    with pytest.raises(RecordError) as caught:
        one(unit)
    return caught.value.code


def test_roles_and_texts_in_order() -> None:
    roles = ("system", "developer", "user", "user", "assistant", "tool", "function", "user")
    conversation = one({"messages": [{"role": role, "content": role} for role in roles]})
    assert [m.role for m in conversation.messages] == [
        "system", "system", "user", "user", "assistant", "tool", "tool", "user",
    ]  # fmt: skip
    assert [m.rebuild() for m in conversation.messages] == list(roles)
    assert detect([{"role": "user", "content": "a"}])


def test_thinking_comes_before_text_and_calls_after_it() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a" : 1}'}}]
    assert assistant(content="say", reasoning_content="\nthink\n", tool_calls=calls) == (
        Part("thinking", "\nthink\n"),
        Part("text", "say"),
        Part("tool_call", '{"a" : 1}', name="f", call_id="c1"),
    )


def test_think_tags_of_an_assistant_are_split_and_of_a_user_are_not() -> None:
    tagged = "<think>a</think>b"
    parts = assistant(content=tagged)
    assert [part.kind for part in parts] == ["thinking", "text"]
    assert one([{"role": "user", "content": tagged}]).messages[0].parts == (Part("text", tagged),)


def test_arguments_given_as_an_object_are_written_compactly_in_their_order() -> None:
    call = {"function": {"name": "f", "arguments": {"z": "é", "a": [1, 2**70]}}}
    assert assistant(content=None, tool_calls=[call]) == (
        Part("tool_call", '{"z":"é","a":[1,1180591620717411303424]}', name="f"),
    )


def test_flat_and_legacy_calls() -> None:
    assert assistant(content="", tool_calls=[{"name": "f", "arguments": {}}]) == (Part("tool_call", "{}", name="f"),)
    assert assistant(content=None, function_call={"name": "f", "arguments": "x"}) == (Part("tool_call", "x", name="f"),)


def test_results_carry_their_call_and_name_and_may_be_empty() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": ""}
    conversation = one([{"role": "user", "content": "hi"}, result, {"role": "function", "name": "g", "content": "x"}])
    assert conversation.messages[1].parts == (Part("tool_result", "", name="f", call_id="c1"),)
    assert conversation.messages[2].parts == (Part("tool_result", "x", name="g"),)


def test_part_lists() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
    content = [image, {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}}]
    conversation = one([{"role": "user", "content": content}])
    assert conversation.messages[0].parts == (
        Part("media", '{"type":"image_url","image_url":{"url":"http://example.com/a.png"}}'),
        Part("text", "what?"),
    )
    assert conversation.extra == {"messages": {"0": {"content": {"1": {"cache_control": {"type": "ephemeral"}}}}}}


def test_the_bytes_of_media_are_not_copied() -> None:
    payload = "QUJD" * 100
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{payload}"}}
    listed = [{"type": "text", "text": "a"}, image]
    conversation = one([{"role": "user", "content": listed}, {"role": "tool", "content": listed}])
    assert "data:image/png;base64,sha256:" in conversation.messages[0].parts[1].text
    assert payload not in str(conversation)


def test_a_result_of_several_parts_is_one_result_and_keeps_its_list() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    conversation = one([{"role": "user", "content": "hi"}, {"role": "tool", "content": content}])
    assert conversation.messages[1].parts == (Part("tool_result", "ab"),)
    assert conversation.extra == {"messages": {"1": {"content": content}}}


@pytest.mark.parametrize(
    ("keys", "weight"),
    [({"weight": 0}, 0.0), ({"weight": 0.5}, 0.5), ({"loss": False}, 0.0), ({"train": True}, 1.0), ({}, 1.0)],
)
def test_weights(keys: dict[str, Any], weight: float) -> None:
    message = one([{"role": "assistant", "content": "a", **keys}]).messages[0]
    assert message.weight == weight


def test_nothing_beside_the_messages_is_lost() -> None:
    messages = [
        {"role": "user", "content": "a", "name": "ann", "lang": "en", "tool_calls": None, "thinking": None},
        {"role": "assistant", "content": "b", "refusal": None, "score": 1, "reasoning": ""},
    ]
    conversation = one({"id": 7, "messages": messages, "tools": [], "meta": None})
    assert conversation.extra == {"id": 7, "meta": None, "messages": {"0": {"lang": "en"}, "1": {"score": 1}}}
    assert conversation.messages[0].name == "ann"
    assert conversation.tools == ""


def test_unused_keys_of_calls_are_kept() -> None:
    call = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "", "strict": True}}
    conversation = one([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert conversation.extra == {"messages": {"0": {"tool_calls": {"0": {"index": 0, "function": {"strict": True}}}}}}


def test_a_second_reasoning_text_is_kept_beside_the_first() -> None:
    conversation = one([{"role": "assistant", "content": "a", "reasoning_content": "x", "reasoning": "y"}])
    assert conversation.messages[0].parts[0] == Part("thinking", "x")
    assert conversation.extra == {"messages": {"0": {"reasoning": "y"}}}


def test_a_refusal_is_said() -> None:
    assert assistant(content=None, refusal="No.") == (Part("text", "No."),)


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ('[{"a" : 1}]', '[{"a" : 1}]'),
        ([{"a": "é"}], '[{"a":"é"}]'),
        ([], ""),
        ("[]", ""),
        (" [] ", ""),
        (None, ""),
        ("", ""),
    ],
)
def test_tool_definitions(tools: Any, text: str) -> None:
    conversation = one({"messages": [{"role": "user", "content": "a"}], "tools": tools})
    assert (conversation.tools, conversation.extra) == (text, {})


def test_functions_are_tools_where_tools_say_nothing() -> None:
    conversation = one({"messages": [{"role": "user", "content": "a"}], "tools": [], "functions": [{"name": "f"}]})
    assert (conversation.tools, conversation.extra) == ('[{"name":"f"}]', {})


def test_tau_bench_records_are_grouped_by_task() -> None:
    conversation = one(
        {"task_id": 3, "reward": 0.0, "info": {}, "traj": [{"role": "user", "content": "a"}], "trial": 1}
    )
    assert conversation.group == "task_id:3"
    assert conversation.extra == {"task_id": 3, "reward": 0.0, "info": {}, "trial": 1}


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        ("text", "wrong_type"),
        ({}, "missing_field"),
        ({"messages": []}, "no_messages"),
        ({"messages": {}}, "wrong_type"),
        ([1], "wrong_type"),
        ([{"content": "a"}], "missing_field"),
        ([{"role": "human", "content": "a"}], "unknown_role"),
        ([{"role": ["user"], "content": "a"}], "unknown_role"),
        ([{"role": "user"}], "missing_field"),
        ([{"role": "assistant"}], "missing_field"),
        ([{"role": "user", "content": 3}], "wrong_type"),
        ([{"role": "user", "content": [{"type": "tool_use"}]}], "unknown_part"),
        ([{"role": "user", "content": [{"text": "a"}]}], "missing_field"),
        ([{"role": "user", "content": "a", "tool_calls": [{"name": "f"}]}], "bad_tool_call"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}], "bad_tool_call"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": [1]}]}], "bad_tool_call"),
        ([{"role": "assistant", "content": "a", "weight": -1}], "bad_weight"),
        ([{"role": "assistant", "content": "a", "weight": float("nan")}], "bad_weight"),
        ([{"role": "user", "content": "a\ud800"}], "invalid_text"),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": None}], "empty_conversation"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": 3}, "wrong_type"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(unit: Any, code: str) -> None:
    assert code_of(unit) == code


def test_errors_name_the_place_and_the_types() -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}] * 3 + [{"role": "user", "content": 1}]
    with pytest.raises(RecordError, match=r"^messages\[3\]\.content is an int, expected a string or a list$"):
        one({"messages": messages})


def test_detect_leaves_other_shapes_alone() -> None:
    assert not detect({"messages": []})
    assert not detect({"messages": [{"role": "user", "content": [{"type": "text", "value": "a"}]}]})
    assert not detect({"messages": [{"role": "agent", "content": "a"}]})
    assert not detect({"conversations": [{"from": "human", "value": "a"}]})
    assert not detect({"conversation": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b", "apis": []}]})
    for kind in ("thinking", "tool_use", "tool_result", "tools"):
        assert not detect([{"role": "assistant", "content": [{"type": kind, kind: "a"}]}])


def test_conversation_is_a_name_of_the_list() -> None:
    unit = {"conversation_id": "x", "conversation": [{"role": "user", "content": "a"}], "language": "en"}
    assert detect(unit)
    assert one(unit).extra == {"conversation_id": "x", "language": "en"}


def test_channels_of_harmony() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "channel": "analysis", "content": "b"},
        {"role": "assistant", "channel": "commentary", "content": "c"},
        {"role": "assistant", "channel": "commentary", "recipient": "functions.f", "content": '{"x": 1}'},
        {"role": "tool", "name": "functions.f", "content": "d"},
        {"role": "assistant", "channel": "final", "content": "e"},
    ]
    conversation = one({"messages": messages})
    assert [m.parts for m in conversation.messages[1:]] == [
        (Part("thinking", "b"),),
        (Part("text", "c"),),
        (Part("tool_call", '{"x": 1}', name="functions.f"),),
        (Part("tool_result", "d", name="functions.f"),),
        (Part("text", "e"),),
    ]
    assert conversation.extra == {"messages": {"2": {"channel": "commentary"}, "3": {"channel": "commentary"}}}


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_results_that_the_user_carries_are_the_tools() -> None:
    conversation = one(
        [
            {"role": "user", "content": "Calls stand between <tool_call> and </tool_call>."},
            {"role": "assistant", "content": f"<think>a</think>\n{CALL}", "score": 1},
            {"role": "user", "content": "<tool_response>\nb\n\n</tool_response>", "score": 2},
            {"role": "assistant", "content": "<think>c</think>\n<answer>d</answer>"},
        ]
    )
    assert [(m.role, [(p.kind, p.text) for p in m.parts]) for m in conversation.messages[1:]] == [
        ("assistant", [("thinking", "a"), ("tool_call", "{}")]),
        ("tool", [("tool_result", "b")]),
        ("assistant", [("thinking", "c"), ("text", "d")]),
    ]
    assert conversation.extra == {"messages": {"1": {"score": 1}, "2": {"score": 2}}}


def test_unused_keys_keep_their_message_where_an_earlier_one_is_cut() -> None:
    whole = f"{CALL}\n<tool_response>a</tool_response>\nb"
    conversation = one(
        [{"role": "assistant", "content": whole, "score": 1}, {"role": "user", "content": "c", "score": 2}]
    )
    assert [m.role for m in conversation.messages] == ["assistant", "tool", "assistant", "user"]
    assert conversation.extra == {"messages": {"0": {"score": 1}, "3": {"score": 2}}}


def test_a_result_in_text_beside_reasoning_and_calls() -> None:
    call = {"id": "1", "function": {"name": "g", "arguments": "{}"}}
    message = {"role": "assistant", "reasoning_content": "r", "content": f"{CALL}\n<tool_response>a</tool_response>"}
    conversation = one([{"role": "user", "content": "q"}, message | {"tool_calls": [call]}])
    assert [[p.name or p.kind for p in m.parts] for m in conversation.messages[1:]] == [
        ["thinking", "f"], ["tool_result"], ["g"],
    ]  # fmt: skip
