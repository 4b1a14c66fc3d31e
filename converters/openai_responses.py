"""Items of OpenAI's Responses API: ``{"input": [items], "instructions", "tools", "output": [items]}``.

An item is a message (``input_text``, ``output_text``), a reasoning summary, a call (``function_call``, ``custom_tool_call``,
``web_search_call``, ...) or a call's output. Codex writes the same items into its sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.openai_messages import MEDIA_TYPES, TEXT_TYPES
from converters.shared.fields import (
    OPENAI_ROLES,
    as_list,
    as_object,
    as_text,
    conversation,
    first_key,
    media_reference,
    optional_text,
    required,
    rest,
    role_of,
    tools_of,
    without_payloads,
    wrong_type,
)
from converters.shared.session import arguments_text, cut_off, result_parts, text_or_none
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "openai_responses"
UNIT = "record"
SHAPE = '{"input": [{"type": "message" | "function_call" | "function_call_output"}], "instructions", "tools", "output"}'
EXAMPLE = {
    "instructions": "You help in a workshop.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "How warm is the kiln?"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "The sensor knows."}]},
        {"type": "function_call", "call_id": "c1", "name": "read_sensor", "arguments": '{"place":"kiln"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "412"},
    ],
    "tools": [{"type": "function", "name": "read_sensor", "parameters": {"type": "object"}}],
    "output": [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "It is at 412 degrees.", "annotations": []}],
        }
    ],
}

#: Where a call keeps what the model wrote, and where a server keeps what came of it; the first that is there counts.
_ARGUMENTS = ("arguments", "input", "action", "code", "queries")
_RESULTS = ("output", "outputs", "results", "result", "sources", "error")
_CALLS = frozenset({"tool_call", "custom_tool_call", "function_call"})
_OUTPUTS = frozenset({"tool_result", "function_result"})
#: Items that are no speech of anybody.
_EVENTS = frozenset(
    {
        "item_reference",
        "ghost_snapshot",
        "compaction",
        "compaction_summary",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
    }
)


def detect(unit: Any) -> bool:
    """Whether its input or output is a list of items, one of which at least no other format has."""
    if not isinstance(unit, dict):
        return False
    lists = [unit[key] for key in ("input", "output") if isinstance(unit.get(key), list)]
    items = [item for items in lists for item in items]
    return bool(items) and all(isinstance(item, dict) for item in items) and any(map(is_item, items))


def is_item(value: Any) -> bool:
    """Whether it is an item, told by its type."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        content = value.get("content") if isinstance(value, dict) else None
        return isinstance(content, list) and "role" in value and any(map(_is_item_text, content))
    if kind == "message":
        content = value.get("content")
        return "role" in value and isinstance(content, list) and any(map(_is_item_text, content))
    if kind == "reasoning":
        return isinstance(value.get("summary"), list)
    return kind.endswith("_call_output") or (
        kind.endswith("_call") and ("call_id" in value or "id" in value or "arguments" in value)
    )


