"""Sessions ("rollouts") of OpenAI's Codex: ``{"timestamp", "type": "response_item", "payload": {…}}`` per line.

Payloads are items of the Responses API; ``session_meta``, ``turn_context``, ``event_msg`` and the rest are events. Older
versions write the bare items, or messages with ``created_at``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.openai_responses import is_item, item_messages
from converters.shared.fields import as_list, as_text, json_text, rest
from converters.shared.session import Log, text_or_none, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "codex_session"
UNIT = "file"
SHAPE = '{"timestamp", "type": "session_meta" | "response_item" | "event_msg", "payload"} per line'
EXAMPLE = [
    {
        "timestamp": "2026-01-05T09:00:00.000Z",
        "type": "session_meta",
        "payload": {"id": "s1", "cwd": "/kiln", "base_instructions": {"text": "You help in a workshop."}},
    },
    {
        "timestamp": "2026-01-05T09:00:01.000Z",
        "type": "response_item",
        "payload": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How warm is it?"}]},
    },
    {
        "timestamp": "2026-01-05T09:00:02.000Z",
        "type": "response_item",
        "payload": {"type": "function_call", "name": "shell", "arguments": '{"command":["kiln"]}', "call_id": "c1"},
    },
    {
        "timestamp": "2026-01-05T09:00:03.000Z",
        "type": "response_item",
        "payload": {"type": "function_call_output", "call_id": "c1", "output": "412"},
    },
    {
        "timestamp": "2026-01-05T09:00:04.000Z",
        "type": "response_item",
        "payload": {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "412 degrees."}],
        },
    },
    {"timestamp": "2026-01-05T09:00:04.100Z", "type": "event_msg", "payload": {"type": "token_count", "info": None}},
]

#: Events that say what was said, for a session in which no item does.
_SPOKEN = {"user_message": "message", "agent_message": "message", "agent_reasoning": "text"}


def detect(unit: Any) -> bool:
    """Whether it is a line of such a session."""
    if not isinstance(unit, dict):
        return False
    kind = unit.get("type")
    if isinstance(unit.get("payload"), dict):
        return isinstance(kind, str) and "timestamp" in unit
    if "created_at" in unit and "protocol_version" not in unit:
        said = isinstance(unit.get("role"), str) and isinstance(unit.get("message", unit.get("content")), str)
        return said or kind in ("function_call", "function_result")
    return isinstance(kind, str) and is_item(unit)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/sessions.md lists the codes."""
    lines = as_list(unit, "the file")
    log = Log()
    session: dict[str, Any] = {}
    heard = any(map(_is_speech, lines))
    for line in lines:
        if not session and isinstance(line, dict) and line.get("type") == "session_meta" and _payload(line):
            session = _open(log, line)
            continue
        try:
            said = _messages(line, heard)
        except RecordError as error:
            log.fail(line, error)
            continue
        if not any(message.parts for message, _ in said):
            log.note(line)
            continue
        started = time_ms(line.get("timestamp", line.get("created_at")))
        left = unread(line, ("payload", "type", "created_at")) if _payload(line) else {}
        for message, more in said:
            if _payload(line):
                more = {"payload": more} if more else {}
            log.say(replace(message, started_ms=started), left | more)
            left = {}
    session_id = text_or_none(session.get("id"))
    yield log.conversation({"header": session} if session else {}, f"session:{session_id}" if session_id else None)


def _payload(line: Any) -> dict[str, Any]:
    payload = line.get("payload") if isinstance(line, dict) else None
    return payload if isinstance(payload, dict) else {}


def _is_speech(line: Any) -> bool:
    """Whether an item says what the user or the model said."""
    item = _payload(line) or line
    return isinstance(item, dict) and item.get("role") in ("user", "assistant")


def _open(log: Log, line: dict[str, Any]) -> dict[str, Any]:
    """Reads the header: the system prompt and the client's own tools; returns the rest of it."""
    payload = _payload(line)
    base = payload.get("base_instructions")
    used: tuple[str, ...] = ()
    if isinstance(base, dict) and isinstance(text := base.get("text"), str) and text:
        left = rest(base, ("text",))
        started = time_ms(line.get("timestamp"))
        log.say(Message("system", text_parts(as_text(text, "base_instructions")), started_ms=started), left)
        used = ("base_instructions",)
    if tools := payload.get("dynamic_tools"):
        log.tools = as_text(tools, "dynamic_tools") if isinstance(tools, str) else json_text(tools)
        used = (*used, "dynamic_tools")
    return rest(payload, used)


def _messages(line: Any, heard: bool) -> list[tuple[Message, dict[str, Any]]]:
    if not isinstance(line, dict):
        return []
    kind, payload = line.get("type"), _payload(line)
    if kind == "response_item" and payload:
        return item_messages(payload, "payload")
    if kind == "compacted" and isinstance(text := payload.get("message"), str):
        return [(Message("user", text_parts(as_text(text, "payload.message"))), rest(payload, ("message",)))]
    if kind == "event_msg" and not heard:
        return _spoken(payload)
    if payload:
        return []
    if isinstance(text := line.get("message"), str) and isinstance(line.get("role"), str):
        made = item_messages({"role": line["role"], "content": text}, "the line")
        return [(message, unread(line, ("role", "message"), "created_at")) for message, _ in made]
    if "created_at" in line or is_item(line):
        item = unread(unread(line, (), "created_at"), ())
        return item_messages(item, "the line")
    return []


def _spoken(payload: dict[str, Any]) -> list[tuple[Message, dict[str, Any]]]:
    kind = payload.get("type")
    key = _SPOKEN.get(kind) if isinstance(kind, str) else None
    if key is None or not isinstance(text := payload.get(key), str):
        return []
    text = as_text(text, f"payload.{key}")
    left = rest(payload, (key,))
    if kind == "user_message":
        return [(Message("user", text_parts(text)), left)]
    thought = (Part("thinking", text),) if text else ()
    return [(Message("assistant", thought if kind == "agent_reasoning" else split_thinking(text)), left)]
