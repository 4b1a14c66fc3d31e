"""Formats of one prompt and what follows it: seed tasks, prompt and completion, preferences, rendered dialogues, Alpaca."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import convert, detect_format, format_votes
from converters.chat_text import is_rendered, rendered_messages
from pipeline.conversation import Conversation, Message, Part, RecordError


def one(format: str, unit: Any) -> Conversation:
    (conversation,) = every(format, unit)
    return conversation


def every(format: str, unit: Any) -> list[Conversation]:
    return [item for item in convert(format, unit) if isinstance(item, Conversation)]


def said(conversation: Conversation) -> list[tuple[str, str, str]]:
    return [(m.role, p.name or p.kind, p.text) for m in conversation.messages for p in m.parts]


def code_of(format: str, unit: Any) -> str:
    with pytest.raises(RecordError) as caught:
        list(convert(format, unit))
    return caught.value.code


# --- Alpaca ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["output", "response", "answer", "completion"])
@pytest.mark.parametrize("context", ["input", "context"])
def test_alpaca_under_the_names_of_its_descendants(answer: str, context: str) -> None:
    unit = {"instruction": "a", context: "b", answer: "c", "category": "d"}
    assert format_votes([unit]) == {"alpaca": 1}
    conversation = one("alpaca", unit)
    assert said(conversation) == [("user", "text", "a"), ("user", "context", "b"), ("assistant", "text", "c")]
    assert conversation.extra == {"category": "d"}


def test_alpaca_observations_are_the_tools() -> None:
    output = "Thought: a\nAction: search[b]\nObservation: c\nThought: d\nAction: finish[e]\n"
    conversation = one("alpaca", {"instruction": "q", "input": "", "output": output})
    assert [m.role for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    assert said(conversation)[1:] == [
        ("assistant", "thinking", "a"), ("assistant", "search", "b"), ("tool", "tool_result", "c"),
        ("assistant", "thinking", "d"), ("assistant", "finish", "e"),
    ]  # fmt: skip
    assert "".join(m.rebuild() for m in conversation.messages[1:]) == output


def test_alpaca_observations_in_the_history_are_the_tools_too() -> None:
    history = [["q", "Action: f[a]\nObservation: b\nFinal Answer: c"]]
    roles = [m.role for m in one("alpaca", {"instruction": "d", "output": "e", "history": history}).messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]


def test_calls_within_a_sentence_are_calls_where_the_instruction_names_the_tool() -> None:
    header = "toolformer: enabled\ntoolformer access: clock\nWhat time is it?"
    unit = {"instruction": header, "input": "", "response": "It is clock('Oslo') in Oslo."}
    assert said(one("alpaca", unit))[1:] == [
        ("assistant", "text", "It is "), ("assistant", "clock", "'Oslo'"), ("assistant", "text", " in Oslo."),
    ]  # fmt: skip
    assert said(one("alpaca", {**unit, "instruction": "What time is it?"}))[1:] == [
        ("assistant", "text", "It is clock('Oslo') in Oslo.")
    ]


def test_an_answer_that_only_calls_is_one() -> None:
    assert said(one("alpaca", {"instruction": "a", "output": '<tool_call>{"name": "f"}</tool_call>'}))[1][1] == "f"


# --- seed tasks -----------------------------------------------------------------------------------------------------------


def test_each_instance_of_a_task_is_a_conversation_of_its_group() -> None:
    unit = {
        "id": "t_1", "name": "n", "instruction": "a", "is_classification": True,
        "instances": [{"input": "b", "output": "c", "score": 1}, {"input": "", "output": "d"}],
    }  # fmt: skip
    assert format_votes([unit]) == {"seed_tasks": 1}
    first, second = every("seed_tasks", unit)
    assert said(first) == [("user", "text", "a"), ("user", "context", "b"), ("assistant", "text", "c")]
    assert said(second) == [("user", "text", "a"), ("assistant", "text", "d")]
    assert first.group == second.group == "seed_task:t_1"
    assert first.extra == {"id": "t_1", "name": "n", "is_classification": True, "instance": {"score": 1}}
    assert second.extra == {"id": "t_1", "name": "n", "is_classification": True}


def test_a_task_without_an_id_is_grouped_by_its_instruction() -> None:
    tasks = [
        {"instruction": text, "instances": [{"input": "b", "output": "c"}]} for text in ("Do it.", " do  it.", "No.")
    ]
    groups = [one("seed_tasks", task).group for task in tasks]
    assert groups[0] == groups[1] != groups[2]


# --- prompt and completion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("prompt", "completion"), ("prompt", "response"), ("prompt", "output"), ("inputs", "targets")],
)
def test_prompt_and_completion(prompt: str, completion: str) -> None:
    unit = {prompt: "a", completion: " b\n", "k": 1}
    assert format_votes([unit]) == {"prompt_completion": 1}
    conversation = one("prompt_completion", unit)
    assert said(conversation) == [("user", "text", "a"), ("assistant", "text", " b\n")]
    assert conversation.extra == {"k": 1}


def test_prompt_and_completion_as_messages() -> None:
    unit = {
        "prompt": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c", "k": 1},
        ],
        "completion": [{"role": "assistant", "content": "<think>d</think>e"}],
        "tools": [{"name": "f"}],
    }
    assert format_votes([unit]) == {"prompt_completion": 1}
    conversation = one("prompt_completion", unit)
    assert [(role, text) for role, _, text in said(conversation)] == [
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("assistant", "e"),
    ]  # fmt: skip
    assert [m.weight for m in conversation.messages] == [1, 1, 0, 1, 1]
    assert conversation.extra == {"messages": {"3": {"k": 1}}}
    assert conversation.tools == '[{"name":"f"}]'


@pytest.mark.parametrize(("label", "weight"), [(True, 1.0), (False, 0.0), (0, 1.0), (None, 1.0)])
def test_an_unwanted_completion_is_not_trained(label: Any, weight: float) -> None:
    conversation = one("prompt_completion", {"prompt": "a", "completion": "b", "label": label})
    assert conversation.messages[1].weight == weight
    assert conversation.extra == {"label": label}


def test_a_rendered_prompt_is_read_with_its_completion() -> None:
    unit = {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "completion": " d"}
    conversation = one("prompt_completion", unit)
    assert said(conversation) == [
        ("user", "text", "a"), ("assistant", "text", "b"), ("user", "text", "c"), ("assistant", "text", "d"),
    ]  # fmt: skip
    assert [m.weight for m in conversation.messages] == [1, 0, 1, 1]
    assert "".join(m.rebuild() for m in conversation.messages) == unit["prompt"] + unit["completion"]


# --- preferences ------------------------------------------------------------------------------------------------------------


def test_the_chosen_answer_is_read_and_the_rejected_one_kept() -> None:
    unit = {"system": "s", "question": "a", "chosen": "b", "rejected": "c", "margin": 2}
    assert format_votes([unit]) == {"preference": 1}
    conversation = one("preference", unit)
    assert said(conversation) == [("system", "text", "s"), ("user", "text", "a"), ("assistant", "text", "b")]
    assert conversation.extra == {"rejected": "c", "margin": 2}


def test_two_dialogues_that_differ_at_their_end() -> None:
    chosen = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    unit = {"chosen": chosen, "rejected": chosen[:-1] + "e"}
    assert format_votes([unit]) == {"preference": 1}
    conversation = one("preference", unit)
    assert [m.role for m in conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert "".join(m.rebuild() for m in conversation.messages) == chosen
    assert [m.weight for m in conversation.messages] == [1, 1, 1, 1]
    assert conversation.extra == {"rejected": chosen[:-1] + "e"}


USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("assistant", "c"))
)


@pytest.mark.parametrize(
    ("unit", "extra"),
    [
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, {"rejected": [BAD]}),
        ({"prompt": "a", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, {"prompt": "a", "rejected": [USER, BAD]}),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, {"rejected": [USER, BAD]}),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, {"rejected": "c"}),
        (
            {
                "conversations": [{"from": "human", "value": "a"}],
                "chosen": {"from": "gpt", "value": "b"},
                "rejected": {"from": "gpt", "value": "c"},
            },
            {"rejected": {"from": "gpt", "value": "c"}},
        ),
    ],
)
def test_other_shapes_of_a_preference(unit: Any, extra: Any) -> None:
    assert detect_format([unit]) == "preference"
    conversation = one("preference", unit)
    assert said(conversation) == [("user", "text", "a"), ("assistant", "text", "b")]
    assert conversation.extra == extra


# --- rendered dialogues -------------------------------------------------------------------------------------------------------

SYSTEM, ASKED, ANSWER = ("system", "text", "s"), ("user", "text", "a\nb"), ("assistant", "text", "c")
RENDERED = {
    "chatml": "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\na\nb<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nc<|eot_id|><|end_of_text|>",
    "llama2": "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na\nb [/INST] c </s>",
    "phi": "<|system|>\ns<|end|>\n<|user|>\na\nb<|end|>\n<|assistant|>\nc<|end|>\n<|endoftext|>",
    "zephyr": "<|system|>\ns</s>\n<|user|>\na\nb</s>\n<|assistant|>\nc</s>\n",
    "tulu": "<|system|>\ns\n<|user|>\na\nb\n<|assistant|>\nc<|endoftext|>",
    "harmony": "<|start|>system<|message|>s<|end|><|start|>user<|message|>a\nb<|end|>"
    "<|start|>assistant<|channel|>final<|message|>c<|return|>",
    "human": "\n\nHuman: a\nb\n\nAssistant: c",
    "guanaco": "### System: s### Human: a\nb### Assistant: c</s>",
    "alpaca": "Below is an instruction.\n\n### Instruction:\na\nb\n\n### Response:\nc</s>",
    "gemma": "<bos><start_of_turn>user\na\nb<end_of_turn>\n<start_of_turn>model\nc<end_of_turn>\n",
    "glaive": "USER: a\nb\n\n\nASSISTANT: c <|endoftext|>\n\n\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_templates(name: str) -> None:
    text = RENDERED[name]
    unit = {"text": text, "k": 1}
    assert format_votes([unit]) == {"chat_text": 1}
    conversation = one("chat_text", unit)
    assert "".join(m.rebuild() for m in conversation.messages) == text
    opening = {"alpaca": [("system", "text", "Below is an instruction.")], "human": [], "gemma": [], "glaive": []}
    assert said(conversation) == [*opening.get(name, [SYSTEM]), ASKED, ANSWER]
    assert not any(part.interrupted for m in conversation.messages for part in m.parts)
    assert conversation.extra == {"k": 1}


def test_alpacas_input_is_context() -> None:
    text = "### Instruction:\na\n\n### Input:\nb\n\n### Response:\nc\n### Input: of this kind"
    assert said(one("chat_text", {"text": text})) == [
        ("user", "text", "a"), ("user", "context", "b"), ("assistant", "text", "c\n### Input: of this kind"),
    ]  # fmt: skip


def test_several_turns_of_llama_2() -> None:
    text = "<s>[INST] a [/INST] b </s><s>[INST] c [/INST] d </s>"
    assert [t for _, _, t in said(one("chat_text", {"text": text}))] == ["a", "b", "c", "d"]
    assert [t for _, _, t in said(one("chat_text", {"text": "[INST]a[/INST]b[INST]c[/INST]d"}))] == ["a", "b", "c", "d"]


def test_calls_and_results_of_a_rendered_dialogue() -> None:
    text = (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nb\n</think>\n\n"
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nc\n</tool_response><|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n"
    )
    conversation = one("chat_text", {"text": text})
    assert said(conversation) == [
        ("user", "text", "a"), ("assistant", "thinking", "b"), ("assistant", "f", "{}"), ("tool", "tool_result", "c"),
        ("assistant", "text", "d"),
    ]  # fmt: skip
    assert "".join(m.rebuild() for m in conversation.messages) == text


def test_calls_of_llama_3() -> None:
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n{}".format
    call = '<|python_tag|>{"name": "f", "parameters": {"x": 1}}'
    text = (
        turn("assistant", call + "<|eom_id|>")
        + turn("ipython", "a<|eot_id|>")
        + turn("assistant", "<|python_tag|>1+1<|eom_id|>")
    )
    conversation = one("chat_text", {"text": text})
    assert said(conversation) == [
        ("assistant", "f", '{"x": 1}'),
        ("tool", "tool_result", "a"),
        ("assistant", "python_tag", "1+1"),
    ]
    assert "".join(m.rebuild() for m in conversation.messages) == text


def test_calls_of_harmony() -> None:
    text = (
        "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>'
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>c<|end|>"
        "<|start|>assistant<|channel|>final<|message|>d<|return|>"
    )
    conversation = one("chat_text", {"text": text})
    assert said(conversation) == [
        ("user", "text", "a"), ("assistant", "thinking", "b"), ("assistant", "functions.f", '{"x": 1}'),
        ("tool", "functions.f", "c"), ("assistant", "text", "d"),
    ]  # fmt: skip
    assert "".join(m.rebuild() for m in conversation.messages) == text


def test_calls_of_glaive() -> None:
    chat = (
        'USER: a\n\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"x": 1}\'} <|endoftext|>\n\n\n'
        'FUNCTION RESPONSE: {"y": 2}\n\n\nASSISTANT: b <|endoftext|>\n'
    )
    conversation = one("chat_text", {"system": "SYSTEM: s", "chat": chat})
    assert said(conversation) == [
        ("system", "text", "SYSTEM: s"), ("user", "text", "a"), ("assistant", "f", '{"x": 1}'),
        ("tool", "tool_result", '{"y": 2}'), ("assistant", "text", "b"),
    ]  # fmt: skip
    assert "".join(m.rebuild() for m in conversation.messages[1:]) == chat


def test_a_last_turn_that_is_not_closed_was_cut_off_and_an_empty_one_says_nothing() -> None:
    head = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    cut = one("chat_text", {"text": head + "<think>b</think>c"}).messages[1]
    assert [(part.text, part.interrupted) for part in cut.parts] == [("b", False), ("c", True)]
    prompt = one("chat_text", {"text": head})
    assert prompt.messages[1] == Message("assistant", (Part("text", before="<|im_start|>assistant\n"),))
    assert not prompt.has_output()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("<|im_start|>user\na<|im_end|>\nStray.<|im_start|>assistant\nb<|im_end|>", "at character 29 is 'Stray."),
        ("<|im_start|>user\na\n<|im_start|>assistant\nb<|im_end|>", "at character 19 is '<|im_start|>assistant"),
        ("[INST] a [/INST] b </s> c", "at character 24 is 'c'"),
        ("[INST] a", "at character 0 is "),
        ("[INST] a [/INST] [TOOL_CALLS] []</s>", "at character 17 is "),
        ("<|start|>user<|message|>a<|start|>assistant<|message|>b<|end|>", "at character 25 is "),
        ("Once upon a time.", "no known chat template"),
    ],
)
def test_text_that_is_not_turns_from_end_to_end_is_rejected_with_its_place(text: str, place: str) -> None:
    with pytest.raises(RecordError, match="text ") as caught:
        one("chat_text", {"text": text})
    assert caught.value.code == "unparsed_text"
    assert place in str(caught.value)


@pytest.mark.parametrize(
    "unit",
    [
        {"text": "Once upon a time there was a saw."},
        {"text": "Human: was the only word."},
        {"text": "The mark <|im_start|>user\nopens a turn."},
        {"text": "<p>Hello</p>"},
        {"text": "The mark <|user|> opens a turn."},
        {"text": "### Instruction:\nRead this page."},
        {"text": "[INFO] started"},
        {"text": ["<|im_start|>user\na"]},
        {"text": ""},
    ],
)
def test_other_text_is_not_claimed(unit: Any) -> None:
    assert detect_format([unit]) is None


def test_a_rendered_copy_beside_the_fields_is_not_what_is_read() -> None:
    unit = {"instruction": "a", "input": "", "output": "b", "text": RENDERED["alpaca"]}
    assert format_votes([unit]) == {"alpaca": 1}
    assert one("alpaca", unit).extra == {"text": unit["text"]}


MARKS = (
    "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>", "<|user|>", "<|assistant|>", "</s>", "<s>", "[INST]",
    "[/INST]", "<<SYS>>", "<</SYS>>", "<|start|>user", "<|message|>", "<|channel|>final", "<|end|>", "\n\nHuman:",
    "\n\nAssistant:", "### Human:", "### Assistant:", "### Instruction:", "### Input:", "### Response:", "\n", " ", "a",
    "USER:", "\nASSISTANT:", "\nFUNCTION RESPONSE:", "<|python_tag|>", "<functioncall>", "{}",
)  # fmt: skip


@given(
    st.sampled_from(["", *RENDERED.values()]),
    st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=14).map("".join),
)
def test_rendered_text_is_rebuilt_or_rejected(head: str, tail: str) -> None:
    try:
        messages = rendered_messages(head + tail, "text")
    except RecordError:
        return
    assert is_rendered(head + tail)
    assert "".join(message.rebuild() for message in messages) == head + tail


@pytest.mark.parametrize("head", RENDERED.values())
def test_time_is_linear_in_a_rendered_text(head: str) -> None:
    start = time.perf_counter()
    for piece in (head, *MARKS):
        with contextlib.suppress(RecordError):
            rendered_messages(head + piece * 4_000, "text")
    assert time.perf_counter() - start < 4


# --- what cannot be honoured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "unit", "code"),
    [
        ("seed_tasks", {"instruction": "a"}, "missing_field"),
        ("seed_tasks", {"instruction": "a", "instances": []}, "no_messages"),
        ("seed_tasks", {"instruction": "a", "instances": [{"input": ""}]}, "missing_field"),
        ("seed_tasks", {"instruction": "a", "instances": [{"input": "", "output": " "}]}, "empty_answer"),
        ("seed_tasks", {"instruction": "", "instances": [{"input": "", "output": "a"}]}, "empty_question"),
        ("seed_tasks", {"instruction": "a", "instances": [{"input": 1, "output": "a"}]}, "wrong_type"),
        ("prompt_completion", {"prompt": "a"}, "missing_field"),
        ("prompt_completion", {"prompt": "", "completion": "b"}, "empty_question"),
        ("prompt_completion", {"prompt": "a", "completion": " "}, "empty_answer"),
        ("prompt_completion", {"prompt": "a", "completion": []}, "no_messages"),
        ("prompt_completion", {"prompt": 1, "completion": "b"}, "wrong_type"),
        ("prompt_completion", {"prompt": [{"role": "x", "content": "a"}], "completion": "b"}, "unknown_role"),
        ("preference", {"prompt": "a", "chosen": "b"}, "missing_field"),
        ("preference", {"chosen": "b", "rejected": "c"}, "missing_field"),
        ("preference", {"prompt": "a", "chosen": "", "rejected": "c"}, "empty_answer"),
        ("preference", {"prompt": "a", "chosen": 1, "rejected": "c"}, "wrong_type"),
        ("chat_text", {}, "missing_field"),
        ("chat_text", {"text": "<|im_start|>narrator\na<|im_end|>"}, "unknown_role"),
        ("chat_text", {"text": "<|im_start|>user\n<|im_end|>"}, "empty_conversation"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(format: str, unit: Any, code: str) -> None:
    assert code_of(format, unit) == code


@pytest.mark.parametrize(
    ("unit", "formats"),
    [
        ({"prompt": "a", "completion": "b", "messages": [USER]}, {"openai_messages": 1}),
        ({"instruction": "a", "completions": [{"response": "b"}]}, {}),
        ({"chosen": "b", "rejected": "c"}, {}),
        ({"prompt": "a", "chosen": "b"}, {}),
        ({"prompt": "a", "completion": 1}, {}),
        ({"prompt": "a", "rejected": "c", "chosen": ["b"]}, {}),
        ({"query": "a", "response": "b"}, {"prompt_completion": 1}),
        ({"query": "a", "response": "b", "options": []}, {}),
        ({"instruction": "a", "instances": []}, {}),
    ],
)
def test_detect_leaves_other_shapes_alone(unit: Any, formats: dict[str, int]) -> None:
    assert format_votes([unit]) == formats
