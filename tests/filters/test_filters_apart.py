"""What filters of text quality say of a conversation does not depend on its neighbours, its segments, or the run."""

from __future__ import annotations

from functools import cache

import pytest
from filter_cases import asked, convert, judged, message
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part
from pipeline.filters import DEFAULT, FILTERS
from pipeline.filters.talks import Talks

NAMES = ("length", "truncated", "repetition", "quality", "balance", "boilerplate")

TEXTS = (
    "Yes.",
    "The ferry leaves at noon and comes back in the evening. " * 6,
    "The ferry leaves at noon. " + "And then it comes back. " * 40,
    "z" * 300,
    "\n".join(f"Line {i % 3} is said again, whatever comes." for i in range(30)) + "\nEnd.",
    "\ufffd\ufffd broken " * 40,
    "I'm sorry, but I can't help with that.",
    "Look:\n```\nx = 1",
    "字" * 250,
    " ",
)
_ANSWERS = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3).map(tuple)


@cache
def alone(name: str, answers: tuple[str, ...]) -> str | None:
    return judged(name, asked(*answers))[0]


@pytest.mark.parametrize("name", NAMES)
@given(told=st.lists(_ANSWERS, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_verdict_is_of_the_conversation_alone(name: str, told: list[tuple[str, ...]]) -> None:
    assert judged(name, *(asked(*answers) for answers in told)) == [alone(name, answers) for answers in told]


@pytest.mark.parametrize("name", ["truncated", "repetition", "quality", "boilerplate"])
def test_segments_are_judged_as_the_one_conversation_that_they_are(name: str) -> None:
    told = [asked(*[f"{text} {i}" for i in range(3)], text) for text in TEXTS[:-1]]
    module = FILTERS[name]
    found = []
    for window in (8192, 512):
        records, _ = convert(told, max_cells=window, align="turns")
        found.append(module.judge(Talks(records), module.Params()))
    assert records.num_rows > len(told)
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_said_nothing_is_taken(name: str) -> None:
    module = FILTERS[name]
    told = [Conversation((message("user", text),)) for text in TEXTS[1:4]]
    _, silent = convert(told)
    assert dict(module.judge(Talks(silent), module.Params())) == {}
    calls = Conversation((message("user", "Go."), message("assistant", Part("tool_call", TEXTS[3], name="f"))))
    assert judged(name, calls) == [None]


def test_what_is_on_by_default_is_known() -> None:
    assert set(DEFAULT) <= set(FILTERS)
    assert {"length", "truncated", "repetition", "quality"} <= set(DEFAULT)
    assert "boilerplate" not in DEFAULT, "a set may consist of refusals on purpose"
