"""Sessions of Hermes Agent (Nous Research): ``{"session_id", "platform", "system_prompt", "tools", "messages"}``.

The messages are OpenAI's, with ``tool_name`` on results and a closing message of the role ``session_meta``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.markup.thinking import text_parts
from converters.openai_messages import convert_message
from converters.shared.fields import as_list, optional_text, rest, tools_of
from converters.shared.session import Log, cut_off, text_or_none, time_ms
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "hermes_session"
UNIT = "file"
SHAPE = '{"session_id", "platform", "session_start", "system_prompt", "tools", "messages": [{"role", "content"}]}'
EXAMPLE = [
    {
        "session_id": "s1",
        "model": "hermes-x",
        "platform": "cli",
        "session_start": "2026-01-05T09:00:00",
        "system_prompt": "You help in a workshop.",
        "messages": [
            {"role": "user", "content": "How warm is the kiln?"},
            {
                "role": "assistant",
                "content": "I look.",
                "reasoning": "The sensor knows.",
                "tool_calls": [{"id": "c1", "function": {"name": "shell", "arguments": '{"command":"kiln --read"}'}}],
            },
            {"role": "tool", "content": "412", "tool_call_id": "c1", "tool_name": "shell"},
            {"role": "assistant", "content": "It is at 412 degrees.", "finish_reason": "stop"},
            {"role": "session_meta"},
        ],
    }
]


def detect(unit: Any) -> bool:
    """Whether it is a whole session: its id, where it ran or began, and its messages."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("session_id"), str)
        and isinstance(unit.get("messages"), list)
        and ("platform" in unit or "session_start" in unit)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per session of the file. Raises RecordError; docs/formats/sessions.md lists the codes."""
    values = as_list(unit, "the file")
    sessions = [value for value in values if detect(value)]
    if not sessions:
        raise RecordError("no_messages", "the file holds no session")
    stray = [value for value in values if not detect(value)]
    for session in sessions:
        log = Log()
        for value in stray:
            log.note(value)
        stray = []
        yield _conversation(session, log)


def _conversation(session: dict[str, Any], log: Log) -> Conversation:
    log.tools, tool_keys = tools_of(session)
    if system := optional_text(session, "system_prompt"):
        log.say(Message("system", text_parts(system)))
    for index, raw in enumerate(session["messages"]):
        try:
            said = _message(raw, f"messages[{index}]")
        except RecordError as error:
            log.fail(raw, error)
            continue
        if said is None or not said[0].parts:
            log.note(raw)
        else:
            log.say(*said)
    return log.conversation(
        rest(session, tool_keys | {"messages", "system_prompt"}), f"session:{session['session_id']}"
    )


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]] | None:
    if isinstance(raw, dict) and raw.get("role") == "session_meta":
        return None
    message, left = convert_message(raw, where)
    reasoning = left.get("reasoning")
    if reasoning is not None and any(part.kind == "thinking" and part.text == reasoning for part in message.parts):
        left = rest(left, ("reasoning",))
    if message.role == "tool":
        name, failed = text_or_none(raw.get("tool_name")), raw.get("finish_reason") == "error"
        result, *media = message.parts
        message = replace(message, parts=(replace(result, name=result.name or name, error=failed), *media))
        left = rest(left, ("tool_name",) if name else ())
    elif raw.get("finish_reason") == "length":
        message = cut_off(message)
    return replace(message, started_ms=time_ms(raw.get("timestamp"))), left
