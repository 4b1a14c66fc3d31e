"""Cutting text: pieces join again, and no cut splits a user-perceived character."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import pytest
import regex
from conversation_cases import QUICK, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import LONG_SENTENCE, cut, cut_tokens, is_grapheme_boundary


@settings(QUICK, max_examples=150)
@given(texts | st.text(st.sampled_from("🇫🇩👩\u200d👍🏽e\u0301\u0600 \r\nक्षि각ก็\u0e33a")))
def test_grapheme_boundaries_are_those_of_the_standard(text: str) -> None:
    expected = {0, *(m.end() for m in regex.finditer(r"\X", text))}
    assert {i for i in range(len(text) + 1) if is_grapheme_boundary(text, i)} == expected


def test_a_long_row_of_flags_is_not_cut_inside_a_flag() -> None:
    text = "Teams: " + "🇫🇷🇩🇪🇯🇵🇰🇪" * 6
    expected = {0, *(m.end() for m in regex.finditer(r"\X", text))}
    assert {i for i in range(len(text) + 1) if is_grapheme_boundary(text, i)} == expected


@settings(QUICK, max_examples=100)
@given(texts, st.sampled_from(["sentence", "paragraph"]))
def test_cuts_ascend_to_the_end_and_split_no_character(text: str, unit: Literal["sentence", "paragraph"]) -> None:
    ends = cut(text, unit)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(text)
    assert {0, *(m.end() for m in regex.finditer(r"\X", text))}.issuperset(ends)


@settings(QUICK, max_examples=100)
@given(texts, st.sampled_from(["sentence", "paragraph"]))
def test_no_piece_ends_in_white_space_but_the_last(text: str, unit: Literal["sentence", "paragraph"]) -> None:
    for end in cut(text, unit)[:-1]:
        assert not text[end - 1].isspace()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two!  Three?", ["One.", " Two!", "  Three?"]),
        ("Dr. Smith came at 3.5 p.m. today. He left.", ["Dr. Smith came at 3.5 p.m. today.", " He left."]),
        ("你好。我們走吧！", ["你好。", "我們走吧！"]),
        ("def f():\n    return 1\n", ["def f():", "\n    return 1", "\n"]),
        ("one\r\ntwo", ["one", "\r\ntwo"]),
        ("", [""]),
        ("   ", ["   "]),
    ],
)
def test_sentences_and_lines_are_pieces_with_their_white_space_before_them(text: str, pieces: list[str]) -> None:
    ends = cut(text, "sentence")
    assert [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] == pieces


def test_paragraphs_are_cut_at_empty_lines_only() -> None:
    text = "One. Two.\nThree.\n\nFour.\n \n\nFive."
    ends = cut(text, "paragraph")
    assert [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [
        "One. Two.\nThree.",
        "\n\nFour.",
        "\n \n\nFive.",
    ]


def test_a_sentence_that_is_too_long_is_cut_at_its_clauses() -> None:
    row = '{"id": "HAT001", "price": 51, "from": "Berlin", "to": "Paris"}'
    text = "[" + ", ".join([row] * 4) + "]"
    assert len(row) < LONG_SENTENCE < len(text)
    assert len(cut(text, "sentence")) > 4
    assert cut(row, "sentence") == [len(row)]


@pytest.mark.parametrize("piece", [" ", "\n", "\t \n", "a\n", "e\u0301", "🇫🇷", '"', "1. "])
def test_runs_of_anything_take_linear_time(piece: str) -> None:
    text = piece * 100_000
    began = time.monotonic()
    for unit in ("sentence", "paragraph"):
        assert cut(text, unit)[-1] == len(text)  # type: ignore[arg-type]
    assert time.monotonic() - began < 5


@given(st.text(alphabet="ab \nxé\u0301窑👩", max_size=60), st.integers(-3, 9))
def test_a_long_text_is_cut_into_pieces_of_so_many_tokens_that_join_to_it(text: str, size: int) -> None:
    ends = np.cumsum([len(c.encode()) for c in text], dtype=np.int64)
    pieces = cut_tokens(text, ends, size)
    offsets = [0, *(end for end, _ in pieces)]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == len(text)
    assert sum(tokens for _, tokens in pieces) == len(text)
    assert all(is_grapheme_boundary(text, end) for end, _ in pieces)


def test_a_text_whose_spaces_stand_where_pieces_begin_is_cut_to_its_end() -> None:
    text = " a b c"
    assert cut_tokens(text, np.arange(1, 7, dtype=np.int64), 1)[-1][0] == len(text)
