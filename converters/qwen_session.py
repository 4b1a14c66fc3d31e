"""Sessions of Qwen Code: ``{"uuid", "sessionId", "type": "user" | "assistant" | "tool_result", "message": {"role", "parts"}}``.

The messages are contents of the Gemini API; lines of the type ``system`` (telemetry, commands, compression) are events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.gemini_contents import content_messages, is_content
from converters.shared.fields import as_list
from converters.shared.session import Log, conversations, time_ms, unread
from pipeline.conversation import Conversation, RecordError

FORMAT = "qwen_session"
UNIT = "file"
SHAPE = '{"sessionId", "type": "user" | "assistant" | "tool_result", "message": {"role", "parts"}} per line'
EXAMPLE = [
    {
        "uuid": "e1",
        "parentUuid": None,
        "sessionId": "s1",
        "timestamp": "2026-01-05T09:00:01.000Z",
        "type": "user",
        "message": {"role": "user", "parts": [{"text": "How warm is the kiln?"}]},
    },
    {
        "uuid": "e2",
        "parentUuid": "e1",
        "sessionId": "s1",
        "timestamp": "2026-01-05T09:00:02.000Z",
        "type": "assistant",
        "message": {
            "role": "model",
            "parts": [{"functionCall": {"id": "c1", "name": "shell", "args": {"command": "kiln"}}}],
        },
    },
    {
        "uuid": "e3",
        "parentUuid": "e2",
        "sessionId": "s1",
        "timestamp": "2026-01-05T09:00:03.000Z",
        "type": "tool_result",
        "message": {
            "role": "user",
            "parts": [{"functionResponse": {"id": "c1", "name": "shell", "response": {"output": "412"}}}],
        },
        "toolCallResult": {"callId": "c1", "status": "success"},
    },
    {
        "uuid": "e4",
        "parentUuid": "e3",
        "sessionId": "s1",
        "timestamp": "2026-01-05T09:00:04.000Z",
        "type": "assistant",
        "message": {"role": "model", "parts": [{"text": "It is at 412 degrees."}]},
    },
    {"uuid": "e5", "sessionId": "s1", "type": "system", "subtype": "ui_telemetry", "systemPayload": {"uiEvent": {}}},
]


def detect(unit: Any) -> bool:
    """Whether it is a line of such a session."""
    if not isinstance(unit, dict) or not isinstance(unit.get("sessionId"), str):
        return False
    if unit.get("type") == "system":
        return "systemPayload" in unit
    return unit.get("type") in ("user", "assistant", "tool_result") and is_content(unit.get("message"))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per session of the file. Raises RecordError; docs/formats/sessions.md lists the codes."""
    logs: dict[tuple[str, str], Log] = {}
    key = ("", "")
    for line in as_list(unit, "the file"):
        if isinstance(line, dict) and isinstance(session := line.get("sessionId"), str):
            key = (session, "")
        _read(logs.setdefault(key, Log()), line)
    yield from conversations(logs, {})


def _read(log: Log, line: Any) -> None:
    message = line.get("message") if isinstance(line, dict) and line.get("type") != "system" else None
    try:
        said = list(content_messages(message, "message")) if isinstance(message, dict) else []
    except RecordError as error:
        log.fail(line, error)
        return
    if not any(made.parts for made, _ in said):
        log.note(line)
        return
    left = unread(line, ("message", "type"))
    for made, notes in said:
        log.say(replace(made, started_ms=time_ms(line.get("timestamp"))), left | ({"message": notes} if notes else {}))
        left = {}
