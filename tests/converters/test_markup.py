"""Markup inside assistant text: what the model thought, said and called, and what it was told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from converters.markup.assistant import assistant_messages, read_markup
from converters.markup.react import observation_parts, react_parts, step_parts
from converters.markup.thinking import HOLE, split_thinking
from converters.markup.tool_tags import marked_blocks, result_parts
from converters.markup.toolformer import inline_call_parts
from pipeline.conversation import Message, Part

MARKS = (
    "<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    '{"name": "f", "arguments": {"a": 1}}', "<function=g>", "</function>", "<search>", "</search>", "<information>",
    "</information>", "<result>", "</result>", "<code>", "</code>", "<interpreter>", "</interpreter>",
    "<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>", "<|end_of_documents|>",
    "```python\n", "```\n", "```output\n", "Thought: ", "Thought 1: ", "Action: ", "Action 1: ", "Action Input: ",
    "Observation: ", "Observation 1: ", "Final Answer: ", "f[x]", "f(x)", '{"action": "f", "action_input": {}}',
)  # fmt: skip
marked_texts = st.lists(
    st.sampled_from((*MARKS, "\n", "\n", " ", "\n\n", "a", "b c", "é\u2028", HOLE)) | st.text(max_size=4), max_size=24
).map("".join)


def told(text: str) -> list[tuple[str, str, str]]:
    return [
        (message.role, part.name or part.kind, part.text)
        for message in assistant_messages(text)
        for part in message.parts
    ]


@given(marked_texts)
@example(f"<search>a</search><information>b</information>{HOLE}<think>c</think>")
@example("Action: f[x]\nObservation: \n")
@example("<think><tool_call></tool_call><tool_response></tool_response>")
def test_joined_messages_rebuild_any_text(text: str) -> None:
    messages = assistant_messages(text)
    assert "".join(message.rebuild() for message in messages) == text
    assert messages
    for message in messages:
        assert message.role == ("tool" if any(p.kind == "tool_result" for p in message.parts) else "assistant")
        assert all(part.kind == "tool_result" for part in message.parts) or message.role == "assistant"
        assert all(part.kind != "tool_call" or part.name for part in message.parts)


@given(st.lists(st.tuples(st.sampled_from(("user", "assistant", "tool")), marked_texts), max_size=5))
def test_a_conversation_keeps_its_text_and_the_place_of_unused_keys(turns: list[tuple[str, str]]) -> None:
    kinds = {"tool": "tool_result", "user": "text", "assistant": "text"}
    messages = [Message(role, (Part(kinds[role], text),)) for role, text in turns]  # type: ignore[arg-type]
    out, unused = read_markup(messages, {str(index): {"k": index} for index in range(len(messages))})
    assert "".join(m.rebuild() for m in out) == "".join(text for _, text in turns)
    at = list(map(int, unused))
    assert at == sorted(at)
    assert [value["k"] for value in unused.values()] == list(range(len(messages)))
    for index, start in enumerate(at):
        own = out[start : at[index + 1] if index + 1 < len(at) else len(out)]
        assert "".join(m.rebuild() for m in own) == turns[index][1]


words = st.text("abc<>/ \n[]():é", max_size=12).map(str.strip).filter(bool)


@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_no_observation_of_a_transcript_is_the_models(
    steps: list[tuple[str, str, str]], numbered: bool, given_apart: bool
) -> None:
    text = ""
    for index, (thought, query, seen) in enumerate(steps):
        n = f" {index}" if numbered else ""
        action = f"search\nAction Input{n}: {query}" if given_apart else f"search[{query}]"
        text += f"Thought{n}: {thought}\nAction{n}: {action}\nObservation{n}: seen {seen}\n"
    out = assistant_messages(text)
    assert [m.role for m in out] == ["assistant", "tool"] * len(steps)
    assert [m.parts[0].text for m in out[1::2]] == [f"seen {seen}" for _, _, seen in steps]
    assert [m.parts[1].text for m in out[::2]] == [query for _, query, _ in steps]
    assert {m.parts[1].name for m in out[::2]} == {"search"}


PAIRS = [
    ('<tool_call>\n{"name": "f", "arguments": {"q": "x"}}\n</tool_call>', "<tool_response>", "</tool_response>"),
    ("<search>x</search>", "<information>", "</information>"),
    ("<search>x</search>", "<result>", "</result>"),
    ("<code>\nx\n</code>", "<interpreter>", "</interpreter>"),
    ("<llm-code>\nx\n</llm-code>", "<llm-code-output>", "</llm-code-output>"),
    ("<|begin_of_query|> x<|end_of_query|>", "<|begin_of_documents|>\n", "<|end_of_documents|>"),
    ("<|begin_search_query|>x<|end_search_query|>", "<|begin_search_result|>", "<|end_search_result|>"),
    ("```python\nx\n```", "```output\n", "\n```"),
]


@pytest.mark.parametrize(("call", "opening", "closing"), PAIRS)
@pytest.mark.parametrize(
    ("before", "after"), [("<think>", "</think>\n<answer>z</answer>"), ("<think>w</think>", "z"), ("", "")]
)
def test_no_result_between_tags_is_the_models(call: str, opening: str, closing: str, before: str, after: str) -> None:
    """Also where it holds tags of its own, which then are the tool's."""
    seen = "seen </think> <think> <answer>\nThe end."
    text = f"{before}v\n{call}\n\n{opening}{seen}{closing}\n{after}"
    out = assistant_messages(text)
    assert [m.role for m in out][:2] == ["assistant", "tool"]
    assert out[1].parts[0].text == seen
    assert not any("seen" in part.text for m in out if m.role == "assistant" for part in m.parts)
    assert out[0].parts[-1].kind == "tool_call"
    assert "".join(m.rebuild() for m in out) == text
    assert all("answer" not in part.text and "think" not in part.text for m in out[2:] for part in m.parts)


