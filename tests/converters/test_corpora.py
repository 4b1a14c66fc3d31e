"""The real corpora: right format, every unit accounted for, text exact, nothing lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raw_walker import strings

from converters import convert, detect_format
from converters.shared.fields import json_text
from pipeline.conversation import Conversation, Part, conversation_id
from pipeline.timeline import spans_of

Read = Callable[[str], list[Any]]
#: File, format, number of units.
FILES = [
    ("math-gsm8k/train.jsonl", "math_qa", 800),
    ("openai-tau-bench-airline/gpt-4o-airline.json.gz", "openai_messages", 79),
    ("openai-fireact-messages/multitask_multimethod.jsonl", "openai_messages", 184),
    ("openai-reasoning-content-xtuner/qwen35_tokenize_data.jsonl", "openai_messages", 17),
    ("openai-mistral-samples/get_weather_full.json", "openai_messages", 1),
    ("openai-mistral-samples/get_weather_no_history.json", "openai_messages", 1),
    ("openai-mistral-samples/get_weather_no_system_prompt.json", "openai_messages", 1),
    ("openai-mistral-samples/no_tools.json", "openai_messages", 1),
    ("openai-mistral-samples/parallel_calls.json", "openai_messages", 1),
    ("openai-mistral-samples/several_calls.json", "openai_messages", 1),
    ("sharegpt-glaive-toolcall/glaive_toolcall_en_demo.json", "sharegpt", 200),
    ("sharegpt-glaive-toolcall/glaive_toolcall_zh_demo.json", "sharegpt", 120),
    ("sharegpt-fastchat-dummy/dummy_conversation.json", "sharegpt", 500),
    ("sharegpt-axolotl-fixtures/conversation.json", "sharegpt", 1),
    ("sharegpt-axolotl-fixtures/conversation.missingturns.json", "sharegpt", 1),
    ("alpaca-gpteacher/codegen-instruct.json", "alpaca", 700),
    ("alpaca-gpteacher/toolformer-similarity-0.6-dataset.json", "alpaca", 300),
    ("alpaca-fireact/multitask_multimethod.json", "alpaca", 499),
    ("alpaca-seed-tasks/seed_tasks.jsonl", "seed_tasks", 173),
    ("agent-webdancer/sample_traj.jsonl.gz", "openai_messages", 70),
    ("think-skythought-math/test_Sky-T1_math500.jsonl.gz", "think_tagged", 150),
    ("think-star1/STAR-1.json", "think_tagged", 54),
    ("think-marco-o1/CoT_demo.json", "think_tagged", 125),
    ("think-r1-searcher/bamboogle_qwen.jsonl", "think_tagged", 80),
    ("rc-pubmedqa/ori_pqal.json", "context_qa", 250),
]
RESPONSE = {"think-skythought-math": "code", "think-r1-searcher": "gen_text_store"}


def converted(units: list[Any], format: str) -> list[Conversation]:
    return [item for unit in units for item in convert(format, unit) if isinstance(item, Conversation)]


@pytest.mark.parametrize(("path", "format", "count"), FILES)
def test_every_unit_becomes_one_conversation_that_rebuilds_its_texts(
    path: str, format: str, count: int, read_corpus: Read
) -> None:
    units = read_corpus(path)
    assert len(units) == count
    assert detect_format(units) == format
    conversations = converted(units, format)
    assert len(conversations) == count
    for unit, conversation in zip(units, conversations, strict=True):
        assert "".join(m.rebuild() for m in conversation.messages) == "".join(source_texts(path, format, unit))
        assert conversation_id(conversation)
        spans_of(conversation)


def source_texts(path: str, format: str, unit: Any) -> Iterator[str]:
    """The text of each message as the source holds it, written without the converters."""
    if format == "openai_messages":
        for message in unit["traj" if "traj" in unit else "messages"]:
            yield "".join(openai_texts(message))
    elif format == "sharegpt":
        yield from (turn["value"] for turn in unit["conversations"])
    elif format == "context_qa":
        yield unit["QUESTION"] + "".join(unit["CONTEXTS"])
        yield unit["LONG_ANSWER"] + unit["final_decision"]
    elif format == "seed_tasks":
        (instance,) = unit["instances"]
        yield from (unit["instruction"], instance["input"], instance["output"])
    else:
        response = unit[
            RESPONSE.get(path.split("/")[0], next((k for k in ("output", "response") if k in unit), "answer"))
        ]
        yield unit.get("question", unit.get("instruction")) + unit.get("input", "")
        yield response[0] if isinstance(response, list) else response


def openai_texts(message: dict[str, Any]) -> Iterator[str]:
    yield message.get("reasoning_content") or ""
    content = message.get("content") or ""
    yield from [content] if isinstance(content, str) else (item.get("text") or json_text(item) for item in content)
    for call in message.get("tool_calls") or []:
        arguments = call["function"]["arguments"]
        yield arguments if isinstance(arguments, str) else json_text(arguments)


#: Strings that the model of a conversation says in another way.
STRUCTURE = {
    "system", "user", "assistant", "tool", "human", "gpt", "function_call", "observation", "function", "text", "", "[]",
}  # fmt: skip


@pytest.mark.parametrize(("path", "format", "count"), FILES)
def test_no_string_of_a_record_is_lost(path: str, format: str, count: int, read_corpus: Read) -> None:
    for unit in read_corpus(path):
        (conversation,) = converted([unit], format)
        kept = set(strings(conversation.extra)) | {conversation.tools}
        written = [conversation.tools, "".join(message.rebuild() for message in conversation.messages)]
        for message in conversation.messages:
            kept |= {message.rebuild(), message.name or ""}
            for part in message.parts:
                kept |= {part.rebuild(), part.text, part.name or "", part.call_id or ""}
                written.append(part.text)
        for string in set(strings(unit)) - kept - STRUCTURE:
            assert any(string in text or json.dumps(string, ensure_ascii=False) in text for text in written), string


def test_skythought_tags_are_counted_as_the_readme_counts_them(read_corpus: Read) -> None:
    path = "think-skythought-math/test_Sky-T1_math500.jsonl.gz"
    shapes: Counter[tuple[tuple[str, bool], ...]] = Counter()
    for conversation in converted(read_corpus(path), "think_tagged"):
        shapes[tuple((part.kind, part.interrupted) for part in conversation.messages[1].parts)] += 1
        assert {"gt_cot", "gt", "answer", "solution", "idx"} <= conversation.extra.keys()
    thought, said = ("thinking", False), ("text", False)
    assert shapes == {
        (thought, said): 58 + 1,
        (said,): 63,
        (("thinking", True),): 24,
        (thought, ("text", True)): 4,
    }


def test_other_think_corpora_have_one_thought_and_one_answer(read_corpus: Read) -> None:
    for path, cut_off in (("think-star1/STAR-1.json", 0), ("think-marco-o1/CoT_demo.json", 2)):
        answers = [conversation.messages[1].parts for conversation in converted(read_corpus(path), "think_tagged")]
        assert {tuple(part.kind for part in parts) for parts in answers} == {("thinking", "text")}
        assert sum(part.interrupted for parts in answers for part in parts) == cut_off
        assert not any(tag in parts[1].text for parts in answers for tag in ("</think>", "<Output>", "<answer>"))


def test_gsm8k_final_answers(read_corpus: Read) -> None:
    finals = [c.messages[1].parts[-1] for c in converted(read_corpus("math-gsm8k/train.jsonl"), "math_qa")]
    assert all(part.before == "\n#### " and part.after == "" for part in finals)
    assert sum("," in part.text for part in finals) == 6


def test_tau_bench_results_calls_and_groups(read_corpus: Read) -> None:
    conversations = converted(read_corpus("openai-tau-bench-airline/gpt-4o-airline.json.gz"), "openai_messages")
    parts = [part for c in conversations for message in c.messages for part in message.parts]
    results = [part for part in parts if part.kind == "tool_result"]
    assert (len(results), sum(not part.text for part in results)) == (504, 48)
    assert sum(part.kind == "tool_call" for part in parts) == 504
    assert all(
        c.group == f"task_id:{c.extra['task_id']}" and c.extra.keys() == {"task_id", "reward", "info", "trial"}
        for c in conversations
    )


def test_glaive_calls_and_tools(read_corpus: Read) -> None:
    called = without_tools = 0
    for language in ("en", "zh"):
        units = read_corpus(f"sharegpt-glaive-toolcall/glaive_toolcall_{language}_demo.json")
        for unit, conversation in zip(units, converted(units, "sharegpt"), strict=True):
            calls = [part for message in conversation.messages for part in message.parts if part.kind == "tool_call"]
            called += bool(calls)
            without_tools += not conversation.tools
            assert conversation.tools in (unit["tools"], "")
            for part in calls:
                assert part.source is not None
                assert part.text in part.source
                assert json.loads(part.source) == {"name": part.name, "arguments": json.loads(part.text)}
    assert (called, without_tools) == (320 - 156, 120)


def test_an_empty_turn_says_nothing(read_corpus: Read) -> None:
    (conversation,) = converted(read_corpus("sharegpt-axolotl-fixtures/conversation.missingturns.json"), "sharegpt")
    assert sum(not message.parts for message in conversation.messages) == 1


def test_xtuner_thoughts_weights_media_and_objects(read_corpus: Read) -> None:
    conversations = converted(
        read_corpus("openai-reasoning-content-xtuner/qwen35_tokenize_data.jsonl"), "openai_messages"
    )
    messages = [message for conversation in conversations for message in conversation.messages]
    parts = [part for message in messages for part in message.parts]
    assert sum(message.weight == 0 for message in messages) == 2
    assert Part("tool_call", '{"location":"Boston"}', name="get_weather", call_id="call_123") in parts
    assert sum(part.kind == "tool_result" and part.call_id is None for part in parts) == 9
    assert any(part.kind == "media" for part in parts)


def shapes(conversations: list[Conversation]) -> Counter[str]:
    """How often each order of messages occurs: the initial of the role, then of each part's kind (``c`` for a call)."""
    letter = {"thinking": "t", "text": "s", "tool_call": "c", "tool_result": "r", "context": "x", "media": "m"}
    return Counter(
        " ".join(m.role[0] + "".join(letter[p.kind] for p in m.parts) for m in c.messages) for c in conversations
    )


