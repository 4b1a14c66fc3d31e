"""Conversations as chat messages: rendered with templates nobody here wrote, they equal the source's own messages.

``READINGS`` says what the chat messages of a corpus are, read straight from its records by a few lines of this file and
by TRL; ``DIFFERENT`` is the whole list of corpora where ours are not those, how many records, and why.
"""

from __future__ import annotations

import copy
import functools
import gzip
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from converters import CONVERTERS, convert, detect_format
from pipeline.chat import to_messages, tools_of
from pipeline.conversation import Conversation, Message, Part
from pipeline.packaged import gguf_file, tokenizer_file

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT.parent / "shared" / "corpora"
#: Records of each file whose token ids are compared; of the others the rendered text is.
TOKENIZED = 10


class Chat(NamedTuple):
    """What a chat template is given."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None


Reading = Callable[[Any], list[Chat]]


# What the chat messages of a record are, read without the converters


def as_chat(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI's messages as templates take them: no null content, arguments as objects, one form of call."""
    roles = {"developer": "system", "function": "tool", "agent": "assistant"}
    out = []
    for source in messages:
        message = {key: value for key, value in copy.deepcopy(source).items() if value is not None}
        message["role"] = roles.get(message["role"], message["role"])
        message.setdefault("content", "")
        if call := message.pop("function_call", None):
            message["tool_calls"] = [{"function": call}]
        for call in message.get("tool_calls", ()):
            function = call.get("function", call)
            function["arguments"] = as_object(function.get("arguments", ""))
        if isinstance(message["content"], list) and all(item["type"] == "text" for item in message["content"]):
            message["content"] = "".join(item["text"] for item in message["content"])
        out.append(message)
    return out


def as_object(arguments: Any) -> Any:
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except ValueError:
            return arguments
        return value if isinstance(value, dict) else arguments
    return arguments


def openai(unit: Any) -> list[Chat]:
    if isinstance(unit, list):
        unit = {"messages": unit}
    tools = unit.get("tools") or unit.get("functions")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return [Chat(as_chat(unit["traj" if "traj" in unit else "messages"]), tools or None)]


def sharegpt(unit: Any) -> list[Chat]:
    """ShareGPT by TRL's own utility; its roles, and calls as JSON text, as LLaMA-Factory documents them."""
    from trl.data_utils import maybe_convert_to_chatml

    unit = copy.deepcopy(unit)
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    messages = [{"role": "system", "content": unit["system"]}] if unit.get("system") else []
    for message in maybe_convert_to_chatml({"conversations": unit["conversations"]})["messages"]:
        role = roles.get(message["role"], message["role"])
        if role == "function_call":
            calls = json.loads(message["content"])
            calls = [{"function": call} for call in (calls if isinstance(calls, list) else [calls])]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        else:
            messages.append({"role": role, "content": message["content"]})
    return [Chat(messages, json.loads(unit.get("tools") or "null") or None)]


def prompt_completion(*prompt: str, completion: tuple[str, ...]) -> Reading:
    """TRL's prompt and completion, from the first keys that are there; further prompt fields after an empty line."""

    def read(unit: Any) -> list[Chat]:
        answer = next(unit[key] for key in completion if unit.get(key))
        answer = answer[0] if isinstance(answer, list) else answer
        asked = "\n\n".join(unit[key] for key in prompt if unit.get(key))
        return [Chat([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])]

    return read


def seed_tasks(unit: Any) -> list[Chat]:
    read = prompt_completion("instruction", "input", completion=("output",))
    return [chat for instance in unit["instances"] for chat in read({**instance, "instruction": unit["instruction"]})]


def typed_blocks(unit: Any) -> list[Chat]:
    """LLaMA-Factory's typed content: text and reasoning, calls as JSON text, results one list for all calls of a turn."""
    messages: list[dict[str, Any]] = []
    for source in unit["messages"]:
        of = {kind: [b["value"] for b in source["content"] if b["type"] == kind]
              for kind in ("text", "reasoning", "tool_call")}  # fmt: skip
        text = "".join(of["text"])
        if source["role"] == "tool":
            several = len(messages[-1].get("tool_calls", ())) > 1
            results = (
                [bytes(r).decode() for r in msgspec.json.decode(text, type=list[msgspec.Raw])] if several else [text]
            )
            messages += [{"role": "tool", "content": result} for result in results]
            continue
        message = {"role": source["role"], "content": text}
        if of["reasoning"]:
            message["reasoning_content"] = "\n\n".join(of["reasoning"])
        if of["tool_call"]:
            message["tool_calls"] = [{"function": json.loads(call)} for call in of["tool_call"]]
        messages.append(message)
    tools = unit.get("tools")
    return [Chat(messages, (json.loads(tools) if isinstance(tools, str) else tools) or None)]


