"""Sessions of the pi coding agent (badlogic/pi-mono): ``{"type": "message", "message": {"role", "content", "timestamp"}}``.

The content is a list of blocks ``text``, ``thinking``, ``toolCall``, ``image``; results are messages of the role
``toolResult``. From version 2 on, entries are a tree by ``id`` and ``parentId``, and the last entry is where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import (
    as_list,
    as_object,
    as_text,
    media_reference,
    optional_text,
    required,
    rest,
    wrong_type,
)
from converters.shared.session import Log, arguments_text, cut_off, result_parts, text_or_none, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "pi_session"
UNIT = "file"
SHAPE = '{"type": "message", "message": {"role": "user" | "assistant" | "toolResult", "content": [blocks]}} per line'
EXAMPLE = [
    {"type": "session", "version": 3, "id": "s1", "timestamp": "2026-01-05T09:00:00.000Z", "cwd": "/kiln"},
    {
        "type": "message",
        "id": "e1",
        "parentId": None,
        "timestamp": "2026-01-05T09:00:01.000Z",
        "message": {
            "role": "user",
            "content": [{"type": "text", "text": "How warm is the kiln?"}],
            "timestamp": 1767603601000,
        },
    },
    {
        "type": "message",
        "id": "e2",
        "parentId": "e1",
        "timestamp": "2026-01-05T09:00:03.000Z",
        "message": {
            "role": "assistant",
            "content": [{"type": "toolCall", "id": "t1", "name": "bash", "arguments": {"command": "kiln --read"}}],
            "stopReason": "toolUse",
            "timestamp": 1767603602000,
        },
    },
    {
        "type": "message",
        "id": "e3",
        "parentId": "e2",
        "timestamp": "2026-01-05T09:00:04.000Z",
        "message": {
            "role": "toolResult",
            "toolCallId": "t1",
            "toolName": "bash",
            "content": [{"type": "text", "text": "412"}],
            "isError": False,
            "timestamp": 1767603604000,
        },
    },
    {
        "type": "message",
        "id": "e4",
        "parentId": "e3",
        "timestamp": "2026-01-05T09:00:06.000Z",
        "message": {
            "role": "assistant",
            "content": [{"type": "text", "text": "It is at 412 degrees."}],
            "stopReason": "stop",
            "timestamp": 1767603605000,
        },
    },
]

_ROLES = ("user", "assistant", "toolResult", "bashExecution", "custom", "branchSummary", "compactionSummary")
#: Other entries, each with a key that it then has.
_EVENTS = {
    "model_change": "modelId",
    "thinking_level_change": "thinkingLevel",
    "compaction": "tokensBefore",
    "branch_summary": "fromId",
    "custom": "customType",
    "custom_message": "customType",
    "label": "targetId",
    "session_info": "name",
}
_CUT_OFF = ("aborted", "error", "length")


def detect(unit: Any) -> bool:
    """Whether it is an entry of such a session."""
    if not isinstance(unit, dict) or not isinstance(kind := unit.get("type"), str):
        return False
    if kind == "message":
        return isinstance(message := unit.get("message"), dict) and message.get("role") in _ROLES
    if kind == "session":
        return "cwd" in unit and "timestamp" in unit
    return kind in _EVENTS and _EVENTS[kind] in unit and "timestamp" in unit


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation: the entries on the way to the last one. Raises RecordError; docs/formats/sessions.md."""
    lines = as_list(unit, "the file")
    log = Log()
    session: dict[str, Any] = {}
    for line, left_behind in zip(lines, _left_behind(lines), strict=True):
        if left_behind:
            log.note(line, "rewound")
        elif isinstance(line, dict) and line.get("type") == "session" and not session:
            session = rest(line, ("type",))
        else:
            _read(log, line)
    session_id = text_or_none(session.get("id"))
    yield log.conversation({"header": session} if session else {}, f"session:{session_id}" if session_id else None)


def _left_behind(lines: list[Any]) -> list[bool]:
    """Which entries are not on the way from the last one to the root. An entry without ids is on it."""
    where = {line["id"]: index for index, line in enumerate(lines) if _id(line) and line.get("type") != "session"}
    on_path: set[int] = set()
    index = max(where.values(), default=None)
    while index is not None and index not in on_path:
        on_path.add(index)
        parent = lines[index].get("parentId")
        index = where.get(parent) if isinstance(parent, str) else None
    return [bool(on_path) and where.get(_id(line) or "") == i and i not in on_path for i, line in enumerate(lines)]


