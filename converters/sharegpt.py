"""ShareGPT: ``{"conversations": [{"from", "value"}], "system", "tools"}``.

The shape comes from the ShareGPT dumps (FastChat, Vicuna); the roles ``function_call`` and ``observation``, with their
JSON text, and ``tools`` as a JSON string from LLaMA-Factory's glaive sets; tagged calls and results in the values from
Hermes' function calling set. ``role`` and ``content`` stand in for ``from`` and ``value`` in some files; such messages may
also be OpenAI's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from converters import openai_messages
from converters.markup.assistant import read_markup
from converters.markup.json_calls import json_calls, results_in_list
from converters.markup.media_tags import place_media
from converters.markup.thinking import text_parts
from converters.shared.fields import (
    OPENAI_ROLES,
    SHAREGPT_ROLES,
    SYSTEM_KEYS,
    WEIGHT_KEYS,
    as_object,
    as_text,
    conversation,
    convert_messages,
    first_key,
    optional_text,
    required,
    rest,
    role_of,
    tools_of,
    weight_of,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "sharegpt"
UNIT = "record"
SHAPE = '{"conversations": [{"from", "value"}], "system", "tools"}'
EXAMPLE = {
    "system": "You help in a workshop.",
    "conversations": [
        {"from": "human", "value": "How warm is the kiln?"},
        {"from": "function_call", "value": '{"name": "read_sensor", "arguments": {"place": "kiln"}}'},
        {"from": "observation", "value": '{"celsius": 412}'},
        {"from": "gpt", "value": "It is at 412 degrees Celsius."},
    ],
    "tools": '[{"name": "read_sensor"}]',
}

_CALL_ROLES = frozenset({"function_call", "tool_call"})


_LIST_KEYS = ("conversations", "conversation", "items")


def detect(unit: Any) -> bool:
    """Whether there are ``conversations`` whose every message names a known role."""
    items = next((unit[key] for key in _LIST_KEYS if key in unit), None) if isinstance(unit, dict) else None
    return isinstance(items, list) and bool(items) and all(map(_is_message, items))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/messages.md lists the codes."""
    record = as_object(unit, "the record")
    key = next((key for key in _LIST_KEYS if key in record), "conversations")
    items = required(record, key)
    system_key = first_key(record, SYSTEM_KEYS)
    if system_key == "system_prompt" and _has_system(items):
        system_key = None
    system = optional_text(record, system_key) if system_key else ""
    opening = [Message("system", text_parts(system))] if system else []
    messages, unused = convert_messages(items, key, uncut_message, offset=len(opening))
    messages, media_keys = place_media(messages, record)
    tools, tool_keys = tools_of(record)
    messages, unused = read_markup(opening + messages, unused, tools)
    extra = rest(record, tool_keys | media_keys | {key, "system", *((system_key,) if system_key else ())})
    yield conversation(_split_observations(messages), extra, unused, tools)


def _has_system(items: Any) -> bool:
    return isinstance(items, list) and any(
        isinstance(item, dict) and item.get("from", item.get("role")) == "system" for item in items
    )


def uncut_message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    """One message for ``read_markup``, and its keys that no field of ``Message`` holds. Raises RecordError."""
    message = as_object(raw, where)
    role_key, text_key = _keys(message)
    named = required(message, role_key, where)
    role = role_of(named, SHAREGPT_ROLES, f"{where}.{role_key}")
    if (role_key, text_key) == ("role", "content") and named in OPENAI_ROLES:
        return openai_messages.uncut_message(message, where)
    text = as_text(required(message, text_key, where), f"{where}.{text_key}")
    name = optional_text(message, "name", f"{where}.name") or None
    weight = weight_of(message, where)
    left = rest(message, (role_key, text_key, "name", *WEIGHT_KEYS))
    if role == "tool":
        return Message(role, (Part("tool_result", text, name=name),), weight=weight), left
    tagged = named not in _CALL_ROLES or text.lstrip().startswith("<tool_call>")
    parts = text_parts(text) if tagged else _calls(text, f"{where}.{text_key}")
    return Message(role, parts, name=name, weight=weight), left


def _keys(message: dict[str, Any]) -> tuple[str, str]:
    """The keys of a message's role and text."""
    if "from" in message:
        return "from", next((key for key in ("value", "content", "text") if key in message), "value")
    if "role" not in message and "user" in message and "text" in message:
        return "user", "text"
    return "role", "value" if "value" in message and "content" not in message else "content"


def _calls(text: str, where: str) -> tuple[Part, ...]:
    """The calls in JSON text, whose arguments are an object or a string."""
    try:
        calls = json_calls(text)
    except ValueError as error:
        raise RecordError("bad_tool_call", f"{where} is not the JSON of a call: {error}") from error
    if not calls:
        raise RecordError("bad_tool_call", f"{where} is an empty list")
    return calls


def _split_observations(messages: Sequence[Message]) -> list[Message]:
    """Cuts the one observation behind n > 1 calls into n results, where it is the JSON text of a list of n elements."""
    out = list(messages)
    calls = 0
    for i, message in enumerate(messages):
        if called := sum(part.kind == "tool_call" for part in message.parts):
            calls += called
            continue
        alone = i + 1 == len(messages) or messages[i + 1].role != "tool"
        if calls > 1 and message.role == "tool" and alone:
            out[i] = replace(message, parts=results_in_list(message.parts, calls))
        calls = 0
    return out


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    role, text = _keys(value)
    return (
        isinstance(value.get(role), str)
        and value[role] in SHAREGPT_ROLES
        and text in value
        and isinstance(value[text], str | list | None)
    )