def all_tasks(unit: Any) -> list[Chat]:
    return [Chat(as_chat(messages)) for messages in unit.values()]


def last_messages(unit: Any) -> list[Chat]:
    """ToolBench: the last of the growing prefixes."""
    generated = unit["answer_generation"]
    return [Chat(as_chat(generated["train_messages"][-1]), generated["function"])]


def thread_paths(unit: Any) -> list[Chat]:
    """Open Assistant: every path from the first message to a last one."""
    roles = {"prompter": "user", "assistant": "assistant"}

    def walk(message: Any, before: list[dict[str, Any]]) -> Iterator[Chat]:
        path = [*before, {"role": roles[message["role"]], "content": message["text"]}]
        for reply in message["replies"]:
            yield from walk(reply, path)
        if not message["replies"]:
            yield Chat(path)

    return list(walk(unit["prompt"], []))


def attack(unit: Any) -> list[Chat]:
    return [
        Chat([{"role": "system", "content": unit["test_case_prompt"]}, {"role": "user", "content": unit["user_input"]}])
    ]


# The same for texts that hold calls and what came back: ours are calls and results, never text of the model


def react(text: str) -> list[dict[str, Any]]:
    """Steps of a ReAct text: what stands before an action, the action as a call, the observation as its result."""
    messages: list[dict[str, Any]] = []
    said = ""
    pieces = re.split(r"^(Thought|Action|Observation): ", text, flags=re.MULTILINE)
    for label, body in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        if label == "Observation":
            messages.append({"role": "tool", "content": body.strip()})
        elif label == "Action" and (called := re.fullmatch(r"(\w+)\[(.*)\]", body.strip(), re.DOTALL)):
            call = {"function": {"name": called[1], "arguments": as_object(called[2])}}
            messages.append({"role": "assistant", "content": said, "tool_calls": [call]})
            said = ""
        else:
            said += (f"{label}: " if label else "") + body
    return messages + ([{"role": "assistant", "content": said}] if said else [])


def react_answer(unit: Any) -> list[Chat]:
    (asked,) = READINGS["alpaca-fireact/multitask_multimethod.json"](unit)
    return [Chat([asked.messages[0], *react(asked.messages[1]["content"])])]


def react_dialogue(unit: Any) -> list[Chat]:
    messages: list[dict[str, Any]] = []
    for message in unit["messages"]:
        labelled = message["role"] == "assistant" or message["content"].startswith("Observation: ")
        messages += react(message["content"]) if labelled else [message]
    return [Chat(messages)]


def tool_tags(unit: Any) -> list[Chat]:
    """Qwen's tags: ``<tool_call>`` in what the model says, ``<tool_response>`` in what it reads."""
    messages = []
    for message in unit["messages"]:
        text = message["content"]
        if message["role"] == "assistant" and (calls := re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)):
            called = [{"function": json.loads(call)} for call in calls]
            text = text[: text.index("<tool_call>")]
            messages.append({"role": "assistant", "content": text, "tool_calls": called})
        elif message["role"] == "user" and text.startswith("<tool_response>"):
            inside = text.removeprefix("<tool_response>").rpartition("</tool_response>")[0]
            messages.append({"role": "tool", "content": inside.strip()})
        else:
            messages.append(message)
    return [Chat(messages, unit["functions"])]


def searches(unit: Any) -> list[Chat]:
    """R1-Searcher's tags: a query that ends a thought, and the documents it found."""
    messages = [{"role": "user", "content": unit["question"]}]
    query = r"<\|begin_of_query\|>(.*?)<\|end_of_query\|>\s*<\|begin_of_documents\|>(.*?)<\|end_of_documents\|>\s*"
    pieces = re.split(query, unit["gen_text_store"], flags=re.DOTALL)
    for thought, asked, found in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False):
        call = {"function": {"name": "query", "arguments": as_object(asked.strip())}}
        message = {"role": "assistant", "content": "", "reasoning_content": thought.rstrip(), "tool_calls": [call]}
        messages += [message, {"role": "tool", "content": found.strip()}]
    messages.append({"role": "assistant", "content": pieces[-1]})
    return [Chat(messages)]