@pytest.mark.parametrize(("call", "opening", "closing"), PAIRS)
def test_a_result_that_is_never_closed_is_the_tools_to_the_end(call: str, opening: str, closing: str) -> None:
    result = assistant_messages(f"v\n{call}\n{opening}seen\nand seen")[-1]
    assert (result.role, result.parts[0].text, result.parts[0].interrupted) == ("tool", "seen\nand seen", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Thought: a\nAction: search[b [c]]\nObservation: d\nThought: e\nAction: finish[f]\n",
            [
                ("assistant", "thinking", "a"), ("assistant", "search", "b [c]"), ("tool", "tool_result", "d"),
                ("assistant", "thinking", "e"), ("assistant", "finish", "f"),
            ],
        ),
        (
            "a\nAction: look\nObservation: b\nThought: c\nFinal Answer: d\ne",
            [
                ("assistant", "thinking", "a"), ("assistant", "look", ""), ("tool", "tool_result", "b"),
                ("assistant", "thinking", "c"), ("assistant", "text", "d\ne"),
            ],
        ),
        (
            "Sure.\nThought: a\nAction: go to desk 1\nObservation: b",
            [
                ("assistant", "text", "Sure."), ("assistant", "thinking", "a"),
                ("assistant", "Action", "go to desk 1"), ("tool", "tool_result", "b"),
            ],
        ),
        (
            'Action:\n```json\n{"action": "f", "action_input": {"a" : 1}}\n```\nObservation: b',
            [("assistant", "f", '{"a" : 1}'), ("tool", "tool_result", "b")],
        ),
        (
            "Action: f\nAction Input: {}\nObservation: a\nAction: g\nAction Input: {}\nObservation: b",
            [("assistant", "f", "{}"), ("tool", "tool_result", "a"), ("assistant", "g", "{}"), ("tool", "tool_result", "b")],
        ),
        (
            "Thought: a\nAction: f[x]\nObservation: Genres:\nAction: a film\nThought: c",
            [
                ("assistant", "thinking", "a"), ("assistant", "f", "x"),
                ("tool", "tool_result", "Genres:\nAction: a film"), ("assistant", "thinking", "c"),
            ],
        ),
        (
            "Thought 1: a\nAction 1: f[x]\nObservation 1: Thought: b\nThought 2: c",
            [
                ("assistant", "thinking", "a"), ("assistant", "f", "x"), ("tool", "tool_result", "Thought: b"),
                ("assistant", "thinking", "c"),
            ],
        ),
        (
            "Thought: a\nAction: f[x]\nObservation:",
            [("assistant", "thinking", "a"), ("assistant", "f", "x")],
        ),
        (
            "<think>a</think>\nThought: b\nAction: f[x]\nObservation: c",
            [
                ("assistant", "thinking", "a"), ("assistant", "thinking", "b"), ("assistant", "f", "x"),
                ("tool", "tool_result", "c"),
            ],
        ),
    ],
)  # fmt: skip
def test_react(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Thought: a\nAction: search[b]",
        "Observation: the sky is blue.\nAction: none",
        "My Action: f[x]\nMy Observation: y",
        "In ReAct, an Action: is followed by an Observation: from outside.",
        "Thought: a\nObservation: b\nFinal Answer: c",
    ],
)
def test_a_text_that_is_no_transcript_stays_text(text: str) -> None:
    assert react_parts(text) is None
    assert told(text) == [("assistant", "text", text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"b" : 1.50}}\n</tool_call>',
            [("assistant", "text", "Let me see."), ("assistant", "f", '{"b" : 1.50}')],
        ),
        (
            '<tool_call>[{"name": "f", "arguments": "x"}, {"name": "g", "parameters": {}}]</tool_call>',
            [("assistant", "f", "x"), ("assistant", "g", "{}")],
        ),
        (
            "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
            [("assistant", "f", "<parameter=a>\n1\n</parameter>")],
        ),
        (
            "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
            [("assistant", "f", "<arg_key>a</arg_key>\n<arg_value>1</arg_value>")],
        ),
        ('ok\n<function=f>{"a": 1}</function>', [("assistant", "text", "ok"), ("assistant", "f", '{"a": 1}')]),
        (
            "<tool_call>{f: 1}</tool_call><tool_response>b</tool_response>",
            [("assistant", "tool_call", "{f: 1}"), ("tool", "tool_result", "b")],
        ),
        (
            '<tool_call>{"name": "f"}</tool_call>\n<tool_response>a</tool_response>\n<tool_response>b</tool_response>',
            [("assistant", "f", ""), ("tool", "tool_result", "a"), ("tool", "tool_result", "b")],
        ),
        (
            "a<search>b</search><information>c</information><answer>d</answer>",
            [
                ("assistant", "text", "a"), ("assistant", "search", "b"), ("tool", "tool_result", "c"),
                ("assistant", "text", "d"),
            ],
        ),
        (
            "a\n<|begin_of_documents|>b<|end_of_documents|>\nc</think>d",
            [("assistant", "text", "a"), ("tool", "tool_result", "b"), ("assistant", "text", "c</think>d")],
        ),
        ("<search>a</search><information></information>", [("assistant", "search", "a"), ("tool", "tool_result", "")]),
    ],
)  # fmt: skip
def test_tagged_calls(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Calls stand in `<tool_call>` and `</tool_call>`.",
        "<tool_call>\n{}\n</tool_call>",
        "<tool_call>\n{'name': 'f'}\n</tool_call>",
        'Write <tool_call>{"name": "f"}</tool_call> for that.',
        "<search>where to look</search>\nis an element.",
        "Put it in <code>x</code>.",
        "<code>x</code> and <interpreter>y</interpreter>",
        "<information>All about trees.</information>",
        "<tool_response>a</tool_response>",
        "```python\nprint(1)\n```\nOutput:\n```\n1\n```\n",
        "```output\n1\n```",
        "<function=f> is how it opens",
    ],
)
def test_what_may_be_talked_about_stays_text(text: str) -> None:
    assert told(text) == [("assistant", "text", text)]


