"""ShareGPT: ``{"conversations": [{"from", "value"}], "system", "tools"}``.

The shape comes from the ShareGPT dumps (FastChat, Vicuna); the roles ``function_call`` and ``observation``, with their
JSON text, and ``tools`` as a JSON string from LLaMA-Factory's glaive sets. ``role`` and ``content`` stand in for
``from`` and ``value`` in some files; such messages may also be OpenAI's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from converters import openai_messages
from converters.common import (
    OPENAI_ROLES,
    SHAREGPT_ROLES,
    WEIGHT_KEYS,
    as_object,
    as_text,
    conversation,
    convert_messages,
    json_elements,
    optional_text,
    required,
    rest,
    role_of,
    tools_of,
    weight_of,
)
from converters.markup.thinking import split_thinking, text_parts
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


class _Call(msgspec.Struct):
    """A call as JSON text holds it; the arguments are the slice of that text."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"null")


def detect(unit: Any) -> bool:
    """Whether there are ``conversations`` whose every message names a known role."""
    items = unit.get("conversations") if isinstance(unit, dict) else None
    return isinstance(items, list) and bool(items) and all(map(_is_message, items))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats.md lists the codes."""
    record = as_object(unit, "the record")
    system = optional_text(record, "system")
    opening = [Message("system", text_parts(system))] if system else []
    items = required(record, "conversations")
    messages, unused = convert_messages(items, "conversations", _message, offset=len(opening))
    tools, tool_keys = tools_of(record)
    extra = rest(record, tool_keys | {"conversations", "system"})
    yield conversation(opening + _split_observations(messages), extra, unused, tools)


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    message = as_object(raw, where)
    role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    named = required(message, role_key, where)
    role = role_of(named, SHAREGPT_ROLES, f"{where}.{role_key}")
    if role_key == "role" and named in OPENAI_ROLES:
        return openai_messages.convert_message(message, where)
    text = as_text(required(message, text_key, where), f"{where}.{text_key}")
    name = optional_text(message, "name", f"{where}.name") or None
    weight = weight_of(message, where)
    left = rest(message, (role_key, text_key, "name", *WEIGHT_KEYS))
    if role == "tool":
        return Message(role, (Part("tool_result", text, name=name),), weight=weight), left
    if named in _CALL_ROLES:
        parts = _calls(text, f"{where}.{text_key}")
    else:
        parts = split_thinking(text) if role == "assistant" else text_parts(text)
    return Message(role, parts, name=name, weight=weight), left


def _calls(text: str, where: str) -> tuple[Part, ...]:
    """The calls in JSON text: an object, or a list of objects; each part keeps its stretch of the text as source."""
    try:
        if not text.lstrip().startswith("["):
            return (_call(text, text, where),)
        spans = json_elements(text)
        if not spans:
            raise RecordError("bad_tool_call", f"{where} is an empty list")
        cuts = [0, *(end for _, end in spans[:-1]), len(text)]
        return tuple(_call(text[a:b], text[cuts[i] : cuts[i + 1]], where) for i, (a, b) in enumerate(spans))
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError("bad_tool_call", f"{where} is not the JSON of a call: {error}") from error


def _call(text: str, source: str, where: str) -> Part:
    """One call. Raises msgspec.DecodeError for other text than a call's."""
    call = msgspec.json.decode(text, type=_Call)
    arguments = bytes(call.arguments).decode()
    if arguments.startswith('"'):
        arguments = msgspec.json.decode(arguments, type=str)
    elif arguments == "null":
        arguments = ""
    elif not arguments.startswith("{"):
        raise RecordError(
            "bad_tool_call", f"the arguments of {where} are {arguments:.40}, expected an object or a string"
        )
    return Part("tool_call", arguments, name=call.name, source=source)


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
            out[i] = replace(message, parts=_results(message.parts, calls))
        calls = 0
    return out


def _results(parts: tuple[Part, ...], n: int) -> tuple[Part, ...]:
    if len(parts) != 1 or parts[0].call_id is not None:
        return parts
    whole = parts[0]
    try:
        spans = json_elements(whole.text)
    except (msgspec.DecodeError, RecursionError):
        return parts
    if len(spans) != n:
        return parts
    results = []
    for i, (start, end) in enumerate(spans):
        before = whole.text[spans[i - 1][1] if i else 0 : start]
        after = whole.text[end:] if i == n - 1 else ""
        results.append(replace(whole, text=whole.text[start:end], before=before, after=after))
    return tuple(results)


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    role, text = ("from", "value") if "from" in value else ("role", "content")
    return (
        isinstance(value.get(role), str)
        and value[role] in SHAREGPT_ROLES
        and isinstance(value.get(text), str | list | None)
    )
