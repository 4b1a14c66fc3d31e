"""The filter ``balance``: sides, turns without an answer, tools that flood."""

from __future__ import annotations

import polars as pl
import pytest
from filter_cases import asked, convert, judged, message, talks_of, verdicts

from pipeline.conversation import Conversation, Part
from pipeline.filters import balance
from pipeline.filters.talks import Talks

WORDS = "one two three four five six seven eight nine ten " * 60


def with_tool(result: str, answer: str = "Done.") -> Conversation:
    return Conversation(
        (
            message("user", "Read the file, please."),
            message("assistant", Part("tool_call", '{"path":"a"}', name="read")),
            message("tool", Part("tool_result", result)),
            message("assistant", answer),
        ),
        tools='[{"name":"read"}]',
    )


def test_defaults_take_only_what_is_broken() -> None:
    alone = Conversation((message("assistant", WORDS),))
    told = (alone, asked(WORDS), asked("8", question=WORDS), with_tool(WORDS * 10), with_tool(WORDS))
    assert judged("balance", *told) == ["nearly_all_output", None, None, "tools_flood", None]


def test_shares_are_of_all_tokens_and_short_conversations_are_not_judged() -> None:
    told = asked("yes", question=WORDS)
    assert judged("balance", told, min_output_share=0.01) == ["little_output"]
    assert judged("balance", told, min_output_share=0.001) == [None]
    assert judged("balance", told, min_output_share=0.01, min_tokens=10_000) == [None]
    assert judged("balance", asked(WORDS, question="Go."), max_output_share=0.9) == ["nearly_all_output"]
    assert judged("balance", asked(WORDS, question=WORDS), min_output_share=0.4, max_output_share=0.6) == [None]


def test_calls_are_output_and_definitions_are_nobodys() -> None:
    told = Conversation(with_tool("ok").messages, tools='[{"name":"read","description":"' + WORDS + '"}]')
    assert judged("balance", told, min_output_share=0.3, min_tokens=0) == [None]


def test_answers_far_longer_than_the_turns_are_taken_where_asked_for() -> None:
    told = asked(WORDS, question="Count to ten, sixty times.")
    assert judged("balance", told) == [None]
    assert judged("balance", told, max_output_per_input=20) == ["long_answers"]
    assert judged("balance", told, max_output_per_input=200) == [None]
    thinks = Conversation((message("user", "Count."), message("assistant", Part("thinking", WORDS), "Sixty times.")))
    assert judged("balance", thinks, max_output_per_input=20) == [None]


def turns(*said: str) -> Conversation:
    return Conversation(tuple(message("user" if s.endswith("?") else "assistant", s) for s in said))


@pytest.mark.parametrize(
    ("told", "unanswered", "ends"),
    [
        (turns("A?", "a", "B?", "b"), 0, False),
        (turns("A?", "B?", "b"), 1, False),
        (turns("A?", "B?", "C?", "c", "D?", "E?", "e"), 3, False),
        (turns("A?", "a", "B?"), 0, True),
        (turns("A?", "a", "B?", "C?"), 1, True),
        (with_tool("ok"), 0, False),
    ],
)
def test_turns_that_nobody_answers_are_counted(told: Conversation, unanswered: int, ends: bool) -> None:
    assert judged("balance", told) == [None]
    assert judged("balance", told, max_unanswered=unanswered) == [None]
    if unanswered:
        assert judged("balance", told, max_unanswered=unanswered - 1) == ["unanswered_turns"]
        found = verdicts("balance", [told], max_unanswered=0)
        assert found[0].detail == f"{unanswered} turns without an answer"
    assert judged("balance", told, answered_end=True) == ["unanswered_end" if ends else None]


def test_neighbours_in_a_batch_do_not_answer_each_other() -> None:
    told = [turns("A?", "a", "B?"), turns("C?", "c"), turns("D?", "E?", "e")]
    assert judged("balance", *told, max_unanswered=0) == [None, None, "unanswered_turns"]


def test_several_users_that_speak_in_turn_wait_for_nobody() -> None:
    told = Conversation(
        (
            message("user", "I say yes.", name="ann"),
            message("user", "I say no.", name="bob"),
            message("assistant", "So."),
        )
    )
    talks = talks_of(told)
    found = balance.judge(talks, balance.Params(max_unanswered=0))
    assert bool(found) == (talks.parts.filter(pl.col("role") == "user")["stream"].n_unique() == 1)


def test_what_the_auditor_says_is_not_the_models() -> None:
    told = asked("\n".join(f"{i} + {i} = {i + i}" for i in range(40)), question=WORDS)
    with_audit = Talks(convert([told], align="turns+audit")[0])
    plain = Talks(convert([told], align="turns")[0])
    assert "audit" in with_audit.parts["role"].to_list()
    for limit in (0.2, 0.4, 0.6):
        params = balance.Params(min_output_share=limit)
        assert balance.judge(with_audit, params) == balance.judge(plain, params)


def test_conversations_without_any_output_are_not_judged() -> None:
    _, silent = convert([Conversation((message("user", WORDS), message("user", WORDS)))])
    params = balance.Params(min_output_share=0.5, max_unanswered=0, answered_end=True)
    assert balance.judge(Talks(silent), params) == {}
