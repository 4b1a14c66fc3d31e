"""Conversations as Hugging Face chat messages, so that any converted corpus can be rendered with a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.conversation import Conversation, Message, Part

__all__ = ["to_messages", "tools_of"]

#: What stands between texts that were fields of their own in the source.
BETWEEN = "\n\n"


def to_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages, as ``tokenizer.apply_chat_template`` takes them.

    ``content`` is the source's own text, think tags included; a list of items where there is media, else a string, ""
    where nothing is said. Thoughts from a field of their own are ``reasoning_content``. Calls are ``tool_calls``, their
    arguments an object where the text is that of a JSON object, and each result is a message of the role ``tool``.
    A message of the assistant that says something behind a call, or thinks again behind what it says, becomes several.
    Contexts stand apart from each other and from the question by an empty line.
    """
    return [told for message in conversation.messages for told in _told(message)]


def tools_of(conversation: Conversation) -> list[Any] | None:
    """The tool definitions for ``tools=``, as they are; None where there are none, or where they are no list of objects."""
    try:
        value = json.loads(conversation.tools) if conversation.tools else None
    except (ValueError, RecursionError):
        return None
    tools = [value] if isinstance(value, dict) else value
    return tools if isinstance(tools, list) and tools and all(isinstance(tool, dict) for tool in tools) else None


def _told(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield from _results(message)
    elif message.role == "assistant":
        for turn in _turns(message):
            yield _named(_assistant(turn), message)
    else:
        yield _named({"role": message.role, "content": _content(message.parts)}, message)


def _named(told: dict[str, Any], message: Message) -> dict[str, Any]:
    return told | {"name": message.name} if message.name else told


def _results(message: Message) -> Iterator[dict[str, Any]]:
    """A message per result; what stands beside the results goes to the one before it."""
    pieces: list[list[Part]] = []
    for part in message.parts:
        if part.kind == "tool_result" or not pieces:
            pieces.append([part])
        else:
            pieces[-1].append(part)
    for piece in pieces or [[]]:
        first = piece[0] if piece else None
        told: dict[str, Any] = {"role": "tool", "content": _content(piece)}
        if first is not None and first.call_id is not None:
            told["tool_call_id"] = first.call_id
        if name := (first.name if first is not None else None) or message.name:
            told["name"] = name
        yield told


def _turns(message: Message) -> list[list[Part]]:
    """The parts, cut where a message would say them in another order than thoughts, text, calls."""
    own = _own_thoughts(message.parts)
    turns: list[list[Part]] = [[]]
    step = 0
    for index, part in enumerate(message.parts):
        now = 0 if index in own else 2 if part.kind == "tool_call" else 1
        if now < step:
            turns.append([])
        step = now
        turns[-1].append(part)
    return turns


def _own_thoughts(parts: Sequence[Part]) -> set[int]:
    """Which thoughts were fields of their own: no delimiter on either side, neither theirs nor that of the text behind."""
    own = set()
    for index, part in enumerate(parts):
        behind = parts[index + 1] if index + 1 < len(parts) else None
        inside = behind is not None and behind.kind == "text" and behind.before
        if part.kind == "thinking" and not (part.before or part.after or part.source is not None or inside):
            own.add(index)
    return own


def _assistant(parts: Sequence[Part]) -> dict[str, Any]:
    own = _own_thoughts(parts)
    calls = [part for part in parts if part.kind == "tool_call"]
    said = [part for index, part in enumerate(parts) if index not in own and part.kind != "tool_call"]
    told: dict[str, Any] = {"role": "assistant", "content": _content(said)}
    if own:
        told["reasoning_content"] = BETWEEN.join(parts[index].text for index in sorted(own))
    if calls:
        told["tool_calls"] = [_call(part) for part in calls]
    return told


def _call(part: Part) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": part.name, "arguments": _arguments(part.text)}}
    return call if part.call_id is None else {"id": part.call_id, **call}


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _content(parts: Sequence[Part]) -> str | list[Any]:
    """The text of parts; items, where one of them is media."""
    items: list[Any] = []
    text = ""
    for index, part in enumerate(parts):
        if part.kind == "media":
            items += [{"type": "text", "text": text}] if text else []
            items.append(_media(part.text))
            text = ""
        else:
            apart = index and "context" in (part.kind, parts[index - 1].kind) and text and not part.before
            text += (BETWEEN if apart else "") + (part.text if part.kind == "tool_result" else part.rebuild())
    if not items:
        return text
    return items + ([{"type": "text", "text": text}] if text else [])


def _media(reference: str) -> Any:
    try:
        value = json.loads(reference)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"type": "file", "file": reference}
