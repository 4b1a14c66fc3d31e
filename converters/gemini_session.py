"""Chats that Gemini CLI saves: ``{"sessionId", "messages": [{"type": "user" | "gemini", "content", "toolCalls"}]}``.

A turn of the model holds its calls with their results. Newer files are JSON Lines: a line of metadata, then turns, each
written anew under its id when more of it is there, ``{"$set": {...}}`` and ``{"$rewindTo": id}``. Others have ``history``, a
list of the API's contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from converters.gemini_contents import content_messages, is_content, part_messages
from converters.shared.fields import as_list, as_object, optional_text, rest
from converters.shared.session import Log, arguments_text, text_or_none, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "gemini_session"
UNIT = "file"
SHAPE = '{"sessionId", "messages": [{"type": "user" | "gemini", "content", "thoughts", "toolCalls"}]}'
EXAMPLE = [
    {
        "sessionId": "s1",
        "projectHash": "0f",
        "startTime": "2026-01-05T09:00:00.000Z",
        "messages": [
            {"id": "m1", "timestamp": "2026-01-05T09:00:01.000Z", "type": "user", "content": "How warm is the kiln?"},
            {
                "id": "m2",
                "timestamp": "2026-01-05T09:00:02.000Z",
                "type": "gemini",
                "content": "",
                "thoughts": [{"subject": "Sensor", "description": "It knows."}],
                "toolCalls": [
                    {
                        "id": "c1",
                        "name": "shell",
                        "args": {"command": "kiln --read"},
                        "status": "success",
                        "timestamp": "2026-01-05T09:00:03.000Z",
                        "result": [{"functionResponse": {"id": "c1", "name": "shell", "response": {"output": "412"}}}],
                    }
                ],
            },
            {"id": "m3", "timestamp": "2026-01-05T09:00:04.000Z", "type": "gemini", "content": "It is at 412 degrees."},
        ],
    }
]

_ROLES: dict[str, Role] = {"user": "user", "gemini": "assistant", "model": "assistant"}
_FAILED = ("error", "cancelled", "failed")


_NOTES = ("info", "error", "warning")


@dataclass
class _Chat:
    """A chat as its lines make it: what they say about it, its turns by their id, and what is no turn any more."""

    header: dict[str, Any]
    turns: dict[str, Any] = field(default_factory=dict)
    gone: list[tuple[Any, str | None]] = field(default_factory=list)

    def put(self, turn: Any) -> None:
        """Adds a turn, or writes it anew in its place."""
        name = text_or_none(turn.get("id")) if isinstance(turn, dict) else None
        name = f"#{len(self.turns) + len(self.gone)}" if name is None else name
        if name in self.turns:
            self.gone.append((self.turns[name], "replaced"))
        self.turns[name] = turn

    def rewind(self, line: dict[str, Any]) -> None:
        """Takes a turn back, and all behind it; all of them where there is no such turn."""
        back: list[tuple[Any, str | None]] = []
        while self.turns:
            name, turn = self.turns.popitem()
            back.append((turn, "rewound"))
            if name == line["$rewindTo"]:
                break
        self.gone.extend(reversed(back))
        self.gone.append((line, None))


def detect(unit: Any) -> bool:
    """Whether it is a saved chat, or a line of one."""
    if not isinstance(unit, dict):
        return False
    if isinstance(unit.get("$rewindTo"), str) or isinstance(unit.get("$set"), dict):
        return True
    if _is_header(unit):
        items = unit.get("messages") or []
        return isinstance(items, list) and all(isinstance(i, dict) and isinstance(i.get("type"), str) for i in items)
    return _is_history(unit) or _is_turn(unit)


def _is_header(value: dict[str, Any]) -> bool:
    named = "projectHash" in value or ("sessionId" in value and isinstance(value.get("messages"), list))
    return named and "type" not in value


def _is_history(value: dict[str, Any]) -> bool:
    history = value.get("history")
    return isinstance(history, list) and bool(history) and all(map(is_content, history))


def _is_turn(value: dict[str, Any]) -> bool:
    """Whether it is a turn on a line of its own."""
    known = isinstance(kind := value.get("type"), str) and (kind in _ROLES or kind in _NOTES)
    own = isinstance(value.get("id"), str) and "timestamp" in value and "content" in value
    return known and own and not {"sessionId", "message", "parentUuid"} & value.keys()


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per chat of the file. Raises RecordError; docs/formats/sessions.md lists the codes."""
    chats: list[_Chat] = []
    for value in as_list(unit, "the file"):
        line = value if isinstance(value, dict) else {}
        if _is_header(line) or _is_history(line) or not chats:
            chats.append(_Chat({}))
        chat = chats[-1]
        if _is_header(line) or _is_history(line):
            key = next((key for key in ("messages", "history") if isinstance(line.get(key), list)), "")
            chat.header |= rest(line, (key,))
            for turn in line.get(key) or []:
                chat.put(turn)
        elif isinstance(line.get("$rewindTo"), str):
            chat.rewind(line)
        elif isinstance(line.get("$set"), dict):
            _set(chat, line)
        elif isinstance(line.get("type"), str) and "content" in line:
            chat.put(line)
        else:
            chat.gone.append((value, None))
    made = [(chat, _log(chat)) for chat in chats]
    if not any(log.messages for _, log in made):
        raise RecordError("no_messages", "the file holds no message")
    for chat, log in made:
        if log.messages:
            session = text_or_none(chat.header.get("sessionId"))
            yield log.conversation(chat.header, f"session:{session}" if session else None)