def _id(line: Any) -> str | None:
    return text_or_none(line.get("id")) if isinstance(line, dict) and "parentId" in line else None


def _read(log: Log, line: Any) -> None:
    try:
        said = _entry(line)
    except RecordError as error:
        log.fail(line, error)
        return
    if said is None or not said[0].parts:
        log.note(line)
        return
    message, left = said
    log.say(message, unread(line, ("type", "message", "summary", "content")) | left)


def _entry(line: Any) -> tuple[Message, dict[str, Any]] | None:
    """The message of an entry, and what it says beside its text; None for an event."""
    kind = line.get("type") if isinstance(line, dict) else None
    if kind == "message":
        return _message(as_object(line.get("message"), "message"), time_ms(line.get("timestamp")))
    if kind in ("compaction", "branch_summary"):
        text = as_text(required(line, "summary", "the entry"), "summary")
        return Message("user", text_parts(text), started_ms=time_ms(line.get("timestamp"))), {"type": kind}
    if kind == "custom_message":
        parts, notes = _blocks("user", line.get("content"), "content")
        return Message("user", parts, started_ms=time_ms(line.get("timestamp"))), {"type": kind, **notes}
    return None


def _message(message: dict[str, Any], written: int | None) -> tuple[Message, dict[str, Any]] | None:
    started = time_ms(message.get("timestamp"))
    ended = written if started is not None and written is not None and written >= started else None
    started = written if started is None else started
    role = message.get("role")
    left = unread(message, ("role", "content"))
    if role == "toolResult":
        name, call_id = text_or_none(message.get("toolName")), text_or_none(message.get("toolCallId"))
        parts, note = result_parts(
            message.get("content"), "message.content", name, call_id, message.get("isError") is True
        )
        left = rest(left, ("toolName", "toolCallId", "isError")) | ({"content": note} if note is not None else {})
        return Message("tool", parts, started_ms=started), {"message": left} if left else {}
    if role == "bashExecution":
        if message.get("excludeFromContext") is True:
            return None
        command, output = optional_text(message, "command"), optional_text(message, "output")
        shown = (Part("context", output),) if output else ()
        left = rest(left, ("command", "output"))
        return Message("user", (*text_parts(command), *shown), started_ms=started), {"message": left | {"role": role}}
    if role in ("branchSummary", "compactionSummary"):
        text = optional_text(message, "summary")
        return Message("user", text_parts(text), started_ms=started), {"message": rest(message, ("summary",))}
    if role not in ("user", "assistant", "custom"):
        return None
    side: Role = "assistant" if role == "assistant" else "user"
    parts, notes = _blocks(side, message.get("content"), "message.content")
    left |= notes | ({"role": role} if role == "custom" else {})
    said = Message(side, parts, started_ms=started, ended_ms=ended if side == "assistant" else None)
    if message.get("stopReason") in _CUT_OFF:
        said = cut_off(said)
    return said, {"message": left} if left else {}


def _blocks(role: Role, content: Any, where: str) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """The parts of a content, and what its blocks say beside them, by index; unknown blocks are kept there whole."""
    if isinstance(content, str):
        return _text(as_text(content, where), role == "assistant"), {}
    if not isinstance(content, list):
        raise wrong_type(content, where, "a string or a list")
    tagged = role == "assistant" and not any(isinstance(b, dict) and b.get("type") == "thinking" for b in content)
    parts: list[Part] = []
    notes: dict[str, Any] = {}
    for index, block in enumerate(content):
        made, left = _block(block, f"{where}[{index}]", tagged)
        parts.extend(made)
        if left:
            notes[str(index)] = left
    return tuple(parts), {"content": notes} if notes else {}


def _block(block: Any, where: str, tagged: bool) -> tuple[tuple[Part, ...], Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text" and isinstance(text := block.get("text"), str):
        return _text(as_text(text, where), tagged), rest(block, ("type", "text"))
    if kind == "thinking" and isinstance(text := block.get("thinking"), str):
        left = rest(block, ("type", "thinking"))
        return ((Part("thinking", as_text(text, where)),) if text else ()), left
    if kind == "toolCall" and (name := text_or_none(block.get("name"))):
        arguments = arguments_text(block.get("arguments"), f"{where}.arguments")
        call = Part("tool_call", arguments, name=name, call_id=text_or_none(block.get("id")))
        return (call,), rest(block, ("type", "name", "id", "arguments"))
    if kind == "image":
        return (Part("media", media_reference(block)),), {}
    return (), block


def _text(text: str, tagged: bool) -> tuple[Part, ...]:
    return split_thinking(text) if tagged else text_parts(text)
