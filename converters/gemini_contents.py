"""Google's Gemini API: ``{"contents": [{"role": "user" | "model", "parts": [...]}], "systemInstruction", "tools"}``.

Requests to the API and Vertex AI's tuning files have it. A part is ``text`` (a thought where ``thought`` is true),
``functionCall``, ``functionResponse``, ``inlineData``, ``fileData``, ``executableCode`` or ``codeExecutionResult``, in camel or
in snake case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import (
    as_list,
    as_object,
    as_text,
    conversation,
    json_text,
    media_reference,
    required,
    rest,
    role_of,
    tools_of,
    without_payloads,
    wrong_type,
)
from converters.shared.session import arguments_text, text_or_none
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "gemini_contents"
UNIT = "record"
SHAPE = (
    '{"contents": [{"role": "user" | "model", "parts": [{"text"}, {"functionCall"}]}], "systemInstruction", "tools"}'
)
EXAMPLE = {
    "systemInstruction": {"parts": [{"text": "You help in a workshop."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "How warm is the kiln?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "read_sensor", "args": {"place": "kiln"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "read_sensor", "response": {"output": "412"}}}]},
        {"role": "model", "parts": [{"text": "The unit is Celsius.", "thought": True}, {"text": "412 degrees."}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "read_sensor"}]}],
}

ROLES: Mapping[str, Role] = {
    "user": "user",
    "model": "assistant",
    "gemini": "assistant",
    "function": "tool",
    "tool": "tool",
    "system": "system",
}
_MEDIA = ("inlineData", "fileData", "inline_data", "file_data")


def detect(unit: Any) -> bool:
    """Whether it has contents whose every entry is a list of parts."""
    items = unit.get("contents") if isinstance(unit, dict) else None
    return isinstance(items, list) and bool(items) and all(map(is_content, items))


def is_content(value: Any) -> bool:
    """Whether it is an entry ``{"role", "parts": [objects]}``."""
    if not isinstance(value, dict) or value.get("role", "user") not in tuple(ROLES):
        return False
    parts = value.get("parts")
    return isinstance(parts, list) and all(isinstance(part, dict) for part in parts)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/sessions.md lists the codes."""
    record = as_object(unit, "the record")
    key = "system_instruction" if "system_instruction" in record else "systemInstruction"
    made: list[tuple[Message, dict[str, Any]]] = []
    if isinstance(record.get(key), str):
        made.append((Message("system", text_parts(as_text(record[key], key))), {}))
    elif record.get(key) is not None:
        made.extend(part_messages("system", required(as_object(record[key], key), "parts", key), f"{key}.parts"))
    for index, item in enumerate(as_list(required(record, "contents"), "contents")):
        made.extend(content_messages(item, f"contents[{index}]"))
    if not made:
        raise RecordError("no_messages", "contents is empty")
    tools, tool_keys = tools_of(record)
    extra = without_payloads(rest(record, tool_keys | {key, "contents"}))
    unused = {str(index): without_payloads(left) for index, (_, left) in enumerate(made) if left}
    yield conversation((message for message, _ in made), extra, unused, tools)


def content_messages(raw: Any, where: str) -> Iterator[tuple[Message, dict[str, Any]]]:
    """The messages of an entry: its own, and one of the tool for every response in it; with what they do not say."""
    item = as_object(raw, where)
    role = role_of(item.get("role", "user"), ROLES, f"{where}.role")
    left = rest(item, ("role", "parts"))
    for message, notes in part_messages(role, required(item, "parts", where), f"{where}.parts"):
        yield message, left | notes
        left = {}


