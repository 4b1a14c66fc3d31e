"""OpenHands: ``output.jsonl`` of an evaluation, ``{"instance_id", "instruction", "history": [events]}``.

An event is an action of the agent or the user, or an observation. Actions carry the model's own response
(``tool_call_metadata.model_response``, a chat completion); that, and not the action made of it, is what the model said.
Older files pair the events: ``[[action, observation], …]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters.markup.thinking import split_thinking, text_parts
from converters.openai_messages import convert_message
from converters.shared.fields import as_list, as_object, as_text, json_text, optional_text, required, rest
from converters.shared.session import Log, cut_off, result_parts, text_or_none, thinking_beside_calls, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "openhands"
UNIT = "record"
SHAPE = '{"instance_id", "instruction", "history": [{"source", "action" | "observation", "args" | "content"}]}'
_RESPONSE = {
    "id": "r1",
    "choices": [
        {
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "The sensor knows.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "execute_bash", "arguments": '{"command":"kiln"}'},
                    }
                ],
            },
        }
    ],
}
_METADATA = {"function_name": "execute_bash", "tool_call_id": "c1", "model_response": _RESPONSE}
EXAMPLE = {
    "instance_id": "kiln-1",
    "instruction": "How warm is the kiln?",
    "history": [
        {
            "id": 0,
            "timestamp": "2026-01-05T09:00:00.000000",
            "source": "agent",
            "action": "system",
            "args": {"content": "You help in a workshop.", "tools": [{"function": {"name": "execute_bash"}}]},
        },
        {
            "id": 1,
            "timestamp": "2026-01-05T09:00:01.000000",
            "source": "user",
            "action": "message",
            "args": {"content": "How warm is the kiln?"},
        },
        {
            "id": 2,
            "timestamp": "2026-01-05T09:00:02.000000",
            "source": "agent",
            "action": "run",
            "tool_call_metadata": _METADATA,
            "args": {"command": "kiln", "thought": "The sensor knows."},
        },
        {
            "id": 3,
            "timestamp": "2026-01-05T09:00:03.000000",
            "source": "agent",
            "cause": 2,
            "observation": "run",
            "tool_call_metadata": _METADATA,
            "content": "412",
            "extras": {"command": "kiln"},
            "success": True,
        },
        {
            "id": 4,
            "timestamp": "2026-01-05T09:00:04.000000",
            "source": "agent",
            "action": "message",
            "args": {"content": "It is at 412 degrees."},
        },
    ],
}

#: Actions of the agent that the model has not written, and what an observation of no call can be.
_NO_SPEECH = frozenset({"recall", "change_agent_state", "condensation", "condensation_request", "null"})
_QUIET = frozenset({"agent_state_changed", "null", "condense"})


def detect(unit: Any) -> bool:
    """Whether its history is a list of actions and observations."""
    history = unit.get("history") if isinstance(unit, dict) else None
    if not isinstance(history, list) or not history:
        return False
    events = _events(history)
    return bool(events) and all(isinstance(e, dict) and ("action" in e or "observation" in e) for e in events)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/agents.md lists the codes."""
    record = as_object(unit, "the record")
    log = Log()
    heard: set[str] = set()
    asked: dict[int, Any] = {}
    for index, raw in enumerate(_events(as_list(required(record, "history"), "history"))):
        where = f"history[{index}]"
        event = as_object(raw, where)
        metadata = event.get("tool_call_metadata")
        if isinstance(number := event.get("id"), int) and "action" in event and metadata is not None:
            asked[number] = metadata
        if "observation" in event and isinstance(event.get("cause"), int) and asked.get(event["cause"]) == metadata:
            event = rest(event, ("tool_call_metadata",))
        said = _messages(event, metadata if isinstance(metadata, dict) else {}, log, heard, where)
        if not any(message.parts for message, _ in said):
            log.note(event)
        for message, left in said:
            if message.parts:
                log.say(replace(message, started_ms=time_ms(event.get("timestamp"))), left)
    if not log.messages:
        raise RecordError("no_messages", "history holds no message")
    instance = text_or_none(record.get("instance_id"))
    yield log.conversation(rest(record, ("history",)), f"instance_id:{instance}" if instance else None)


def _events(history: list[Any]) -> list[Any]:
    return [event for entry in history for event in (entry if isinstance(entry, list) else [entry])]


