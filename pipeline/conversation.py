"""Conversation: what every converter makes of a source unit. Messages in order, each of parts; exact to the character.

Parts hold the text that a stream will say. Delimiters (tags, the white space around them, a separator such as ``\\n#### ``)
are kept beside the parts and never tokenized; ``Message.rebuild`` puts both together again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import xxhash

Role = Literal["system", "user", "assistant", "tool"]
PartKind = Literal["text", "thinking", "context", "tool_call", "tool_result", "media"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
PART_KINDS: tuple[PartKind, ...] = ("text", "thinking", "context", "tool_call", "tool_result", "media")


class RecordError(ValueError):
    """A source record that cannot be honoured. It becomes a reject row: ``code`` is for counting, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message.

    ``text`` is the part's text; for a ``tool_call`` its arguments as the source wrote them, for ``media`` the reference.
    ``before`` and ``after`` are the delimiters around it. ``source`` is set where a part was cut out of text in a way
    that before + text + after cannot say (a call inside JSON text): the verbatim source of the part.
    ``interrupted``: the part was cut off; its end is not the author's.
    """

    kind: PartKind
    text: str = ""
    name: str | None = None
    call_id: str | None = None
    error: bool = False
    before: str = ""
    after: str = ""
    source: str | None = None
    interrupted: bool = False

    def rebuild(self) -> str:
        """The source text of this part, delimiters included."""
        return self.source if self.source is not None else self.before + self.text + self.after


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Times are milliseconds since the Unix epoch; ``weight`` 0 takes the message out of the loss."""

    role: Role
    parts: tuple[Part, ...] = ()
    name: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    weight: float = 1.0

    def rebuild(self) -> str:
        """The source text that the parts were cut from."""
        return "".join(part.rebuild() for part in self.parts)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a conversation came from: ``index`` counts the units of ``path`` from 0; ``sha256`` is of the unit's bytes."""

    corpus: str
    path: str
    index: int
    format: str | None
    license: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in source order.

    ``tools`` is the definitions as text, verbatim ("" for none); ``extra`` holds what the source says beside its messages
    (JSON values); ``group`` names what must stay on one side of a split, None for the default, the first input.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    sources: tuple[Source, ...] = ()

    def has_output(self) -> bool:
        """Whether the model says anything."""
        return any(
            part.kind == "tool_call" or (part.text and part.kind != "media")
            for message in self.messages
            if message.role == "assistant"
            for part in message.parts
        )


_PART_DEFAULTS: tuple[tuple[str, object], ...] = (
    ("name", None),
    ("call_id", None),
    ("error", False),
    ("before", ""),
    ("after", ""),
    ("source", None),
    ("interrupted", False),
)


def message_to_json(message: Message) -> dict[str, Any]:
    """The JSON form of a message (``schemas/conversation.schema.json``); fields at their default are left out."""
    out: dict[str, Any] = {"role": message.role}
    for key in ("name", "started_ms", "ended_ms"):
        if (value := getattr(message, key)) is not None:
            out[key] = value
    if message.weight != 1.0:
        out["weight"] = float(message.weight)
    parts = []
    for part in message.parts:
        item: dict[str, Any] = {"kind": part.kind, "text": part.text}
        for key, default in _PART_DEFAULTS:
            if (value := getattr(part, key)) != default:
                item[key] = value
        parts.append(item)
    out["parts"] = parts
    return out


def source_to_json(source: Source) -> dict[str, Any]:
    """The JSON form of a source pointer, in conversations and in records."""
    return {
        "corpus": source.corpus,
        "path": source.path,
        "index": source.index,
        "format": source.format,
        "license": source.license,
        "sha256": source.sha256,
    }


def to_json(conversation: Conversation) -> dict[str, Any]:
    """The JSON form of a conversation, as ``schemas/conversation.schema.json`` describes it."""
    return {
        "schema": "conversation/1",
        "id": conversation_id(conversation),
        "messages": [message_to_json(message) for message in conversation.messages],
        "tools": conversation.tools,
        "extra": conversation.extra,
        "group": group_of(conversation),
        "sources": [source_to_json(source) for source in conversation.sources],
    }


def from_json(value: dict[str, Any]) -> Conversation:
    """The inverse of ``to_json``; the value must be valid against the schema."""
    return Conversation(
        messages=tuple(
            Message(**{**message, "parts": tuple(Part(**part) for part in message["parts"])})
            for message in value["messages"]
        ),
        tools=value["tools"],
        extra=value["extra"],
        group=value["group"],
        sources=tuple(Source(**source) for source in value["sources"]),
    )


def conversation_id(conversation: Conversation) -> str:
    """xxh3-128 (hex) of the canonical conversation: its messages and tools, not where they came from."""
    canonical = {"messages": [message_to_json(m) for m in conversation.messages], "tools": conversation.tools}
    return xxhash.xxh3_128_hexdigest(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS))


def group_of(conversation: Conversation) -> str:
    """What must stay on one side of a split: the converter's group, else the hash of the normalized first input."""
    if conversation.group is not None:
        return conversation.group
    words = (" ".join(_input_text(m).casefold().split()) for m in conversation.messages if m.role == "user")
    first = next(filter(None, words), None)
    if first is None:
        return "conversation:" + conversation_id(conversation)
    return "input:" + xxhash.xxh3_128_hexdigest(first.encode())


def _input_text(message: Message) -> str:
    return "\n".join(part.text for part in message.parts)


def inputs(conversation: Conversation) -> Iterator[Message]:
    """The messages that the model reads."""
    return (message for message in conversation.messages if message.role != "assistant")
