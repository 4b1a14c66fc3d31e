"""Claude Code: the session files of its projects folder, ``{"loglines": [...]}``, and the lines of its stream-json output.

A line is ``{"type": "user" | "assistant", "message": {"role", "content"}, "sessionId", "uuid", "parentUuid", "isSidechain"}``
with Anthropic's content blocks; everything else (summaries, attachments, hooks, modes, errors) is an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from converters.content_blocks import CUT_OFF, block_messages
from converters.shared.fields import as_list, as_object, json_text, required, rest
from converters.shared.session import (
    Log,
    arguments_text,
    conversations,
    cut_off,
    result_parts,
    text_or_none,
    time_ms,
    unread,
)
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "claude_code"
UNIT = "file"
SHAPE = '{"type": "user" | "assistant", "message": {"role", "content": [blocks]}, "sessionId", "uuid", "parentUuid"} per line'
EXAMPLE = [
    {"type": "summary", "summary": "Reads the kiln", "leafUuid": "a2"},
    {
        "type": "user",
        "uuid": "u1",
        "parentUuid": None,
        "sessionId": "s1",
        "isSidechain": False,
        "timestamp": "2026-01-05T09:00:00.000Z",
        "message": {"role": "user", "content": "How warm is the kiln?"},
    },
    {
        "type": "assistant",
        "uuid": "a1",
        "parentUuid": "u1",
        "sessionId": "s1",
        "isSidechain": False,
        "timestamp": "2026-01-05T09:00:02.000Z",
        "message": {
            "id": "m1",
            "role": "assistant",
            "model": "claude-x",
            "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "kiln --read"}}],
        },
    },
    {
        "type": "user",
        "uuid": "u2",
        "parentUuid": "a1",
        "sessionId": "s1",
        "isSidechain": False,
        "timestamp": "2026-01-05T09:00:03.000Z",
        "toolUseResult": {"stdout": "412"},
        "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "412"}]},
    },
    {
        "type": "assistant",
        "uuid": "a2",
        "parentUuid": "u2",
        "sessionId": "s1",
        "isSidechain": False,
        "timestamp": "2026-01-05T09:00:05.000Z",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "It is at 412 degrees."}]},
    },
]

#: Which conversation of the file a line is of: the session, and the side chain in it.
_Key: TypeAlias = tuple[str, str]
_SPEECH = ("user", "assistant")
_USED = ("message", "type")
_USED_BARE = ("type", "attachment", "name", "input", "output", "content", "id", "tool_use_id", "is_error")
#: Other lines' types, each with a key that the line then has.
_EVENTS = {
    "summary": "leafUuid",
    "file-history-snapshot": "snapshot",
    "queue-operation": "operation",
    "attachment": "attachment",
    "progress": "data",
    "permission-mode": "permissionMode",
    "mode": "sessionId",
    "agent-name": "agentName",
    "custom-title": "customTitle",
    "ai-title": "aiTitle",
    "last-prompt": "lastPrompt",
    "frame-link": "frameUrl",
    "pr-link": "prUrl",
    "started": "agentId",
    "result": "agentId",
    "relocated": "relocatedCwd",
    "worktree-state": "worktreeSession",
    "bridge-session": "bridgeSessionId",
    "atis-latch": "atis",
    "stream_event": "session_id",
    "rate_limit_event": "session_id",
}
_SYNTHETIC = "<synthetic>"


def detect(unit: Any) -> bool:
    """Whether it is a line of such a log, or the object of all its lines."""
    if not isinstance(unit, dict):
        return False
    if isinstance(unit.get("loglines"), list):
        return True
    kind = unit.get("type")
    if not isinstance(kind, str) or "systemPayload" in unit or "toolCallResult" in unit:
        return False
    named = isinstance(unit.get("sessionId", unit.get("session_id")), str)
    if kind in _SPEECH and "message" in unit:
        message = unit["message"]
        if isinstance(message, dict):
            return message.get("role") in _SPEECH and "parts" not in message
        return named
    if kind in ("tool_use", "tool_result"):
        return named and "message" not in unit
    if kind in ("system", "result") and isinstance(unit.get("subtype"), str):
        return named
    return kind in _EVENTS and _EVENTS[kind] in unit


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per session, and per side chain of it. Raises RecordError; docs/formats/sessions.md."""
    lines, extra = _lines(as_list(unit, "the file"))
    rewound = _rewound(lines)
    logs: dict[_Key, Log] = {}
    seen: set[tuple[str, str]] = set()
    key: _Key = ("", "")
    for index, line in enumerate(lines):
        key = _key(line) or key
        log = logs.setdefault(key, Log())
        if index in rewound:
            log.note(line, "rewound")
        elif _repeats(line, seen):
            log.note(line, "repeated")
        else:
            _read(log, line)
    yield from conversations(logs, extra)


def _lines(values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    lines: list[Any] = []
    extra: dict[str, Any] = {}
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("loglines"), list):
            lines.extend(value["loglines"])
            extra |= rest(value, ("loglines",))
        else:
            lines.append(value)
    return lines, extra


def _key(line: Any) -> _Key | None:
    session = line.get("sessionId", line.get("session_id")) if isinstance(line, dict) else None
    if not isinstance(session, str):
        return None
    side = text_or_none(line.get("agentId")) or text_or_none(line.get("parent_tool_use_id"))
    return session, side or ("sidechain" if line.get("isSidechain") is True else "")