def part_messages(role: Role, parts: Any, where: str) -> Iterator[tuple[Message, dict[str, Any]]]:
    """As ``content_messages``, of a text or a list of parts; unknown parts are kept among what the message does not say."""
    if isinstance(parts, str):
        yield Message(role, _text(role, as_text(parts, where))), {}
        return
    said: list[Part] = []
    notes: dict[str, Any] = {}
    results = 0
    for index, part in enumerate(as_list(parts, where)):
        at = f"{where}[{index}]"
        if isinstance(part, str):
            said.extend(_text(role, as_text(part, at)))
            continue
        answer = _result(part, at) if isinstance(part, dict) else None
        if answer is None:
            made, left = _part(role, part, at)
            said.extend(made)
            if left:
                notes[str(index)] = left
            continue
        if said or notes:
            yield Message(_speaker(role), tuple(said)), {"parts": notes} if notes else {}
        yield answer[0], {"parts": {str(index): answer[1]}} if answer[1] else {}
        said, notes, results = [], {}, results + 1
    if said or notes or not results:
        yield Message(_speaker(role), tuple(said)), {"parts": notes} if notes else {}


def _speaker(role: Role) -> Role:
    return "user" if role == "tool" else role


def _text(role: Role, text: str) -> tuple[Part, ...]:
    return split_thinking(text) if role == "assistant" else text_parts(text)


def _camel(part: dict[str, Any], camel: str, snake: str) -> tuple[str, Any]:
    return (camel, part[camel]) if isinstance(part.get(camel), dict) else (snake, part.get(snake))


def _result(part: dict[str, Any], where: str) -> tuple[Message, dict[str, Any]] | None:
    """The tool's message of a response, and what it does not say; None for another part."""
    key, value = _camel(part, "functionResponse", "function_response")
    if isinstance(value, dict):
        name, call_id = text_or_none(value.get("name")), text_or_none(value.get("id"))
        text, error, more = response_text(value.get("response"), f"{where}.response")
        left = rest(value, ("name", "id", "response")) | more
        result = Part("tool_result", text, name=name, call_id=call_id, error=error)
        return Message("tool", (result,)), rest(part, (key,)) | ({key: left} if left else {})
    key, value = _camel(part, "codeExecutionResult", "code_execution_result")
    if isinstance(value, dict):
        output = as_text(value.get("output") or "", f"{where}.output")
        error = value.get("outcome") not in (None, "OUTCOME_OK")
        result = Part("tool_result", output, name="code_execution", error=error)
        return Message("tool", (result,)), rest(part, (key,)) | {key: rest(value, ("output",))}
    return None


def response_text(response: Any, where: str) -> tuple[str, bool, dict[str, Any]]:
    """The text of a function's response, whether it is an error, and what else it holds.

    ``output`` or ``error`` where that is a text, else the response as JSON. Raises RecordError.
    """
    if response is None:
        return "", False, {}
    if isinstance(response, dict):
        for key in ("output", "error"):
            if isinstance(response.get(key), str):
                left = rest(response, (key,))
                return as_text(response[key], f"{where}.{key}"), key == "error", {"response": left} if left else {}
    return (as_text(response, where) if isinstance(response, str) else json_text(without_payloads(response))), False, {}


def _part(role: Role, part: Any, where: str) -> tuple[tuple[Part, ...], Any]:
    """The parts of a part, and what they do not say: keys, or the whole of a part that cannot be read."""
    if not isinstance(part, dict):
        raise wrong_type(part, where, "an object")
    if isinstance(text := part.get("text"), str):
        text = as_text(text, f"{where}.text")
        if part.get("thought") is True:
            return ((Part("thinking", text),) if text else ()), rest(part, ("text", "thought"))
        return _text(role, text), rest(part, ("text",) if part.get("thought") is not False else ("text", "thought"))
    key, call = _camel(part, "functionCall", "function_call")
    if isinstance(call, dict):
        if (name := text_or_none(call.get("name"))) is None:
            raise RecordError("bad_tool_call", f"{where}.{key} has no name")
        arguments = arguments_text(call.get("args"), f"{where}.{key}.args")
        left = rest(call, ("name", "args", "id"))
        made = Part("tool_call", arguments, name=name, call_id=text_or_none(call.get("id")))
        return (made,), rest(part, (key,)) | ({key: left} if left else {})
    key, code = _camel(part, "executableCode", "executable_code")
    if isinstance(code, dict):
        return (Part("tool_call", json_text(code), name="code_execution"),), rest(part, (key,))
    if any(part.get(key) is not None for key in _MEDIA):
        return (Part("media", media_reference(part)),), {}
    return (), part
