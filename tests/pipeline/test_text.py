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


def pieces_of(text: str, unit: Literal["sentence", "paragraph"] = "sentence") -> list[str]:
    ends = cut(text, unit)
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


#: Sentences of each language, written for this test; how their white space is cut is the same everywhere.
LANGUAGES: dict[str, list[str]] = {
    "English": ["Dr. Gray met Mr. Poe at 3.15 p.m. in St. Ives.", "Did it rain?", "It did!"],
    "German": ["Am 3. Mai fuhr sie mit dem Zug z. B. nach Ulm.", "Prof. Dr. Kern war nicht da.", "Warum?"],
    "French": ["M. Petit est venu hier.", "Qui l\u2019a vu ?", "Personne !"],
    "Spanish": ["El Sr. Ruiz vive aquí.", "¿Dónde está?", "¡Qué bien!"],
    "Italian": ["Il sig. Neri è a casa con una zia.", "Dorme?", "Sì."],
    "Russian": ["Он родился в 1950 г. в селе.", "А. С. Белов живёт на ул. Мира, д. 5.", "Кто там?"],
    "Greek": ["Πού είναι το σπίτι;", "Είναι εδώ.", "Καλά!"],
    "Arabic": ["أين البيت؟", "البيت هنا.", "شكرا!"],
    "Persian": ["خانه کجاست؟", "اینجا است.", "خوب!"],
    "Urdu": ["گھر کہاں ہے؟", "گھر یہاں ہے۔", "شکریہ۔"],
    "Hebrew": ["איפה הבית?", "הבית כאן.", "תודה!"],
    "Hindi": ["घर कहाँ है?", "घर यहाँ है।", "धन्यवाद।"],
    "Bengali": ["বাড়ি কোথায়?", "বাড়ি এখানে।", "ধন্যবাদ।"],
    "Tamil": ["வீடு எங்கே?", "வீடு இங்கே.", "நன்றி!"],
    "Armenian": ["Տունն այստեղ է։", "Բարի լույս։"],
    "Georgian": ["სახლი აქ არის.", "გმადლობთ!"],
    "Amharic": ["ቤቱ እዚህ ነው።", "አመሰግናለሁ።"],
    "Burmese": ["အိမ်က ဒီမှာပါ။", "ကျေးဇူးပါ။"],
    "Korean": ["집은 어디에 있나요?", "집은 여기 있어요.", "고마워요!"],
}
UNSPACED: dict[str, list[str]] = {
    "Chinese": ["房子在哪里？", "他说：“在这里。”", "谢谢！"],
    "Japanese": ["家はどこですか？", "「ここです。」", "ありがとう！"],
    "Khmer": ["ផ្ទះនៅទីនេះ។", "អរគុណ។"],
    "Thai": ["บ้านของฉันอยู่ที่นี่ใกล้ตลาด", " วันนี้อากาศดีมากและฉันจะไปเดินเล่น"],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_found_in_many_languages(language: str) -> None:
    sentences = LANGUAGES[language]
    assert pieces_of(" ".join(sentences)) == [sentences[0], *(f" {s}" for s in sentences[1:])]
    assert pieces_of("\n".join(sentences)) == [sentences[0], *(f"\n{s}" for s in sentences[1:])]


@pytest.mark.parametrize("language", UNSPACED)
def test_sentences_of_scripts_without_spaces_are_found(language: str) -> None:
    assert pieces_of("".join(UNSPACED[language])) == UNSPACED[language]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Pi is 3.14, not 3.2. Right.", ["Pi is 3.14, not 3.2.", " Right."]),
        ("See https://a.example/b.html?c=d.e now. Yes.", ["See https://a.example/b.html?c=d.e now.", " Yes."]),
        ("Write to a.b@c.example. Thanks.", ["Write to a.b@c.example.", " Thanks."]),
        ("Use v2.0.1. It works.", ["Use v2.0.1.", " It works."]),
        ("**Bold.** Next.", ["**Bold.**", " Next."]),
        ('He said "go." Then he left.', ['He said "go."', " Then he left."]),
        ("The price is 5. It was 7.", ["The price is 5.", " It was 7."]),
        ("A.\u2028B is next. C.", ["A.\u2028B is next.", " C."]),
    ],
)
def test_numbers_addresses_and_quotes_are_not_cut(text: str, pieces: list[str]) -> None:
    assert pieces_of(text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("1. Wash it.\n2. Dry it.\n10) Go.", ["1. Wash it.", "\n2. Dry it.", "\n10) Go."]),
        ("- one\n- two, too.\n  * four", ["- one", "\n- two, too.", "\n  * four"]),
        ("So:\na) Left. Right.\n(b) Up.", ["So:", "\na) Left.", " Right.", "\n(b) Up."]),
        ("Steps: one. 2. Two. 3. Three.", ["Steps: one.", " 2. Two.", " 3. Three."]),
    ],
)
def test_list_items_are_cut_by_lines_and_keep_their_numbers(text: str, pieces: list[str]) -> None:
    assert pieces_of(text) == pieces


