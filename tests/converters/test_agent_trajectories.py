"""Trajectories of agents: what they said, what the world said, in the order in which it happened."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from raw_walker import strings

from converters import CONVERTERS, convert, detect_format
from pipeline.conversation import Conversation, Part, RecordError
from pipeline.timeline import spans_of

Read = Callable[[str], list[Any]]
FORMATS = ["openhands", "swe_agent", "tooltalk", "toolbench", "alfworld"]


def one(format: str, unit: Any) -> Conversation:
    (conversation,) = convert(format, unit)
    return conversation


def shapes(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [(message.role, [part.kind for part in message.parts]) for message in conversation.messages]


def code_of(format: str, unit: Any) -> str:
    with pytest.raises(RecordError) as caught:
        list(convert(format, unit))
    return caught.value.code


@pytest.mark.parametrize("format", FORMATS)
def test_only_its_own_format_claims_an_example(format: str) -> None:
    example = CONVERTERS[format].EXAMPLE
    assert [name for name, module in CONVERTERS.items() if module.detect(example)] == [format]


@pytest.mark.parametrize("format", FORMATS)
def test_the_world_speaks_first_of_what_only_it_knows(format: str) -> None:
    conversation = one(format, copy.deepcopy(CONVERTERS[format].EXAMPLE))
    streams, spans, _ = spans_of(conversation)
    told = [streams[span.stream].role for span in spans if "412" in span.text]
    assert told[0] == "tool"
    assert told.count("tool") == 1


def swe(*messages: dict[str, Any], **more: Any) -> Conversation:
    return one("swe_agent", {"history": [{"agent": "main", **message} for message in messages], **more})


SYSTEM = {"role": "system", "content": "S"}
TASK = {"role": "user", "content": "Do it."}


@pytest.mark.parametrize(
    ("content", "action", "thought"),
    [
        ("I look.\n```\nopen a.py\n```", "open a.py\n", "I look."),
        ("I look.\n\n<command>\nopen a.py\n</command>", "open a.py", "I look."),
        ("Try ```x```. Then:\n```bash\nopen a.py\n```\n", "open a.py\n", "Try ```x```. Then:"),
        ("```\nopen a.py\n```", "open a.py\n", ""),
    ],
)
def test_swe_agent_a_thought_and_a_command(content: str, action: str, thought: str) -> None:
    asked = {"role": "assistant", "content": content, "thought": thought, "action": action}
    conversation = swe(SYSTEM, TASK, asked, {"role": "user", "content": "[a.py]\nbash-$"})
    message, answer = conversation.messages[2:]
    assert message.rebuild() == content
    assert [(part.kind, part.text) for part in message.parts] == [
        *([("thinking", thought)] if thought else []),
        ("tool_call", "open a.py"),
    ]
    assert message.parts[-1].name == "bash"
    assert answer.parts == (Part("tool_result", "[a.py]\nbash-$"),)
    assert conversation.extra["messages"]["2"] == {"agent": "main"}


def test_swe_agent_what_holds_no_command_stays_text() -> None:
    asked = {"role": "assistant", "content": "I would run ls, but not now.", "thought": "", "action": "ls"}
    conversation = swe(SYSTEM, TASK, asked, {"role": "user", "content": "Wrong format."})
    assert shapes(conversation)[2:] == [("assistant", ["text"]), ("user", ["text"])]
    assert conversation.extra["messages"]["2"] == {"agent": "main", "action": "ls"}


def test_swe_agent_tool_calls_and_demonstrations() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "open", "arguments": '{"path": "a"}'}}
    conversation = swe(
        SYSTEM,
        {"role": "user", "content": "A demonstration.", "is_demo": True},
        {"role": "assistant", "content": "Shown.", "is_demo": True},
        TASK,
        {"role": "assistant", "content": "I look.", "thought": "I look.", "action": "open a", "tool_calls": [call]},
        {"role": "tool", "content": "text", "tool_call_ids": ["c"]},
    )
    assert [message.weight for message in conversation.messages] == [1, 0, 0, 1, 1, 1]
    assert conversation.messages[4].parts == (
        Part("thinking", "I look."),
        Part("tool_call", '{"path": "a"}', name="open", call_id="c"),
    )
    assert conversation.messages[5].parts == (Part("tool_result", "text", call_id="c"),)
    assert conversation.extra["messages"]["4"] == {"agent": "main", "action": "open a"}


def test_swe_agent_steps_stand_in_for_a_history() -> None:
    step = {
        "action": "ls\n",
        "observation": "a.py",
        "response": "See.\n```\nls\n```",
        "thought": "See.\n",
        "state": "{}",
    }
    unit = {"trajectory": [step], "info": {}}
    assert detect_format([unit]) == "swe_agent"
    assert shapes(one("swe_agent", unit)) == [("assistant", ["thinking", "tool_call"]), ("tool", ["tool_result"])]


def test_tooltalk_calls_come_before_the_text_that_reports_them() -> None:
    def api(name: str, response: Any, exception: Any = None) -> dict[str, Any]:
        return {"request": {"api_name": name, "parameters": {"n": 1}}, "response": response, "exception": exception}

    turn = {"role": "assistant", "text": "Done.", "apis": [api("A", {"id": 7}), api("B", None, "no such id")]}
    conversation = one("tooltalk", {"conversation": [{"role": "user", "text": "Go."}, turn]})
    assert [(m.role, m.parts[0].kind, m.parts[0].text, m.parts[0].error) for m in conversation.messages[1:]] == [
        ("assistant", "tool_call", '{"n":1}', False),
        ("tool", "tool_result", '{"id":7}', False),
        ("assistant", "tool_call", '{"n":1}', False),
        ("tool", "tool_result", "no such id", True),
        ("assistant", "text", "Done.", False),
    ]
    turn["role"] = "user"
    assert code_of("tooltalk", {"conversation": [turn]}) == "bad_tool_call"


def bench(*lists: list[dict[str, Any]]) -> dict[str, Any]:
    return {"answer_generation": {"train_messages": list(lists), "function": [{"name": "f"}], "query": "Q"}, "tree": {}}


def test_toolbench_beginnings_are_left_out_and_branches_repeat_untrained() -> None:
    user = {"role": "user", "content": "Q"}
    call = {"role": "assistant", "content": "I think.", "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "1"}
    left, right = ({"role": "assistant", "content": text} for text in ("left", "right"))
    first, second = convert("toolbench", bench([user, call], [user, call, result, left], [user, call, result, right]))
    assert shapes(first) == [
        ("user", ["text"]),
        ("assistant", ["thinking", "tool_call"]),
        ("tool", ["tool_result"]),
        ("assistant", ["text"]),
    ]
    assert [message.weight for message in first.messages] == [1, 1, 1, 1]
    assert [message.weight for message in second.messages] == [0, 0, 0, 1]
    assert (first.tools, first.group) == ('[{"name":"f"}]', "query:Q")
    assert code_of("toolbench", bench([], [])) == "no_messages"


def test_alfworld_each_task_is_a_conversation() -> None:
    messages = CONVERTERS["alfworld"].EXAMPLE["heat"]
    first, second = convert("alfworld", {"heat": messages, "cool": messages})
    assert [first.extra, second.extra] == [{"task": "heat"}, {"task": "cool"}]
    assert one("alfworld", messages).messages == first.messages
    assert detect_format([messages]) == "alfworld"


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "timestamp": "2026-01-05T09:00:00.5", "source": "agent", **more}


def response(identity: str, *calls: str, content: str = "I think.") -> dict[str, Any]:
    listed = [{"id": name, "type": "function", "function": {"name": "bash", "arguments": "{}"}} for name in calls]
    message = {"role": "assistant", "content": content, "tool_calls": listed}
    return {"id": identity, "choices": [{"message": message, "finish_reason": "tool_calls"}]}


def test_openhands_a_response_is_one_message_however_many_actions_it_makes() -> None:
    both = response("r", "x", "y")
    of_x = {"function_name": "bash", "tool_call_id": "x", "model_response": both}
    of_y = {"function_name": "bash", "tool_call_id": "y", "model_response": both}
    history = [
        event(1, source="user", action="message", args={"content": "Go."}),
        event(2, action="run", tool_call_metadata=of_x, args={"command": "a"}),
        event(3, cause=2, observation="run", tool_call_metadata=of_x, content="1", success=True),
        event(4, action="run", tool_call_metadata=of_y, args={"command": "b"}),
        event(5, cause=4, observation="run", tool_call_metadata=of_y, content="2", success=False),
        event(6, observation="error", content="Bad parameter."),
        event(7, action="message", args={"content": "Done."}),
    ]
    conversation = one("openhands", {"instance_id": "i", "history": history, "metrics": {"cost": 0}})
    assert shapes(conversation) == [
        ("user", ["text"]),
        ("assistant", ["thinking", "tool_call", "tool_call"]),
        ("tool", ["tool_result"]),
        ("tool", ["tool_result"]),
        ("user", ["text"]),
        ("assistant", ["text"]),
    ]
    results = [message.parts[0] for message in conversation.messages[2:4]]
    assert [(part.text, part.call_id, part.error) for part in results] == [("1", "x", False), ("2", "y", True)]
    assert conversation.messages[4].name == "environment"
    assert conversation.messages[0].started_ms == 1767603600500
    assert [entry["event"]["id"] for entry in conversation.extra["events"]] == [4]
    assert (conversation.group, conversation.extra["metrics"]) == ("instance_id:i", {"cost": 0})
    paired = {"instance_id": "i", "history": [[history[0], {"observation": "null", "content": ""}], history[1:3]]}
    assert detect_format([paired]) == "openhands"
    assert [role for role, _ in shapes(one("openhands", paired))] == ["user", "assistant", "tool"]


def test_openhands_without_a_response_the_action_is_the_call() -> None:
    action = event(1, action="run", args={"command": "ls", "thought": "I look."})
    conversation = one("openhands", {"history": [action]})
    assert conversation.messages[0].parts == (
        Part("thinking", "I look."),
        Part("tool_call", '{"command":"ls"}', name="run"),
    )


def test_openhands_counts(read_corpus: Read) -> None:
    units = read_corpus("agent-openhands/output.jsonl")
    assert detect_format(units) == "openhands"
    for unit in units:
        raw: Counter[str] = Counter()
        texts = []
        for item in unit["history"]:
            metadata = item.get("tool_call_metadata")
            if metadata and "action" in item:
                message = metadata["model_response"]["choices"][0]["message"]
                raw["tool_call"] += len(message["tool_calls"])
                texts.append(message["content"] + message["tool_calls"][0]["function"]["arguments"])
            elif metadata:
                raw["tool_result"] += 1
        conversation = one("openhands", unit)
        found = Counter(part.kind for message in conversation.messages for part in message.parts)
        assert (found["tool_call"], found["tool_result"]) == (raw["tool_call"], raw["tool_result"])
        assert [m.rebuild() for m in conversation.messages if m.role == "assistant"] == texts
        assert conversation.messages[0].rebuild() == unit["history"][0]["args"]["content"]
        assert json.loads(conversation.tools) == unit["history"][0]["args"]["tools"]
        assert conversation.messages[1].rebuild() == unit["instruction"]


SWE = [
    "ctf__crypto__BabyEncryption", "ctf__crypto__BabyTimeCapsule", "ctf__crypto__eps", "ctf__crypto__katy",
    "ctf__forensics__flash", "ctf__misc__networking_1", "ctf__pwn__warmup", "ctf__rev__rock", "ctf__web__i_got_id_demo",
    "function_calling_simple",
    "human_thought__swe-bench-HumanEvalFix-python__lcb__t-0.00__p-0.95__c-4.00__install-0__humanevalfix-python-0",
    "replay_default_cursors_window100__t-0.20__p-0.95__c-2.00__install-1__m1867",
    "replay_default_window100__t-0.20__p-0.95__c-2.00__install-1__m1867",
    "replay_function_calling__install-1__m1867", "replay_function_calling_replace__install-1__m1867",
    "replay_xml_cursors_window100__t-0.20__p-0.95__c-2.00__install-1__m1867",
    "replay_xml_window100__t-0.20__p-0.95__c-2.00__install-1__m1867",
]  # fmt: skip


@pytest.mark.parametrize("name", SWE)
def test_swe_agent_messages_rebuild_their_content_and_every_step_is_a_call(name: str, read_corpus: Read) -> None:
    (unit,) = read_corpus(f"agent-swe-agent/{name}.traj")
    assert detect_format([unit]) == "swe_agent"
    conversation = one("swe_agent", unit)
    calls = 0
    for raw, message in zip(unit["history"], conversation.messages, strict=True):
        arguments = "".join(call["function"]["arguments"] for call in raw.get("tool_calls", []))
        assert message.rebuild() == raw["content"] + arguments
        if raw["role"] == "assistant":
            (call,) = (part for part in message.parts if part.kind == "tool_call")
            assert call.text == (arguments or raw["action"].strip())
            calls += 1
    results = sum(part.kind == "tool_result" for message in conversation.messages for part in message.parts)
    assert results == (calls if name.count("function_calling") else calls - 1)
    assert [m.role for m in conversation.messages].count("user") == 1


TOOLTALK = ["AccountTools-Alarm-Calendar-AddAlarm-0", "Calendar-Messages-Reminder-CreateEvent-1"]
OTHERS = [
    *((f"agent-tooltalk/{name}.json", "tooltalk", 1) for name in TOOLTALK),
    ("agent-tooltalk/AccountTools-Email-Reminder-ChangePassword-1.json", "tooltalk", 1),
    ("agent-toolbench/G1_answer_59.json", "toolbench", 1),
    ("agent-toolbench/G2_answer_127.json", "toolbench", 1),
    ("agent-toolbench/G3_answer_21.json", "toolbench", 1),
    ("agent-agentbench-alfworld/alfworld_multiturn_react.json", "alfworld", 6),
    ("agent-agentbench-alfworld/alfworld_multiturn_cot.json", "alfworld", 1),
]


@pytest.mark.parametrize(("path", "format", "count"), OTHERS)
def test_other_trajectories_lose_no_string(path: str, format: str, count: int, read_corpus: Read) -> None:
    (unit,) = read_corpus(path)
    assert detect_format([unit]) == format
    conversations = list(convert(format, unit))
    assert len(conversations) == count
    kept = {"user", "assistant", "agent", "tool", "system", "function", ""}
    written = []
    for conversation in conversations:
        kept |= set(strings(conversation.extra)) | {conversation.tools}
        written.append(conversation.tools)
        for message in conversation.messages:
            kept.add(message.name or "")
            for part in message.parts:
                kept |= {part.text, part.name or "", part.call_id or ""}
                written.append(part.text)
    for string in set(strings(unit)) - kept:
        assert any(json.dumps(string, ensure_ascii=False) in text for text in written), string


def test_tooltalk_counts(read_corpus: Read) -> None:
    (unit,) = read_corpus("agent-tooltalk/AccountTools-Email-Reminder-ChangePassword-1.json")
    apis = [api for turn in unit["conversation"] for api in turn.get("apis", [])]
    parts = [part for message in one("tooltalk", unit).messages for part in message.parts]
    assert [part.name for part in parts if part.kind == "tool_call"] == [api["request"]["api_name"] for api in apis]
    assert [part.error for part in parts if part.kind == "tool_result"] == [
        api["exception"] is not None for api in apis
    ]
    assert sum(part.error for part in parts) == 1


def test_toolbench_is_the_last_of_its_growing_lists(read_corpus: Read) -> None:
    for name in ("G1_answer_59", "G2_answer_127", "G3_answer_21"):
        (unit,) = read_corpus(f"agent-toolbench/{name}.json")
        last = unit["answer_generation"]["train_messages"][-1]
        conversation = one("toolbench", unit)
        assert len(conversation.messages) == len(last)
        called = [message["function_call"]["arguments"] for message in last if message.get("function_call")]
        assert [p.text for m in conversation.messages for p in m.parts if p.kind == "tool_call"] == called
        assert json.loads(conversation.tools) == unit["answer_generation"]["function"]


def test_alfworld_counts(read_corpus: Read) -> None:
    calls = unanswered = 0
    for name in ("react", "cot"):
        (unit,) = read_corpus(f"agent-agentbench-alfworld/alfworld_multiturn_{name}.json")
        for conversation in convert("alfworld", unit):
            parts = [part for message in conversation.messages for part in message.parts]
            made = sum(part.kind == "tool_call" for part in parts)
            calls += made
            unanswered += made - sum(part.kind == "tool_result" for part in parts)
    assert calls == 45 + 7
    assert unanswered == 6 + 2
