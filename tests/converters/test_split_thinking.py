"""Think tags: what is thought, what is said, and that nothing is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from converters.markup.thinking import has_thinking, split_thinking
from pipeline.conversation import Message, Part

TAGS = (
    "<think>", "</think>", "<answer>", "</answer>", "<thinking>", "</thinking>",
    "<Thought>", "</Thought>", "<Output>", "</Output>",
    "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>",
)  # fmt: skip
tagged_texts = st.lists(
    st.sampled_from((*TAGS, "\n", " ", "\t", "\r\n", "a", "b c", "é\u2028", "`")) | st.text(max_size=6)
).map("".join)


def kinds(text: str) -> list[tuple[str, str]]:
    return [(part.kind, part.text) for part in split_thinking(text)]


@given(tagged_texts)
@example("<think>\n\n</think>\n\n")
@example("<think>a<think>b</think>c</think>\nd")
@example("</think>\n<think></think><answer>")
def test_parts_and_delimiters_rebuild_the_text(text: str) -> None:
    parts = split_thinking(text)
    assert Message("assistant", parts).rebuild() == text
    assert all(part.source is None for part in parts)


@given(tagged_texts)
def test_a_part_is_empty_only_where_it_alone_holds_delimiters_or_was_cut_off(text: str) -> None:
    parts = split_thinking(text)
    assert all(part.text or part.interrupted or len(parts) == 1 for part in parts)
    assert bool(parts) == bool(text)


@given(tagged_texts)
def test_only_the_last_part_is_interrupted(text: str) -> None:
    assert not any(part.interrupted for part in split_thinking(text)[:-1])


@given(tagged_texts)
def test_a_thought_is_found_where_has_thinking_says_so(text: str) -> None:
    if any(part.kind == "thinking" for part in split_thinking(text)):
        assert has_thinking(text)
    if not has_thinking(text):
        assert split_thinking(text) == ((Part("text", text),) if text else ())


@given(tagged_texts)
def test_parts_of_a_tagged_text_have_no_white_space_beside_their_tags(text: str) -> None:
    for part in split_thinking(text):
        if part.before.endswith(">") or part.before.rstrip() != part.before:
            assert part.text.lstrip() == part.text
        if part.after:
            assert part.text.rstrip() == part.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nsteps\n</think>\n\n42", [("thinking", "steps"), ("text", "42")]),
        ("steps\n</think>\n\n42", [("thinking", "steps"), ("text", "42")]),
        (" steps.</think>\n\n <answer> 42 </answer>", [("thinking", " steps."), ("text", "42")]),
        ("<think>a</think><answer>b</answer>", [("thinking", "a"), ("text", "b")]),
        ("<Thought>\na\n</Thought>\n<Output>\nb\n</Output>", [("thinking", "a"), ("text", "b")]),
        (
            "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nb \n<|end_of_solution|>",
            [("thinking", "a"), ("text", "b")],
        ),
        (
            "<think>a</think>\nb\n<think>c</think>\nd",
            [("thinking", "a"), ("text", "b"), ("thinking", "c"), ("text", "d")],
        ),
        ("<think>a</think><think>b</think>c", [("thinking", "a"), ("thinking", "b"), ("text", "c")]),
        ("<think>a <think> b</think>c", [("thinking", "a <think> b"), ("text", "c")]),
        ("<think>\n\n</think>\n\n42", [("text", "42")]),
        ("<think></think>", [("text", "")]),
        ("<Thought>a</Thought><Output>b</Output>c", [("thinking", "a"), ("text", "b"), ("text", "c")]),
        ("<think>a\n<answer>b</answer>", [("thinking", "a"), ("text", "b")]),
        (" untagged \n", [("text", " untagged \n")]),
        ("", []),
    ],
)
def test_thought_and_answer(text: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Write `<think>` before and `</think>` after.",
        "The tag </think> closes it.",
        "Use <think>\n...\n</think>\nlike this.",
        "<answer>42</answer>",
        "<tool_call>\n{}\n</tool_call>",
    ],
)
def test_tags_that_are_only_talked_about_stay_text(text: str) -> None:
    assert kinds(text) == [("text", text)]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("<think>\na b", Part("thinking", "a b", before="<think>\n", interrupted=True)),
        ("<think>", Part("thinking", "", before="<think>", interrupted=True)),
        ("<Thought>a</Thought>\n<Output>\nb ", Part("text", "b ", before="<Output>\n", interrupted=True)),
        ("<think>a</think>b\n<think>c", Part("thinking", "c", before="\n<think>", interrupted=True)),
    ],
)
def test_a_tag_never_closed_leaves_its_part_interrupted(text: str, cut: Part) -> None:
    assert split_thinking(text)[-1] == cut


def test_a_thought_closed_without_an_answer_is_not_interrupted() -> None:
    assert split_thinking("<think>a</think>\n") == (Part("thinking", "a", before="<think>", after="</think>\n"),)


def test_delimiters_of_empty_tags_go_to_the_neighbour() -> None:
    assert split_thinking("<think>\n\n</think>\n\nhi") == (Part("text", "hi", before="<think>\n\n</think>\n\n"),)
    assert split_thinking("<Thought>a</Thought><Output></Output>")[0].after == "</Thought><Output></Output>"


@pytest.mark.parametrize(
    "piece", ["<think>a</think>\n", "<think>\n<answer>b</answer>\n", "<think>a</think>\n \t", "a\n<think>"]
)
def test_time_is_linear_in_the_text(piece: str) -> None:
    start = time.perf_counter()
    split_thinking("<think>" + piece * 40_000)
    assert time.perf_counter() - start < 5
