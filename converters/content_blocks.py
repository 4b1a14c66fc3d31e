"""Messages of typed content blocks: Anthropic's Messages API, and LLaMA-Factory's blocks whose text is under ``value``.

Anthropic (platform.claude.com, Messages API and Message Batches): a request ``{"system", "messages", "tools"}``, the same
under ``params``, or a response ``{"type": "message", "role": "assistant", "content"}``. LLaMA-Factory v1: items
``{"type": "text" | "reasoning" | "tool_call" | "tools", "value"}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.markup.json_calls import json_calls, results_in_list
from converters.markup.thinking import split_thinking, text_parts
from converters.openai_messages import MEDIA_TYPES
from converters.shared.fields import (
    OPENAI_ROLES,
    WEIGHT_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    media_reference,
    optional_text,
    required,
    rest,
    role_of,
    tools_of,
    weight_of,
    without_payloads,
    wrong_type,
)
from converters.shared.session import arguments_text, cut_off, result_parts, text_or_none
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "content_blocks"
UNIT = "record"
SHAPE = '{"messages": [{"role", "content": [{"type": "text" | "tool_use" | "tool_result"}]}], "system", "tools"}'
EXAMPLE = {
    "system": "You help in a workshop.",
    "messages": [
        {"role": "user", "content": "How warm is the kiln?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "The sensor knows.", "signature": "c2ln"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "read_sensor", "input": {"place": "kiln"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "412"}]},
                {"type": "text", "text": "And the oven?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "The kiln is at 412 degrees."}]},
    ],
    "tools": [{"name": "read_sensor", "input_schema": {"type": "object"}}],
}

#: Roles of Anthropic's messages; ``system`` is what others add.
_ROLES = ("user", "assistant", "system")
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_HIDDEN = frozenset({"redacted_thinking"})
_MEDIA = MEDIA_TYPES | {"document", "container_upload"}
#: Block types that no other format's messages have.
_OWN = _CALLS | _HIDDEN | {"thinking", "tool_result", "document", "search_result"}
_VALUE_TYPES = frozenset({"text", "reasoning", "tool_call", "tools"}) | MEDIA_TYPES
#: Why a model stopped before its end.
CUT_OFF = ("max_tokens", "model_context_window_exceeded", "refusal")


def detect(unit: Any) -> bool:
    """Whether the messages are blocks that only this format has, or are Anthropic's by their ``system``."""
    if not isinstance(unit, dict):
        return False
    if unit.get("type") == "message":
        return unit.get("role") == "assistant" and _is_blocks(unit.get("content"))
    record = unit["params"] if isinstance(unit.get("params"), dict) and "custom_id" in unit else unit
    items = record.get("messages")
    if not isinstance(items, list) or not items or not all(map(_is_message, items)):
        return False
    if any(isinstance(item["content"], list) and any(map(_is_value_item, item["content"])) for item in items):
        return True
    if any(isinstance(item["content"], list) and any(map(_is_own_block, item["content"])) for item in items):
        return True
    return isinstance(record.get("system"), str | list) and all(item["role"] in _ROLES[:2] for item in items)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/sessions.md lists the codes."""
    record = as_object(unit, "the record")
    if "messages" not in record and record.get("type") == "message":
        yield _conversation({"messages": [record]}, {})
    elif isinstance(record.get("params"), dict) and "messages" not in record:
        yield _conversation(record["params"], rest(record, ("params",)))
    else:
        yield _conversation(record, {})


def _conversation(record: dict[str, Any], more: dict[str, Any]) -> Conversation:
    messages, unused = _system(record)
    tools, tool_keys = tools_of(record)
    for index, item in enumerate(as_list(required(record, "messages"), "messages")):
        for message, left in _messages(item, f"messages[{index}]"):
            if "tools" in left and not tools:
                tools = as_text(left.pop("tools"), "tools")
            if left:
                unused[str(len(messages))] = without_payloads(left)
            messages.append(message)
    if not messages:
        raise RecordError("no_messages", "messages is empty")
    extra = without_payloads(rest(record, tool_keys | {"messages", "system"}))
    return conversation(_split_results(messages), extra | more, unused, tools)


def _system(record: dict[str, Any]) -> tuple[list[Message], dict[str, dict[str, Any]]]:
    system = record.get("system")
    if not system:
        return [], {}
    ((message, left),) = block_messages("system", system, "system")
    return [message], {"0": left} if left else {}


def _messages(raw: Any, where: str) -> Iterator[tuple[Message, dict[str, Any]]]:
    message = as_object(raw, where)
    named = required(message, "role", where)
    role = role_of(named, OPENAI_ROLES, f"{where}.role")
    content = required(message, "content", where)
    name = optional_text(message, "name", f"{where}.name") or None
    used: tuple[str, ...] = ("role", "content", "name", *WEIGHT_KEYS)
    weight = weight_of(message, where)
    if isinstance(content, list) and any(map(_is_value_item, content)):
        used = (*used, "loss_weight")
        weight = min(weight, weight_of({"weight": message.get("loss_weight")}, where))
        made = [_value_message(role, content, f"{where}.content")]
    else:
        made = list(block_messages(role, content, f"{where}.content"))
    if message.get("stop_reason") in CUT_OFF:
        made[-1] = (cut_off(made[-1][0]), made[-1][1])
    left = rest(message, used)
    for part, notes in made:
        yield replace(part, name=name, weight=weight), left | notes
        left = {}


def block_messages(
    role: Role, content: Any, where: str, lenient: bool = False
) -> Iterator[tuple[Message, dict[str, Any]]]:
    """The messages of one content: its own, and one of the tool for every result that stands in it, in order.

    Each with what its blocks say beside their text, by index of the block. ``lenient``: a block of an unknown type is kept
    there as a whole; else it raises RecordError unknown_part.
    """
    if content is None or isinstance(content, str):
        text = as_text(content or "", where)
        yield _result_message(text, where) if role == "tool" else (Message(role, _text(text, role == "assistant")), {})
        return
    if not isinstance(content, list):
        raise wrong_type(content, where, "a string or a list")
    if role == "tool":
        yield _result_message(content, where)
        return
    tagged = role == "assistant" and not any(map(_is_thought, content))
    parts: list[Part] = []
    notes: dict[str, Any] = {}
    said = False
    for index, block in enumerate(content):
        at = f"{where}[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and (kind == "tool_result" or kind.endswith("_tool_result")):
            if parts or notes:
                yield Message(role, tuple(parts)), {"content": notes} if notes else {}
            yield _block_result(block, index, at)
            parts, notes, said = [], {}, True
            continue
        made, left = _block_parts(block, at, tagged, lenient)
        parts.extend(made)
        if left:
            notes[str(index)] = left
    if parts or notes or not said:
        yield Message(role, tuple(parts)), {"content": notes} if notes else {}


def _text(text: str, tagged: bool) -> tuple[Part, ...]:
    return split_thinking(text) if tagged else text_parts(text)


def _is_thought(block: Any) -> bool:
    """Whether a block is a thought: the texts beside it are then said as a whole, whatever tags they hold."""
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking", "reasoning")


def _result_message(content: Any, where: str) -> tuple[Message, dict[str, Any]]:
    parts, note = result_parts(content, where)
    return Message("tool", parts), {} if note is None else {"content": note}


def _block_result(block: dict[str, Any], index: int, where: str) -> tuple[Message, dict[str, Any]]:
    parts, note = result_parts(
        block.get("content"),
        f"{where}.content",
        name=text_or_none(block.get("name")),
        call_id=text_or_none(block.get("tool_use_id")),
        error=block.get("is_error") is True,
    )
    left = rest(block, ("type", "tool_use_id", "is_error", "name") + (("content",) if note is None else ()))
    return Message("tool", parts), {"content": {str(index): left}} if left else {}


def _block_parts(block: Any, where: str, tagged: bool, lenient: bool) -> tuple[tuple[Part, ...], Any]:
    """The parts of a block, and what they do not say: keys, or the whole of a block that cannot be read."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text" and isinstance(text := block.get("text"), str):
        return _text(as_text(text, f"{where}.text"), tagged), rest(block, ("type", "text"))
    if kind == "thinking" and isinstance(text := block.get("thinking"), str):
        parts = (Part("thinking", as_text(text, f"{where}.thinking")),) if text else ()
        return parts, rest(block, ("type", "thinking"))
    if kind in tuple(_CALLS):
        return (_block_call(block, where),), rest(block, ("type", "id", "name", "input")) | (
            {} if kind == "tool_use" else {"type": kind}
        )
    if kind in tuple(_HIDDEN):
        return (), block
    if kind == "document" and isinstance(source := block.get("source"), dict) and source.get("type") == "text":
        text = as_text(required(source, "data", f"{where}.source"), f"{where}.source.data")
        return (Part("context", text),), rest(block, ("source",)) | {"source": rest(source, ("data",))}
    if kind == "search_result":
        (result, *_), _note = result_parts(block.get("content"), f"{where}.content")
        return (Part("context", result.text),), rest(block, ("content",))
    if kind in tuple(_MEDIA):
        return (Part("media", media_reference(block)),), {}
    if lenient:
        return (), block
    if not isinstance(block, dict):
        raise wrong_type(block, where, "an object")
    raise RecordError("unknown_part", f"{where} is a block of type {kind!r:.80} that cannot be read")


