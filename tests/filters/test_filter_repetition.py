"""The filter ``repetition``: degenerate output is taken; what repeats on purpose stays."""

from __future__ import annotations

import json
import random

import pytest
from filter_cases import asked, judged, message, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part
from pipeline.filters.repetition import _loop, _repeats

QUICK = settings(max_examples=40, deadline=None, derandomize=True)


def prose(words: int, seed: int = 0) -> str:
    """Words that hardly repeat, in sentences."""
    drawn = random.Random(seed)
    letters = "abdefgiklmnoprstu"
    said = ["".join(drawn.choices(letters, k=drawn.randint(2, 9))) for _ in range(words)]
    return " ".join(word + "." * (i % 12 == 11) for i, word in enumerate(said))


LOOPS = {
    "words": prose(60) + " and so it goes on" * 30,
    "cut off": prose(60) + " Wait, that is not right. Let me think." * 8 + " Wait, that is n",
    "paragraphs": prose(60) + "\n\nTherefore, the answer is 14.\n\nBut that cannot be." * 9,
    "a short phrase": prose(60) + " no" * 100,
    "chinese": "首先我们来看这个问题。" + "所以答案是四十二，让我再想一想。" * 20,
    "thai": "เรามาดูปัญหานี้กัน" + "ดังนั้นคำตอบคือสี่สิบสอง " * 20,
    "arabic": "لننظر إلى هذه المسألة. " + "إذن الجواب هو اثنان وأربعون. " * 12,
    "an inner repeat": prose(60) + " he says ha ha ha and goes home" * 12,
    "in open code": prose(60) + "\n```python\n" + "x = compute(x)\n" * 40,
    "rows of a table": "| a | b |\n|---|---|\n" + "| the same value | the same value |\n" * 20,
    "numbers": prose(60) + " 0 1" * 600,
}


@pytest.mark.parametrize("name", LOOPS)
def test_an_endless_loop_at_the_end_is_taken(name: str) -> None:
    assert judged("repetition", asked(LOOPS[name])) == ["endless_loop"]


def test_a_loop_says_what_is_repeated_and_how_often() -> None:
    found = verdicts("repetition", [asked(LOOPS["words"])])[0].detail
    assert found == "ends with ' and so it goes on', 30 times"


def test_a_loop_counts_from_the_times_and_the_characters_asked_for() -> None:
    told = asked(prose(60) + " and so it goes on" * 5)
    assert judged("repetition", told) == [None]
    assert judged("repetition", told, loop_characters=90) == ["endless_loop"]
    assert judged("repetition", told, loop_characters=91) == [None]
    assert judged("repetition", told, loop_characters=50, loop_times=6) == [None]


@pytest.mark.parametrize("filler", ["a", "字", "А", "é"])
def test_one_letter_over_and_over_is_taken_wherever_it_stands(filler: str) -> None:
    assert judged("repetition", asked(f"{prose(60)} {filler * 200} {prose(60, 1)}")) == ["one_character"]
    assert judged("repetition", asked(f"{prose(60)} {filler * 199} {prose(60, 1)}")) == [None]


@given(st.integers(8, 60), st.integers(0, 400), st.integers(0, 60), st.sampled_from("aя字😀-0"))
@QUICK
def test_runs_are_found_at_every_place(length: int, before: int, more: int, filler: str) -> None:
    text = "xy" * before + filler * (length + more if filler.isalpha() else (length + more) * 10) + "xy" * 150
    off = {"loop_times": None, "max_phrase_share": None}
    assert judged("repetition", asked(text), max_run=length, **off) == ["one_character"]
    assert judged("repetition", asked(text), max_run=length + more + 1, **off) == [None]


def test_repeated_lines_paragraphs_and_phrases_are_taken_by_their_share() -> None:
    lines = "\n".join(f"{prose(8, i % 4)}" for i in range(40)) + "\nThe end."
    assert judged("repetition", asked(lines)) == ["repeated_lines"]
    assert judged("repetition", asked(lines), max_line_share=0.95) == ["repeated_phrases"]
    assert judged("repetition", asked(lines), max_line_share=0.95, max_phrase_share=0.95) == [None]
    twice = f"{prose(60)}\n\n{prose(60)}\n\nThe end."
    assert judged("repetition", asked(twice)) == ["repeated_paragraphs"]
    assert judged("repetition", asked(twice), max_paragraph_share=None) == [None]
    jumbled = " ".join(prose(20, i % 3) for i in range(12)) + " The end."
    assert judged("repetition", asked(jumbled)) == ["repeated_phrases"]


