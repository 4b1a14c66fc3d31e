"""The filter ``truncated``: what breaks off, and what only looks as if it did."""

from __future__ import annotations

import pytest
from filter_cases import asked, judged, message, verdicts

from pipeline.conversation import Conversation, Part

LONG = "one two three four five six seven eight nine ten " * 5


def last(*parts: Part | str, **more: float) -> Conversation:
    return Conversation((message("user", "Go on."), message("assistant", *parts, **more)))


def test_what_the_source_calls_interrupted_is_taken_if_it_is_the_end() -> None:
    cut = Part("text", "And then", interrupted=True)
    assert judged("truncated", last(cut)) == ["interrupted"]
    assert judged("truncated", last(cut), interrupted=False) == [None]
    assert judged("truncated", last(cut, weight=0.0)) == [None]
    barge_in = Conversation((*last(cut).messages, *asked("As you wish.").messages))
    assert judged("truncated", barge_in) == [None]


OPEN = (
    "Look:\n```python\nprint(1)\n",
    "```\n```\nand\n```js\nlet x",
    "- so:\n\n    ```\n    x = 1",
    "> ```\n> quoted",
)


@pytest.mark.parametrize("text", OPEN)
def test_an_open_block_of_code_is_taken(text: str) -> None:
    assert judged("truncated", asked(text)) == ["open_code"]
    assert judged("truncated", asked(text), open_code=False) == [None]
    assert judged("truncated", asked(text, "No matter.")) == [None]


CLOSED = (
    "```python\nprint(1)\n```",
    "```python\nprint(1)```",
    "```print(1)``` prints it.",
    "A block begins with ``` and ends with it.",
    "1. so:\n   ```\n   x\n     ```\n2. done",
    "````markdown\n```\nx\n```\n````",
    "`x` and ``y``",
)


@pytest.mark.parametrize("text", CLOSED)
def test_a_closed_block_of_code_stays_however_it_is_written(text: str) -> None:
    assert judged("truncated", asked(text)) == [None]


def test_an_open_block_that_a_call_follows_is_not_the_end() -> None:
    told = Conversation(
        (
            message("user", "Go on."),
            message("assistant", "I run\n```\nls", Part("tool_call", "{}", name="f")),
        )
    )
    assert judged("truncated", told) == [None]


ENDS = (
    "etc.", "done!", "是的。", "そうです」", "حسنا؟", "ठीक है।", "ဟုတ်ကဲ့။", "(so)", "**so**", "it is 42", "done 🎉", "done ❤️",
    "done 👍🏽", "done 👩‍👩‍👧", "done ✔️\n\n", "| a | b |", "\\]", "…", "x²", "”", "100 €", "ใช่ครับ", "ថ្ងៃនេះ", "1️⃣",
)  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_texts_of_every_script_that_end_on_purpose_stay(end: str) -> None:
    assert judged("truncated", asked(LONG + end), no_ending=True) == [None]


@pytest.mark.parametrize("end", ["and the", "и это", "和这个", "그리고 이", "und größ", "και το", "e\u0301te\u0301"])
def test_texts_that_end_in_the_middle_are_taken_where_that_is_asked_for(end: str) -> None:
    assert judged("truncated", asked(LONG + end), no_ending=True) == ["no_ending"]
    assert judged("truncated", asked(LONG + end)) == [None]
    assert verdicts("truncated", [asked(LONG + end)], no_ending=True)[0].detail.endswith(f"{end}'")


def test_words_of_scripts_without_spaces_are_counted_too() -> None:
    assert judged("truncated", asked("他们说明天会下雨" * 6), no_ending=True) == ["no_ending"]
    assert judged("truncated", asked("他们说明天会下雨"), asked("Yes"), no_ending=True) == [None, None]