def _is_item_text(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in ("input_text", "output_text")


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation: the instructions, the input, the output. Raises RecordError; docs/formats/sessions.md."""
    record = as_object(unit, "the record")
    messages: list[Message] = []
    unused: dict[str, dict[str, Any]] = {}
    events: list[dict[str, Any]] = []
    instructions = record.get("instructions")
    if isinstance(instructions, str) and instructions:
        messages.append(Message("system", text_parts(as_text(instructions, "instructions"))))
    for key in ("input", "output"):
        items = record.get(key)
        if isinstance(items, str):
            messages.append(Message("user", text_parts(as_text(items, key))))
            continue
        for index, item in enumerate([] if items is None else as_list(items, key)):
            made = item_messages(item, f"{key}[{index}]")
            if not made:
                events.append({"at": len(messages), "event": without_payloads(item)})
            for message, left in made:
                if left:
                    unused[str(len(messages))] = without_payloads(left)
                messages.append(message)
    if not messages:
        raise RecordError("no_messages", "neither input nor output holds a message")
    tools, tool_keys = tools_of(record)
    used = tool_keys | {"input", "output"} | ({"instructions"} if isinstance(instructions, str) else set())
    extra = without_payloads(rest(record, used))
    yield conversation(messages, extra | ({"events": events} if events else {}), unused, tools)


def item_messages(raw: Any, where: str) -> list[tuple[Message, dict[str, Any]]]:
    """The messages of an item, each with what it says beside their text; none for what is no speech or cannot be read.

    A call that a server has run is two: the call, and its result. Raises RecordError.
    """
    item = as_object(raw, where)
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str):
        raise wrong_type(kind, f"{where}.type", "a string")
    if kind == "message":
        return [_message(item, where)]
    if kind == "reasoning":
        return _reasoning(item, where)
    if kind == "agent_message":
        parts, notes = _content("user", item.get("content"), f"{where}.content")
        message = Message("user", parts, name=text_or_none(item.get("author")))
        return [(message, rest(item, ("author", "content")) | notes)] if parts else []
    if kind in _OUTPUTS or kind.endswith(("_call_output", "_search_output")):
        return [_output(item, where)]
    if kind in _CALLS or kind.endswith("_call"):
        return _call(item, kind, where)
    if kind in _EVENTS:
        return []
    raise RecordError("unknown_part", f"{where} is an item of type {kind!r:.80} that cannot be read")


def _message(item: dict[str, Any], where: str) -> tuple[Message, dict[str, Any]]:
    role = role_of(required(item, "role", where), OPENAI_ROLES, f"{where}.role")
    parts, notes = _content(role, required(item, "content", where), f"{where}.content")
    message = Message(role, parts)
    if item.get("status") == "incomplete":
        message = cut_off(message)
    return message, rest(item, ("type", "role", "content")) | notes


def _content(role: Role, content: Any, where: str) -> tuple[tuple[Part, ...], dict[str, Any]]:
    split = split_thinking if role == "assistant" else text_parts
    if content is None or isinstance(content, str):
        return split(as_text(content or "", where)), {}
    parts: list[Part] = []
    notes: dict[str, Any] = {}
    for index, item in enumerate(as_list(content, where)):
        kind = item.get("type") if isinstance(item, dict) else None
        text_key = "refusal" if kind == "refusal" else "text"
        if isinstance(kind, str) and (kind in TEXT_TYPES or kind == "refusal") and isinstance(item.get(text_key), str):
            parts.extend(split(as_text(item[text_key], f"{where}[{index}]")))
            if left := {k: v for k, v in item.items() if k not in ("type", text_key) and v != []}:
                notes[str(index)] = left
        elif isinstance(kind, str) and kind in MEDIA_TYPES and any(rest(item, ("type", "detail")).values()):
            parts.append(Part("media", media_reference(item)))
        else:
            notes[str(index)] = item
    return tuple(parts), {"content": notes} if notes else {}


def _reasoning(item: dict[str, Any], where: str) -> list[tuple[Message, dict[str, Any]]]:
    """The reasoning itself where it is there, else its summary; each text a part. Encrypted reasoning cannot be read."""
    key = first_key({k: v or None for k, v in item.items()}, ("content", "summary"))
    texts = as_list(item[key], f"{where}.{key}") if key else []
    parts = []
    for index, entry in enumerate(texts):
        text = optional_text(as_object(entry, f"{where}.{key}[{index}]"), "text", f"{where}.{key}[{index}].text")
        if text:
            parts.append(Part("thinking", text))
    left = {k: v for k, v in rest(item, ("type", key or "")).items() if v not in (None, [])}
    return [(Message("assistant", tuple(parts)), left)] if parts else []


def _call(item: dict[str, Any], kind: str, where: str) -> list[tuple[Message, dict[str, Any]]]:
    function = item.get("function")
    named = item.get("name") or (function.get("name") if isinstance(function, dict) else None)
    if named is None and kind not in _CALLS:
        named = kind.removesuffix("_call")
    if not isinstance(named, str) or not named:
        raise RecordError("bad_tool_call", f"{where} has no name")
    key = first_key(item, _ARGUMENTS)
    value = item[key] if key else None
    found = first_key(item, _RESULTS)
    result = item[found] if found else None
    if isinstance(value, dict) and value.get("sources"):
        found, result, value = "sources", value["sources"], rest(value, ("sources",))
    call_id = text_or_none(item.get("call_id")) or text_or_none(item.get("id"))
    part = Part("tool_call", arguments_text(value, f"{where}.{key}"), as_text(named, f"{where}.name"), call_id)
    used = {"type", "name", "function", "call_id", key, found} | (set() if item.get("call_id") else {"id"})
    left = {k: v for k, v in item.items() if k not in used and v is not None}
    if isinstance(function, dict) and (inner := rest(function, ("name",))):
        left["function"] = inner
    if kind not in ("function_call", "tool_call"):
        left["type"] = kind
    made = [(Message("assistant", (part,)), left)]
    if found:
        content: Any = {"type": "image", "data": result} if kind == "image_generation_call" else result
        parts, note = result_parts(content, f"{where}.{found}", call_id=call_id, error=found == "error")
        made.append((Message("tool", parts), {} if note is None else {found: note}))
    return made


def _output(item: dict[str, Any], where: str) -> tuple[Message, dict[str, Any]]:
    key = first_key(item, ("output", "result", "tools", "content"))
    value = item[key] if key else None
    error = isinstance(value, dict) and value.get("success") is False
    if isinstance(value, dict) and "type" not in value and isinstance(value.get("content"), str):
        text, inner = value["content"], rest(value, ("content",))
    else:
        text, inner = value, {}
    call_id = text_or_none(item.get("call_id"))
    parts, note = result_parts(text, f"{where}.{key}", text_or_none(item.get("name")), call_id, error)
    left = {k: v for k, v in rest(item, ("type", "call_id", "name", key or "")).items() if v is not None}
    if note is not None or inner:
        left[str(key)] = note if note is not None else inner
    return Message("tool", parts), left