def kinds(conversations: list[Conversation]) -> Counter[tuple[str, str]]:
    return Counter((m.role, p.kind) for c in conversations for m in c.messages for p in m.parts)


@pytest.mark.parametrize(
    ("path", "format", "steps"),
    [
        ("alpaca-fireact/multitask_multimethod.json", "alpaca", 1381),
        ("openai-fireact-messages/multitask_multimethod.jsonl", "openai_messages", 378),
    ],
)
def test_fireact_observations_are_the_tools(path: str, format: str, steps: int, read_corpus: Read) -> None:
    conversations = converted(read_corpus(path), format)
    assert kinds(conversations) == {
        ("user", "text"): len(conversations),
        ("assistant", "thinking"): steps,
        ("assistant", "tool_call"): steps,
        ("tool", "tool_result"): steps,
    }
    parts = [part for c in conversations for m in c.messages for part in m.parts]
    assert {part.name for part in parts if part.kind == "tool_call"} == {"search", "finish"}
    assert all(part.before == "Observation: " for part in parts if part.kind == "tool_result")
    assert all("Observation:" not in part.text for part in parts)


def test_webdancer_calls_and_their_responses(read_corpus: Read) -> None:
    units = read_corpus("agent-webdancer/sample_traj.jsonl.gz")
    conversations = converted(units, "openai_messages")
    assert shapes(conversations) == {
        "ss us atc tr ats": 66,
        "ss us atc tr atc tr ats": 3,
        "ss us atc tr atc tr atc tr ats": 1,
    }
    for unit, conversation in zip(units, conversations, strict=True):
        assert conversation.tools == json_text(unit["functions"])
        assert "<tool_response>" in conversation.messages[1].parts[0].text
        assert not any("tool_response>" in p.text for m in conversation.messages[2:] for p in m.parts)
        for call in (p for m in conversation.messages for p in m.parts if p.kind == "tool_call"):
            assert call.source is not None
            written = json.loads(call.source.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            assert written == {"name": call.name, "arguments": json.loads(call.text)}


def test_r1_searcher_documents_are_the_tools(read_corpus: Read) -> None:
    conversations = converted(read_corpus("think-r1-searcher/bamboogle_qwen.jsonl"), "think_tagged")
    assert shapes(conversations) == {"us atc tr atc tr ats": 60, "us atc tr ats": 18, "us ats": 2}
    parts = [(m.role, part) for c in conversations for m in c.messages for part in m.parts]
    assert not any(
        tag in part.text for _, part in parts for tag in ("_of_documents", "_of_query", "</think>", "<answer>")
    )
    assert all(part.text.startswith("(1)") for role, part in parts if role == "tool")


def test_toolformer_calls_in_sentences(read_corpus: Read) -> None:
    conversations = converted(read_corpus("alpaca-gpteacher/toolformer-similarity-0.6-dataset.json"), "alpaca")
    calls = [[part for part in c.messages[-1].parts if part.kind == "tool_call"] for c in conversations]
    assert Counter(map(len, calls)) == {1: 281, 2: 17, 0: 2}
    assert all(part.text[0] in "'\"" and part.text[0] == part.text[-1] for found in calls for part in found)


def test_text_without_markup_is_one_part(read_corpus: Read) -> None:
    for path, format in (
        ("alpaca-gpteacher/codegen-instruct.json", "alpaca"),
        ("alpaca-seed-tasks/seed_tasks.jsonl", "seed_tasks"),
        ("sharegpt-fastchat-dummy/dummy_conversation.json", "sharegpt"),
    ):
        found = kinds(converted(read_corpus(path), format))
        assert {kind for role, kind in found if role == "assistant"} == {"text"}
        assert not any(role == "tool" for role, _ in found)
