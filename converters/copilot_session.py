"""Sessions of GitHub Copilot CLI: ``{"type": "user.message" | "assistant.message" | "tool.execution_complete", "data"}``.

Every line is an event with ``data``, ``id``, ``parentId`` and a time. What a subagent says has ``parentToolCallId``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import as_list, as_object, optional_text, rest
from converters.shared.session import Log, arguments_text, conversations, result_parts, text_or_none, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "copilot_session"
UNIT = "file"
SHAPE = '{"type": "user.message" | "assistant.message" | "tool.execution_complete", "data", "id", "parentId"} per line'
EXAMPLE = [
    {
        "type": "session.start",
        "data": {"sessionId": "s1", "version": 1},
        "id": "e1",
        "timestamp": "2026-01-05T09:00:00.000Z",
        "parentId": None,
    },
    {
        "type": "user.message",
        "data": {"content": "How warm is the kiln?", "transformedContent": "How warm is the kiln?", "attachments": []},
        "id": "e2",
        "timestamp": "2026-01-05T09:00:01.000Z",
        "parentId": "e1",
    },
    {
        "type": "assistant.message",
        "data": {
            "content": "",
            "reasoningText": "The sensor knows.",
            "toolRequests": [{"toolCallId": "c1", "name": "bash", "arguments": {"command": "kiln --read"}}],
        },
        "id": "e3",
        "timestamp": "2026-01-05T09:00:02.000Z",
        "parentId": "e2",
    },
    {
        "type": "tool.execution_complete",
        "data": {"toolCallId": "c1", "success": True, "result": {"content": "412"}},
        "id": "e4",
        "timestamp": "2026-01-05T09:00:03.000Z",
        "parentId": "e3",
    },
    {
        "type": "assistant.message",
        "data": {"content": "It is at 412 degrees.", "toolRequests": []},
        "id": "e5",
        "timestamp": "2026-01-05T09:00:04.000Z",
        "parentId": "e4",
    },
]

_EVENT = re.compile(r"(?:session|user|assistant|tool|hook|system|subagent|skill)\.\w+|abort")


def detect(unit: Any) -> bool:
    """Whether it is an event of such a session."""
    return (
        isinstance(unit, dict)
        and isinstance(kind := unit.get("type"), str)
        and isinstance(unit.get("data"), dict)
        and "parentId" in unit
        and _EVENT.fullmatch(kind) is not None
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """The session, and a conversation per call that started a subagent. Raises RecordError; docs/formats/sessions.md."""
    logs: dict[tuple[str, str], Log] = {}
    session = ""
    called: set[str] = set()
    for line in as_list(unit, "the file"):
        data = line.get("data") if isinstance(line, dict) else None
        if not isinstance(data, dict):
            logs.setdefault((session, ""), Log()).note(line)
            continue
        if line.get("type") == "session.start" and not logs:
            session = text_or_none(data.get("sessionId")) or ""
        _read(logs.setdefault((session, text_or_none(data.get("parentToolCallId")) or ""), Log()), line, called)
    yield from conversations(logs, {})


def _read(log: Log, line: dict[str, Any], called: set[str]) -> None:
    try:
        said = _message(line, log, called)
    except RecordError as error:
        log.fail(line, error)
        return
    if said is None or not said[0].parts:
        log.note(line)
        return
    message, data = said
    called.update(part.call_id for part in message.parts if part.kind == "tool_call" and part.call_id)
    used = ("data",) if line.get("type") == "system.notification" else ("type", "data")
    left = unread(line, used) | ({"data": data} if data else {})
    log.say(replace(message, started_ms=time_ms(line.get("timestamp"))), left)


def _message(line: dict[str, Any], log: Log, called: set[str]) -> tuple[Message, dict[str, Any]] | None:
    """The message of an event, and what its data says beside it; None for an event that is none."""
    kind, data = line.get("type"), line["data"]
    if kind == "user.message":
        key = "transformedContent" if data.get("transformedContent") else "content"
        text = optional_text(data, key)
        same = ("content",) if data.get("content") == text else ()
        return Message("user", text_parts(text)), rest(data, (key, *same))
    if kind in ("system.message", "system.notification"):
        return Message("system", text_parts(optional_text(data, "content"))), rest(data, ("content",))
    if kind == "assistant.reasoning":
        text = optional_text(data, "content")
        return Message("assistant", (Part("thinking", text),) if text else ()), rest(data, ("content",))
    if kind == "assistant.message":
        return _assistant(data, log)
    if kind == "tool.execution_start" and text_or_none(data.get("toolCallId")) not in called:
        return _started(data)
    if kind == "tool.execution_complete":
        return _result(data)
    return None


def _assistant(data: dict[str, Any], log: Log) -> tuple[Message, dict[str, Any]]:
    """Reasoning (unless the event before it has said it), text, calls."""
    thought = optional_text(data, "reasoningText")
    before = log.messages[-1].parts if log.messages else ()
    heard = len(before) == 1 and before[0].kind == "thinking" and before[0].text == thought
    thinking = (Part("thinking", thought),) if thought and not heard else ()
    calls: list[Part] = []
    notes: list[Any] = []
    for index, raw in enumerate(as_list(data.get("toolRequests") or [], "toolRequests")):
        request = as_object(raw, f"toolRequests[{index}]")
        calls.append(_call(request, "name"))
        notes.append(rest(request, ("toolCallId", "name", "arguments")))
    left = rest(data, ("content", "reasoningText", "toolRequests"))
    if any(notes):
        left["toolRequests"] = notes
    text = split_thinking(optional_text(data, "content"))
    return Message("assistant", (*thinking, *text, *calls)), left


def _call(request: dict[str, Any], name_key: str) -> Part:
    if (name := text_or_none(request.get(name_key))) is None:
        raise RecordError("bad_tool_call", "a request for a tool has no name")
    arguments = arguments_text(request.get("arguments"), "arguments")
    return Part("tool_call", arguments, name=name, call_id=text_or_none(request.get("toolCallId")))


def _started(data: dict[str, Any]) -> tuple[Message, dict[str, Any]]:
    """A call that no message of the log has requested: the model has, or the tool would not have run."""
    return Message("assistant", (_call(data, "toolName"),)), rest(data, ("toolCallId", "toolName", "arguments"))


def _result(data: dict[str, Any]) -> tuple[Message, dict[str, Any]]:
    result, failure = data.get("result"), data.get("error")
    content, key = result, "result"
    inner: dict[str, Any] = {}
    if isinstance(result, dict) and "content" in result:
        content, inner = result["content"], rest(result, ("content",))
    elif result is None and failure is not None:
        content, key = failure, "error"
        if isinstance(failure, dict) and isinstance(failure.get("message"), str):
            content, inner = failure["message"], rest(failure, ("message",))
    call_id = text_or_none(data.get("toolCallId"))
    parts, note = result_parts(content, key, call_id=call_id, error=data.get("success") is False)
    left = rest(data, ("toolCallId", "success", key))
    if note is not None or any(value is not None for value in inner.values()):
        left[key] = inner if note is None else {**inner, "content": note}
    return Message("tool", parts), left
