"""AgentBench's ALFWorld prompts (Liu et al., 2023, arXiv 2308.03688): ``{task: [{"role": "user" | "agent", "content", …}]}``.

The messages are OpenAI's but for the role ``agent``; a bare list of them is one task.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.openai_messages import convert_message
from converters.shared.fields import as_object, conversation, convert_messages
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "alfworld"
UNIT = "record"
SHAPE = '{task: [{"role": "user" | "agent" | "tool", "content", "tool_calls", "tool_call_id"}]}'
EXAMPLE = {
    "heat": [
        {"role": "user", "content": "You see a kiln 1. Your task is to: read its heat.", "tool_calls": None},
        {
            "role": "agent",
            "content": "I go to the kiln first.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "take_action", "arguments": '{"action":"go to kiln 1"}'},
                }
            ],
        },
        {"role": "tool", "content": "The kiln is at 412.", "tool_call_id": "c1", "name": "take_action"},
        {"role": "agent", "content": "It is at 412 degrees.", "tool_calls": None},
    ]
}

_ROLES = ("system", "user", "agent", "assistant", "tool")


def detect(unit: Any) -> bool:
    """Whether every value is a list of messages, some of them an agent's."""
    tasks = [unit] if isinstance(unit, list) else list(unit.values()) if isinstance(unit, dict) else []
    return bool(tasks) and all(map(_is_task, tasks))


def _is_task(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(map(_is_message, value)) and any(message["role"] == "agent" for message in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES and "content" in value


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per task. Raises RecordError; docs/formats/agents.md lists the codes."""
    if isinstance(unit, list):
        yield _conversation(unit, "messages", {})
        return
    tasks = as_object(unit, "the record")
    if not tasks:
        raise RecordError("no_messages", "the record holds no task")
    for task, items in tasks.items():
        yield _conversation(items, task, {"task": task})


def _conversation(items: Any, where: str, extra: dict[str, Any]) -> Conversation:
    messages, unused = convert_messages(items, where, _message)
    return conversation(messages, extra, unused)


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    message = as_object(raw, where)
    return convert_message({**message, "role": "assistant"} if message.get("role") == "agent" else message, where)