READINGS: dict[str, Reading] = {
    "openai-tau-bench-airline/gpt-4o-airline.json.gz": openai,
    "openai-fireact-messages/multitask_multimethod.jsonl": openai,
    "openai-reasoning-content-xtuner/qwen35_tokenize_data.jsonl": openai,
    "openai-mistral-samples/get_weather_full.json": openai,
    "openai-mistral-samples/get_weather_no_history.json": openai,
    "openai-mistral-samples/get_weather_no_system_prompt.json": openai,
    "openai-mistral-samples/no_tools.json": openai,
    "openai-mistral-samples/parallel_calls.json": openai,
    "openai-mistral-samples/several_calls.json": openai,
    "blocks-agent-sessions/hermes__small.json": openai,
    "agent-webdancer/sample_traj.jsonl.gz": openai,
    "agent-agentbench-alfworld/alfworld_multiturn_react.json": all_tasks,
    "agent-agentbench-alfworld/alfworld_multiturn_cot.json": all_tasks,
    "agent-toolbench/G1_answer_59.json": last_messages,
    "agent-toolbench/G2_answer_127.json": last_messages,
    "agent-toolbench/G3_answer_21.json": last_messages,
    "sharegpt-glaive-toolcall/glaive_toolcall_en_demo.json": sharegpt,
    "sharegpt-glaive-toolcall/glaive_toolcall_zh_demo.json": sharegpt,
    "sharegpt-fastchat-dummy/dummy_conversation.json": sharegpt,
    "sharegpt-axolotl-fixtures/conversation.json": sharegpt,
    "sharegpt-axolotl-fixtures/conversation.missingturns.json": sharegpt,
    "alpaca-gpteacher/codegen-instruct.json": prompt_completion("instruction", "input", completion=("response",)),
    "alpaca-gpteacher/toolformer-similarity-0.6-dataset.json": prompt_completion(
        "instruction", "input", completion=("response",)
    ),
    "alpaca-fireact/multitask_multimethod.json": prompt_completion("instruction", "input", completion=("output",)),
    "alpaca-seed-tasks/seed_tasks.jsonl": seed_tasks,
    "blocks-reason-tool-use/reason_tool_use_demo_50.jsonl": typed_blocks,
    "think-star1/STAR-1.json": prompt_completion("question", completion=("response",)),
    "think-marco-o1/CoT_demo.json": prompt_completion("instruction", "input", completion=("response", "output")),
    "think-r1-searcher/bamboogle_qwen.jsonl": prompt_completion("question", completion=("gen_text_store",)),
    "think-skythought-math/test_Sky-T1_math500.jsonl.gz": prompt_completion(
        "question", "problem", completion=("code",)
    ),
    "math-gsm8k/train.jsonl": prompt_completion("question", completion=("answer",)),
    "oasst-trees/en_100_tree.jsonl": thread_paths,
    "injection-cyberseceval/prompt_injection.json": attack,
    "injection-cyberseceval/prompt_injection_multilingual_machine_translated.json": attack,
}

#: Where a source holds calls and results in text, and ours does not: the same, with the calls and results taken out.
CUT: dict[str, Reading] = {
    "openai-fireact-messages/multitask_multimethod.jsonl": react_dialogue,
    "alpaca-fireact/multitask_multimethod.json": react_answer,
    "agent-webdancer/sample_traj.jsonl.gz": tool_tags,
    "think-r1-searcher/bamboogle_qwen.jsonl": searches,
}


class Different(NamedTuple):
    """Records of a file whose messages are not the source's, and why that is right."""

    records: int
    why: str


_REACT = "ReAct actions and observations in text are calls and results: a model must not be trained to invent results"
DIFFERENT: dict[str, Different] = {
    "openai-fireact-messages/multitask_multimethod.jsonl": Different(184, _REACT),
    "alpaca-fireact/multitask_multimethod.json": Different(499, _REACT),
    "agent-webdancer/sample_traj.jsonl.gz": Different(70, "calls and responses in tags are calls and results"),
    "think-r1-searcher/bamboogle_qwen.jsonl": Different(
        78, "searches inside a thought are calls, documents are results"
    ),
    "alpaca-gpteacher/toolformer-similarity-0.6-dataset.json": Different(
        298, "calls written into a sentence are calls"
    ),
    "agent-toolbench/G2_answer_127.json": Different(1, "what is said beside a function call is a thought"),
}