def test_a_thought_goes_on_behind_its_results() -> None:
    text = (
        " a \n\n<|begin_of_query|> b<|end_of_query|>\n\n<|begin_of_documents|>\n(1)c\n<|end_of_documents|>\n\n"
        "d</think>\n <answer> e </answer>"
    )
    assert told(text) == [
        ("assistant", "thinking", " a"), ("assistant", "query", "b"), ("tool", "tool_result", "(1)c"),
        ("assistant", "thinking", "d"), ("assistant", "text", "e"),
    ]  # fmt: skip


def test_only_the_last_piece_of_a_thought_that_was_cut_off_is_interrupted() -> None:
    messages = assistant_messages("<think>a<search>b</search><information>c</information>d")
    assert [part.interrupted for m in messages for part in m.parts] == [False, False, False, True]


@given(marked_texts)
def test_text_without_calls_is_cut_as_split_thinking_cuts_it(text: str) -> None:
    if react_parts(text) is None and not marked_blocks(text):
        (message,) = assistant_messages(text)
        assert message.parts == split_thinking(text)


def conversation(*turns: tuple[str, str]) -> list[tuple[str, str, str]]:
    messages = [Message(role, (Part("tool_result" if role == "tool" else "text", text),)) for role, text in turns]  # type: ignore[arg-type]
    return [(m.role, p.name or p.kind, p.text) for m in read_markup(messages)[0] for p in m.parts]


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_a_users_message_of_tagged_results_is_the_tools_behind_a_call() -> None:
    assert conversation(
        ("user", "q <tool_response>x</tool_response>"), ("assistant", f"<think>a</think>\n{CALL}"),
        ("user", "<tool_response>\nb\n</tool_response>\n<tool_response>c</tool_response>"), ("assistant", "d"),
    ) == [
        ("user", "text", "q <tool_response>x</tool_response>"), ("assistant", "thinking", "a"), ("assistant", "f", "{}"),
        ("tool", "tool_result", "b"), ("tool", "tool_result", "c"), ("assistant", "text", "d"),
    ]  # fmt: skip


