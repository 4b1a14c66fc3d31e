"""ToolTalk (Farn and Shin, 2023, arXiv 2311.10775): ``{"conversation": [{"role", "text", "apis": [...]}]}``.

The calls of a turn come before its text, which tells what came of them; each is made knowing what the one before returned.
``metadata`` (place, time, session token) is what the model was told beforehand: calls name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import as_list, as_object, conversation, json_text, optional_text, required, rest, role_of
from converters.shared.session import arguments_text
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "tooltalk"
UNIT = "record"
SHAPE = (
    '{"conversation": [{"role", "text", "apis": [{"request": {"api_name", "parameters"}, "response", "exception"}]}]}'
)
EXAMPLE = {
    "name": "Kiln-1",
    "metadata": {"location": "Delft"},
    "conversation": [
        {"index": 0, "role": "user", "text": "How warm is the kiln?"},
        {
            "index": 1,
            "role": "assistant",
            "text": "It is at 412 degrees.",
            "apis": [
                {
                    "request": {"api_name": "ReadSensor", "parameters": {"place": "kiln"}},
                    "response": {"celsius": 412},
                    "exception": None,
                }
            ],
        },
    ],
}

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


def detect(unit: Any) -> bool:
    """Whether every turn has a role and a text, and one calls an API or the record names the APIs."""
    turns = unit.get("conversation") if isinstance(unit, dict) else None
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        return False
    return "apis_used" in unit or any("apis" in turn for turn in turns)


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in tuple(_ROLES) and isinstance(value.get("text"), str)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/agents.md lists the codes."""
    record = as_object(unit, "the record")
    told = record.get("metadata")
    known = isinstance(told, dict) and bool(told)
    messages = [Message("system", (Part("context", json_text(told)),))] if known else []
    said = len(messages)
    unused: dict[str, dict[str, Any]] = {}
    for index, raw in enumerate(as_list(required(record, "conversation"), "conversation")):
        where = f"conversation[{index}]"
        turn = as_object(raw, where)
        role = role_of(required(turn, "role", where), _ROLES, f"{where}.role")
        for at, api in enumerate(as_list(turn.get("apis") or [], f"{where}.apis")):
            if role != "assistant":
                raise RecordError("bad_tool_call", f"{where} calls an API, which only an assistant does")
            call, result, left = _api(api, f"{where}.apis[{at}]")
            if left:
                unused[str(len(messages))] = left
            messages.extend((call, result))
        text = optional_text(turn, "text", f"{where}.text")
        if left := rest(turn, ("role", "text", "apis")):
            unused[str(len(messages))] = left
        messages.append(Message(role, split_thinking(text) if role == "assistant" else text_parts(text)))
    if len(messages) == said:
        raise RecordError("no_messages", "conversation is empty")
    yield conversation(messages, rest(record, ("conversation", *(("metadata",) if known else ()))), unused)


def _api(raw: Any, where: str) -> tuple[Message, Message, dict[str, Any]]:
    """The call, its result (the exception where there is one), and what the entry says beside them."""
    api = as_object(raw, where)
    request = as_object(required(api, "request", where), f"{where}.request")
    name = request.get("api_name")
    if not isinstance(name, str) or not name:
        raise RecordError("bad_tool_call", f"{where}.request has no api_name")
    call = Part("tool_call", arguments_text(request.get("parameters"), f"{where}.request.parameters"), name=name)
    exception, response = api.get("exception"), api.get("response")
    failed = exception is not None
    answer = exception if failed else response
    text = answer if isinstance(answer, str) else "" if answer is None else json_text(answer)
    left = rest(api, ("request", "response", "exception"))
    if failed and response is not None:
        left["response"] = response
    if more := rest(request, ("api_name", "parameters")):
        left["request"] = more
    result = Part("tool_result", arguments_text(text, where), name=name, error=failed)
    return Message("assistant", (call,)), Message("tool", (result,)), left
