"""Typed content blocks: Anthropic's, LLaMA-Factory's, the Responses API's items, Gemini's parts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from converters import convert, detect_format
from converters.shared.fields import media_reference, without_payloads
from pipeline.conversation import Conversation, Message, Part, RecordError
from pipeline.timeline import spans_of

Read = Callable[[str], list[Any]]
PAYLOAD = base64.b64encode(bytes(range(256)) * 2).decode()
DIGEST = f"sha256:{hashlib.sha256(bytes(range(256)) * 2).hexdigest()};bytes=512"


def one(format: str, unit: Any) -> Conversation:
    (conversation,) = convert(format, unit)
    return conversation


def anthropic(*messages: tuple[str, Any], **more: Any) -> Conversation:
    return one(
        "content_blocks", {"messages": [{"role": role, "content": content} for role, content in messages], **more}
    )


def kinds(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [(message.role, [part.kind for part in message.parts]) for message in conversation.messages]


def code_of(format: str, unit: Any) -> str:
    with pytest.raises(RecordError) as caught:
        list(convert(format, unit))
    return caught.value.code


def test_results_and_text_of_one_user_message_become_messages_in_their_order() -> None:
    conversation = anthropic(
        ("user", "Go."),
        (
            "assistant",
            [
                {"type": "text", "text": "Both."},
                {"type": "tool_use", "id": "a", "name": "read", "input": {"n": 1}},
                {"type": "tool_use", "id": "b", "name": "read", "input": {"n": 2}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "b", "content": "two", "is_error": True},
                {"type": "text", "text": "Wait."},
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [{"type": "text", "text": "on"}, {"type": "text", "text": "e"}],
                },
            ],
        ),
    )
    assert kinds(conversation)[1:] == [
        ("assistant", ["text", "tool_call", "tool_call"]),
        ("tool", ["tool_result"]),
        ("user", ["text"]),
        ("tool", ["tool_result"]),
    ]
    results = [m.parts[0] for m in conversation.messages if m.role == "tool"]
    assert [(r.text, r.call_id, r.error) for r in results] == [("two", "b", True), ("one", "a", False)]
    assert conversation.messages[1].parts[1] == Part("tool_call", '{"n":1}', name="read", call_id="a")
    streams, spans, _ = spans_of(conversation)
    assert [span.text for span in spans if span.kind == "header"] == ["read#1", "read#0"]
    assert sum(stream.role == "tool" for stream in streams) == 2


def test_what_a_server_ran_inside_an_answer_is_the_tools() -> None:
    conversation = anthropic(
        ("user", "Who?"),
        (
            "assistant",
            [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "who"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "s",
                    "content": [{"type": "web_search_result", "url": "u"}],
                },
                {"type": "text", "text": "She.", "citations": [{"url": "u"}]},
            ],
        ),
    )
    assert kinds(conversation)[1:] == [
        ("assistant", ["tool_call"]),
        ("tool", ["tool_result"]),
        ("assistant", ["text"]),
    ]
    assert conversation.messages[2].parts[0].text == '{"type":"web_search_result","url":"u"}'
    assert conversation.extra["messages"]["3"] == {"content": {"2": {"citations": [{"url": "u"}]}}}


def test_system_tools_thoughts_and_what_cannot_be_read() -> None:
    conversation = anthropic(
        ("user", "Q"),
        (
            "assistant",
            [
                {"type": "redacted_thinking", "data": "c2VjcmV0"},
                {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                {"type": "text", "text": "A </think>\nB"},
            ],
        ),
        system=[{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
        tools=[{"name": "t"}],
        max_tokens=9,
    )
    assert conversation.tools == '[{"name":"t"}]'
    assert conversation.messages[0] == Message("system", (Part("text", "S"),))
    assert conversation.messages[2].parts == (Part("thinking", "Hm."), Part("text", "A </think>\nB"))
    assert conversation.extra["max_tokens"] == 9
    assert conversation.extra["messages"]["2"]["content"] == {
        "0": {"type": "redacted_thinking", "data": "c2VjcmV0"},
        "1": {"signature": "sig"},
    }


def test_think_tags_in_text_blocks_are_cut_where_no_block_is_a_thought() -> None:
    conversation = anthropic(
        ("user", "Q"), ("assistant", [{"type": "text", "text": "<thinking>h</thinking>a"}]), system="s"
    )
    assert [part.kind for part in conversation.messages[-1].parts] == ["thinking", "text"]
    assert conversation.messages[-1].rebuild() == "<thinking>h</thinking>a"


def test_documents_are_context_and_images_are_references_without_their_bytes() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PAYLOAD}}
    document = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "Long."},
    }
    result = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "see"}, image]}
    conversation = anthropic(("user", [document, image]), ("user", [result]))
    text, media = conversation.messages[0].parts
    assert text == Part("context", "Long.")
    assert json.loads(media.text)["source"]["data"] == DIGEST
    assert [part.kind for part in conversation.messages[1].parts] == ["tool_result", "media"]
    assert PAYLOAD not in json.dumps(conversation.extra)
    assert DIGEST in json.dumps(conversation.extra)


def test_only_base64_is_taken_for_a_payload() -> None:
    value = {
        "data": "words " * 100,
        "url": "data:image/png;base64," + PAYLOAD,
        "text": PAYLOAD,
        "n": [{"data": "short"}],
    }
    assert without_payloads(value) == {**value, "url": "data:image/png;base64," + DIGEST}
    untouched = {"a": [1, {"data": "x"}]}
    assert without_payloads(untouched) is untouched
    assert media_reference({"b64_json": PAYLOAD}) == f'{{"b64_json":"{DIGEST}"}}'


def test_an_answer_that_ran_out_of_tokens_is_interrupted_in_its_last_part_only() -> None:
    unit = {
        "type": "message",
        "role": "assistant",
        "stop_reason": "max_tokens",
        "content": [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "and the"}],
    }
    assert detect_format([unit]) == "content_blocks"
    assert [part.interrupted for part in one("content_blocks", unit).messages[0].parts] == [False, True]


def test_batch_requests_keep_their_id() -> None:
    unit = {"custom_id": "r1", "params": {"system": "s", "messages": [{"role": "user", "content": "Q"}], "model": "m"}}
    assert detect_format([unit]) == "content_blocks"
    assert one("content_blocks", unit).extra == {"custom_id": "r1", "model": "m"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([{"type": "hologram"}], "unknown_part"),
        ([3], "wrong_type"),
        (7, "wrong_type"),
        ([{"type": "tool_use", "input": {}}], "bad_tool_call"),
    ],
)
def test_blocks_that_cannot_be_honoured_are_rejected(content: Any, code: str) -> None:
    assert code_of("content_blocks", {"messages": [{"role": "assistant", "content": content}]}) == code


def value_message(role: str, *items: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": kind, "value": value} for kind, value in items], **more}


def test_llama_factory_items() -> None:
    call = '{"name": "area", "arguments": {"r": 1.50}}'
    unit = {
        "messages": [
            value_message("system", ("tools", '[{"name": "area"}]'), ("text", "S")),
            value_message("user", ("text", "Q")),
            value_message("assistant", ("reasoning", "h"), ("tool_call", call), ("tool_call", call), loss_weight=0.0),
            value_message("tool", ("text", '[{"area": 7},  {"area": 8}]\n')),
            value_message("assistant", ("text", "7 and 8")),
        ]
    }
    assert detect_format([unit]) == "content_blocks"
    conversation = one("content_blocks", unit)
    assert conversation.tools == '[{"name": "area"}]'
    asked = conversation.messages[2]
    assert [part.kind for part in asked.parts] == ["thinking", "tool_call", "tool_call"]
    assert asked.parts[1].text == '{"r": 1.50}'
    assert asked.rebuild() == "h" + call + call
    assert asked.weight == 0.0
    assert [part.text for part in conversation.messages[3].parts] == ['{"area": 7}', '{"area": 8}']
    assert conversation.messages[3].rebuild() == '[{"area": 7},  {"area": 8}]\n'
    unit["messages"][2] = value_message("assistant", ("tool_call", "area(1)"))
    assert code_of("content_blocks", unit) == "bad_tool_call"


def test_one_call_keeps_its_result_whole() -> None:
    unit = {
        "messages": [
            value_message("user", ("text", "Q")),
            value_message("assistant", ("tool_call", '{"name": "f", "arguments": {}}')),
            value_message("tool", ("text", "[1]")),
        ]
    }
    assert [part.text for part in one("content_blocks", unit).messages[2].parts] == ["[1]"]


def test_reason_tool_use_counts(read_corpus: Read) -> None:
    units = read_corpus("blocks-reason-tool-use/reason_tool_use_demo_50.jsonl")
    assert detect_format(units) == "content_blocks"
    items = Counter(
        item["type"] for unit in units for m in unit["messages"] for item in m["content"] if m["role"] != "tool"
    )
    parts: Counter[str] = Counter()
    several = 0
    for unit in units:
        conversation = one("content_blocks", unit)
        assert [m.rebuild() for m in conversation.messages] == [
            "".join(item["value"] for item in m["content"]) for m in unit["messages"]
        ]
        assert conversation.tools == ("" if unit["tools"] == "[]" else unit["tools"])
        parts.update(part.kind for message in conversation.messages for part in message.parts)
        several += sum(len(message.parts) > 1 for message in conversation.messages if message.role == "tool")
    assert (parts["thinking"], parts["tool_call"], parts["text"]) == (
        items["reasoning"],
        items["tool_call"],
        items["text"],
    )
    assert (parts["tool_result"], several) == (42 + 6, 5)


def responses(*items: Any, **more: Any) -> Conversation:
    return one("openai_responses", {"input": list(items), **more})


def test_items_of_the_responses_api() -> None:
    conversation = responses(
        {"role": "user", "content": [{"type": "input_text", "text": "Q"}, {"type": "input_image", "image_url": "u"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "h"}], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "y"},
        instructions="S",
        output=[
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "A", "annotations": []}],
            }
        ],
    )
    assert kinds(conversation) == [
        ("system", ["text"]),
        ("user", ["text", "media"]),
        ("assistant", ["thinking"]),
        ("assistant", ["tool_call"]),
        ("tool", ["tool_result"]),
        ("assistant", ["text"]),
    ]
    assert conversation.messages[3].parts[0] == Part("tool_call", '{"a": 1}', name="f", call_id="c")
    assert conversation.extra["messages"] == {"2": {"id": "r", "encrypted_content": "x"}}
    assert conversation.extra["events"][0]["event"]["encrypted_content"] == "y"


def test_what_a_server_found_is_never_the_models_words() -> None:
    conversation = responses(
        {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
        {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "q", "sources": [{"url": "u"}]}},
        {"type": "code_interpreter_call", "id": "k", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {"type": "image_generation_call", "id": "i", "result": PAYLOAD},
    )
    calls = [(p.name, p.text) for m in conversation.messages for p in m.parts if p.kind == "tool_call"]
    assert calls == [
        ("web_search", '{"type":"search","query":"q"}'),
        ("code_interpreter", "1+1"),
        ("image_generation", ""),
    ]
    results = [(p.kind, p.text) for m in conversation.messages if m.role == "tool" for p in m.parts]
    assert results == [
        ("tool_result", '{"url":"u"}'),
        ("tool_result", '{"type":"logs","logs":"2"}'),
        ("tool_result", ""),
        ("media", f'{{"type":"image","data":"{DIGEST}"}}'),
    ]


def test_an_unknown_item_rejects_the_record() -> None:
    assert code_of("openai_responses", {"input": [{"type": "dance"}]}) == "unknown_part"
    assert code_of("openai_responses", {"input": []}) == "no_messages"
    assert code_of("openai_responses", {"input": [{"type": "function_call", "call_id": "c"}]}) == "bad_tool_call"


def test_gemini_contents() -> None:
    conversation = one(
        "gemini_contents",
        {
            "system_instruction": {"parts": [{"text": "S"}]},
            "contents": [
                {"parts": [{"text": "Q"}, {"inlineData": {"mimeType": "image/png", "data": PAYLOAD}}]},
                {
                    "role": "model",
                    "parts": [{"text": "h", "thought": True}, {"functionCall": {"name": "f", "args": {"a": 1}}}],
                },
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"name": "f", "response": {"error": "no"}}}, {"text": "Well?"}],
                },
                {"role": "model", "parts": [{"executableCode": {"language": "PYTHON", "code": "2"}}]},
                {
                    "role": "model",
                    "parts": [{"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2\n"}}, {"text": "A"}],
                },
            ],
        },
    )
    assert kinds(conversation) == [
        ("system", ["text"]),
        ("user", ["text", "media"]),
        ("assistant", ["thinking", "tool_call"]),
        ("tool", ["tool_result"]),
        ("user", ["text"]),
        ("assistant", ["tool_call"]),
        ("tool", ["tool_result"]),
        ("assistant", ["text"]),
    ]
    assert conversation.messages[3].parts[0] == Part("tool_result", "no", name="f", error=True)
    assert DIGEST in conversation.messages[1].parts[1].text
    assert code_of("gemini_contents", {"contents": [{"role": "gnome", "parts": []}]}) == "unknown_role"
