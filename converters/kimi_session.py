"""Wire files of Kimi Code: ``{"type": "context.append_message" | "context.append_loop_event", "time"}`` per line.

The lines of ``context`` are what the model has read and said: a user's message, and per step of the model the parts of its
answer, its calls and their results. Everything else (turns, requests, usage, permissions) is an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from converters.content_blocks import block_messages
from converters.markup.thinking import split_thinking, text_parts
from converters.openai_messages import convert_message
from converters.shared.fields import as_list, as_object, as_text, json_text, rest, role_of
from converters.shared.session import Log, arguments_text, conversations, result_parts, text_or_none, time_ms, unread
from pipeline.conversation import Conversation, Message, Part, RecordError, Role

FORMAT = "kimi_session"
UNIT = "file"
SHAPE = '{"type": "context.append_message" | "context.append_loop_event" | "config.update", "time"} per line'
EXAMPLE = [
    {"type": "metadata", "protocol_version": "1.4", "created_at": 1767603600000},
    {"type": "config.update", "systemPrompt": "You help in a workshop.", "time": 1767603600000},
    {
        "type": "context.append_message",
        "message": {"role": "user", "content": [{"type": "text", "text": "How warm is the kiln?"}], "toolCalls": []},
        "time": 1767603601000,
    },
    {
        "type": "context.append_loop_event",
        "event": {"type": "content.part", "stepUuid": "p1", "part": {"type": "think", "think": "The sensor knows."}},
        "time": 1767603602000,
    },
    {
        "type": "context.append_loop_event",
        "event": {
            "type": "tool.call",
            "stepUuid": "p1",
            "toolCallId": "c1",
            "name": "Bash",
            "args": {"command": "kiln --read"},
        },
        "time": 1767603603000,
    },
    {
        "type": "context.append_loop_event",
        "event": {"type": "tool.result", "toolCallId": "c1", "result": {"output": "412"}},
        "time": 1767603604000,
    },
    {
        "type": "context.append_loop_event",
        "event": {"type": "content.part", "stepUuid": "p2", "part": {"type": "text", "text": "It is at 412 degrees."}},
        "time": 1767603605000,
    },
]

_EVENT = re.compile(
    r"(?:context|turn|llm|usage|config|tools|permission|plan_mode|full_compaction|profile|plugin|runtime|token_counting)"
    r"\.\w+"
)
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MAIN = "main"


def detect(unit: Any) -> bool:
    """Whether it is a line of such a file."""
    if not isinstance(unit, dict) or not isinstance(kind := unit.get("type"), str):
        return False
    if kind == "metadata":
        return "protocol_version" in unit
    return "time" in unit and "data" not in unit and _EVENT.fullmatch(kind) is not None


@dataclass
class _Agent:
    """One agent's log, the system prompts it has had, and the parts of its steps with the index of their message."""

    log: Log = field(default_factory=Log)
    prompts: set[str] = field(default_factory=set)
    steps: dict[str, tuple[int, list[Part]]] = field(default_factory=dict)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per agent of the file. Raises RecordError; docs/formats/sessions.md lists the codes."""
    agents: dict[str, _Agent] = {}
    for line in as_list(unit, "the file"):
        named = text_or_none(line.get("agentId")) if isinstance(line, dict) else None
        agent = agents.setdefault("" if named in (None, _MAIN) else named, _Agent())
        try:
            if not _read(agent, line):
                agent.log.note(line)
        except RecordError as error:
            agent.log.fail(line, error)
    for agent in agents.values():
        for index, parts in agent.steps.values():
            agent.log.messages[index] = replace(agent.log.messages[index], parts=tuple(parts))
    yield from conversations({("", side): agent.log for side, agent in agents.items()}, {})


def _read(agent: _Agent, line: Any) -> bool:
    """Whether the line has said anything."""
    log = agent.log
    kind = line.get("type") if isinstance(line, dict) else None
    if kind == "context.append_loop_event":
        return _loop_event(agent, line)
    if kind == "llm.tools_snapshot" and isinstance(line.get("tools"), list) and line["tools"] and not log.tools:
        log.tools = json_text(line["tools"])
        log.note(rest(line, ("tools",)))
        return True
    said: list[tuple[Message, dict[str, Any]]] = []
    used: tuple[str, ...] = ()
    if kind == "context.append_message":
        said, used = _appended(as_object(line.get("message"), "message")), ("message",)
    elif kind == "context.apply_compaction":
        key = "contextSummary" if line.get("contextSummary") else "summary"
        said, used = [(Message("user", text_parts(as_text(line.get(key) or "", key))), {"type": kind})], (key,)
    elif kind in ("config.update", "profile.bind") and line.get("systemPrompt"):
        prompt = as_text(line["systemPrompt"], "systemPrompt")
        if prompt not in agent.prompts:
            agent.prompts.add(prompt)
            said, used = [(Message("system", text_parts(prompt)), {"type": kind})], ("systemPrompt",)
    if not any(message.parts for message, _ in said):
        return False
    left = unread(line, ("type", *used), "time")
    for message, more in said:
        log.say(replace(message, started_ms=time_ms(line.get("time"))), left | more)
        left = {}
    return True


def _appended(message: dict[str, Any]) -> list[tuple[Message, dict[str, Any]]]:
    role = role_of(message.get("role"), _ROLES, "message.role")
    left = rest(message, ("role", "content", "toolCalls"))
    calls = [
        convert_message({"role": "assistant", "tool_calls": [call]}, "message.toolCalls")[0].parts[0]
        for call in as_list(message.get("toolCalls") or [], "message.toolCalls")
    ]
    made = list(block_messages(role, message.get("content"), "message.content", lenient=True))
    if role == "tool":
        call_id = text_or_none(message.get("toolCallId"))
        result, *media = made[0][0].parts
        made[0] = (replace(made[0][0], parts=(replace(result, call_id=call_id), *media)), made[0][1])
    if calls:
        made[-1] = (replace(made[-1][0], parts=(*made[-1][0].parts, *calls)), made[-1][1])
    out = []
    for said, notes in made:
        inner = left | notes
        out.append((said, {"message": inner} if inner else {}))
        left = {}
    return out


def _loop_event(agent: _Agent, line: dict[str, Any]) -> bool:
    """A part of an answer goes to the message of its step, a result is a message of its own."""
    log = agent.log
    event = as_object(line.get("event"), "event")
    kind, at = event.get("type"), time_ms(line.get("time"))
    if kind == "tool.result":
        result = event.get("result")
        output = result.get("output") if isinstance(result, dict) and "output" in result else result
        failed = isinstance(result, dict) and result.get("isError") is True
        call_id = text_or_none(event.get("toolCallId"))
        answer, note = result_parts(output, "event.result.output", call_id=call_id, error=failed)
        left = rest(event, ("type", "toolCallId", "result"))
        if note is not None or (isinstance(result, dict) and rest(result, ("output", "isError"))):
            left["result"] = result
        log.say(Message("tool", answer, started_ms=at), {"event": left} if left else {})
        return True
    made, left = _step_parts(event)
    if not made:
        return False
    step = text_or_none(event.get("stepUuid")) or ""
    if step in agent.steps:
        index, parts = agent.steps[step]
        parts.extend(made)
        log.unused[str(index)]["events"].append(left)
        return True
    if step:
        agent.steps[step] = (len(log.messages), list(made))
    log.say(Message("assistant", made, started_ms=at), {"events": [left]})
    return True


def _step_parts(event: dict[str, Any]) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """What an event adds to the model's answer, and what it says beside that."""
    if event.get("type") == "tool.call":
        if (name := text_or_none(event.get("name"))) is None:
            raise RecordError("bad_tool_call", "a call has no name")
        arguments = arguments_text(event.get("args"), "event.args")
        call = Part("tool_call", arguments, name=name, call_id=text_or_none(event.get("toolCallId")))
        return (call,), rest(event, ("type", "name", "args", "toolCallId"))
    part = event.get("part")
    if event.get("type") != "content.part" or not isinstance(part, dict):
        return (), {}
    if part.get("type") == "think" and isinstance(text := part.get("think"), str) and text:
        left = rest(event, ("type", "part")) | ({"part": more} if (more := rest(part, ("type", "think"))) else {})
        return (Part("thinking", as_text(text, "event.part.think")),), left
    if part.get("type") == "text" and isinstance(text := part.get("text"), str) and text:
        left = rest(event, ("type", "part")) | ({"part": more} if (more := rest(part, ("type", "text"))) else {})
        return split_thinking(as_text(text, "event.part.text")), left
    return (), {}
