"""OpenAI chat messages: ``{"messages": [{"role", "content", ...}], "tools": [...]}``, or the bare list of messages.

The shape is that of OpenAI's chat completions and fine-tuning files, with what others added: ``reasoning_content``
(DeepSeek, Qwen), ``reasoning`` (OpenRouter, vLLM), ``thinking`` (gpt-oss); arguments as objects (Hugging Face
templates); ``traj`` with ``task_id`` and ``reward`` (tau-bench); ``loss`` (xtuner), ``train`` (axolotl). Legacy
``function_call``, ``functions`` and the role ``function`` are read too, and the ``channel`` and ``recipient`` of
Harmony's messages (gpt-oss). What the assistant's texts are made of, and which user messages are a tool's results, is
``read_markup``'s to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from converters.markup.assistant import read_markup
from converters.markup.media_tags import place_media
from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import (
    OPENAI_ROLES,
    WEIGHT_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    convert_messages,
    first_key,
    json_text,
    media_reference,
    optional_text,
    required,
    rest,
    role_of,
    tools_of,
    type_name,
    weight_of,
    without_payloads,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "openai_messages"
UNIT = "record"
SHAPE = '{"messages": [{"role", "content", "tool_calls"}], "tools"}'
EXAMPLE = {
    "messages": [
        {"role": "system", "content": "You help in a workshop."},
        {"role": "user", "content": "How warm is the kiln?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read_sensor", "arguments": '{"place": "kiln"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "412"},
        {"role": "assistant", "reasoning_content": "The unit is Celsius.", "content": "It is at 412 degrees Celsius."},
    ],
    "tools": [{"type": "function", "function": {"name": "read_sensor", "parameters": {"type": "object"}}}],
}

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
MEDIA_TYPES = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "video",
        "video_url",
        "audio",
        "audio_url",
        "input_audio",
        "file",
        "input_file",
    }
)
#: What a text of the assistant becomes.
Split = Callable[[str], tuple[Part, ...]]

_LIST_KEYS = ("messages", "traj", "conversation")
_USED = frozenset({"role", "content", "name", *WEIGHT_KEYS})
_USED_BY_ASSISTANT = _USED | {"refusal", "tool_calls", "function_call"}
_USED_BY_TOOL = _USED | {"tool_call_id"}
_SAYING = ("content", "tool_calls", "function_call", "refusal", *REASONING_KEYS)
#: Keys that many writers put on every message; null or [] in them says nothing.
_KNOWN = _USED_BY_ASSISTANT | _USED_BY_TOOL | set(REASONING_KEYS)


def detect(unit: Any) -> bool:
    """Whether every message has a role and content of this format."""
    if isinstance(unit, dict):
        unit = _unpacked(next((unit[key] for key in _LIST_KEYS if key in unit), None))
    return isinstance(unit, list) and bool(unit) and all(map(_is_message, unit))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/messages.md lists the codes."""
    record = {"messages": unit} if isinstance(unit, list) else as_object(unit, "the record")
    key = next((key for key in _LIST_KEYS if key in record), "messages")
    tools, tool_keys = tools_of(record)
    messages, unused = convert_messages(_unpacked(required(record, key)), key, uncut_message)
    messages, media_keys = place_media(messages, record)
    messages, unused = read_markup(messages, unused, tools)
    extra = rest(record, tool_keys | media_keys | {key})
    yield conversation(messages, extra, unused, tools, _group(record) if key == "traj" else None)


def _unpacked(items: Any) -> Any:
    """A list of messages that a table holds as its JSON text; any other value as it is."""
    if not isinstance(items, str) or not items.lstrip().startswith("["):
        return items
    try:
        return msgspec.json.decode(items)
    except (ValueError, RecursionError):
        return items


def uncut_message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    """``convert_message`` for ``read_markup``: the assistant's texts are left whole."""
    return convert_message(raw, where, text_parts)


def convert_message(raw: Any, where: str, split: Split = split_thinking) -> tuple[Message, dict[str, Any]]:
    """One message, and its keys that no field of ``Message`` holds. Raises RecordError."""
    message = as_object(raw, where)
    role = role_of(required(message, "role", where), OPENAI_ROLES, f"{where}.role")
    name = optional_text(message, "name", f"{where}.name") or None
    weight = weight_of(message, where)
    if role == "assistant":
        parts, used, notes = _assistant_parts(message, where, split)
        left = _unused(message, used) | notes
        return Message(role, parts, name=name, weight=weight), left
    if message.get("tool_calls") or message.get("function_call"):
        raise RecordError("bad_tool_call", f"{where} calls a tool, which only an assistant does")
    parts, notes = _content_parts(required(message, "content", where), f"{where}.content")
    if role == "tool":
        call_id = optional_text(message, "tool_call_id", f"{where}.tool_call_id") or None
        if len(parts) > 1:
            notes = {"content": without_payloads(message["content"])}
        left = _unused(message, _USED_BY_TOOL) | notes
        return Message(role, _result_parts(parts, name, call_id), weight=weight), left
    return Message(role, parts, name=name, weight=weight), _unused(message, _USED) | notes


def _assistant_parts(
    message: dict[str, Any], where: str, split: Split
) -> tuple[tuple[Part, ...], frozenset[str], dict[str, Any]]:
    """Thinking, then text, then calls; the keys they came from; what the keys held beside them."""
    if isinstance(message.get("channel"), str) and isinstance(message.get("content"), str):
        split, channel_keys = _channel(message, where, split)
    else:
        channel_keys = frozenset()
    reasoning_key, reasoning = _reasoning(message, where)
    refusal = optional_text(message, "refusal", f"{where}.refusal")
    calls, notes = _calls(message, where)
    if "content" not in message and not (reasoning or refusal or calls):
        raise RecordError("missing_field", f'{where} has no "content" and calls no tool')
    content, content_notes = _content_parts(message.get("content"), f"{where}.content", split)
    thinking = (Part("thinking", reasoning),) if reasoning else ()
    used = _USED_BY_ASSISTANT | {key for key in REASONING_KEYS if key == reasoning_key or message.get(key) == ""}
    used |= channel_keys
    return (*thinking, *content, *text_parts(refusal), *calls), used, notes | content_notes