def _messages(
    event: dict[str, Any], metadata: dict[str, Any], log: Log, heard: set[str], where: str
) -> list[tuple[Message, dict[str, Any]]]:
    """The messages of an event, with what they do not say; none for an event in which nothing is said."""
    if "observation" in event:
        return _observation(event, metadata, where)
    action, args = event.get("action"), as_object(event.get("args") or {}, f"{where}.args")
    left = unread(event, ("action", "args")) | {"action": action}
    if action == "system":
        if tools := args.get("tools"):
            log.tools = as_text(tools, f"{where}.args.tools") if isinstance(tools, str) else json_text(tools)
        text = optional_text(args, "content", f"{where}.args.content")
        used = ("message",) if event.get("message") == text else ()
        return [(Message("system", text_parts(text)), rest(left, used) | {"args": rest(args, ("content", "tools"))})]
    if action in tuple(_NO_SPEECH):
        return []
    if event.get("source") == "user":
        if action != "message":
            return []
        text = optional_text(args, "content", f"{where}.args.content")
        used = ("message",) if event.get("message") == text else ()
        return [(Message("user", text_parts(text)), rest(left, used) | {"args": rest(args, ("content",))})]
    if event.get("source") != "agent":
        return []
    return _agent(event, args, metadata, heard, left | {"args": args}, where)


def _agent(
    event: dict[str, Any],
    args: dict[str, Any],
    metadata: dict[str, Any],
    heard: set[str],
    left: dict[str, Any],
    where: str,
) -> list[tuple[Message, dict[str, Any]]]:
    """The model's response at the first of the actions made of it; else what the action says."""
    response = metadata.get("model_response")
    response = response if isinstance(response, dict) else {}
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict) and choices[0].get("message"):
        identity = text_or_none(response.get("id"))
        if identity in heard:
            return []
        if identity:
            heard.add(identity)
        message, notes = convert_message(choices[0]["message"], f"{where}.tool_call_metadata")
        if choices[0].get("finish_reason") == "length":
            message = cut_off(message)
        told = {**metadata, "model_response": {**response, "choices": [rest(choices[0], ("message",)), *choices[1:]]}}
        return [(thinking_beside_calls(message), left | {"tool_call_metadata": told} | notes)]
    action = as_text(event.get("action"), f"{where}.action")
    if action == "message":
        parts = split_thinking(optional_text(args, "content", f"{where}.args.content"))
        return [(Message("assistant", parts), left | {"args": rest(args, ("content",))})]
    if not action:
        raise RecordError("bad_tool_call", f"{where}.action is empty")
    thought = optional_text(args, "thought", f"{where}.args.thought")
    call = Part("tool_call", json_text(rest(args, ("thought",))), name=action)
    thinking = (Part("thinking", thought),) if thought else ()
    return [(Message("assistant", (*thinking, call)), rest(left, ("args", "action")))]


def _observation(event: dict[str, Any], metadata: dict[str, Any], where: str) -> list[tuple[Message, dict[str, Any]]]:
    kind = event["observation"]
    left = unread(event, ("content",))
    if kind == "recall":
        return _recall(event, left)
    if kind in tuple(_QUIET):
        return []
    parts, note = result_parts(
        event.get("content"),
        f"{where}.content",
        text_or_none(metadata.get("function_name")),
        text_or_none(metadata.get("tool_call_id")),
        kind == "error" or event.get("success") is False,
    )
    if note is not None:
        left["content"] = note
    if metadata or (isinstance(event.get("cause"), int) and event["cause"] > 0):
        return [(Message("tool", parts), left)]
    if kind == "error":
        return [(Message("user", text_parts(parts[0].text), name="environment"), left)]
    return [(Message("tool", parts), left)]


def _recall(event: dict[str, Any], left: dict[str, Any]) -> list[tuple[Message, dict[str, Any]]]:
    """What the workspace and its microagents add to the user's message: a context part per text."""
    extras = event.get("extras")
    if not isinstance(extras, dict):
        return []
    keys = ("repo_instructions", "additional_agent_instructions")
    texts = [optional_text(extras, key) for key in keys]
    knowledge = extras.get("microagent_knowledge")
    known = [item for item in knowledge if isinstance(item, dict)] if isinstance(knowledge, list) else []
    texts.extend(optional_text(item, "content") for item in known)
    told = rest(extras, (*keys, "microagent_knowledge"))
    if known:
        told["microagent_knowledge"] = [rest(item, ("content",)) for item in known]
    parts = tuple(Part("context", text) for text in texts if text)
    return [(Message("user", parts, name="environment"), left | {"extras": told, "content": event.get("content")})]