def test_thoughts_are_judged_like_answers_and_what_is_read_is_not() -> None:
    loop = LOOPS["words"]
    thinks = Conversation((message("user", "Why?"), message("assistant", Part("thinking", loop), "So.")))
    reads = Conversation((message("user", loop), message("assistant", "I see.")))
    calls = Conversation(
        (
            message("user", "Run."),
            message("assistant", Part("tool_call", loop, name="f")),
            message("tool", Part("tool_result", loop)),
            message("assistant", "Done."),
        )
    )
    assert judged("repetition", thinks, reads, calls) == ["endless_loop", None, None]


def test_the_same_message_again_and_again_is_taken() -> None:
    excuse = "I could not find that file, let me look in the folder again."
    assert judged("repetition", asked(*[excuse] * 6)) == ["repeated_messages"]
    assert judged("repetition", asked(*[excuse] * 6), max_message_share=None) == [None]
    assert judged("repetition", asked(*[excuse] * 3, prose(80))) == [None]
    assert judged("repetition", asked(*["Yes."] * 80)) == [None]


REFRAIN = "Row on, my friend, row on to the shore,\nthe river is wide and the night is long,\nrow on, my friend."
GOOD = {
    "prose": prose(400),
    "a song": "\n\n".join(f"{prose(6, i)}\n{prose(6, i + 9)}\n{prose(7, i + 18)}\n\n{REFRAIN}" for i in range(4)),
    "code": "Here:\n```python\n" + "".join(f"if x == {i}:\n    return None\n" for i in range(60)) + "```\n",
    "the same code": f"{prose(40)}\n```\n{'pass' * 3}\n" + "print(0)\n" * 60 + "```\nDone.",
    "code without fences": "".join(f"def f{i}(self):\n    self.x = {i}\n    return self.x\n\n" for i in range(12)),
    "a table": "| day | open |\n|---|---|\n" + "\n".join(f"| {d} | yes, the whole day |" for d in "abcdefghijklm"),
    "a table of few words": "| a | b |\n|---|---|\n"
    + "".join(f"| the same value | the same value | {i} |\n" for i in range(20)),
    "json": json.dumps([{"id": i, "type": "object", "required": True} for i in range(30)], indent=2),
    "rulers": f"{prose(40)}\n{'-' * 150}\n{prose(40, 1)}\n{'=' * 150}\n{'━' * 150}",
    "a form": f"{prose(60)}\nName: {'_' * 120}\nSigned: {'.' * 150}",
    "a grid": f"{prose(30)}\n" + "\n".join(" ".join("0" * 20) for _ in range(20)),
    "a drawing": "+----------+\n|          |\n|          |\n|          |\n+----------+\n" * 5,
    "steps": "\n".join(f"Step {i}: add {i} to {i * 3}, which is {i * 4}." for i in range(20)),
    "laughter": f"{prose(60)} hahahahahahahaha!!!!!!!!!!",
    "a proof": "\n".join(f"${i}^2 + {i} = {i * i + i}$, which is even." for i in range(20)),
    "chinese": "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 2,
    "a list of the week": "\n".join(f"{d}: warm up, then {prose(3, i)}" for i, d in enumerate("mtwtfss" * 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_repeats_on_purpose_stays(name: str) -> None:
    assert judged("repetition", asked(GOOD[name])) == [None]


def test_a_null_limit_is_none() -> None:
    off = dict.fromkeys(("max_line_share", "max_paragraph_share", "max_phrase_share", "max_message_share"))
    told = [asked(text) for text in LOOPS.values()]
    assert judged("repetition", *told, **off, loop_times=None, max_run=None) == [None] * len(told)


@given(st.text("ab cd", min_size=0, max_size=60), st.text("abc ,", min_size=1, max_size=40), st.integers(2, 9))
@QUICK
def test_the_phrase_at_the_end_is_one_that_stands_there(before: str, unit: str, times: int) -> None:
    text = before + unit * times
    found = list(_loop(text))
    assert all(text.endswith(u * n) and not text.endswith(u * (n + 1)) and n > 1 for u, n in found)
    if len(unit) * (times - 1) >= 12:  # the tail by which it is found
        assert any(len(u) * n >= len(unit) * (times - 1) for u, n in found)


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 3))
@QUICK
def test_runs_of_words_said_before_are_those_that_a_search_finds(words: list[int], owners: int) -> None:
    import numpy as np

    if len(words) < 8:
        return
    owner = np.sort(np.arange(len(words)) % owners)
    found = _repeats(np.array(words, dtype=np.uint64) * np.uint64(0x1234567), owner)
    seen: set[tuple[int, ...]] = set()
    for i in range(len(words) - 7):
        run = (int(owner[i]), *words[i : i + 8])
        whole = owner[i] == owner[i + 7]
        assert found[i] == (whole and run in seen)
        if whole:
            seen.add(run)
