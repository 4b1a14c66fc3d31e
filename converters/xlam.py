"""A request, the tools there are, and the calls that answer it: ``{"query", "tools", "answers"}``, both as JSON text.

The function-calling set of APIGen (Liu et al. 2024, arXiv 2406.18518), whose models are called xLAM. There are no results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.json_calls import json_calls
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    json_text,
    opening_keys,
    opening_messages,
    question_message,
    required,
    rest,
    tools_of,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "xlam"
UNIT = "record"
SHAPE = '{"query", "tools": "[definition]", "answers": "[{\\"name\\", \\"arguments\\"}]"}'
EXAMPLE = {
    "id": 3,
    "query": "How warm are the kiln and the oven?",
    "tools": '[{"name": "read_sensor", "description": "Reads a sensor.", "parameters": {"place": {"type": "str"}}}]',
    "answers": '[{"name": "read_sensor", "arguments": {"place": "kiln"}}, '
    '{"name": "read_sensor", "arguments": {"place": "oven"}}]',
}


def detect(unit: Any) -> bool:
    """Whether there are a query, tools, and answers that are calls."""
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    answers = unit.get("answers")
    calls = answers.lstrip().startswith("[") if isinstance(answers, str) else _are_calls(answers)
    return isinstance(unit.get("query"), str) and isinstance(unit.get("tools"), str | list) and calls


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/trees-and-injection.md lists the codes."""
    record = as_object(unit, "the record")
    query = as_text(required(record, "query"), "query")
    if not query.strip():
        raise RecordError("empty_question", "query is empty")
    called = Message("assistant", _calls(required(record, "answers")))
    tools, tool_keys = tools_of(record)
    messages = [*opening_messages(record), question_message(query), called]
    yield conversation(messages, rest(record, tool_keys | {"query", "answers", *opening_keys(record)}), tools=tools)


def _calls(answers: Any) -> tuple[Part, ...]:
    """The calls in JSON text, as slices of it, or in a list of objects."""
    if isinstance(answers, str):
        try:
            return json_calls(as_text(answers, "answers"))
        except ValueError as error:
            raise RecordError("bad_tool_call", f"answers is not the JSON of calls: {error}") from error
    calls = []
    for index, item in enumerate(as_list(answers, "answers")):
        call = as_object(item, f"answers[{index}]")
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(name, str) or not name or not isinstance(arguments, dict | str | None):
            raise RecordError("bad_tool_call", f"answers[{index}] has no name, or arguments that are no object")
        text = as_text(arguments or "", "arguments") if isinstance(arguments, str | None) else json_text(arguments)
        calls.append(Part("tool_call", text, name=as_text(name, f"answers[{index}].name"), source=json_text(call)))
    return tuple(calls)


def _are_calls(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
    )