def _set(chat: _Chat, line: dict[str, Any]) -> None:
    """What is known of a chat now. Messages in it are the first ones, or repeat, shortened, what was said: then an event."""
    changes = line["$set"]
    if isinstance(messages := changes.get("messages"), list) and not chat.turns:
        for turn in messages:
            chat.put(turn)
        changes = rest(changes, ("messages",))
    if "messages" in changes:
        chat.gone.append((line, None))
    else:
        chat.header |= changes


def _log(chat: _Chat) -> Log:
    log = Log()
    for turn in chat.turns.values():
        _read(log, turn)
    for line, why in chat.gone:
        log.note(line, why)
    return log


def _read(log: Log, line: Any) -> None:
    try:
        said = _messages(line)
    except RecordError as error:
        log.fail(line, error)
        return
    if not any(message.parts for message, _ in said):
        log.note(line)
        return
    for message, left in said:
        log.say(message, left)


def _messages(line: Any) -> list[tuple[Message, dict[str, Any]]]:
    """The messages of a turn: thoughts, text and calls in one, then a result each; none for a note of the client."""
    kind = line.get("type") if isinstance(line, dict) else None
    if kind is None and is_content(line):
        started = time_ms(line.get("ts"))
        made = content_messages(unread(line, (), "ts"), "the entry")
        return [(replace(message, started_ms=started), left) for message, left in made]
    if not isinstance(kind, str) or kind not in _ROLES:
        return []
    role = _ROLES[kind]
    started = time_ms(line.get("timestamp"))
    left = unread(line, ("content", "parts", "type", "thoughts", "toolCalls"))
    thoughts, more = _thoughts(line.get("thoughts"))
    if more:
        left["thoughts"] = more
    calls = [_call(call, f"toolCalls[{i}]") for i, call in enumerate(as_list(line.get("toolCalls") or [], "toolCalls"))]
    if calls:
        left["toolCalls"] = [rest_of_call for _, _, rest_of_call in calls]
    content = line.get("content", line.get("parts"))
    spoken = list(part_messages(role, "" if content is None else content, "content"))
    first, notes = spoken[0]
    spoken[0] = (replace(first, parts=(*thoughts, *first.parts)), left | notes)
    last, notes = spoken[-1]
    if last.role == role:
        spoken[-1] = (replace(last, parts=(*last.parts, *(call for call, _, _ in calls))), notes)
    elif calls:
        spoken.append((Message(role, tuple(call for call, _, _ in calls)), {}))
    turn = [(replace(message, started_ms=started), notes) for message, notes in spoken]
    return turn + [result for _, result, _ in calls if result is not None]


def _thoughts(thoughts: Any) -> tuple[tuple[Part, ...], list[Any]]:
    """A part for every subject and every description, and what the log says beside them."""
    parts: list[Part] = []
    left: list[Any] = []
    for index, thought in enumerate(as_list(thoughts or [], "thoughts")):
        item = as_object(thought, f"thoughts[{index}]")
        texts = (optional_text(item, key) for key in ("subject", "description"))
        parts.extend(Part("thinking", text) for text in texts if text)
        left.append(unread(item, ("subject", "description")))
    return tuple(parts), left if any(left) else []


def _call(raw: Any, where: str) -> tuple[Part, tuple[Message, dict[str, Any]] | None, dict[str, Any]]:
    """A call, its result where it has one, and what the log says beside them."""
    call = as_object(raw, where)
    if (name := text_or_none(call.get("name"))) is None:
        raise RecordError("bad_tool_call", f"{where} has no name")
    call_id = text_or_none(call.get("id"))
    part = Part("tool_call", arguments_text(call.get("args"), f"{where}.args"), name=name, call_id=call_id)
    left = unread(call, ("id", "name", "args", "result"))
    if (result := call.get("result")) is None:
        return part, None, left
    failed = call.get("status") in _FAILED
    texts: list[str] = []
    media: list[Part] = []
    notes: dict[str, Any] = {}
    for message, more in part_messages(
        "tool", result if isinstance(result, list | str) else [result], f"{where}.result"
    ):
        texts.extend(p.text for p in message.parts if p.kind != "media")
        media.extend(p for p in message.parts if p.kind == "media")
        failed = failed or any(p.error for p in message.parts)
        notes |= more
    answer = Part("tool_result", "".join(texts), name=name, call_id=call_id, error=failed)
    return part, (Message("tool", (answer, *media), started_ms=time_ms(call.get("timestamp"))), notes), left
