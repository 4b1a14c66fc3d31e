"""What the converters share: checked access to fields, one way to write JSON, role names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import orjson
import xxhash

from converters.markup.assistant import assistant_messages
from converters.markup.json_calls import json_elements as json_elements
from converters.markup.thinking import text_parts
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

OPENAI_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAREGPT_ROLES: Mapping[str, Role] = {
    **OPENAI_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}
TOOL_KEYS = ("tools", "functions")
WEIGHT_KEYS = ("weight", "loss", "train")
SYSTEM_KEYS = ("system", "system_prompt")
#: A record with one of these is a conversation of its own, not a question and its answer.
MESSAGE_LIST_KEYS = ("messages", "conversations", "traj")


def type_name(value: Any) -> str:
    """The JSON type of a value, with its article, for messages."""
    if value is None:
        return "null"
    names = (
        (bool, "a boolean"),
        (int, "an int"),
        (float, "a float"),
        (str, "a string"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), f"a {type(value).__name__}")


def wrong_type(value: Any, where: str, expected: str) -> RecordError:
    """The error for a value of another type than its place wants."""
    return RecordError("wrong_type", f"{where} is {type_name(value)}, expected {expected}")


def role_of(named: Any, roles: Mapping[str, Role], where: str) -> Role:
    """The role that a source calls ``named``; RecordError unknown_role."""
    if not isinstance(named, str):
        raise RecordError("unknown_role", f"{where} is {type_name(named)}, expected the name of a role")
    if named not in roles:
        raise RecordError("unknown_role", f"{where} is {named!r:.80}, expected one of {', '.join(roles)}")
    return roles[named]


def as_object(value: Any, where: str) -> dict[str, Any]:
    """``value`` as an object; RecordError wrong_type."""
    if not isinstance(value, dict):
        raise wrong_type(value, where, "an object")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """``value`` as a list; RecordError wrong_type."""
    if not isinstance(value, list):
        raise wrong_type(value, where, "a list")
    return value


def as_text(value: Any, where: str, expected: str = "a string") -> str:
    """``value`` as text that can be written as UTF-8; RecordError wrong_type or invalid_text."""
    if not isinstance(value, str):
        raise wrong_type(value, where, expected)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError("invalid_text", f"{where} holds a lone surrogate at character {error.start}") from error
    return value


def optional_text(record: dict[str, Any], key: str, where: str | None = None) -> str:
    """``record[key]`` as text, "" where it is absent or null; RecordError wrong_type or invalid_text."""
    value = record.get(key)
    return "" if value is None else as_text(value, where or key, "a string or null")


def scalar_text(value: Any, where: str) -> str:
    """A string as it is; a boolean or a finite number as JSON writes it (``true``, ``51.0``).

    Raises RecordError wrong_type or invalid_text.
    """
    if isinstance(value, bool | int | float) and not (isinstance(value, float) and not math.isfinite(value)):
        return json_text(value)
    return as_text(value, where, "a string, a boolean or a finite number")


def required(record: dict[str, Any], key: str, where: str = "the record") -> Any:
    """``record[key]``; RecordError missing_field."""
    if key not in record:
        raise RecordError("missing_field", f'{where} has no "{key}"')
    return record[key]


def first_key(record: dict[str, Any], keys: Iterable[str]) -> str | None:
    """The first of ``keys`` that the record has with a value other than null."""
    return next((key for key in keys if record.get(key) is not None), None)


def rest(record: dict[str, Any], used: Collection[str]) -> dict[str, Any]:
    """What a record says beside the keys that were used: the same values, not copies."""
    return {key: value for key, value in record.items() if key not in used}


def json_text(value: Any) -> str:
    """A JSON value as text, one fixed way: compact, keys in their order, non-ASCII characters as they are.

    Integers of any size keep their digits. Raises RecordError not_json, too_deep or invalid_text.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        pass
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise RecordError("too_deep", "a JSON value is nested too deeply to be written") from error
    except (TypeError, ValueError) as error:
        raise RecordError("not_json", f"a value cannot be written as JSON: {error}") from error
    return as_text(text, "a JSON value")


#: A base64 payload longer than this is not copied.
_PAYLOAD_LIMIT = 256
_PAYLOAD_KEYS = frozenset({"data", "base64", "b64_json", "file_data", "blob", "result"})
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\r\n-]+")
_DATA_URL = re.compile(r"data:[^,\s]{0,200};base64,")


def media_reference(item: Any) -> str:
    """What a media part holds: the source's item as JSON, ``without_payloads``. Raises RecordError."""
    return json_text(without_payloads(item))


def without_payloads(value: Any) -> Any:
    """A JSON value with every long base64 payload replaced by ``sha256:<hex>;bytes=<n>`` of the bytes that it encodes.

    A payload is base64 under a key such as ``data``, or a ``data:`` URL, whose head stays. A value without any is returned
    as it is, not copied. Raises RecordError too_deep.
    """
    try:
        return _without_payloads(value, "")
    except RecursionError as error:
        raise RecordError("too_deep", "a JSON value is nested too deeply to be read") from error