def test_other_messages_of_users_stay_theirs() -> None:
    answer = ("user", "<tool_response>b</tool_response>")
    assert conversation(("assistant", "a"), answer)[1] == ("user", "text", answer[1])
    assert conversation(answer)[0] == ("user", "text", answer[1])
    also = ("user", answer[1] + " and you?")
    assert conversation(("assistant", CALL), also)[1] == ("user", "text", also[1])
    assert conversation(("assistant", "Done."), ("user", "Observation: it is late."))[1][0] == "user"


def test_a_search_in_one_message_is_answered_by_the_next() -> None:
    turns = (("assistant", "<search>a</search>"), ("user", "<information>b</information>"), ("assistant", "c"))
    assert conversation(*turns) == [
        ("assistant", "search", "a"), ("tool", "tool_result", "b"), ("assistant", "text", "c"),
    ]  # fmt: skip
    assert conversation(*turns[:1]) == [("assistant", "text", "<search>a</search>")]


def test_tags_of_a_tools_message_are_delimiters() -> None:
    messages = [
        Message("tool", (Part("tool_result", "<tool_response>\na\n</tool_response>\n", name="f", call_id="1"),))
    ]
    (message,) = read_markup(messages)[0]
    assert message.parts == (
        Part("tool_result", "a", name="f", call_id="1", before="<tool_response>\n", after="\n</tool_response>\n"),
    )


def test_react_over_messages() -> None:
    assert conversation(
        ("user", "Question: q"), ("assistant", "Thought: a\nAction: search[b]"), ("user", "Observation: c"),
        ("assistant", "Thought: d\nFinal Answer: e"), ("user", "thanks"), ("assistant", "Bye."),
    ) == [
        ("user", "text", "Question: q"), ("assistant", "thinking", "a"), ("assistant", "search", "b"),
        ("tool", "tool_result", "c"), ("assistant", "thinking", "d"), ("assistant", "text", "e"),
        ("user", "text", "thanks"), ("assistant", "text", "Bye."),
    ]  # fmt: skip