#: Corpora that nobody but our converters reads as chat messages.
NO_READING: dict[str, str] = {
    "agent-openhands": "an event log: which events are messages is the converter's rule",
    "agent-swe-agent": "trajectories in six dialects, with calls in text, in tags and in fields",
    "agent-tooltalk": "calls, responses and exceptions are nested in turns",
    "blocks-agent-sessions": "session logs of ten programs (the one that holds OpenAI's messages is read)",
    "blocks-claude-code-log": "session logs: branches, retries and events beside messages",
    "blocks-claude-code-transcripts": "session logs: branches, retries and events beside messages",
    "blocks-pi-session": "a session log",
    "injection-bipia": "a context and a question, to which an attack is added",
    "math-aqua": "a question with options and a rationale",
    "math-svamp": "a body, a question and a number",
    "openai-bfcl-multi-turn": "turns and gold calls in two files, calls as Python text",
    "rc-prontoqa": "a context, a question and options",
    "rc-prosqa": "a question, a list of steps and an answer",
    "rc-pubmedqa": "a question with contexts",
    "rc-xquad": "articles of paragraphs of questions",
}


# Rendering


needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


@functools.cache
def templates() -> dict[str, str]:
    """The packaged model's ChatML, and the templates of TRL that know tools and thoughts, or media."""
    import trl
    from gguf import GGUFReader

    of_trl = Path(trl.__file__).parent / "chat_templates"
    return {
        "smollm2": GGUFReader(gguf_file()).get_field("tokenizer.chat_template").contents(),
        "qwen3": (of_trl / "qwen3.jinja").read_text(),
        "qwen2_5_vl": (of_trl / "qwen2_5_vl.jinja").read_text(),
    }


@functools.cache
def tokenizer(template: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file()))
    made.chat_template = templates()[template]
    return made


def template_names(chat: Chat) -> list[str]:
    """The templates that can render a chat: only one takes content that is a list."""
    if any(isinstance(message["content"], list) for message in chat.messages):
        return ["qwen2_5_vl"]
    return ["smollm2", "qwen3"]


def rendered(chat: Chat, template: str) -> str:
    """The chat as text, by TRL."""
    from trl.data_utils import apply_chat_template

    return str(apply_chat_template({"messages": chat.messages}, tokenizer(template), tools=chat.tools)["text"])


def token_ids(chat: Chat, template: str) -> list[int]:
    """The chat as token ids, by transformers."""
    ids = tokenizer(template).apply_chat_template(chat.messages, tools=chat.tools, tokenize=True, return_dict=False)
    return list(ids)


def chats_of(format: str, unit: Any) -> list[Chat]:
    conversations = [c for c in convert(format, unit) if isinstance(c, Conversation)]
    return [Chat(to_messages(c), tools_of(c)) for c in conversations]


def difference(ours: list[Chat], theirs: list[Chat], tokenize: bool) -> str:
    """Where the renderings of a unit's chats differ; "" where they are the same, token for token."""
    if len(ours) != len(theirs):
        return f"{len(ours)} conversations, {len(theirs)} in the source"
    for one, other in zip(ours, theirs, strict=True):
        if template_names(one) != template_names(other):
            return "only one of them has lists of items"
        for template in template_names(other):
            a, b = rendered(one, template), rendered(other, template)
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                return f"{template} at {at}: {a[max(at - 60, 0) : at + 60]!r}, in the source {b[max(at - 60, 0) : at + 60]!r}"
            if tokenize and token_ids(one, template) != token_ids(other, template):
                return f"{template}: the same text, other tokens"
    return ""


def units_of(path: str) -> list[Any]:
    raw = (CORPORA / path).read_bytes()
    text = (gzip.decompress(raw) if path.endswith(".gz") else raw).decode()
    if ".jsonl" in path:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


def compare(path: str, reading: Reading, expected: Different | None) -> None:
    if not (CORPORA / path).exists():
        pytest.skip(f"{CORPORA / path} is not here")
    units = units_of(path)
    format = detect_format(units)
    assert format is not None, "no converter knows it"
    assert CONVERTERS[format].UNIT != "file" or len(units) == 1
    found = []
    for index, unit in enumerate(units):
        given = [unit] if CONVERTERS[format].UNIT == "file" else unit
        if what := difference(chats_of(format, given), reading(unit), index < TOKENIZED):
            found.append(f"record {index}: {what}")
    counts = (len(found), expected.records if expected else 0)
    assert counts[0] == counts[1], f"{counts[0]} of {len(units)} differ, not {counts[1]}\n" + "\n".join(found[:3])


