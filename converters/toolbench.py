"""ToolBench (Qin et al., 2023, arXiv 2307.16789): the answer files, ``{"answer_generation": {"train_messages", "function"}}``.

``train_messages`` is a list of message lists, one per step of the model, each the beginning of the next; the messages are
OpenAI's with ``function_call``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.openai_messages import convert_message
from converters.shared.fields import (
    as_list,
    as_object,
    conversation,
    convert_messages,
    json_text,
    required,
    rest,
    tools_of,
)
from converters.shared.session import text_or_none, thinking_beside_calls
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "toolbench"
UNIT = "record"
SHAPE = (
    '{"answer_generation": {"train_messages": [[{"role", "content", "function_call"}]], "function", "query"}, "tree"}'
)
_ASKED = [{"role": "system", "content": "You use tools."}, {"role": "user", "content": "How warm is the kiln?"}]
_CALLED = {
    "role": "assistant",
    "content": "The sensor knows.",
    "function_call": {"name": "read_sensor", "arguments": '{"place": "kiln"}'},
}
EXAMPLE = {
    "win": True,
    "tree": {"size": 2},
    "answer_generation": {
        "valid_data": True,
        "query": "How warm is the kiln?",
        "function": [{"name": "read_sensor", "parameters": {"type": "object"}}],
        "train_messages": [
            [*_ASKED, _CALLED],
            [
                *_ASKED,
                _CALLED,
                {"role": "function", "name": "read_sensor", "content": "412"},
                {"role": "assistant", "content": "It is at 412 degrees."},
            ],
        ],
    },
}


def detect(unit: Any) -> bool:
    """Whether it holds an answer with messages to train on."""
    answer = unit.get("answer_generation") if isinstance(unit, dict) else None
    return isinstance(answer, dict) and isinstance(answer.get("train_messages"), list)


def convert(unit: Any) -> Iterator[Conversation]:
    """A conversation per message list that no other begins with. Raises RecordError; docs/formats/agents.md lists the codes."""
    record = as_object(unit, "the record")
    answer = as_object(required(record, "answer_generation"), "answer_generation")
    key = "train_messages"
    lists = [as_list(item, f"{key}[{i}]") for i, item in enumerate(as_list(required(answer, key, "the answer"), key))]
    if not any(lists):
        raise RecordError("no_messages", "train_messages is empty")
    tools, tool_keys = tools_of({"functions": answer.get("function")})
    extra = rest(record, ("answer_generation",))
    extra["answer_generation"] = rest(answer, (key, *(("function",) if tool_keys else ())))
    query = text_or_none(answer.get("query"))
    for index, known in _longest(lists):
        messages, unused = convert_messages(lists[index], f"{key}[{index}]", _message)
        heard = [replace(message, weight=0.0) for message in messages[:known]]
        yield conversation([*heard, *messages[known:]], extra, unused, tools, f"query:{query}" if query else None)


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    message, left = convert_message(raw, where)
    return thinking_beside_calls(message), left


def _longest(lists: list[list[Any]]) -> list[tuple[int, int]]:
    """The lists that no other begins with, in order, each with how many of its messages an earlier one of them has."""
    root: dict[str, Any] = {}
    ends: dict[int, tuple[int, dict[str, Any]]] = {}
    for index, items in enumerate(lists):
        node = root
        for item in items:
            node = node.setdefault(json_text(item), {})
        ends.setdefault(id(node), (index, node))
    kept = sorted(index for index, node in ends.values() if not node and lists[index])
    seen: set[int] = set()
    out = []
    for index in kept:
        node, known = root, 0
        for item in lists[index]:
            node = node[json_text(item)]
            known += id(node) in seen
            seen.add(id(node))
        out.append((index, known))
    return out