def test_delimiters_weights_names_and_unused_keys_follow_what_is_cut() -> None:
    text = f"a\n{CALL}\n<tool_response>b</tool_response>"
    whole = Message("assistant", (Part("text", text, before="<s>", after="</s>"),), name="n", weight=0.0)
    out, unused = read_markup([Message("user"), whole, Message("user")], {"1": {"k": 1}, "2": {"k": 2}})
    assert [(m.role, m.name, m.weight) for m in out[1:3]] == [("assistant", "n", 0.0), ("tool", None, 1.0)]
    assert "".join(m.rebuild() for m in out) == f"<s>{text}</s>"
    assert unused == {"1": {"k": 1}, "3": {"k": 2}}


def test_messages_without_markup_are_passed_on_as_they_are() -> None:
    messages = [Message("user", (Part("text", "a < b"),)), Message("assistant", (Part("text", "a <b> Action c"),))]
    out, _ = read_markup(messages)
    assert all(a is b for a, b in zip(out, messages, strict=True))


HEADER = "toolformer: enabled\ntoolformer access: clock, map\nTells the time.\nclock(place)\nWhat time is it?"


def test_inline_calls_have_a_name_of_the_header_and_one_quoted_string() -> None:
    text = "It is clock('Oslo') in Oslo, see map(\"a(b)\"). Not Map('x'), other('y'), my_map('z') or map('it's')."
    parts = inline_call_parts(HEADER, text)
    assert parts is not None
    assert "".join(part.rebuild() for part in parts) == text
    assert [(part.name or part.kind, part.text) for part in parts] == [
        ("text", "It is "), ("clock", "'Oslo'"), ("text", " in Oslo, see "), ("map", '"a(b)"'),
        ("text", ". Not Map('x'), other('y'), my_map('z') or map('it's')."),
    ]  # fmt: skip
    assert inline_call_parts("What time is it?", text) is None
    assert inline_call_parts(HEADER, "It is late.") is None


@given(st.lists(st.sampled_from(["clock('a')", 'map("', "'", "map(", ")", "clock", " ", "é", "\\"])).map("".join))
def test_inline_calls_rebuild_any_text(text: str) -> None:
    parts = inline_call_parts(HEADER, text)
    assert parts is None or "".join(part.rebuild() for part in parts) == text


def test_step_and_observation_of_a_dialogue() -> None:
    assert step_parts("Hello.") is None
    assert step_parts("Note.\nThought: a") is None
    assert observation_parts("Observation 2: a\n") == (Part("tool_result", "a", before="Observation 2: ", after="\n"),)
    assert observation_parts("The Observation: a") is None
    assert result_parts("<tool_response>a") is None
    assert result_parts("") is None


@pytest.mark.parametrize(
    "piece",
    [
        "<tool_call>", "<tool_call></tool_call>", "<search>a</search> <information>", "<|begin_of_query|>\n", " <tool_call> ",
        "<search>a</search><information>b</information><answer>c</answer>", "<tool_call>{}</tool_call>\n",
        "</tool_call>\n<tool_response>", "Action: a\n", "Action: f[\nObservation: b\n", "Thought: a\nObservation: b\n",
        "```python\n```\n```output\n", "```output\n", "<think>\n<search>a</search><information>b</information>",
        "<tool_call><function=f></function></tool_call>", "<function=f>", "map('", "<think>Observation: Action: ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", [assistant_messages, lambda text: inline_call_parts(HEADER, text)])
def test_time_is_linear_in_the_text(piece: str, call: Callable[[str], object]) -> None:
    start = time.perf_counter()
    call("Action: f[x]\nObservation: a\n" + piece * 20_000)
    call(piece * 20_000)
    assert time.perf_counter() - start < 4
