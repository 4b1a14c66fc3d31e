"""The filter ``length``: too little or too much output, rows, messages."""

from __future__ import annotations

import pytest
from filter_cases import asked, convert, judged, message, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part
from pipeline.filters import length
from pipeline.filters.talks import Talks


def test_white_space_is_no_output() -> None:
    assert judged("length", asked(" \n\t \u3000"), asked(" x ")) == ["too_little_output", None]


def test_characters_of_every_output_count_and_no_others() -> None:
    told = Conversation(
        (
            message("user", "0123456789" * 10),
            message("assistant", Part("thinking", "12 34"), "56", Part("tool_call", "{}", name="f")),
            message("tool", Part("tool_result", "0123456789")),
            message("assistant", "字字"),
        )
    )
    said = 4 + 2 + 3 + 2  # a call says its name and its arguments
    assert judged("length", told, min_output_characters=said) == [None]
    assert judged("length", told, min_output_characters=said + 1) == ["too_little_output"]
    assert judged("length", told, max_output_characters=said - 1) == ["too_much_output"]
    assert judged("length", told, max_output_characters=said) == [None]
    assert verdicts("length", [told], max_output_characters=10)[0].detail == "11 characters"


def test_rows_are_those_of_all_segments() -> None:
    told = asked(*(f"Answer number {i}, which is not short." for i in range(12)))
    records, _ = convert([told], max_cells=128, align="turns")
    assert records.num_rows > 1
    rows = sum(records["rows"].to_pylist())
    for limit, reason in ((rows - 1, "too_many_rows"), (rows, None)):
        found = length.judge(Talks(records), length.Params(max_rows=limit))
        assert [v.reason for v in found.values()] == ([reason] if reason else [])
    assert judged("length", asked("Yes."), min_rows=1000) == ["too_few_rows"]


def test_tool_definitions_are_no_message() -> None:
    told = Conversation(asked("Yes.").messages, tools='[{"name":"f"}]')
    assert judged("length", told, max_messages=2) == [None]
    assert judged("length", told, max_messages=1) == ["too_many_messages"]


def test_limits_of_output_do_not_hold_where_there_is_none() -> None:
    _, silent = convert([Conversation((message("user", "Does anybody answer?"),))])
    assert length.judge(Talks(silent), length.Params(min_output_characters=100)) == {}
    found = length.judge(Talks(silent), length.Params(min_rows=1000))
    assert [v.reason for v in found.values()] == ["too_few_rows"]


@given(st.lists(st.text("ab \n字", min_size=1, max_size=30), min_size=1, max_size=6), st.integers(0, 20))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_conversation_is_judged_by_itself(answers: list[str], least: int) -> None:
    together = judged("length", *map(asked, answers), min_output_characters=least)
    assert together == ["too_little_output" if len("".join(a.split())) < least else None for a in answers]


@pytest.mark.parametrize("params", [{"max_rows": 0}, {"min_rows": -1}, {"max_words": 3}])
def test_impossible_limits_are_refused(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"greater|Extra"):
        length.Params(**params)