def _block_call(block: dict[str, Any], where: str) -> Part:
    name = block.get("name")
    if not isinstance(name, str) or not name:
        raise RecordError("bad_tool_call", f"{where} has no name")
    return Part(
        "tool_call",
        arguments_text(block.get("input"), f"{where}.input"),
        name=as_text(name, f"{where}.name"),
        call_id=text_or_none(block.get("id")),
    )


def _value_message(role: Role, content: list[Any], where: str) -> tuple[Message, dict[str, Any]]:
    """A message of LLaMA-Factory's items."""
    tagged = role == "assistant" and not any(map(_is_thought, content))
    parts: list[Part] = []
    notes: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for index, item in enumerate(content):
        at = f"{where}[{index}]"
        kind = required(as_object(item, at), "type", at)
        text = as_text(required(item, "value", at), f"{at}.value")
        if more := rest(item, ("type", "value")):
            notes[str(index)] = more
        if kind == "tools" and "tools" not in left:
            left["tools"] = text
        elif kind == "reasoning":
            parts.append(Part("thinking", text))
        elif kind == "tool_call":
            try:
                calls = json_calls(text)
            except ValueError as error:
                raise RecordError("bad_tool_call", f"{at}.value is not the JSON of a call: {error}") from error
            if not all(call.name for call in calls):
                raise RecordError("bad_tool_call", f"{at}.value calls a tool without a name")
            parts.extend(calls)
        elif kind == "text":
            parts.extend((Part("tool_result", text),) if role == "tool" else _text(text, tagged))
        elif kind in tuple(MEDIA_TYPES):
            parts.append(Part("media", media_reference(item)))
        else:
            raise RecordError(
                "unknown_part", f"{at}.type is {kind!r:.80}, expected text, reasoning, tool_call or media"
            )
    return Message(role, tuple(parts)), left | ({"content": notes} if notes else {})


def _split_results(messages: list[Message]) -> list[Message]:
    """Cuts the one result behind n > 1 calls of a message without ids where it is the JSON text of a list of n elements."""
    out = list(messages)
    for i in range(1, len(messages)):
        called = [part for part in messages[i - 1].parts if part.kind == "tool_call"]
        alone = i + 1 == len(messages) or messages[i + 1].role != "tool"
        if len(called) > 1 and alone and messages[i].role == "tool" and all(part.call_id is None for part in called):
            out[i] = replace(messages[i], parts=results_in_list(messages[i].parts, len(called)))
    return out


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or "content" not in value or value.get("role") not in tuple(OPENAI_ROLES):
        return False
    return isinstance(value["content"], str) or _is_blocks(value["content"])


def _is_blocks(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(b, dict) and isinstance(b.get("type"), str) for b in content)


def _is_own_block(block: dict[str, Any]) -> bool:
    kind = block["type"]
    return kind in _OWN or kind.endswith("_tool_result") or (kind == "image" and "source" in block)


def _is_value_item(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("type"), str)
        and item["type"] in _VALUE_TYPES
        and isinstance(item.get("value"), str)
        and "text" not in item
    )
