"""SWE-agent: one ``.traj`` object per run, ``{"history": [messages], "trajectory": [steps], "info"}``.

``history`` is the list of messages, with ``thought`` and ``action`` beside the content; two styles: tool calls, or a thought
followed by a command in a code fence or ``<command>`` tags, whose observation is the next user message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.openai_messages import convert_message
from converters.shared.fields import as_list, as_object, as_text, conversation, first_key, rest, without_payloads
from converters.shared.session import thinking_beside_calls
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "swe_agent"
UNIT = "record"
SHAPE = '{"history": [{"role", "content", "thought", "action", "tool_calls", "agent"}], "trajectory", "info"}'
EXAMPLE = {
    "environment": "kiln",
    "trajectory": [{"action": "read_kiln\n", "observation": "412", "response": "", "thought": "The sensor knows.\n"}],
    "history": [
        {"role": "system", "content": "You work in a shell.", "agent": "primary"},
        {"role": "user", "content": "How warm is the kiln?", "agent": "primary"},
        {
            "role": "assistant",
            "content": "The sensor knows.\n```\nread_kiln\n```",
            "thought": "The sensor knows.\n",
            "action": "read_kiln\n",
            "agent": "primary",
        },
        {"role": "user", "content": "412\nbash-$", "agent": "primary"},
        {
            "role": "assistant",
            "content": "Done.\n```\nsubmit 412\n```",
            "thought": "Done.\n",
            "action": "submit 412\n",
            "agent": "primary",
        },
    ],
    "info": {"exit_status": "submitted"},
}

_ROLES = ("system", "user", "assistant", "tool")
#: The name of a command's call: the log has none, and SWE-agent's tool for commands is called so.
_COMMAND = "bash"
_OPENING = re.compile(r"(?:```[\w-]*|<command>)\s*\Z")
_CLOSING = re.compile(r"\s*(?:```|</command>)\s*")
_TAIL = 64


def detect(unit: Any) -> bool:
    """Whether its history is a list of messages that name their agent, or stands beside a trajectory."""
    if not isinstance(unit, dict):
        return False
    history, steps = unit.get("history"), unit.get("trajectory")
    if isinstance(history, list) and history:
        named = all(isinstance(m, dict) and m.get("role") in _ROLES and "content" in m for m in history)
        return named and (isinstance(steps, list) or any("agent" in message for message in history))
    return isinstance(steps, list) and bool(steps) and all(map(_is_step, steps))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/agents.md lists the codes."""
    record = as_object(unit, "the record")
    key = "history" if record.get("history") else first_key(record, ("trajectory", "history"))
    if key is None:
        raise RecordError("missing_field", 'the record has neither "history" nor "trajectory"')
    items = as_list(record[key], key)
    if key == "trajectory":
        items = [message for index, step in enumerate(items) for message in _step(step, f"{key}[{index}]")]
    messages: list[Message] = []
    unused: dict[str, dict[str, Any]] = {}
    for index, raw in enumerate(items):
        message, left = _message(raw, f"{key}[{index}]", messages[-1] if messages else None)
        if left:
            unused[str(index)] = without_payloads(left)
        messages.append(message)
    if not messages:
        raise RecordError("no_messages", f"{key} is empty")
    yield conversation(messages, without_payloads(rest(record, (key,))), unused)


def _is_step(value: Any) -> bool:
    return isinstance(value, dict) and "observation" in value and "action" in value and "response" in value


def _step(raw: Any, where: str) -> Iterator[dict[str, Any]]:
    """A step of a trajectory that has no history, as messages."""
    step = as_object(raw, where)
    yield {"role": "assistant", "content": step.get("response"), **rest(step, ("response", "observation"))}
    if step.get("observation"):
        yield {"role": "user", "content": step["observation"]}


def _message(raw: Any, where: str, before: Message | None) -> tuple[Message, dict[str, Any]]:
    item = as_object(raw, where)
    ids = item.get("tool_call_ids")
    if item.get("role") == "tool" and isinstance(ids, list) and len(ids) == 1 and item.get("tool_call_id") is None:
        item = {**rest(item, ("tool_call_ids",)), "tool_call_id": ids[0]}
    thoughts, item = _thinking_blocks(item)
    message, left = convert_message(item, where)
    if message.role == "assistant":
        parts = message.parts if item.get("tool_calls") else _command(message, item, where)
        message = thinking_beside_calls(replace(message, parts=(*thoughts, *parts)))
        left = _said(left, message)
    elif message.role == "user" and before is not None and _calls_a_command(before):
        message = replace(message, role="tool", parts=_observation(message.parts))
    if item.get("is_demo") is True:
        message = replace(message, weight=0.0)
    return message, left


def _thinking_blocks(item: dict[str, Any]) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """The thoughts of a model that thinks, as newer versions keep them; their signatures stay in the item."""
    blocks = item.get("thinking_blocks")
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        return (), item
    texts = (b["thinking"] for b in blocks if isinstance(b.get("thinking"), str) and b["thinking"])
    parts = tuple(Part("thinking", as_text(text, "thinking_blocks")) for text in texts)
    return parts, {**item, "thinking_blocks": [rest(b, ("thinking",)) for b in blocks]}


def _command(message: Message, item: dict[str, Any], where: str) -> tuple[Part, ...]:
    """The thought and the command of a content; the fence or the tags between and behind them are delimiters."""
    content, action = message.rebuild(), item.get("action")
    if not isinstance(action, str) or not (command := as_text(action, f"{where}.action").strip()):
        return message.parts
    start = content.rfind(command)
    end = start + len(command)
    said = content[:start].rstrip()[-_TAIL:]
    opening, closing = _OPENING.search(said), _CLOSING.match(content, end)
    if start < 0 or opening is None or closing is None or closing.end() != len(content):
        return message.parts
    mark = len(content[:start].rstrip()) - len(said) + opening.start()
    thought = content[:mark].rstrip()
    call = Part("tool_call", command, name=_COMMAND, before=content[len(thought) : start], after=content[end:])
    return (Part("thinking", thought), call) if thought else (call,)


def _calls_a_command(message: Message) -> bool:
    return any(part.kind == "tool_call" and part.name == _COMMAND and part.call_id is None for part in message.parts)


def _observation(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    text = "".join(part.text for part in parts if part.kind == "text")
    return (Part("tool_result", text), *(part for part in parts if part.kind == "media"))


def _said(left: dict[str, Any], message: Message) -> dict[str, Any]:
    """Without the ``thought`` and the ``action`` that the parts say."""
    texts = {"", *(part.text.strip() for part in message.parts)}
    return {
        key: value
        for key, value in left.items()
        if not (key in ("thought", "action") and isinstance(value, str) and value.strip() in texts)
    }