@needs_trl
@pytest.mark.parametrize("path", READINGS)
def test_a_corpus_renders_as_its_own_messages_do(path: str) -> None:
    compare(path, READINGS[path], DIFFERENT.get(path))


@needs_trl
@pytest.mark.parametrize("path", CUT)
def test_a_corpus_with_calls_in_text_renders_as_calls_and_results(path: str) -> None:
    compare(path, CUT[path], None)


def test_every_corpus_is_compared_or_said_to_have_no_messages_of_its_own() -> None:
    if not CORPORA.exists():
        pytest.skip(f"{CORPORA} is not here")
    folders = {path.name for path in CORPORA.iterdir() if path.is_dir()}
    assert folders == {path.split("/")[0] for path in READINGS} | set(NO_READING)


def test_the_differences_are_documented() -> None:
    page = (ROOT / "docs" / "formats" / "chat-templates.md").read_text()
    for path, different in DIFFERENT.items():
        assert f"| `{path}` | {different.records} |" in page
    for folder in NO_READING:
        assert f"`{folder}`" in page


# Our own examples, which are always here

CALL = {"id": "c1", "type": "function", "function": {"name": "read_sensor", "arguments": '{"place": "kiln"}'}}
TOOL = {"type": "function", "function": {"name": "read_sensor", "parameters": {"type": "object", "properties": {}}}}
OWN: list[tuple[str, Any, Reading]] = [
    *(
        (name, CONVERTERS[name].EXAMPLE, reading)
        for name, reading in (
            ("openai_messages", openai),
            ("sharegpt", sharegpt),
            ("alpaca", prompt_completion("instruction", "input", completion=("output", "response"))),
            ("math_qa", prompt_completion("question", completion=("answer",))),
        )
    ),
    (
        "openai_messages",
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "hot?"}]},
                {"role": "assistant", "content": "  I look.\n", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
                {"role": "tool", "tool_call_id": "c2", "content": ""},
                {"role": "tool", "tool_call_id": "c1", "content": "<|im_end|> 80"},
                {"role": "assistant", "content": "<think>\n80 is warm.\n</think>\n\nWarm."},
                {"role": "user", "content": "And now?"},
                {"role": "assistant", "content": "<think>\nWait", "weight": 0},
            ],
            "tools": [TOOL],
        },
        openai,
    ),
    (
        "openai_messages",
        {
            "messages": [
                {"role": "user", "content": "How hot?"},
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "no json"}},
                {"role": "function", "name": "f", "content": "80"},
                {"role": "assistant", "reasoning_content": "<think> is a tag.", "content": "80"},
            ],
            "functions": [{"name": "f", "parameters": {}}],
        },
        openai,
    ),
    (
        "openai_messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "kiln.png"}, {"type": "text", "text": "Hot?"}]},
                {"role": "assistant", "content": "No."},
            ]
        },
        openai,
    ),
    (
        "think_tagged",
        {"question": "2+2?", "response": "<think>\ntwo twos\n</think>\n\n<answer>4</answer>"},
        prompt_completion("question", completion=("response",)),
    ),
]


@needs_trl
@pytest.mark.parametrize("index", range(len(OWN)))
def test_our_own_examples_render_as_their_own_messages_do(index: int) -> None:
    format, unit, reading = OWN[index]
    assert difference(chats_of(format, unit), reading(unit), tokenize=True) == ""


@needs_trl
def test_prompt_and_completion_of_trl_are_our_messages() -> None:
    from trl.data_utils import apply_chat_template

    unit = {"instruction": "Name the metal.", "input": "It melts at 1085 degrees.", "output": "Copper."}
    (ours,) = chats_of("alpaca", unit)
    prompt = [{"role": "user", "content": "Name the metal.\n\nIt melts at 1085 degrees."}]
    example = {"prompt": prompt, "completion": [{"role": "assistant", "content": "Copper."}]}
    theirs = apply_chat_template(example, tokenizer("smollm2"))
    assert rendered(ours, "smollm2") == theirs["prompt"] + theirs["completion"]