def test_code_is_cut_by_lines() -> None:
    code = "```python\nx = 1. # Note. Two.\n\ny = f(x); print(y). z\n```"
    assert pieces_of(f"Run this. Now:\n{code}\nDone. Fine.") == [
        "Run this.", " Now:", "\n```python", "\nx = 1. # Note. Two.", "\n\ny = f(x); print(y). z", "\n```",
        "\nDone.", " Fine.",
    ]  # fmt: skip
    assert pieces_of("~~~\na. B. c\nd") == ["~~~", "\na. B. c", "\nd"]


def test_tables_are_cut_by_rows() -> None:
    rows = ["| Name. | Says |", "|---|---|", "| A. B. | Yes. No. Well. |"]
    assert pieces_of("\n".join([*rows, "That is all. Yes."])) == [
        rows[0], f"\n{rows[1]}", f"\n{rows[2]}", "\nThat is all.", " Yes.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "formula",
    [
        "$$\na = b. \\\\\n\nc = d.\n$$", "\\[ x = 1. \\text{So. Yes.}\n+ 2 \\]",
        "\\begin{align*}\na &= 1. \\\\\nb &= 2.\n\\end{align*}",
    ],
)  # fmt: skip
def test_displayed_formulas_stay_whole(formula: str) -> None:
    assert pieces_of(f"We see. Then\n{formula}\nfollows. Good.") == [
        "We see.", " Then", f"\n{formula}", "\nfollows.", " Good.",
    ]  # fmt: skip
    assert pieces_of(f"One.\n\n{formula}\n\nTwo.", "paragraph") == ["One.", f"\n\n{formula}", "\n\nTwo."]


def test_a_formula_or_a_fence_that_is_not_closed_hides_nothing_but_code() -> None:
    assert pieces_of("It costs $$ a lot. Really. Yes.") == ["It costs $$ a lot.", " Really.", " Yes."]
    assert pieces_of("\\begin{align} One. Two.") == ["\\begin{align} One.", " Two."]


@settings(QUICK, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                "$$",
                "```",
                "\n```\n",
                "| a",
                " |\n",
                "\\[",
                "\\]",
                "\\begin{align}",
                "\\end{align}",
                "1. ",
                "\n- ",
                "Dr. ",
                "sig. ",
                "3. Mai ",
                "der die ",
                "A.\u2028",
                "J. R. ",
                "ก ข ",
                "។",
                "。",
                "”",
                "** ",
                "\xa0",
                "\u0301",
                "x",
                ". ",
                "? ",
            ]
        )
        | st.text(max_size=4),
        max_size=14,
    ).map("".join),
    st.sampled_from(["sentence", "paragraph"]),
)
def test_whatever_stands_in_a_text_its_pieces_join_to_it(text: str, unit: Literal["sentence", "paragraph"]) -> None:
    assert "".join(pieces_of(text, unit)) == text
    assert all(piece.strip() for piece in pieces_of(text, unit)[:-1])
    assert all(is_grapheme_boundary(text, end) for end in cut(text, unit))


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