def _is_prompt(line: Any) -> bool:
    """Whether the line is what a user wrote: no result, nothing that the client put in."""
    if not isinstance(line, dict) or line.get("type") != "user" or not isinstance(line.get("message"), dict):
        return False
    if line.get("isMeta") or line.get("isCompactSummary"):
        return False
    content = line["message"].get("content")
    if not isinstance(content, list):
        return isinstance(content, str)
    return not any(isinstance(block, dict) and block.get("type") == "tool_result" for block in content)


def _rewound(lines: list[Any]) -> set[int]:
    """The lines of turns that were taken back: where prompts stand on several branches, all branches but that of the last.

    A line's branch goes by ``parentUuid``, inside its own session and side chain. A branch without a prompt is none: the
    results of parallel calls look like one.
    """
    parents = _parents(lines)
    latest = [index if _is_prompt(line) else -1 for index, line in enumerate(lines)]
    for index in range(len(lines) - 1, -1, -1):
        if (parent := parents[index]) is not None:
            latest[parent] = max(latest[parent], latest[index])
    rewound: set[int] = set()
    for index, parent in enumerate(parents):
        if parent is not None and (parent in rewound or -1 < latest[index] < latest[parent]):
            rewound.add(index)
    return rewound


def _parents(lines: list[Any]) -> list[int | None]:
    """For every line the earlier line that it names as its parent, if that is of the same conversation."""
    where: dict[tuple[_Key | None, str], int] = {}
    parents: list[int | None] = []
    for index, line in enumerate(lines):
        uuid, parent = (line.get("uuid"), line.get("parentUuid")) if isinstance(line, dict) else (None, None)
        key = _key(line)
        parents.append(where.get((key, parent)) if isinstance(parent, str) and parent != uuid else None)
        if isinstance(uuid, str):
            where[key, uuid] = index
    return parents


def _repeats(line: Any, seen: set[tuple[str, str]]) -> bool:
    """Whether a line with the same uuid has said the same, key for key."""
    if not isinstance(line, dict) or not isinstance(uuid := line.get("uuid"), str) or "message" not in line:
        return False
    this = (uuid, json_text(line))
    if this in seen:
        return True
    seen.add(this)
    return False


def _read(log: Log, line: Any) -> None:
    try:
        said = list(_messages(line))
    except RecordError as error:
        log.fail(line, error)
        return
    if not any(message.parts for message, _ in said):
        log.note(line)
        return
    left = unread(line, _USED if "message" in line else _USED_BARE)
    for message, more in said:
        log.say(message, left | more)
        left = {}


def _messages(line: Any) -> Iterator[tuple[Message, dict[str, Any]]]:
    """The messages of a line, each with what its ``message`` says beside it; none for an event."""
    kind = line.get("type") if isinstance(line, dict) else None
    if kind == "attachment":
        yield from _queued(line)
    elif kind in ("tool_use", "tool_result") and "message" not in line:
        yield _bare(line)
    if kind not in _SPEECH:
        return
    message = as_object(line.get("message"), "message")
    if message.get("model") == _SYNTHETIC or line.get("isApiErrorMessage") is True:
        return
    role: Role = "assistant" if kind == "assistant" else "user"
    content = required(message, "content", "message")
    made = list(block_messages(role, content, "message.content", lenient=True))
    if made and (message.get("stop_reason") in CUT_OFF or line.get("isAbortedMidStream") is True):
        made[-1] = (cut_off(made[-1][0]), made[-1][1])
    left = rest(message, ("role", "content"))
    started = time_ms(line.get("timestamp"))
    for said, notes in made:
        inner = left | notes
        yield replace(said, started_ms=started), {"message": inner} if inner else {}
        left = {}


def _queued(line: dict[str, Any]) -> Iterator[tuple[Message, dict[str, Any]]]:
    """What the user typed while the model was at work; the other attachments are events."""
    attachment = line.get("attachment")
    if not isinstance(attachment, dict) or attachment.get("type") != "queued_command":
        return
    prompt = attachment.get("prompt")
    left = {"attachment": rest(attachment, ("prompt",)), "type": "attachment"}
    for message, notes in block_messages("user", prompt, "attachment.prompt", lenient=True):
        yield replace(message, started_ms=time_ms(line.get("timestamp"))), left | notes


def _bare(line: dict[str, Any]) -> tuple[Message, dict[str, Any]]:
    """A call or a result that is a line of its own, as the log of older versions has it."""
    started = time_ms(line.get("timestamp"))
    name = text_or_none(line.get("name"))
    if line["type"] == "tool_use":
        if name is None:
            raise RecordError("bad_tool_call", "the call has no name")
        call_id = text_or_none(line.get("id")) or text_or_none(line.get("tool_use_id"))
        call = Part("tool_call", arguments_text(line.get("input"), "input"), name=name, call_id=call_id)
        return Message("assistant", (call,), started_ms=started), {}
    output = line.get("output", line.get("content"))
    parts, _ = result_parts(output, "output", name, text_or_none(line.get("tool_use_id")), line.get("is_error") is True)
    return Message("tool", parts, started_ms=started), {}
