"""Session logs of coding agents: order, times, what is an event, and the real logs counted against their raw JSON."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from raw_walker import strings

from converters import CONVERTERS, convert, detect_format
from converters.shared.session import time_ms
from pipeline.conversation import Conversation, Message, Part, RecordError, to_json
from pipeline.timeline import spans_of

Read = Callable[[str], list[Any]]
LOGS = sorted(name for name in CONVERTERS if name == "claude_code" or name.endswith("_session"))


def one(format: str, lines: list[Any]) -> Conversation:
    (conversation,) = convert(format, lines)
    return conversation


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.rebuild()) for message in conversation.messages]


def events(conversation: Conversation, why: str | None = None) -> list[Any]:
    return [entry["event"] for entry in conversation.extra.get("events", []) if entry.get("why") == why]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-01T00:00:01.500Z", 1500),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:02", 2000),
        (1_700_000_000, 1_700_000_000_000),
        (1_700_000_000.25, 1_700_000_000_250),
        (1_700_000_000_123, 1_700_000_000_123),
        ("yesterday", None),
        ("0001-01-01T00:00:00Z", None),
        (-1, None),
        (True, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
    ],
)
def test_times(value: Any, expected: int | None) -> None:
    assert time_ms(value) == expected


@pytest.mark.parametrize("format", LOGS)
def test_a_log_says_in_order_what_its_example_says(format: str) -> None:
    conversation = one(format, copy.deepcopy(CONVERTERS[format].EXAMPLE))
    roles = [message.role for message in conversation.messages]
    assert roles.index("user") < roles.index("tool") < len(roles) - 1
    assert roles[-1] == "assistant"
    assert any(part.kind == "tool_call" for message in conversation.messages for part in message.parts)
    (result,) = [part for message in conversation.messages for part in message.parts if part.kind == "tool_result"]
    assert result.text == "412"
    times = [message.started_ms for message in conversation.messages if message.started_ms is not None]
    assert times == sorted(times)
    assert bool(times) == (format not in ("cursor_session", "grok_session", "hermes_session"))


@pytest.mark.parametrize("format", LOGS)
def test_lines_that_cannot_be_read_are_kept_and_never_reject_their_file(format: str) -> None:
    lines = [*copy.deepcopy(CONVERTERS[format].EXAMPLE), "massive error", 42, [1], None, {"silly": "this"}]
    conversation = one(format, lines)
    kept = [entry["event"] for entry in conversation.extra["events"]]
    assert all(line in kept for line in ("massive error", 42, [1], None, {"silly": "this"}))
    assert said(conversation) == said(one(format, copy.deepcopy(CONVERTERS[format].EXAMPLE)))


@pytest.mark.parametrize("format", LOGS)
def test_a_file_without_messages_is_rejected(format: str) -> None:
    for lines in ([], [{"silly": "this"}], ["x"]):
        with pytest.raises(RecordError) as caught:
            list(convert(format, lines))
        assert caught.value.code == "no_messages"


@pytest.mark.parametrize("format", LOGS)
def test_a_log_is_claimed_by_its_own_format_alone(format: str) -> None:
    example = CONVERTERS[format].EXAMPLE
    votes = {name: sum(map(module.detect, example)) for name, module in CONVERTERS.items() if name in LOGS}
    claimed = {name for name, count in votes.items() if count}
    assert votes[format] == len(example)
    assert claimed == ({"grok_session", "codex_session"} if format == "grok_session" else {format})


def claude(kind: str, content: Any, uuid: str, parent: str | None, **more: Any) -> dict[str, Any]:
    line = {"type": kind, "uuid": uuid, "parentUuid": parent, "sessionId": "s", "isSidechain": False}
    return {**line, "message": {"role": kind, "content": content}, **more}


def test_claude_only_the_last_branch_of_a_rewound_session_is_kept() -> None:
    lines = [
        claude("user", "one", "u1", None),
        claude("assistant", "1", "a1", "u1"),
        {"type": "system", "subtype": "turn_duration", "uuid": "s1", "parentUuid": "a1", "sessionId": "s"},
        claude("user", "two", "u2", "s1"),
        claude("assistant", "2", "a2", "u2"),
        claude("user", "other two", "u3", "a1"),
        claude("assistant", "2b", "a3", "u3"),
    ]
    conversation = one("claude_code", lines)
    assert [text for _, text in said(conversation)] == ["one", "1", "other two", "2b"]
    assert [event["uuid"] for event in events(conversation, "rewound")] == ["s1", "u2", "a2"]


def test_claude_parallel_calls_are_no_branches() -> None:
    def call(name: str) -> list[Any]:
        return [{"type": "tool_use", "id": name, "name": "Read", "input": {}}]

    def result(name: str) -> list[Any]:
        return [{"type": "tool_result", "tool_use_id": name, "content": name}]

    lines = [
        claude("user", "go", "u1", None),
        claude("assistant", call("x"), "a1", "u1"),
        claude("assistant", call("y"), "a2", "a1"),
        claude("user", result("x"), "r1", "a1"),
        claude("user", result("y"), "r2", "a2"),
        claude("assistant", "done", "a3", "r2"),
        claude("user", "thanks", "u2", "a3"),
    ]
    conversation = one("claude_code", lines)
    assert [message.role for message in conversation.messages] == [
        "user",
        "assistant",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert "events" not in conversation.extra


def test_claude_sessions_and_side_chains_are_conversations_of_their_own() -> None:
    lines = [
        claude("user", "main", "u1", None),
        claude("user", "side", "u2", None, isSidechain=True),
        claude("assistant", "side answer", "a2", "u2", isSidechain=True),
        {"type": "mode", "mode": "normal", "sessionId": "elsewhere"},
        claude("assistant", "answer", "a1", "u1"),
        claude("user", "later", "u3", None, sessionId="t"),
    ]
    conversations = list(convert("claude_code", lines))
    assert [[text for _, text in said(c)] for c in conversations] == [
        ["main", "answer"],
        ["side", "side answer"],
        ["later"],
    ]
    assert [(c.group, c.extra.get("side_chain")) for c in conversations] == [
        ("session:s", None),
        ("session:s", "sidechain"),
        ("session:t", None),
    ]
    assert events(conversations[0]) == [{"type": "mode", "mode": "normal", "sessionId": "elsewhere"}]


def test_claude_speech_and_what_only_looks_like_it() -> None:
    queued = {"type": "queued_command", "prompt": "and hurry", "commandMode": "prompt"}
    lines = [
        claude("user", "go", "u1", None, timestamp="2026-01-05T09:00:00Z"),
        claude("assistant", [{"type": "text", "text": "half a sen"}], "a1", "u1", isAbortedMidStream=True),
        {"type": "attachment", "attachment": queued, "uuid": "q", "parentUuid": "a1", "sessionId": "s"},
        {"type": "attachment", "attachment": {"type": "date_change"}, "uuid": "d", "parentUuid": "q", "sessionId": "s"},
        claude("assistant", [{"type": "text", "text": "API Error"}], "a2", "q", isApiErrorMessage=True),
        claude("assistant", [], "a3", "q"),
        claude("assistant", [{"type": "redacted_thinking", "data": "eA=="}], "a4", "q"),
        claude("user", "Summary.", "u2", "a4", isCompactSummary=True),
        claude("user", "Summary.", "u2", "a4", isCompactSummary=True),
        claude("assistant", [{"type": "fallback"}, {"type": "text", "text": "done"}], "a5", "u2"),
    ]
    conversation = one("claude_code", lines)
    assert said(conversation) == [
        ("user", "go"),
        ("assistant", "half a sen"),
        ("user", "and hurry"),
        ("user", "Summary."),
        ("assistant", "done"),
    ]
    assert conversation.messages[0].started_ms == 1767603600000
    assert conversation.messages[1].parts[0].interrupted
    assert [event["uuid"] for event in events(conversation)] == ["d", "a2", "a3", "a4"]
    assert [event["uuid"] for event in events(conversation, "repeated")] == ["u2"]
    assert conversation.extra["messages"]["4"]["message"] == {"content": {"0": {"type": "fallback"}}}
    assert conversation.extra["session"] == {"sessionId": "s"}


def test_claude_stream_json() -> None:
    lines = [
        {"type": "system", "subtype": "init", "session_id": "s", "tools": ["Bash"]},
        {"type": "user", "message": {"role": "user", "content": "go"}, "session_id": "s", "parent_tool_use_id": None},
        {
            "type": "assistant",
            "message": {"role": "assistant", "content": "inner"},
            "session_id": "s",
            "parent_tool_use_id": "t",
        },
        {
            "type": "assistant",
            "message": {"role": "assistant", "content": "done"},
            "session_id": "s",
            "parent_tool_use_id": None,
        },
        {"type": "result", "subtype": "success", "result": "done", "session_id": "s"},
    ]
    assert detect_format(lines) == "claude_code"
    main, side = convert("claude_code", lines)
    assert [text for _, text in said(main)] == ["go", "done"]
    assert (said(side), side.extra["side_chain"]) == ([("assistant", "inner")], "t")


def test_claude_loglines_are_the_lines() -> None:
    lines = CONVERTERS["claude_code"].EXAMPLE
    whole = one("claude_code", [{"loglines": lines, "title": "t"}])
    assert said(whole) == said(one("claude_code", lines))
    assert whole.extra["title"] == "t"


def test_pi_keeps_the_way_to_the_last_entry() -> None:
    def entry(name: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
        message = {"role": role, "content": [{"type": "text", "text": text}], **more}
        return {
            "type": "message",
            "id": name,
            "parentId": parent,
            "timestamp": "2026-01-05T09:00:02Z",
            "message": message,
        }

    lines = [
        entry("1", None, "user", "one"),
        entry("2", "1", "assistant", "an answer cut o", stopReason="aborted", timestamp=1767603601000),
        entry("3", "2", "user", "dropped"),
        {"type": "branch_summary", "id": "4", "parentId": "1", "fromId": "3", "summary": "tried", "timestamp": 0},
        entry("5", "4", "assistant", "two", stopReason="stop"),
    ]
    conversation = one("pi_session", lines)
    assert said(conversation) == [("user", "one"), ("user", "tried"), ("assistant", "two")]
    assert [event["id"] for event in events(conversation, "rewound")] == ["2", "3"]
    aborted = one("pi_session", lines[:2]).messages[1]
    assert aborted.parts == (Part("text", "an answer cut o", interrupted=True),)
    assert (aborted.started_ms, aborted.ended_ms) == (1767603601000, 1767603602000)


def test_codex_display_events_count_only_where_no_item_speaks() -> None:
    shown = [
        {"timestamp": "", "type": "event_msg", "payload": {"type": "user_message", "message": "go"}},
        {"timestamp": "", "type": "event_msg", "payload": {"type": "agent_message", "message": "done"}},
    ]
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]}
    assert said(one("codex_session", shown)) == [("user", "go"), ("assistant", "done")]
    spoken = one("codex_session", [*shown, {"timestamp": "", "type": "response_item", "payload": item}])
    assert said(spoken) == [("user", "go")]
    assert len(events(spoken)) == 2


def test_codex_keeps_an_unknown_item_as_an_event() -> None:
    odd = {"timestamp": "", "type": "response_item", "payload": {"type": "hologram"}}
    conversation = one("codex_session", [*CONVERTERS["codex_session"].EXAMPLE, odd])
    (entry,) = [entry for entry in conversation.extra["events"] if entry["event"] == odd]
    assert entry["why"].startswith("unknown_part: ")
    assert entry["at"] == len(conversation.messages)
    assert conversation.extra["header"]["cwd"] == "/kiln"


def copilot(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data, "id": "e", "parentId": None, "timestamp": "2026-01-05T09:00:00Z"}


def test_copilot_reads_what_the_model_read_and_says_a_thought_once() -> None:
    conversation = one(
        "copilot_session",
        [
            copilot("user.message", content="go", transformedContent="<now>go</now>"),
            copilot("assistant.reasoning", content="hm"),
            copilot("assistant.message", content="ok", reasoningText="hm", toolRequests=[]),
            copilot("tool.execution_start", toolCallId="c", toolName="bash", arguments={"command": "ls"}),
            copilot("tool.execution_complete", toolCallId="c", success=False, error={"message": "denied", "code": "x"}),
        ],
    )
    assert [[part.text for part in message.parts] for message in conversation.messages] == [
        ["<now>go</now>"],
        ["hm"],
        ["ok"],
        ['{"command":"ls"}'],
        ["denied"],
    ]
    assert conversation.extra["messages"]["0"]["data"] == {"content": "go"}
    assert conversation.messages[4].parts[0].error


def test_kimi_gathers_a_step_into_one_message_at_the_place_of_its_first_part() -> None:
    def loop(event: dict[str, Any], time: int) -> dict[str, Any]:
        return {"type": "context.append_loop_event", "event": event, "time": time}

    user = {"role": "user", "content": [{"type": "text", "text": "go"}], "toolCalls": []}
    conversation = one(
        "kimi_session",
        [
            {"type": "context.append_message", "message": user, "time": 1785612812000},
            loop({"type": "content.part", "stepUuid": "p", "part": {"type": "think", "think": "h"}}, 1785612813000),
            loop({"type": "tool.call", "stepUuid": "p", "toolCallId": "x", "name": "A", "args": {}}, 1785612814000),
            loop({"type": "tool.result", "toolCallId": "x", "result": {"output": "1", "isError": True}}, 1785612815000),
            loop({"type": "tool.call", "stepUuid": "p", "toolCallId": "y", "name": "B", "args": {}}, 1785612816000),
            {"type": "context.apply_compaction", "summary": "s", "contextSummary": "read s", "time": 1785612817000},
        ],
    )
    assert [(m.role, [p.kind for p in m.parts], m.started_ms) for m in conversation.messages] == [
        ("user", ["text"], 1785612812000),
        ("assistant", ["thinking", "tool_call", "tool_call"], 1785612813000),
        ("tool", ["tool_result"], 1785612815000),
        ("user", ["text"], 1785612817000),
    ]
    assert conversation.messages[2].parts[0].error
    assert conversation.messages[3].rebuild() == "read s"


def test_gemini_lines_are_replayed() -> None:
    def turn(name: str, kind: str, text: str) -> dict[str, Any]:
        return {"id": name, "timestamp": "2026-01-05T09:00:00Z", "type": kind, "content": text}

    lines = [
        {"sessionId": "s", "projectHash": "h", "startTime": "2026-01-05T09:00:00Z"},
        turn("a", "user", "one"),
        turn("b", "gemini", ""),
        turn("b", "gemini", "1"),
        turn("c", "user", "two"),
        turn("d", "gemini", "2"),
        {"$rewindTo": "c"},
        turn("e", "user", "other two"),
        {"$set": {"summary": "sums"}},
        {"$set": {"messages": []}},
    ]
    assert detect_format(lines) == "gemini_session"
    conversation = one("gemini_session", lines)
    assert [text for _, text in said(conversation)] == ["one", "1", "other two"]
    assert [event["id"] for event in events(conversation, "rewound")] == ["c", "d"]
    assert [event["content"] for event in events(conversation, "replaced")] == [""]
    assert (conversation.extra["summary"], conversation.group) == ("sums", "session:s")


def test_gemini_calls_stand_before_their_results_in_one_turn() -> None:
    def call(name: str, status: str, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": name,
            "name": "shell",
            "args": {"n": name},
            "status": status,
            "timestamp": "2026-01-05T09:00:05Z",
            "result": [{"functionResponse": {"id": name, "name": "shell", "response": response}}],
        }

    calls = [call("x", "success", {"output": "1"}), call("y", "error", {"error": "2"})]
    turn = {"type": "gemini", "content": "so", "thoughts": [{"subject": "S", "description": "D"}], "toolCalls": calls}
    conversation = one("gemini_session", [{"sessionId": "s", "messages": [turn]}])
    assert [[(p.kind, p.text, p.error) for p in m.parts] for m in conversation.messages] == [
        [
            ("thinking", "S", False),
            ("thinking", "D", False),
            ("text", "so", False),
            ("tool_call", '{"n":"x"}', False),
            ("tool_call", '{"n":"y"}', False),
        ],
        [("tool_result", "1", False)],
        [("tool_result", "2", True)],
    ]


def test_hermes_is_not_taken_for_a_plain_message_list() -> None:
    session = {"session_id": "s", "platform": "cli", "messages": [{"role": "user", "content": "go"}]}
    assert detect_format([session]) == "hermes_session"
    assert detect_format([{"session_id": "s", "messages": session["messages"]}]) == "openai_messages"
    assert one("hermes_session", [session]).messages == (Message("user", (Part("text", "go"),)),)


def test_grok_sources_are_a_result() -> None:
    action = {"type": "search", "query": "q", "sources": [{"url": "u"}]}
    line = {
        "type": "backend_tool_call",
        "kind": {"tool_type": "web_search", "action": action, "id": "w", "status": "ok"},
    }
    conversation = one("grok_session", [line])
    assert conversation.messages[0].parts == (Part("tool_call", '{"type":"search","query":"q"}', "web_search", "w"),)
    assert conversation.messages[1].parts == (Part("tool_result", '{"url":"u"}', call_id="w"),)


#: File, format, conversations.
FILES = [
    ("blocks-agent-sessions/claude__large.jsonl", "claude_code", 1),
    ("blocks-agent-sessions/claude__schema_drift.jsonl", "claude_code", 1),
    ("blocks-agent-sessions/claude__small.jsonl", "claude_code", 4),
    ("blocks-agent-sessions/codex__large.jsonl", "codex_session", 1),
    ("blocks-agent-sessions/codex__schema_drift.jsonl", "codex_session", 1),
    ("blocks-agent-sessions/codex__small.jsonl", "codex_session", 1),
    ("blocks-agent-sessions/copilot__large.jsonl", "copilot_session", 1),
    ("blocks-agent-sessions/copilot__small.jsonl", "copilot_session", 2),
    ("blocks-agent-sessions/cursor__large.jsonl", "cursor_session", 1),
    ("blocks-agent-sessions/gemini__large.json", "gemini_session", 1),
    ("blocks-agent-sessions/gemini__schema_drift.json", "gemini_session", 1),
    ("blocks-agent-sessions/grok__chat_history.jsonl", "grok_session", 1),
    ("blocks-agent-sessions/hermes__large.json", "hermes_session", 1),
    ("blocks-agent-sessions/hermes__schema_drift.json", "hermes_session", 1),
    ("blocks-agent-sessions/hermes__small.json", "hermes_session", 1),
    ("blocks-agent-sessions/kimi__assistant_tools.jsonl", "kimi_session", 1),
    ("blocks-agent-sessions/kimi__small.jsonl", "kimi_session", 1),
    ("blocks-agent-sessions/pi__small.jsonl", "pi_session", 1),
    ("blocks-agent-sessions/qwen__system_telemetry.jsonl", "qwen_session", 1),
    ("blocks-claude-code-log/edge_cases.jsonl", "claude_code", 2),
    ("blocks-claude-code-log/representative_messages.jsonl", "claude_code", 1),
    ("blocks-claude-code-log/session_b.jsonl", "claude_code", 1),
    ("blocks-claude-code-log/todowrite_examples.jsonl", "claude_code", 1),
    ("blocks-claude-code-transcripts/sample_session.json", "claude_code", 1),
    ("blocks-claude-code-transcripts/sample_session.jsonl", "claude_code", 1),
    ("blocks-pi-session/large-session.jsonl", "pi_session", 1),
]
#: Words of the logs' own form, which messages say by their kind.
STRUCTURE = {
    "", "user", "assistant", "system", "tool", "developer", "model", "gemini", "message", "text", "thinking", "tool_use",
    "tool_result", "tool_call", "function", "function_call", "function_result", "function_call_output", "session",
    "custom_tool_call_output", "tool_search_output", "summary_text", "input_text", "output_text", "reasoning", "think",
    "session_meta", "response_item", "user.message", "assistant.message", "assistant.reasoning", "system.message",
    "tool.execution_start", "tool.execution_complete", "backend_tool_call", "context.append_message",
    "context.append_loop_event", "content.part", "tool.call", "tool.result",
}  # fmt: skip


@pytest.mark.parametrize(("path", "format", "count"), FILES)
def test_every_log_is_detected_and_no_string_of_it_is_lost(
    path: str, format: str, count: int, read_corpus: Read
) -> None:
    lines = read_corpus(path)
    assert detect_format(lines[:64]) == format
    conversations = list(convert(format, lines))
    assert len(conversations) == count
    kept, written = set(STRUCTURE), []
    for conversation in conversations:
        spans_of(conversation)
        assert to_json(conversation)["messages"]
        kept |= set(strings(conversation.extra)) | {conversation.tools}
        written.append(conversation.tools)
        for message in conversation.messages:
            kept |= {message.rebuild(), message.name or ""}
            for part in message.parts:
                kept |= {part.rebuild(), part.text, part.name or "", part.call_id or ""}
                written.append(part.text)
    for string in set(strings(lines)) - kept:
        assert time_ms(string) is not None or any(json.dumps(string, ensure_ascii=False) in t for t in written), string


def counted(conversations: list[Conversation]) -> Counter[str]:
    parts = [part for c in conversations for message in c.messages for part in message.parts]
    return Counter(part.kind for part in parts) + Counter("error" for part in parts if part.error)


def test_pi_session_counts(read_corpus: Read) -> None:
    lines = read_corpus("blocks-pi-session/large-session.jsonl")
    raw: Counter[str] = Counter()
    names = {"toolCall": "tool_call", "text": "text", "thinking": "thinking"}
    for message in (line["message"] for line in lines if line["type"] == "message"):
        if message["role"] == "toolResult":
            raw["tool_result"] += 1
            raw["error"] += message["isError"]
        else:
            raw.update(names[block["type"]] for block in message["content"])
    conversation = one("pi_session", lines)
    assert counted([conversation]) == raw
    assert (raw["tool_call"], raw["error"]) == (391, 19)
    calls = {part.call_id for message in conversation.messages for part in message.parts if part.kind == "tool_call"}
    answers = {
        part.call_id for message in conversation.messages for part in message.parts if part.kind == "tool_result"
    }
    assert len(calls - answers) == 18
    silent = [line for line in lines if line["type"] == "message" and not line["message"]["content"]]
    assert len(silent) == 14
    assert all(line in events(conversation) for line in silent)
    assert sum(part.interrupted for message in conversation.messages for part in message.parts) == 22 - 14


@pytest.mark.parametrize(
    "path", [path for path, format, _ in FILES if format == "claude_code" and "_small" not in path]
)
def test_claude_code_counts(path: str, read_corpus: Read) -> None:
    lines = read_corpus(path)
    lines = lines[0]["loglines"] if isinstance(lines[0], dict) and "loglines" in lines[0] else lines
    raw: Counter[str] = Counter()
    for line in lines:
        if not isinstance(line, dict):
            continue
        if line.get("type") in ("tool_use", "tool_result"):
            raw[{"tool_use": "tool_call"}.get(line["type"], line["type"])] += 1
        message = line.get("message")
        content = message.get("content", []) if isinstance(message, dict) else []
        for block in [{"type": "text"}] if isinstance(content, str) else content:
            if isinstance(block, dict):
                raw[{"tool_use": "tool_call"}.get(block["type"], block["type"])] += 1
                raw["error"] += block.get("is_error", False)
    assert counted(list(convert("claude_code", lines))) == +raw


def test_kimi_counts(read_corpus: Read) -> None:
    lines = read_corpus("blocks-agent-sessions/kimi__assistant_tools.jsonl")
    raw = Counter(line["event"]["type"] for line in lines if line["type"] == "context.append_loop_event")
    parts = Counter(line["event"]["part"]["type"] for line in lines if line.get("event", {}).get("part"))
    users = sum(line["type"] == "context.append_message" for line in lines)
    conversation = one("kimi_session", lines)
    found = counted([conversation])
    assert (found["tool_call"], found["tool_result"], found["thinking"]) == (
        raw["tool.call"],
        raw["tool.result"],
        parts["think"],
    )
    assert found["text"] == parts["text"] + users + 1 + 1
    steps = {
        line["event"]["stepUuid"]
        for line in lines
        if line.get("event", {}).get("type") in ("content.part", "tool.call")
    }
    assert sum(message.role == "assistant" for message in conversation.messages) == len(steps)
