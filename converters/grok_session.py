"""Chat histories of Grok CLI: ``{"type": "system" | "user" | "reasoning" | "assistant" | "tool_result", "content"}`` per line.

Calls are ``{"id", "name", "arguments"}``; a ``backend_tool_call`` has run on the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.content_blocks import block_messages
from converters.openai_messages import convert_message
from converters.openai_responses import item_messages
from converters.shared.fields import as_list, as_object, rest
from converters.shared.session import Log, arguments_text, result_parts, text_or_none, unread
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "grok_session"
UNIT = "file"
SHAPE = '{"type": "system" | "user" | "reasoning" | "assistant" | "tool_result", "content", "tool_calls"} per line'
EXAMPLE = [
    {"type": "system", "content": "You help in a workshop."},
    {"type": "user", "content": [{"type": "text", "text": "How warm is the kiln?"}], "prompt_index": 0},
    {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "The sensor knows."}]},
    {
        "type": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "name": "run", "arguments": '{"command":"kiln --read"}'}],
        "model_id": "grok-x",
    },
    {"type": "tool_result", "tool_call_id": "c1", "content": "412"},
    {"type": "assistant", "content": "It is at 412 degrees.", "tool_calls": [], "model_id": "grok-x"},
]


def detect(unit: Any) -> bool:
    """Whether it is a line of such a history."""
    if not isinstance(unit, dict) or "message" in unit or "payload" in unit or "sessionId" in unit:
        return False
    kind, content = unit.get("type"), unit.get("content")
    if kind in ("system", "user"):
        return isinstance(content, str | list) and "role" not in unit and "subtype" not in unit and "id" not in unit
    if kind == "assistant":
        return isinstance(content, str) and "role" not in unit
    if kind == "tool_result":
        return "tool_call_id" in unit and "content" in unit
    if kind == "reasoning":
        return isinstance(unit.get("summary"), list)
    return kind == "backend_tool_call" and isinstance(unit.get("kind"), dict)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/sessions.md lists the codes."""
    log = Log()
    for line in as_list(unit, "the file"):
        try:
            said = _messages(line)
        except RecordError as error:
            log.fail(line, error)
            continue
        if not any(message.parts for message, _ in said):
            log.note(line)
            continue
        for message, left in said:
            log.say(message, left)
    yield log.conversation()


def _messages(line: Any) -> list[tuple[Message, dict[str, Any]]]:
    kind = line.get("type") if isinstance(line, dict) else None
    if kind in ("system", "user"):
        role: Role = "system" if kind == "system" else "user"
        left = unread(line, ("type", "content"))
        made = list(block_messages(role, line.get("content"), "content", lenient=True))
        return [(message, (left if i == 0 else {}) | notes) for i, (message, notes) in enumerate(made)]
    if kind == "assistant":
        return [convert_message({**rest(line, ("type",)), "role": "assistant"}, "the line")]
    if kind == "reasoning":
        return item_messages(line, "the line")
    if kind == "tool_result":
        parts, note = result_parts(
            line.get("content"), "content", text_or_none(line.get("name")), text_or_none(line.get("tool_call_id"))
        )
        left = unread(line, ("type", "content", "tool_call_id", "name"))
        return [(Message("tool", parts), left | ({} if note is None else {"content": note}))]
    if kind == "backend_tool_call":
        return _backend(line)
    return []


def _backend(line: dict[str, Any]) -> list[tuple[Message, dict[str, Any]]]:
    """The call, and what the server found, where the log has it."""
    call = as_object(line.get("kind"), "kind")
    if (name := text_or_none(call.get("tool_type"))) is None:
        raise RecordError("bad_tool_call", "a backend call has no tool_type")
    call_id = text_or_none(call.get("id"))
    action = call.get("action")
    sources = action.get("sources") if isinstance(action, dict) else None
    if isinstance(action, dict) and sources:
        action = rest(action, ("sources",))
    part = Part("tool_call", arguments_text(action, "kind.action"), name=name, call_id=call_id)
    left = unread(line, ("type", "kind")) | {"kind": rest(call, ("tool_type", "id", "action"))}
    made = [(Message("assistant", (part,)), left)]
    if sources:
        parts, _ = result_parts(sources, "kind.action.sources", call_id=call_id)
        made.append((Message("tool", parts), {}))
    return made
