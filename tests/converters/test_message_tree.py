"""message_tree: a conversation for each path, every message trained once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from corpus_checks import missing, read_any

from converters import convert, format_votes, parse_format
from pipeline.conversation import Conversation, RecordError, conversation_id


def node(text: str, *replies: dict[str, Any], rank: Any = None, **more: Any) -> dict[str, Any]:
    """A message; texts that begin with p are a prompter's."""
    ranked = {} if rank is None else {"rank": rank}
    return {
        "text": text,
        "role": "prompter" if text[0] == "p" else "assistant",
        "replies": [*replies],
        **ranked,
        **more,
    }


TREE = {
    "message_tree_id": "t",
    "tree_state": "ready",
    "prompt": node(
        "p",
        node("a1", node("p1", node("a11", rank=1), node("a12", rank=0)), node("p2"), rank=1, lang="en"),
        node("a2", rank=0),
        node("a3"),
    ),
}


def paths(unit: Any, options: str = "") -> list[list[tuple[str, float]]]:
    conversations = parse_format("message_tree" + options)[1](unit)
    return [[(m.rebuild(), m.weight) for m in c.messages] for c in conversations if isinstance(c, Conversation)]


def test_each_leaf_is_a_conversation_and_each_message_has_its_weight_once() -> None:
    assert paths(TREE) == [
        [("p", 1), ("a1", 1), ("p1", 1), ("a11", 1)],
        [("p", 0), ("a1", 0), ("p1", 0), ("a12", 1)],
        [("p", 0), ("a1", 0), ("p2", 1)],
        [("p", 0), ("a2", 1)],
        [("p", 0), ("a3", 1)],
    ]


@pytest.mark.parametrize(
    ("chosen", "texts"),
    [("first", ["p", "a1", "p1", "a11"]), ("longest", ["p", "a1", "p1", "a11"]), ("best", ["p", "a2"])],
)
def test_one_path_of_a_tree_has_all_its_weights(chosen: str, texts: list[str]) -> None:
    assert paths(TREE, f":paths={chosen}") == [[(text, 1.0) for text in texts]]


def test_longest_is_the_first_of_the_longest_and_best_goes_by_rank_before_order() -> None:
    tree = {"prompt": node("p", node("a1"), node("a2", node("p2")), node("a3", node("p3"), rank=5))}
    assert paths(tree, ":paths=longest") == [[("p", 1), ("a2", 1), ("p2", 1)]]
    assert paths(tree, ":paths=best") == [[("p", 1), ("a3", 1), ("p3", 1)]]
    assert paths(tree, ":paths=first") == [[("p", 1), ("a1", 1)]]


def test_roles_group_and_what_messages_say_beside_their_text() -> None:
    first, *_, last = (c for c in convert("message_tree", TREE) if isinstance(c, Conversation))
    assert [m.role for m in first.messages] == ["user", "assistant", "user", "assistant"]
    assert {first.group, last.group} == {"tree:t"}
    assert first.extra == {"tree_state": "ready", "message_tree_id": "t",
                           "messages": {"1": {"rank": 1, "lang": "en"}, "3": {"rank": 1}}}  # fmt: skip
    assert "messages" not in last.extra


def test_a_prompt_that_nobody_answered_is_input_only() -> None:
    (alone,) = (c for c in convert("message_tree", {"prompt": node("p")}) if isinstance(c, Conversation))
    assert not alone.has_output()
    assert alone.group is None


def test_a_tree_as_deep_as_json_may_be_is_walked() -> None:
    deep = node("a0")
    for level in range(20_000):
        deep = node(f"{'pa'[level % 2]}{level}", deep)
    (path,) = paths({"prompt": {**deep, "role": "prompter"}})
    assert len(path) == 20_001


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        ([], "wrong_type"),
        ({"message_tree_id": "t"}, "missing_field"),
        ({"prompt": {"text": "a", "replies": []}}, "missing_field"),
        ({"prompt": {**node("p"), "role": "judge"}}, "unknown_role"),
        ({"prompt": {**node("p"), "replies": {}}}, "wrong_type"),
        ({"prompt": {**node("p"), "replies": [3]}}, "wrong_type"),
        ({"prompt": {**node("p"), "text": ""}}, "empty_conversation"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        list(convert("message_tree", unit))
    assert caught.value.code == code


def test_oasst_trees() -> None:
    units = read_any("oasst-trees/en_100_tree.jsonl")
    assert format_votes(units) == {"message_tree": 60}
    weights: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    count = 0
    for unit in units:
        conversations = [c for c in convert("message_tree", unit) if isinstance(c, Conversation)]
        assert missing(unit, conversations, structure=("prompter", "assistant")) == set()
        assert len({conversation_id(c) for c in conversations}) == len(conversations)
        count += len(conversations)
        for conversation in conversations:
            ends[conversation.messages[-1].role] += 1
            for index, message in enumerate(conversation.messages):
                weights[conversation.extra["messages"][str(index)]["message_id"]] += int(message.weight)
    assert (count, ends) == (360, {"assistant": 230, "user": 130})
    assert (len(weights), set(weights.values())) == (684, {1})