def _without_payloads(value: Any, key: str) -> Any:
    if isinstance(value, str):
        if len(value) <= _PAYLOAD_LIMIT:
            return value
        if head := _DATA_URL.match(value):
            return head.group() + _digest(value[head.end() :])
        return _digest(value) if key in _PAYLOAD_KEYS and _BASE64.fullmatch(value) else value
    if isinstance(value, dict):
        changed = {k: new for k, old in value.items() if (new := _without_payloads(old, k)) is not old}
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        items = [_without_payloads(item, key) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def _digest(payload: str) -> str:
    try:
        raw = base64.b64decode(payload, altchars=b"-_" if "-" in payload or "_" in payload else None)
    except (binascii.Error, ValueError):
        raw = payload.encode(errors="surrogatepass")
    return f"sha256:{hashlib.sha256(raw).hexdigest()};bytes={len(raw)}"


def context_group(context: str) -> str:
    """The group of all questions about one context: the hash of its words."""
    return f"context:{xxhash.xxh3_128_hexdigest(' '.join(context.split()).encode())}"


def tools_of(record: dict[str, Any]) -> tuple[str, set[str]]:
    """The tool definitions of a record as text, verbatim where they are a string, and the keys that this uses up.

    An empty list says the same as none: "". Raises RecordError wrong_type.
    """
    empty = {key for key in TOOL_KEYS if key in record and _is_empty(record[key])}
    key = next((key for key in TOOL_KEYS if key in record and key not in empty), None)
    if key is None:
        return "", empty
    value = record[key]
    if isinstance(value, str):
        return as_text(value, key), empty | {key}
    if not isinstance(value, list | dict):
        raise wrong_type(value, key, "a list or a string")
    return json_text(value), empty | {key}


def _is_empty(tools: Any) -> bool:
    return tools in (None, [], {}) or (isinstance(tools, str) and tools.strip() in ("", "[]", "{}", "null"))


def weight_of(message: dict[str, Any], where: str) -> float:
    """The loss weight of a message: the least of ``weight`` (a number), ``loss`` and ``train`` (booleans), else 1.

    Raises RecordError bad_weight.
    """
    weight: float | None = None
    for key in WEIGHT_KEYS:
        if (value := message.get(key)) is None:
            continue
        if not isinstance(value, int | float) or not 0 <= value <= 1_000_000:
            raise RecordError("bad_weight", f"{where}.{key} is {value!r:.40}, expected a boolean or a number from 0 on")
        weight = float(value) if weight is None else min(weight, float(value))
    return 1.0 if weight is None else weight


def question_message(question: str, *contexts: str) -> Message:
    """The user's message: the question, then a context part for each further field that is not empty."""
    return Message("user", (*text_parts(question), *(Part("context", context) for context in contexts if context)))


def opening_messages(record: dict[str, Any]) -> list[Message]:
    """The messages before the record's own turn: ``system``, else ``system_prompt``, then the pairs of ``history``.

    Raises RecordError wrong_type.
    """
    key = _system_key(record)
    system = optional_text(record, key) if key else ""
    messages = [Message("system", text_parts(system))] if system else []
    if record.get("history") is None:
        return messages
    for index, pair in enumerate(as_list(record["history"], "history")):
        where = f"history[{index}]"
        if len(as_list(pair, where)) != 2:
            raise wrong_type(pair, where, "a list of a question and its answer")
        messages.append(question_message(as_text(pair[0], f"{where}[0]")))
        messages.extend(assistant_messages(as_text(pair[1], f"{where}[1]")))
    return messages


def opening_keys(record: dict[str, Any]) -> set[str]:
    """The keys of a record that ``opening_messages`` uses up, and those of them that say nothing."""
    key = _system_key(record)
    return {"history", *(() if key is None else (key,)), *(k for k in SYSTEM_KEYS if record.get(k) in (None, ""))}


def _system_key(record: dict[str, Any]) -> str | None:
    return next((key for key in SYSTEM_KEYS if record.get(key) not in (None, "")), None)


MessageConverter = Callable[[Any, str], tuple[Message, dict[str, Any]]]


def convert_messages(
    items: Any, where: str, convert: MessageConverter, offset: int = 0
) -> tuple[list[Message], dict[str, dict[str, Any]]]:
    """Converts a list of source messages; also returns their unused keys, by index (+ ``offset``) of the message.

    Raises RecordError wrong_type, no_messages, and what ``convert`` raises.
    """
    messages: list[Message] = []
    unused: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(as_list(items, where)):
        message, left = convert(item, f"{where}[{index}]")
        messages.append(message)
        if left:
            unused[str(index + offset)] = left
    if not messages:
        raise RecordError("no_messages", f"{where} is empty")
    return messages, unused


def conversation(
    messages: Iterable[Message],
    extra: dict[str, Any],
    unused: dict[str, dict[str, Any]] | None = None,
    tools: str = "",
    group: str | None = None,
) -> Conversation:
    """The conversation; ``unused`` message keys go to ``extra["messages"]`` (``messages_`` where that is taken).

    Raises RecordError empty_conversation where nobody says anything.
    """
    messages = tuple(messages)
    if not any(
        part.text or part.kind in ("tool_call", "tool_result") for message in messages for part in message.parts
    ):
        raise RecordError("empty_conversation", "no message holds any text")
    if unused:
        key = "messages"
        while key in extra:
            key += "_"
        extra[key] = unused
    return Conversation(messages, tools=tools, extra=extra, group=group)