def _channel(message: dict[str, Any], where: str, split: Split) -> tuple[Split, frozenset[str]]:
    """What a text on a channel of Harmony's becomes, and the keys that this uses up."""
    channel, recipient = message["channel"], message.get("recipient")
    if isinstance(recipient, str) and recipient not in ("", "all"):
        name = as_text(recipient, f"{where}.recipient")
        return lambda text: (Part("tool_call", text, name=name),), frozenset({"recipient"})
    if channel == "analysis":
        return lambda text: (Part("thinking", text),) if text else (), frozenset({"channel"})
    return split, frozenset({"channel"}) if channel == "final" else frozenset()


def _reasoning(message: dict[str, Any], where: str) -> tuple[str | None, str]:
    texts = {key: optional_text(message, key, f"{where}.{key}") for key in REASONING_KEYS if key in message}
    return next(((key, text) for key, text in texts.items() if text), (None, ""))


def _content_parts(content: Any, where: str, split: Split = text_parts) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """The parts of a message's content, and the unused keys of its items."""
    if content is None:
        return (), {}
    if isinstance(content, str):
        return split(as_text(content, where)), {}
    if not isinstance(content, list):
        raise wrong_type(content, where, "a string or a list")
    parts: list[Part] = []
    unused: dict[str, Any] = {}
    for index, item in enumerate(content):
        at = f"{where}[{index}]"
        kind = required(as_object(item, at), "type", at)
        if not isinstance(kind, str):
            raise wrong_type(kind, f"{at}.type", "a string")
        if kind in TEXT_TYPES:
            parts.extend(split(as_text(required(item, "text", at), f"{at}.text")))
            if left := rest(item, ("type", "text")):
                unused[str(index)] = left
        elif kind in MEDIA_TYPES:
            parts.append(Part("media", media_reference(item)))
        else:
            raise RecordError("unknown_part", f"{at}.type is {kind!r:.80}, expected text or a kind of media")
    return tuple(parts), {"content": unused} if unused else {}


def _result_parts(parts: tuple[Part, ...], name: str | None, call_id: str | None) -> tuple[Part, ...]:
    """One result: the texts, joined as they are, then the media."""
    text = "".join(part.text for part in parts if part.kind == "text")
    media = (part for part in parts if part.kind == "media")
    return (Part("tool_result", text, name=name, call_id=call_id), *media)


def _calls(message: dict[str, Any], where: str) -> tuple[list[Part], dict[str, Any]]:
    """The tool calls of a message, and the unused keys of each."""
    calls: list[Part] = []
    unused: dict[str, Any] = {}
    if (listed := message.get("tool_calls")) is not None:
        for index, item in enumerate(as_list(listed, f"{where}.tool_calls")):
            call, left = _call(item, f"{where}.tool_calls[{index}]")
            calls.append(call)
            if left:
                unused[str(index)] = left
    notes: dict[str, Any] = {"tool_calls": unused} if unused else {}
    if (legacy := message.get("function_call")) is not None:
        call, left = _call(legacy, f"{where}.function_call")
        calls.append(call)
        if left:
            notes["function_call"] = left
    return calls, notes


def _call(raw: Any, where: str) -> tuple[Part, dict[str, Any]]:
    """A call: ``{"id", "type", "function": {"name", "arguments"}}``, or flat: name and arguments beside the id."""
    if not isinstance(raw, dict):
        raise RecordError("bad_tool_call", f"{where} is {type_name(raw)}, expected an object")
    function = raw.get("function", raw)
    if not isinstance(function, dict):
        raise RecordError("bad_tool_call", f"{where}.function is {type_name(function)}, expected an object")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise RecordError("bad_tool_call", f"{where} has no name")
    if isinstance(arguments, dict):
        arguments = json_text(arguments)
    elif not isinstance(arguments, str | None):
        raise RecordError(
            "bad_tool_call", f"{where}.arguments is {type_name(arguments)}, expected a string or an object"
        )
    call = Part(
        "tool_call",
        as_text(arguments or "", f"{where}.arguments"),
        name=as_text(name, f"{where}.name"),
        call_id=optional_text(raw, "id", f"{where}.id") or None,
    )
    left = (
        rest(function, ("name", "arguments", "id", "type"))
        if function is raw
        else rest(raw, ("id", "type", "function"))
    )
    if function is not raw and (inner := rest(function, ("name", "arguments"))):
        left["function"] = inner
    if raw.get("type", "function") != "function":
        left["type"] = raw["type"]
    return call, left


def _unused(message: dict[str, Any], used: frozenset[str]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in used and not (k in _KNOWN and v in (None, []))}


def _group(record: dict[str, Any]) -> str | None:
    key = first_key(record, ("task_id",))
    return f"task_id:{record[key]}" if key and isinstance(record[key], int | str) else None


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("role") not in tuple(OPENAI_ROLES):
        return False
    content = value.get("content")
    if not any(key in value for key in _SAYING):
        return False
    if isinstance(content, list):
        return all(map(_is_content_item, content))
    return isinstance(content, str | None)


def _is_content_item(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(kind := item.get("type"), str):
        return False
    return kind in MEDIA_TYPES or (kind in TEXT_TYPES and isinstance(item.get("text"), str))
