"""What a person would expect of the corpora, read from their raw JSON without any converter: who says which text.

One short rule per corpus, written from its README and its data. ``Said`` is one text as its field holds it, tags and marks
included; a call's is its arguments. ``differences`` compares what records hold with it: the texts of their parts must
stand in it, in order, and nothing may be left over but delimiters.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

CORPORA = Path(__file__).resolve().parents[2].parent / "shared" / "corpora"

#: Text that may stand between parts without being said: white space, and in each corpus its tags and marks.
SPACE = r"\s"
_JSON_CALL = r"""[\[\]{},:"]|"(?:name|arguments|parameters)"""
_THINK = r"</?(?:think|thinking|answer|Thought|Output)>|<\|(?:begin|end)_of_(?:thought|solution)\|>"
_REACT = r"(?:Thought|Action|Observation|Action Input)(?: \d+)?:|\[|\]"


@dataclass(frozen=True)
class Said:
    """A text and who says it (``user|tool``: either will do).

    ``name``: of the tool that is called, where the text is only its arguments; ANY where the text holds calls that name no
    tool. Else the name of a call must stand in the text, before its arguments. ``within``: the JSON text that the arguments
    are written in, as which they are told if not exactly as ``text``.
    """

    speaker: str
    text: str
    name: str | None = None
    within: str = ""


ANY = "*"

Conversation = list[Said]


@dataclass(frozen=True)
class Rule:
    """How a corpus is read: the conversations of each of a file's units. ``marks``: its delimiters beside white space.

    ``loose``: the units are logs, whose lines may be told in several conversations, so that each conversation need only be
    a part of what is expected, in its order. ``beside``: texts of lines that are no messages of their format, for a person
    to see; they are kept with the conversation, not told. ``any_order``: the logs are fixtures that hold many kinds of line,
    most with one trimmed text: each text is looked for by itself, and what is told must stand in the file.
    """

    read: Callable[[str, list[Any]], Iterator[list[Conversation]]]
    marks: str = ""
    loose: bool = False
    beside: frozenset[str] = frozenset()
    any_order: bool = False


def read_file(path: Path) -> list[Any]:
    """The values of a file, in order."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return value if isinstance(value, list) else [value]


def compact(value: Any) -> str:
    """JSON as text, as arguments that are an object are written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- chat messages -------------------------------------------------------------------------------------------------------


def _chat(messages: Sequence[dict[str, Any]], roles: dict[str, str]) -> Conversation:
    said = []
    for message in messages:
        speaker = roles[message.get("role", message.get("from"))]
        if message.get("reasoning_content"):
            said.append(Said("assistant", message["reasoning_content"]))
        content = message.get("content", message.get("value"))
        for item in content if isinstance(content, list) else [content]:
            text = item if isinstance(item, str) else item.get("text", "") if isinstance(item, dict) else ""
            if text or speaker == "tool":
                said.append(Said(speaker, text))
        for call in [*(message.get("tool_calls") or []), *filter(None, [message.get("function_call")])]:
            function = call.get("function", call)
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else compact(arguments)
            said.append(Said("assistant", text, function["name"]))
    return said


_OPENAI = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant", "function_call": "call", "observation": "tool"}


def _tools(value: Any) -> Conversation:
    if not value or value == "[]":
        return []
    return [Said("tools", value if isinstance(value, str) else compact(value))]


def _openai(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        messages = record.get("traj") or record["messages"]
        yield [_tools(record.get("tools")) + _chat(messages, _OPENAI)]


def _sharegpt(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        yield [_tools(record.get("tools")) + _calls(_chat(record["conversations"], _SHAREGPT))]


def _calls(said: Conversation) -> Conversation:
    """Calls that are the JSON text of an object or a list: each its arguments, as JSON."""
    out = []
    for item in said:
        if item.speaker != "call":
            out.append(item)
            continue
        value = json.loads(item.text)
        for call in value if isinstance(value, list) else [value]:
            out.append(Said("assistant", compact(call["arguments"]), call["name"], item.text))
    return out


def _observations_as_input(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    roles = {**_OPENAI, "user": "user"}
    for record in values:
        said = _chat(record["messages"], roles)
        yield [[Said("user|tool", s.text) if s.text.startswith("Observation:") else s for s in said]]


def _alfworld(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    (tasks,) = values
    yield from ([_chat(messages, _OPENAI)] for messages in tasks.values())


def _toolbench(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    (record,) = values
    answer = record["answer_generation"]
    yield [_tools(answer["function"]) + _chat(answer["train_messages"][-1], _OPENAI)]


def _bfcl(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """The turns' messages, each turn's calls behind them: those are the second file's, by id."""
    if path.startswith("possible_answer"):
        return
    gold = read_file(CORPORA / "openai-bfcl-multi-turn" / f"possible_answer_{path}")
    calls = {record["id"]: record["ground_truth"] for record in gold}
    for record in values:
        said = []
        for turn, due in zip(record["question"], calls[record["id"]], strict=True):
            said.extend(_chat(turn, _OPENAI))
            said.extend(Said("assistant", call) for call in due)
        yield [said]


def _webdancer(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        said: Conversation = []
        for item in _chat(record["messages"], _OPENAI):
            if item.speaker == "user" and item.text.lstrip().startswith("<tool_response>"):
                said.append(Said("tool", item.text))
            elif item.speaker == "assistant":
                said.extend(_tagged_calls(item.text))
            else:
                said.append(item)
        yield [said]


def _tagged_calls(text: str) -> Conversation:
    """Assistant text with ``<tool_call>`` JSON: the text before it, then its arguments."""
    said = []
    for index, piece in enumerate(re.split(r"<tool_call>(.*?)</tool_call>", text, flags=re.DOTALL)):
        if index % 2 == 0:
            said.append(Said("assistant", piece))
            continue
        call = json.loads(piece)
        said.append(Said("assistant", compact(call["arguments"]), call["name"], piece))
    return said


def _blocks_with_value(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        said = _tools(record.get("tools"))
        for message in record["messages"]:
            for block in message["content"]:
                if block["type"] == "tool_call":
                    calls = json.loads(block["value"])
                    for call in calls if isinstance(calls, list) else [calls]:
                        arguments = call["arguments"]
                        text = arguments if isinstance(arguments, str) else compact(arguments)
                        said.append(Said("assistant", text, call["name"], block["value"]))
                else:
                    said.append(Said(_OPENAI[message["role"]], block["value"]))
        yield [said]


# --- a question and its answer -------------------------------------------------------------------------------------------


def _fields(
    question: Sequence[str], answer: Sequence[str], system: Sequence[str] = ()
) -> Callable[..., Iterator[list[Conversation]]]:
    def read(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
        for record in values:
            said: Conversation = []
            for speaker, keys in (("system", system), ("user", question), ("assistant", answer)):
                for key in keys:
                    value = record.get(key)
                    texts = value if isinstance(value, list) else [value]
                    said.extend(Said(speaker, _number(text)) for text in texts if text not in (None, ""))
            yield [said]

    return read


def _number(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _keyed(question: Sequence[str], answer: Sequence[str]) -> Callable[..., Iterator[list[Conversation]]]:
    read = _fields(question, answer)
    return lambda path, values: read(path, list(values[0].values()))


def _fireact(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Lines behind ``Observation:`` are the tool's, until the next thought or action."""
    for record in values:
        said = [Said("user", record["instruction"])]
        speaker = "assistant"
        for line in record["output"].splitlines(keepends=True):
            if line.startswith("Observation"):
                speaker = "tool"
            elif re.match(r"(?:Thought|Action)(?: \d+)?:", line):
                speaker = "assistant"
            if len(said) > 1 and said[-1].speaker == speaker:
                said[-1] = Said(speaker, said[-1].text + line)
            else:
                said.append(Said(speaker, line))
        yield [said]


def _searcher(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Retrieved documents inside the text are the tool's."""
    for record in values:
        said = [Said("user", record["question"])]
        pieces = re.split(
            r"(<\|begin_of_documents\|>.*?<\|end_of_documents\|>)", record["gen_text_store"], flags=re.DOTALL
        )
        for piece in pieces:
            speaker = "tool" if piece.startswith("<|begin_of_documents|>") else "assistant"
            said.append(Said(speaker, piece, ANY if speaker == "assistant" else None))
        yield [said]


def _seed_tasks(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        yield [
            [
                Said("user", record["instruction"]),
                *([Said("user", instance["input"])] if instance["input"] else []),
                Said("assistant", instance["output"]),
            ]
            for instance in record["instances"]
        ]


def _gsm8k(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        yield [[Said("user", record["question"]), Said("assistant", record["answer"])]]


def _squad(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    (file,) = values
    for article in file["data"]:
        yield [
            [
                Said("user", qa["question"]),
                Said("user", paragraph["context"]),
                Said("assistant", qa["answers"][0]["text"]),
            ]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]


def _bipia(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    if "attack" in path:
        yield [[Said("user", text)] for strings in values[0].values() for text in strings]
        return
    yield from _fields(("question", "context"), ("ideal",))(path, values)


def _trees(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Every path from the root to a leaf."""

    def paths(node: dict[str, Any], above: Conversation) -> Iterator[Conversation]:
        here = [*above, Said("user" if node["role"] == "prompter" else "assistant", node["text"])]
        if not node["replies"]:
            yield here
        for reply in node["replies"]:
            yield from paths(reply, here)

    for record in values:
        yield list(paths(record["prompt"], []))


# --- agents --------------------------------------------------------------------------------------------------------------


def _tooltalk(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Where and when it is, then the turns; the calls of a turn come before what the assistant says of their results."""
    (record,) = values
    said = [Said("system", compact(record["metadata"]))]
    for turn in record["conversation"]:
        for api in turn.get("apis", ()):
            request = api["request"]
            said.append(Said("assistant", compact(request["parameters"]), request["api_name"]))
            said.append(Said("tool", api["exception"] if api["exception"] else compact(api["response"])))
        said.append(Said(turn["role"], turn["text"]))
    yield [said]


def _swe_agent(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Behind the first user message, which sets the task, users are the shell."""
    (record,) = values
    said: Conversation = []
    asked = False
    for message in record["history"]:
        role = message["role"]
        if role == "user":
            role, asked = ("user|tool" if asked else "user"), True
        if role == "assistant" and not message.get("tool_calls"):
            said.append(Said("assistant", message["content"], ANY))
        else:
            said.extend(
                Said(role if s.speaker == "user" else s.speaker, s.text, s.name) for s in _chat([message], _OPENAI)
            )
    yield [said]


def _openhands(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    for record in values:
        said: Conversation = []
        for event in record["history"]:
            action, observation = event.get("action"), event.get("observation")
            if action == "system":
                said.append(Said("system", event["args"]["content"]))
            elif observation == "recall":
                knowledge = event["extras"]["microagent_knowledge"]
                said.extend(Said("user", item["content"]) for item in knowledge)
            elif observation == "error":
                said.append(Said("user|tool", event["content"]))
            elif action == "message":
                said.append(Said("assistant" if event["source"] == "agent" else "user", event["args"]["content"]))
            elif metadata := event.get("tool_call_metadata"):
                if action:
                    message = metadata["model_response"]["choices"][0]["message"]
                    said.extend(_chat([message], _OPENAI))
                elif observation:
                    said.append(Said("tool", event["content"]))
        yield [said]


# --- session logs --------------------------------------------------------------------------------------------------------


def _session(path: str, values: list[Any]) -> Iterator[list[Conversation]]:
    """Every text, thought, call and result that a line of a log holds, whoever wrote the log."""
    lines = values[0].get("loglines", values) if isinstance(values[0], dict) else values
    if len(lines) == 1 and isinstance(lines[0], dict) and isinstance(lines[0].get("messages"), list):
        head = lines[0]
        lines = head["messages"]
        opening = [Said("system", head["system_prompt"])] if head.get("system_prompt") else []
    else:
        opening = []
    yield [opening + [said for line in lines if isinstance(line, dict) for said in _line(line)]]


def _line(line: dict[str, Any]) -> Iterator[Said]:
    kind = line.get("type")
    message = line.get("message") if isinstance(line.get("message"), dict) else None
    payload, data, event = line.get("payload"), line.get("data"), line.get("event")
    if kind == "response_item" and isinstance(payload, dict):
        yield from _line(payload)
    elif kind == "context.append_loop_event" and isinstance(event, dict):
        yield from _kimi(event)
    elif kind == "context.append_message" and message:
        yield from _content(message, message["role"])
    elif kind in ("user.message", "assistant.message", "system.message") and isinstance(data, dict):
        speaker = kind.split(".")[0]
        yield Said(f"{speaker}|user" if speaker == "system" else speaker, data["content"])
        for request in data.get("toolRequests", ()):
            yield Said("assistant", _arguments(request["arguments"]), request["name"])
    elif kind == "tool.execution_complete" and isinstance(data, dict):
        yield Said("tool", data["result"]["content"])
    elif kind in ("function_call", "tool_call") and "function" in line:
        yield Said("assistant", _arguments(line["arguments"]), line["function"]["name"])
    elif kind in ("function_result", "tool_result") and "result" in line:
        yield Said("tool", _arguments(line["result"]))
    elif kind == "function_call_output":
        output = line["output"]
        items = output if isinstance(output, list) else [output]
        yield Said("tool", "".join(item if isinstance(item, str) else item["text"] for item in items if item))
    elif kind in ("function_call", "custom_tool_call"):
        yield Said("assistant", _arguments(line.get("arguments", line.get("input"))), line["name"])
    elif kind == "reasoning":
        for item in line.get("summary", ()):
            yield Said("assistant", item["text"])
    elif kind == "tool_result" and "message" not in line:
        yield Said("tool", line["content"] if "content" in line else line["output"])
    elif kind == "tool_use" and "message" not in line:
        yield Said("assistant", _arguments(line["input"]), line["name"])
    elif message is not None:
        yield from _content(message, message.get("role") or line.get("role") or kind)
    elif "role" in line or kind in ("user", "assistant", "system", "gemini", "model", "message"):
        yield from _content(line, line.get("role") or kind)


_WHO = {"gemini": "assistant", "model": "assistant", "toolResult": "tool", "developer": "system"}


def _content(message: dict[str, Any], role: str) -> Iterator[Said]:
    """A message with a string, or blocks of many kinds."""
    speaker = _WHO.get(role, role)
    if speaker not in ("user", "assistant", "system", "tool"):
        return
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        yield Said("assistant", thought)
    for idea in message.get("thoughts", ()):
        yield Said("assistant", idea["description"])
    content = message.get("content", message.get("parts", message.get("message")))
    for block in content if isinstance(content, list) else [content]:
        if isinstance(block, str):
            if block:
                yield Said(speaker, block)
        elif isinstance(block, dict):
            yield from _block(block, speaker)
    for call in message.get("tool_calls") or message.get("toolCalls") or ():
        function = call.get("function", call)
        yield Said("assistant", _arguments(function.get("arguments", function.get("args"))), function["name"])
        for result in call.get("result", ()):
            yield from _block(result, "tool")


def _block(block: dict[str, Any], speaker: str) -> Iterator[Said]:
    kind = block.get("type")
    if kind in ("tool_use", "toolCall"):
        yield Said("assistant", _arguments(block.get("input", block.get("arguments"))), block["name"])
    elif "functionCall" in block:
        yield Said("assistant", _arguments(block["functionCall"]["args"]), block["functionCall"]["name"])
    elif "functionResponse" in block:
        response = block["functionResponse"]["response"]
        yield Said("tool", response["output"] if "output" in response else compact(response))
    elif kind == "tool_result":
        content = block.get("content")
        texts = content if isinstance(content, list) else [content]
        yield Said("tool", "".join(t if isinstance(t, str) else t["text"] for t in texts if t))
    elif kind == "thinking":
        yield Said("assistant", block["thinking"])
    elif isinstance(block.get("text"), str) and block["text"]:
        yield Said(speaker, block["text"])


def _kimi(event: dict[str, Any]) -> Iterator[Said]:
    if event["type"] == "content.part":
        part = event["part"]
        yield Said("assistant", part.get("think") or part.get("text") or "")
    elif event["type"] == "tool.call":
        yield Said("assistant", _arguments(event["args"]), event["name"])
    elif event["type"] == "tool.result":
        output = event["result"]["output"]
        yield Said("tool", output if isinstance(output, str) else "".join(item["text"] for item in output))


def _arguments(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else compact(value)


RULES: dict[str, Rule] = {
    "agent-agentbench-alfworld": Rule(_alfworld),
    "agent-openhands": Rule(_openhands),
    "agent-swe-agent": Rule(_swe_agent, r"```\w*|</?command>"),
    "agent-toolbench": Rule(_toolbench),
    "agent-tooltalk": Rule(_tooltalk),
    "agent-webdancer": Rule(_webdancer, rf"{_THINK}|</?tool_response>"),
    "alpaca-fireact": Rule(_fireact, _REACT),
    "alpaca-gpteacher": Rule(_fields(("instruction", "input"), ("response",)), r"[()]"),
    "alpaca-seed-tasks": Rule(_seed_tasks),
    "blocks-agent-sessions": Rule(_session, beside=frozenset({"compacted", "refusal"}), any_order=True),
    "blocks-claude-code-log": Rule(_session, loose=True, beside=frozenset({"error", "wow error"})),
    "blocks-claude-code-transcripts": Rule(_session, loose=True),
    "blocks-pi-session": Rule(_session, loose=True),
    "blocks-reason-tool-use": Rule(_blocks_with_value, r"[\[\],]"),
    "injection-bipia": Rule(_bipia),
    "injection-cyberseceval": Rule(_fields(("user_input",), (), ("test_case_prompt",))),
    "math-aqua": Rule(_fields(("question", "options"), ("rationale", "correct"))),
    "math-gsm8k": Rule(_gsm8k, "####"),
    "math-svamp": Rule(_fields(("Body", "Question"), ("Equation", "Answer"))),
    "oasst-trees": Rule(_trees),
    "openai-bfcl-multi-turn": Rule(_bfcl, r"[()]"),
    "openai-fireact-messages": Rule(_observations_as_input, _REACT),
    "openai-mistral-samples": Rule(_openai),
    "openai-reasoning-content-xtuner": Rule(_openai, _THINK),
    "openai-tau-bench-airline": Rule(_openai),
    "rc-prontoqa": Rule(_fields(("question", "options", "context"), ("explanation", "answer"))),
    "rc-prosqa": Rule(_fields(("question",), ("steps", "answer"))),
    "rc-pubmedqa": Rule(_keyed(("QUESTION", "CONTEXTS"), ("LONG_ANSWER", "final_decision"))),
    "rc-xquad": Rule(_squad),
    "sharegpt-axolotl-fixtures": Rule(_sharegpt),
    "sharegpt-fastchat-dummy": Rule(_sharegpt),
    "sharegpt-glaive-toolcall": Rule(_sharegpt),
    "think-marco-o1": Rule(_fields(("instruction",), ("response",)), _THINK),
    "think-r1-searcher": Rule(_searcher, rf"{_THINK}|<\|(?:begin|end)_of_(?:query|documents)\|>"),
    "think-skythought-math": Rule(_fields(("question",), ("code",)), _THINK),
    "think-star1": Rule(_fields(("question",), ("response",)), _THINK),
}


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def stands_in(text: str, known: set[str]) -> bool:
    """Whether a text is one of these strings, some of them one after the other, or JSON that holds no others."""
    if not text or text in known:
        return True
    try:
        return isinstance(value := json.loads(text), dict | list) and set(strings(value)) <= known
    except json.JSONDecodeError:
        starts = (other for other in known if other and text.startswith(other))
        return any(stands_in(text[len(other) :], known) for other in starts)


# --- comparison ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A part as a record tells it: the role and direction of its stream, its text, the name of the tool it calls."""

    stream: str
    text: str
    name: str | None = None


#: The streams on which a speaker may be told.
_STREAMS = {
    "system": {"system"},
    "tools": {"system"},
    "user": {"user"},
    "assistant": {"assistant", "thought", "call"},
    "tool": {"tool"},
}


def differences(expected: Sequence[Said], told: Sequence[Told], marks: str = "", loose: bool = False) -> list[str]:
    """What does not agree, as sentences; [] where every text is told, to the character, on the right stream.

    ``loose``: expected texts may be missing; those that were told are then in the result of ``matched``.
    """
    problems, _ = matched(expected, told, marks, loose)
    return problems


def matched(
    expected: Sequence[Said], told: Sequence[Told], marks: str = "", loose: bool = False
) -> tuple[list[str], set[int]]:
    """The differences, and the indices of the expected texts that were told."""
    delimiter = re.compile(rf"(?:{SPACE}|{marks})*" if marks else rf"{SPACE}*")
    at = 0
    problems: list[str] = []
    found: set[int] = set()
    for index, said in enumerate(expected):
        if said.speaker == "tools":
            continue
        used, left = _consume(said, told, at, delimiter)
        if left is None:
            found.add(index)
            at += used
        elif not loose:
            what = f"calls {said.name}: " if said.name else ""
            got = told[at + used] if at + used < len(told) else None
            shown = f"; next told on {got.stream}: {got.text[:60]!r}" if got else "; nothing is told any more"
            problems.append(f"{index} ({said.speaker}) {what}{left[:80]!r} is not told{shown}")
            at += used
    for item in told[at:]:
        problems.append(f"told on {item.stream}, but not expected: {item.text[:80]!r}")
    return problems[:5], found


def _consume(said: Said, told: Sequence[Told], at: int, delimiter: re.Pattern[str]) -> tuple[int, str | None]:
    """How many parts tell this text, and what of it is left over (None: nothing but delimiters)."""
    streams = set().union(*(_STREAMS[speaker] for speaker in said.speaker.split("|")))
    if said.name not in (None, ANY):
        one = told[at] if at < len(told) else None
        if one and one.stream == "call" and one.name == said.name and _same_arguments(one.text, said):
            return 1, None
        return 0, said.text or said.name
    position = used = 0
    while at + used < len(told):
        part = told[at + used]
        if part.stream not in streams:
            break
        start = _find(said.text, replace(part, name=None) if said.name == ANY else part, position, delimiter)
        if start is None:
            break
        if not part.text and not part.name and used:
            break
        position = start + len(part.text)
        used += 1
        if not part.text:
            break
    rest = said.text[position:]
    return used, None if delimiter.fullmatch(rest) else rest


def _find(text: str, part: Told, position: int, delimiter: re.Pattern[str]) -> int | None:
    """Where the part's text stands in ``text``, behind the name if it is a call, with nothing but delimiters between."""
    if part.name is not None:
        named = _find(text, Told(part.stream, part.name), position, delimiter)
        if named is None:
            return None
        position = named + len(part.name)
    start = text.find(part.text, position)
    while start >= 0:
        gap = text[position:start]
        if delimiter.fullmatch(gap):
            return start
        if len(gap) > 400:
            return None
        start = text.find(part.text, start + 1)
    return None


def _same_arguments(told: str, said: Said) -> bool:
    if told == said.text:
        return True
    if said.within and told not in said.within:
        return False
    try:
        return bool(compact(json.loads(told)) == compact(json.loads(said.text)))
    except json.JSONDecodeError:
        return False
