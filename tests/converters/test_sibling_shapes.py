"""Well-known sets beside the corpora, as rows of ours in their shapes: the right format, and every text on its stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import CONVERTERS, convert, detect_format
from converters.markup.bracket_calls import bracket_calls
from converters.markup.json_calls import python_call
from pipeline.conversation import Conversation, RecordError

ASKED, TOLD = {"role": "user", "content": "Which saw?"}, {"role": "assistant", "content": "A rip saw."}
QA = [("user", "text", "Which saw?"), ("assistant", "text", "A rip saw.")]
THOUGHT = [("user", "text", "Which saw?"), ("assistant", "thinking", "Along the grain."), QA[1]]
SYSTEM = ("system", "text", "Be brief.")
PAGES = {"title": ["Saw"], "filename": ["saw.txt"], "wiki_context": ["Rip saws cut along."]}


def conversations(format: str, rows: list[Any], options: str = "") -> list[Conversation]:
    units: list[Any] = [rows] if CONVERTERS[format].UNIT == "file" else rows
    found = [item for unit in units for item in convert(format + options, unit)]
    assert all(isinstance(item, Conversation) for item in found)
    return found  # type: ignore[return-value]


def said(conversation: Conversation) -> list[tuple[str, str, str]]:
    return [(message.role, part.kind, part.text) for message in conversation.messages for part in message.parts]


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        ({"prompt": "Which saw?", "prompt_id": "p", "messages": [ASKED, TOLD]}, "openai_messages", QA),
        ({"conversation_id": "c", "model": "m", "conversation": [ASKED, TOLD], "turn": 1}, "openai_messages", QA),
        ({"messages": json.dumps([ASKED, TOLD]), "resolved": True}, "openai_messages", QA),
        ({"instruction": "Which saw?", "input": "", "output": "A rip saw.", "text": "### Response:"}, "alpaca", QA),
        ({"instruction": "Which saw?", "context": "", "response": "A rip saw.", "category": "qa"}, "alpaca", QA),
        ({"conversation": [{"input": "Which saw?", "output": "A rip saw."}], "source": "x"}, "dialogue", QA),
        ({"id": "0", "data": ["Which saw?", "A rip saw."]}, "dialogue", QA),
        ({"conversations": ["Which saw?", "A rip saw."], "source": "x"}, "dialogue", QA),
        ({"dialog": ["Which saw?", "A rip saw."], "act": [2, 1], "emotion": [0, 0]}, "dialogue", QA),
        ({"question": "Which saw?", "answer": "A rip saw."}, "open_qa", QA),
        ({"question": "Which saw?", "answer": ["", "A rip saw.", "rip saw"]}, "open_qa", QA),
        ({"url": "u", "question": "Which saw?", "answers": ["A rip saw."]}, "open_qa", QA),
        ({"question": "Which saw?", "best_answer": "A rip saw.", "correct_answers": ["It"]}, "open_qa", QA),
        ({"question": "Which saw?", "answer": {"aliases": [], "value": "A rip saw."}}, "open_qa", QA),
        (
            {"question": "Which saw?", "answer": {"value": "A rip saw."}, "entity_pages": PAGES},
            "open_qa",
            [QA[0], ("user", "context", "Rip saws cut along."), QA[1]],
        ),
        (
            {"id": "1", "system_prompt": "Be brief.", "question": "Which saw?", "response": "A rip saw."},
            "open_qa",
            [SYSTEM, *QA],
        ),
        ({"Question": "Which saw?", "Complex_CoT": "Along the grain.", "Response": "A rip saw."}, "open_qa", THOUGHT),
        (
            {"question": "Which saw?", "solution": "B", "thinking_trajectories": ["Along the grain."], "attempt": "A rip saw."},
            "open_qa",
            THOUGHT,
        ),
        ({"kind": "x", "input": "Which saw?", "target": "A rip saw."}, "prompt_completion", QA),
        (
            {"input": [ASKED], "output": "<think>Along the grain.</think>A rip saw.", "system_prompt": "Be brief."},
            "prompt_completion",
            [SYSTEM, *THOUGHT],
        ),
        (
            {"system_prompt": "Be brief.", "conversations": [{"from": "human", "value": "Which saw?"}]},
            "sharegpt",
            [SYSTEM, QA[0]],
        ),
        (
            {"context": "It split.", "question": "Why?", "answer0": "Wet.", "answer1": "Dry.", "answer2": "Old."}
            | {"answer3": "None of the above choices .", "label": 1},
            "choice_qa",
            [("user", "text", text) for text in ("Why?", "Wet.", "Dry.", "Old.", "None of the above choices .")]
            + [("user", "context", "It split."), ("assistant", "text", "Dry.")],
        ),
        (
            {"context": "Ada saws.", "question": "And then?", "answerA": "rest", "answerB": "fly", "answerC": "swim"}
            | {"label": "1"},
            "choice_qa",
            [("user", "text", text) for text in ("And then?", "rest", "fly", "swim")]
            + [("user", "context", "Ada saws."), ("assistant", "text", "rest")],
        ),
        (
            {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "Look.", "solution": "Not a.", "image": None},
            "choice_qa",
            [("user", "text", text) for text in ("Which?", "a", "b")]
            + [("user", "context", "Look."), ("assistant", "thinking", "Not a."), ("assistant", "text", "b")],
        ),
    ],
)  # fmt: skip
def test_well_known_shapes(row: Any, format: str, expected: list[tuple[str, str, str]]) -> None:
    assert detect_format([row]) == format
    (conversation,) = conversations(format, [row])
    assert said(conversation) == expected
    assert all(message.weight == 1.0 for message in conversation.messages)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "A page about saws."},
        {"prompt": ["Which saw?", "And why?"], "category": "writing"},
        {"turns": ["Which saw?", "And why?"]},
        {"question": "Which saw?", "reference_answer": "A rip saw."},
        {"article": "Long.", "highlights": "Short."},
        {"question": "Which saw?", "answer": "A rip saw.", "image": {"path": "a.png"}},
        {"data": ["one text"]},
        {"data": ["a.jsonl", "b.jsonl"], "version": 2},
        {"dialog": [{"speaker": "0", "text": "hi"}]},
    ],
)
def test_shapes_that_do_not_say_who_answers_what_are_not_claimed(row: Any) -> None:
    assert detect_format([row]) is None


def test_xlam_calls_are_slices_of_their_text() -> None:
    answers = '[{"name": "read", "arguments": {"zone" : 1}},\n {"name": "read", "arguments": {"zone": 2.50}}]'
    row = {"id": 1, "query": "How warm?", "answers": answers, "tools": '[{"name": "read"}]'}
    assert detect_format([row]) == "xlam"
    (conversation,) = conversations("xlam", [row])
    assert [(p.name, p.text) for p in conversation.messages[1].parts] == [
        ("read", '{"zone" : 1}'),
        ("read", '{"zone": 2.50}'),
    ]
    assert conversation.messages[1].rebuild() == answers
    assert (conversation.tools, conversation.extra) == (row["tools"], {"id": 1})
    listed = conversations("xlam", [{**row, "answers": [{"name": "read", "arguments": {"zone": 1}}]}])[0]
    assert [(p.name, p.text) for p in listed.messages[1].parts] == [("read", '{"zone":1}')]
    assert not conversations("xlam", [{**row, "answers": "[]"}])[0].has_output()


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"query": " ", "answers": "[]", "tools": "[]"}, "empty_question"),
        ({"query": "q", "answers": "none", "tools": "[]"}, "bad_tool_call"),
        ({"query": "q", "answers": [{"arguments": {}}], "tools": "[]"}, "bad_tool_call"),
        ({"query": "q", "tools": "[]"}, "missing_field"),
        ({"query": "q", "answers": 1, "tools": "[]"}, "wrong_type"),
    ],
)
def test_xlam_rejects(row: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        conversations("xlam", [row])
    assert caught.value.code == code


def test_speakers_of_a_dialogue() -> None:
    row = {"dialogue": ["Which?", "A rip saw.", "Or two.", "Thanks."], "speakers": ["Ben", "Ada", "Cid", "Ben"]}
    (conversation,) = conversations("dialogue", [row])
    assert [(m.role, m.name) for m in conversation.messages] == [
        ("user", "Ben"), ("assistant", "Ada"), ("user", "Cid"), ("user", "Ben")
    ]  # fmt: skip
    (other,) = conversations("dialogue", [row], ":model=first")
    assert [m.role for m in other.messages] == ["assistant", "user", "user", "assistant"]
    with pytest.raises(RecordError, match="speakers is a list, expected a list of 4 names"):
        conversations("dialogue", [{**row, "speakers": ["Ben"]}])


def test_pairs_keep_what_they_say_beside_their_texts() -> None:
    row = {"conversation": [{"input": "a", "output": ""}, {"input": "b", "output": "c", "score": 2}], "system": "s"}
    (conversation,) = conversations("dialogue", [row])
    assert [(m.role, m.rebuild()) for m in conversation.messages] == [
        ("system", "s"), ("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")
    ]  # fmt: skip
    assert conversation.extra == {"messages": {"3": {"score": 2}}}


def row(name: str, parent: str | None, role: str, **more: Any) -> dict[str, Any]:
    return {
        "message_id": name,
        "parent_id": parent,
        "text": f"text of {name}",
        "role": role,
        "message_tree_id": "t",
        **more,
    }


def test_rows_of_message_trees_become_the_conversations_of_the_tree() -> None:
    rows = [
        row("c", "b", "prompter"),
        row("a", None, "prompter", tree_state="ready", rank=None),
        row("b", "a", "assistant", tree_state="ready", rank=1),
        row("d", "a", "assistant", rank=0),
    ]
    assert detect_format(rows) == "message_rows"
    first, second = conversations("message_rows", rows)
    assert [(m.role, m.weight, m.rebuild()) for m in first.messages] == [
        ("user", 1.0, "text of a"), ("assistant", 1.0, "text of b"), ("user", 1.0, "text of c")
    ]  # fmt: skip
    assert [(m.role, m.weight, m.rebuild()) for m in second.messages] == [
        ("user", 0.0, "text of a"), ("assistant", 1.0, "text of d")
    ]  # fmt: skip
    assert first.group == second.group == "tree:t"
    assert first.extra["tree_state"] == "ready"
    assert first.extra["messages"]["1"] == {"message_id": "b", "parent_id": "a", "rank": 1}
    (best,) = conversations("message_rows", rows, ":paths=best")
    assert [m.rebuild() for m in best.messages] == ["text of a", "text of d"]


def test_a_row_without_its_parent_is_kept_and_an_answer_to_nothing_is_not_trained() -> None:
    found = conversations(
        "message_rows", [row("b", "gone", "assistant"), row("c", "b", "prompter"), row("d", "c", "assistant")]
    )
    assert [[m.weight for m in conversation.messages] for conversation in found] == [[0.0, 1.0, 1.0]]
    with pytest.raises(RecordError) as caught:
        conversations(
            "message_rows", [row("a", None, "prompter"), row("b", "c", "assistant"), row("c", "b", "prompter")]
        )
    assert caught.value.code == "cycle"


def test_images_stand_where_their_tags_stood() -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat is it, and\n<image> this?"},
        {"from": "gpt", "value": "A <image> tag."},
    ]
    (conversation,) = conversations("sharegpt", [{"conversations": turns, "images": ["a.png", "b.png"]}])
    asked, told = conversation.messages
    assert [(part.kind, part.text) for part in asked.parts] == [
        ("media", '{"type":"image","image":"a.png"}'),
        ("text", "What is it, and"),
        ("media", '{"type":"image","image":"b.png"}'),
        ("text", "this?"),
    ]
    assert [part.source for part in asked.parts] == ["<image>\n", None, "\n<image> ", None]
    assert "".join(message.rebuild() for message in (asked, told)) == turns[0]["value"] + turns[1]["value"]
    assert conversation.extra == {}


def test_images_that_do_not_fit_their_tags_stay_where_they_are() -> None:
    turns = [{"role": "user", "content": "<image> What?"}, TOLD]
    for images in (["a.png", "b.png"], [], None):
        (conversation,) = conversations("openai_messages", [{"messages": turns, "images": images}])
        assert conversation.messages[0].rebuild() == "<image> What?"
        assert [part.kind for part in conversation.messages[0].parts] == ["text"]
        assert conversation.extra == {"images": images}


SYSTEM_TOOLS = 'You may call: [{"name": "Read Kiln"}, {"name": "stop"}]'


def toolace(text: str, system: str = SYSTEM_TOOLS) -> Conversation:
    turns = [
        {"from": "user", "value": "How warm?"},
        {"from": "assistant", "value": text},
        {"from": "tool", "value": "[412]"},
    ]
    (conversation,) = conversations("sharegpt", [{"system": system, "conversations": turns}])
    assert conversation.messages[2].rebuild() == text
    return conversation


def test_calls_in_brackets() -> None:
    called = toolace('[Read Kiln(zone="a)b, c", at=[1, {"x": (2)}]), stop()]\n').messages[2]
    assert [(p.kind, p.name, p.text, p.before, p.after) for p in called.parts] == [
        ("tool_call", "Read Kiln", 'zone="a)b, c", at=[1, {"x": (2)}]', "[Read Kiln(", ")"),
        ("tool_call", "stop", "", ", stop(", ")]\n"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[unknown(a=1)]",
        "[Read Kiln(a=1)",
        "[Read Kiln(a=(1)]",
        "[Read Kiln(a='1)]",
        "[Read Kiln(a=1)] or so",
        "[1](x)",
        "[]",
    ],
)
def test_what_is_no_list_of_known_calls_stays_text(text: str) -> None:
    assert [(p.kind, p.text) for p in toolace(text).messages[2].parts] == [("text", text)]


def test_names_may_stand_in_the_tools_of_the_record() -> None:
    turns = [{"from": "user", "value": "How warm?"}, {"from": "assistant", "value": "[read(zone=1)]"}]
    (conversation,) = conversations("sharegpt", [{"conversations": turns, "tools": '[{"name": "read"}]'}])
    assert [(p.kind, p.name) for p in conversation.messages[1].parts] == [("tool_call", "read")]


@given(st.text(alphabet="[](){},'\"\\= ab\n", max_size=30))
def test_bracketed_calls_rebuild_their_text(text: str) -> None:
    parts = bracket_calls(text, '"a" "b" "ab"')
    assert parts is None or "".join(part.rebuild() for part in parts) == text


def test_a_call_as_a_python_dict() -> None:
    text = "<tool_call>\n{'arguments': {'zone': 2, 'why': \"it's é\"}, 'name': 'read'}\n</tool_call>"
    turns = [{"from": "human", "value": "How warm?"}, {"from": "gpt", "value": text}]
    (conversation,) = conversations("sharegpt", [{"conversations": turns}])
    (part,) = conversation.messages[1].parts
    assert (part.kind, part.name, part.text) == ("tool_call", "read", "{'zone': 2, 'why': \"it's é\"}")
    assert part.source == text


@pytest.mark.parametrize(
    "text",
    [
        "{'name': 'f', 'arguments': {'a': open('x')}}",
        "{'name': 'f', 'arguments': [1]}",
        "{'name': f, 'arguments': {}}",
        "{'name': 'f'}",
        "{" * 5000,
        "{'name': 'f', 'arguments': {'a': " + "-" * 100_000 + "1}}",
        "{'a\x00': 1}",
        "f(1)",
    ],
)
def test_what_is_no_literal_dict_is_no_call(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        python_call(text)


def test_a_react_step_whose_result_is_a_tool_message() -> None:
    turns = [
        {"from": "system", "value": "Use tools."},
        {"from": "user", "value": "How warm?\nBegin!\n"},
        {"from": "assistant", "value": '\nThought: The sensor knows.\nAction: read\nAction Input: {"zone": 1}'},
        {"from": "function", "value": '{"celsius": 412}'},
        {"from": "assistant", "value": '\nThought: \nAction: Finish\nAction Input: {"final_answer": "412"}'},
    ]
    (conversation,) = conversations("sharegpt", [{"conversations": turns}])
    assert [(m.role, [(p.kind, p.name, p.text) for p in m.parts]) for m in conversation.messages[2:]] == [
        ("assistant", [("thinking", None, "The sensor knows."), ("tool_call", "read", '{"zone": 1}')]),
        ("tool", [("tool_result", None, '{"celsius": 412}')]),
        ("assistant", [("tool_call", "Finish", '{"final_answer": "412"}')]),
    ]
    assert [m.rebuild() for m in conversation.messages] == [turn["value"] for turn in turns]


def test_an_action_that_is_talked_about_before_a_typed_call_stays_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    items = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Done so far.\nAction: none", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "412"},
    ]
    (conversation,) = conversations("openai_messages", [{"messages": items}])
    assert [(p.kind, p.name) for p in conversation.messages[1].parts] == [("text", None), ("tool_call", "read")]


@pytest.mark.parametrize("opening", ["OBSERVATION:\n", "EXECUTION RESULT of [execute_bash]:\n"])
def test_what_openhands_says_to_a_call_in_text_is_the_tools(opening: str) -> None:
    call = "I look.\n<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>"
    items = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": call}]
    answered = [*items, {"role": "user", "content": opening + "a.txt"}]
    (conversation,) = conversations("openai_messages", [{"messages": answered}])
    last = conversation.messages[-1]
    assert (last.role, last.parts[0].kind, last.parts[0].text) == ("tool", "tool_result", "a.txt")
    assert last.rebuild() == opening + "a.txt"
    (asked,) = conversations("openai_messages", [{"messages": [{"role": "user", "content": opening + "a.txt"}, TOLD]}])
    assert asked.messages[0].role == "user"


def test_tooltalk_tells_the_model_what_its_calls_name() -> None:
    api = {"request": {"api_name": "Remind", "parameters": {"session_token": "s-1"}}, "response": {}, "exception": None}
    turns = [{"role": "user", "text": "Remind me."}, {"role": "assistant", "text": "Done.", "apis": [api]}]
    told = {"location": "Delft", "session_token": "s-1"}
    (conversation,) = conversations("tooltalk", [{"conversation": turns, "metadata": told, "user": {"name": "Ada"}}])
    assert said(conversation)[0] == ("system", "context", '{"location":"Delft","session_token":"s-1"}')
    assert conversation.extra == {"user": {"name": "Ada"}}
    (without,) = conversations("tooltalk", [{"conversation": turns, "metadata": {}}])
    assert without.messages[0].role == "user"
    assert without.extra == {"metadata": {}}


def test_a_system_prompt_beside_a_system_says_nothing_twice_and_is_not_lost() -> None:
    row = {"instruction": "a", "output": "b", "system": "s", "system_prompt": "other"}
    (conversation,) = conversations("alpaca", [row])
    assert said(conversation)[0] == ("system", "text", "s")
    assert conversation.extra == {"system_prompt": "other"}
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (listed,) = conversations("sharegpt", [{"conversations": turns, "system_prompt": "other"}])
    assert [m.role for m in listed.messages] == ["system", "user", "assistant"]
    assert listed.extra == {"system_prompt": "other"}
