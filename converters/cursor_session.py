"""Transcripts of Cursor's agent: ``{"role": "user" | "assistant", "message": {"content": [blocks]}}`` per line.

The blocks are Anthropic's; calls have no id, and lines no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.content_blocks import block_messages
from converters.shared.fields import as_list, required, rest
from converters.shared.session import Log, unread
from pipeline.conversation import Conversation, Message, RecordError, Role

FORMAT = "cursor_session"
UNIT = "file"
SHAPE = '{"role": "user" | "assistant", "message": {"content": [blocks]}} per line'
EXAMPLE = [
    {"role": "user", "message": {"content": [{"type": "text", "text": "How warm is the kiln?"}]}},
    {
        "role": "assistant",
        "message": {
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "name": "Bash", "input": {"command": "kiln --read"}},
            ]
        },
    },
    {
        "role": "user",
        "message": {
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "412"}]}]
        },
    },
    {"role": "assistant", "message": {"content": [{"type": "text", "text": "It is at 412 degrees."}]}},
]


def detect(unit: Any) -> bool:
    """Whether it is a line of such a transcript: a role, and a message that has none of its own."""
    if not isinstance(unit, dict) or "type" in unit or unit.get("role") not in ("user", "assistant", "system"):
        return False
    message = unit.get("message")
    return isinstance(message, dict) and "role" not in message and isinstance(message.get("content"), str | list)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/sessions.md lists the codes."""
    log = Log()
    for line in as_list(unit, "the file"):
        try:
            said = list(_messages(line))
        except RecordError as error:
            log.fail(line, error)
            continue
        if not any(message.parts for message, _ in said):
            log.note(line)
            continue
        left = unread(line, ("role", "message"))
        for message, more in said:
            log.say(message, left | ({"message": more} if more else {}))
            left = {}
    yield log.conversation()


def _messages(line: Any) -> Iterator[tuple[Message, dict[str, Any]]]:
    if not detect(line):
        return
    role: Role = line["role"]
    left = rest(line["message"], ("content",))
    for message, notes in block_messages(role, required(line["message"], "content"), "message.content", lenient=True):
        yield message, left | notes
        left = {}
