"""What the readers of session logs share: times, the results of tools, and a conversation that grows line by line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from converters.openai_messages import MEDIA_TYPES, TEXT_TYPES
from converters.shared.fields import as_text, conversation, json_text, media_reference, rest, without_payloads
from pipeline.conversation import Conversation, Message, Part, RecordError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: Numbers below are seconds (until the year 5138), from it on milliseconds, and from the next on no time.
_FIRST_MS = 100_000_000_000
_LAST_MS = 100_000_000_000_000
#: What is wrong with the whole unit, not with one line of it.
_FATAL = frozenset({"invalid_text", "too_deep", "not_json"})


def time_ms(value: Any) -> int | None:
    """Milliseconds since the Unix epoch: of ISO 8601 text (UTC where it names no zone), of seconds, of milliseconds.

    None for anything else: logs hold placeholders, and a time is never guessed.
    """
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
            ms = (at - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_MS:
        return None
    else:
        ms = int(value) if value >= _FIRST_MS else int(value * 1000)
    return ms if ms >= 0 else None


def text_or_none(value: Any) -> str | None:
    """A name or an id: the text, None for anything else and for an empty one. Raises RecordError invalid_text."""
    return as_text(value, "a name") if isinstance(value, str) and value else None


def cut_off(message: Message) -> Message:
    """The message with its last part marked as interrupted: its end is not the author's."""
    if not message.parts:
        return message
    return replace(message, parts=(*message.parts[:-1], replace(message.parts[-1], interrupted=True)))


def thinking_beside_calls(message: Message) -> Message:
    """The text that an agent writes beside a call is its thought: as thinking parts."""
    if not any(part.kind == "tool_call" for part in message.parts):
        return message
    parts = (replace(part, kind="thinking") if part.kind == "text" else part for part in message.parts)
    return replace(message, parts=tuple(parts))


def arguments_text(value: Any, where: str) -> str:
    """The arguments of a call: text as it is, none as "", any other value as JSON. Raises RecordError."""
    if value is None:
        return ""
    return as_text(value, where) if isinstance(value, str) else json_text(value)


def result_parts(
    content: Any, where: str, name: str | None = None, call_id: str | None = None, error: bool = False
) -> tuple[tuple[Part, ...], Any]:
    """The one ``tool_result`` of a content, then its media, and what of the content they do not say (None: nothing).

    Texts of a list are joined as they are; one item may stand without its list. An item that is neither text nor media
    counts as text, as JSON, and so does any other value. Raises RecordError.
    """
    texts: list[str] = []
    media: list[Part] = []
    items = content if isinstance(content, list) else [content]
    for index, item in enumerate(items):
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(item, str):
            texts.append(as_text(item, where))
        elif item is None:
            continue
        elif _is_text(item):
            texts.append(as_text(item["text"], f"{where}[{index}].text"))
        elif isinstance(kind, str) and (kind in MEDIA_TYPES or kind == "document"):
            media.append(Part("media", media_reference(item)))
        else:
            texts.append(media_reference(item))
    result = Part("tool_result", "".join(texts), name=name, call_id=call_id, error=error)
    plain = len(items) == 1 and (not _is_text(items[0]) or not rest(items[0], ("type", "text")))
    return (result, *media), None if plain or not items else content


def _is_text(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return False
    kind = item.get("type")
    return isinstance(kind, str) and (kind in TEXT_TYPES or kind == "inputText")


@dataclass
class Log:
    """A session as it is read: messages, and what is no message, each where it stood."""

    messages: list[Message] = field(default_factory=list)
    unused: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    tools: str = ""

    def say(self, message: Message, left: Mapping[str, Any] | None = None) -> None:
        """Adds a message, and what its line says beside it."""
        if left:
            self.unused[str(len(self.messages))] = without_payloads(dict(left))
        self.messages.append(message)

    def note(self, event: Any, why: str | None = None) -> None:
        """Keeps a line that is no message, with the reason where it should have been one."""
        entry = {"at": len(self.messages), "event": without_payloads(event)}
        self.events.append(entry | {"why": why} if why else entry)

    def fail(self, event: Any, error: RecordError) -> None:
        """Keeps a line that cannot be read. Raises the error where it concerns the whole file."""
        if error.code in _FATAL:
            raise error
        self.note(event, f"{error.code}: {error}")

    def conversation(self, extra: Mapping[str, Any] | None = None, group: str | None = None) -> Conversation:
        """The conversation. Raises RecordError no_messages, empty_conversation."""
        if not self.messages:
            raise RecordError("no_messages", "the session holds no message")
        kept = without_payloads(dict(extra or {}))
        shared = _shared(list(self.unused.values()))
        for key, value in (("session", shared), ("events", self.events)):
            if value:
                kept[key + "_" * (key in kept)] = value
        unused = {at: left for at, line in self.unused.items() if (left := rest(line, shared))}
        return conversation(self.messages, kept, unused, self.tools, group)


def conversations(logs: Mapping[tuple[str, str], Log], extra: Mapping[str, Any]) -> Iterator[Conversation]:
    """The conversations of a file: of every log with messages, by its session and its side chain.

    What a log without messages noted goes to the first that has some. Raises RecordError no_messages.
    """
    spoken = {key: log for key, log in logs.items() if log.messages}
    if not spoken:
        raise RecordError("no_messages", "no line of the log holds a message")
    first = next(iter(spoken.values()))
    for log in logs.values():
        if not log.messages:
            first.events.extend(log.events)
    for (session, side), log in spoken.items():
        named = {"session_id": session} if session else {}
        yield log.conversation(
            {**extra, **named, **({"side_chain": side} if side else {})}, f"session:{session}" if session else None
        )


def unread(line: Mapping[str, Any], used: Collection[str], time: str = "timestamp") -> dict[str, Any]:
    """What a line says beside the keys that were used and the time that ``time_ms`` could read."""
    left = rest(dict(line), used)
    if time_ms(left.get(time)) is not None:
        del left[time]
    return left


def _shared(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys that every one of several lines has with the same text, number or boolean."""
    if len(lines) < 2:
        return {}
    first = {key: value for key, value in lines[0].items() if not isinstance(value, dict | list)}
    for line in lines[1:]:
        first = {k: v for k, v in first.items() if k in line and type(line[k]) is type(v) and line[k] == v}
    return first