@needs_trl
def test_a_difference_is_seen() -> None:
    one = Chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}])
    other = copy.deepcopy(one)
    other.messages[1]["tool_calls"][0]["function"]["arguments"] = '{"place":"kiln"}'
    assert "qwen3 at" in difference([one], [other], False)
    assert "conversations" in difference([one], [], False)
    other = copy.deepcopy(one)
    other.messages[0]["content"] = "a "
    assert "smollm2 at" in difference([other], [one], False)


@needs_trl
@pytest.mark.parametrize("format", CONVERTERS)
def test_every_example_can_be_rendered(format: str) -> None:
    for chat in chats_of(format, CONVERTERS[format].EXAMPLE):
        for template in template_names(chat):
            assert rendered(chat, template)


# The messages themselves


def told(*parts: Part, role: Any = "assistant", **more: Any) -> list[dict[str, Any]]:
    return to_messages(Conversation((Message(role, parts, **more),)))


def test_thoughts_of_a_field_are_reasoning_and_thoughts_of_a_text_stay_in_it() -> None:
    field = told(Part("thinking", "hm"), Part("text", "Yes."))
    assert field == [{"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}]
    tagged = told(Part("thinking", "hm", before="<think>\n", after="\n</think>\n"), Part("text", "Yes."))
    assert tagged == [{"role": "assistant", "content": "<think>\nhm\n</think>\nYes."}]
    marked = told(Part("thinking", "2+2"), Part("text", "4", before="\n#### "))
    assert marked == [{"role": "assistant", "content": "2+2\n#### 4"}]
    both = told(Part("thinking", "a"), Part("thinking", "b"), Part("text", "Yes."))
    assert both == [{"role": "assistant", "content": "Yes.", "reasoning_content": "a\n\nb"}]


def test_calls_have_objects_where_their_text_is_one() -> None:
    (message,) = told(
        Part("text", "I look."),
        Part("tool_call", '{"place": "kiln", "n": 1}', name="look", call_id="c1", before="<call>", after="</call>"),
        Part("tool_call", "[1]", name="f"),
        Part("tool_call", "", name="g"),
    )
    assert message["content"] == "I look."
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"place": "kiln", "n": 1}}},
        {"type": "function", "function": {"name": "f", "arguments": "[1]"}},
        {"type": "function", "function": {"name": "g", "arguments": ""}},
    ]


def test_what_is_said_behind_a_call_or_thought_behind_a_text_is_a_message_of_its_own() -> None:
    call = Part("tool_call", "{}", name="f")
    messages = told(Part("text", "a"), call, Part("text", "b"), Part("thinking", "hm"), Part("text", "c"), name="bot")
    assert [(m["content"], m.get("reasoning_content"), len(m.get("tool_calls", ())), m["name"]) for m in messages] == [
        ("a", None, 1, "bot"),
        ("b", None, 0, "bot"),
        ("c", "hm", 0, "bot"),
    ]


def test_each_result_is_a_message() -> None:
    first = Part("tool_result", "80", name="look", call_id="c1", before="[", after=",")
    image = Part("media", '{"type":"image","image":"a.png"}')
    assert told(first, image, Part("tool_result", "81"), role="tool", name="sensor") == [
        {
            "role": "tool",
            "content": [{"type": "text", "text": "80"}, {"type": "image", "image": "a.png"}],
            "tool_call_id": "c1",
            "name": "look",
        },
        {"role": "tool", "content": "81", "name": "sensor"},
    ]


def test_contexts_stand_apart_and_other_texts_do_not() -> None:
    parts = (Part("text", "Q"), Part("context", "C1"), Part("context", "C2"))
    assert told(*parts, role="user") == [{"role": "user", "content": "Q\n\nC1\n\nC2"}]
    assert told(Part("text", "a"), Part("text", "b")) == [{"role": "assistant", "content": "ab"}]
    assert told() == [{"role": "assistant", "content": ""}]
    assert told(role="tool") == [{"role": "tool", "content": ""}]


def test_media_that_is_no_json_is_an_item_too() -> None:
    assert told(Part("media", "kiln.png"), role="user")[0]["content"] == [{"type": "file", "file": "kiln.png"}]


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("", None),
        ("[]", None),
        ("not json", None),
        ('["a"]', None),
        ('{"name": "f"}', [{"name": "f"}]),
        ('[{"name": "f"}, {"name": "g"}]', [{"name": "f"}, {"name": "g"}]),
        ("[" * 100_000, None),
    ],
)
def test_tools_are_a_list_of_objects_or_none(text: str, tools: list[Any] | None) -> None:
    assert tools_of(Conversation((), tools=text)) == tools
