"""Checks of form: what anybody may write passes, and what nobody would say does not."""

from __future__ import annotations

import pytest

from synth.checks import TextError, check_speech, check_text


def code_of(text: str, scripts: list[str] | None = None, lines: bool = True) -> str | None:
    try:
        check_text(text, scripts, lines=lines)
    except TextError as error:
        return error.code
    return None


def spoken_code_of(text: str) -> str | None:
    try:
        check_text(text, None)
        check_speech(text, "a cell")
    except TextError as error:
        return error.code
    return None


SUMS = [
    "30 people + 5 people = 35 people, 35 people - 3 people = 32 people",
    "Kim reads 6 pages + 7 pages + 8 pages + 9 pages + 10 pages = 40 pages",
    "65 words/minute - 20 words/minute = 45 words/minute",
    "5 apples + 5 apples + 5 apples + 5 apples = 20 apples",
    "It costs $5 per kg + $5 per kg + $5 per kg.",
    "4*4*4*4*4*4*4*4",
    "2) = 1. 2) = 1. 2) = 1.",
    "12 12 12 12 12 12 12 12 12",
]
NO_LOOPS = [
    "x = 1\nx = 2\nx = 3\nx = 4\nx = 5",
    "a[i][j] = a[i][j-1] + a[i-1][j]",
    "f(x)=x*x*x*x*x",
    "Departure: 00:00 - Arrival: 02:00 - Departure: 04:00 - Arrival: 06:00 - Departure: 09:00 - Arrival: 11:00",
    "No, no, no, no, no!",
    "Row, row, row your boat",
    "1. 时 2. 时 3. 时 4. 时 5. 时",
    "好的好的好的",
    "哈哈哈哈哈",
    "加油加油加油加油",
    "hahahahaha, noooooooooo",
    "a very, very, very long day",
    "0.333333333333333333333333333333333333333333",
]
LOOPS = [
    "好的" * 8,
    "哈" * 10,
    "ดี" * 10,
    "ha" * 200,
    "word" * 80,
    "z" * 50,
    "a b c d e f g h i j k l m " * 4,
    "one day the old man went down to the sea with his dog and a net, " * 3,
    "I do think so and I do think so and I do think so",
    "oh my oh my oh my",
    "no no no no no",
    "no, " * 8,
    "5 apples + " * 9,
    "x*" * 20,
]


@pytest.mark.parametrize("text", SUMS)
@pytest.mark.parametrize("lines", [True, False])
def test_a_sum_is_no_loop(text: str, lines: bool) -> None:
    assert code_of(text, lines=lines) is None


@pytest.mark.parametrize("text", NO_LOOPS)
def test_what_is_said_again_on_purpose_is_no_loop(text: str) -> None:
    assert code_of(text) is None


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_is_found(text: str) -> None:
    assert code_of(text) == "repeated_words"
    assert code_of(f"I see. {text}. And then?") == "repeated_words"


@pytest.mark.parametrize("text", ["None", "Nothing.", "null", "(pause)", "\N{THUMBS UP SIGN}", "∞", "½", "π", "✓"])
def test_a_short_answer_may_be_a_symbol_or_a_word_for_silence(text: str) -> None:
    assert code_of(text) is None


@pytest.mark.parametrize("text", ["None", "Nothing.", "null", "(pause)", "\N{THUMBS UP SIGN}", "∞", "-"])
def test_a_spoken_cell_may_not(text: str) -> None:
    assert spoken_code_of(text) == "not_speech"


@pytest.mark.parametrize("text", [".", "...", "?", "—", "|", "~", "''", "()"])
def test_punctuation_alone_says_nothing(text: str) -> None:
    assert code_of(text) == "not_speech"


def test_line_breaks_of_both_kinds_are_allowed_where_lines_are() -> None:
    assert code_of("a\r\nb\nc") is None
    assert code_of("a\rb") == "control_chars"
    assert code_of("a\r\nb", lines=False) == "control_chars"


@pytest.mark.parametrize("text", ["a right angle at D,E,F.", "from A,B and C", "x,y"])
def test_single_letters_between_commas_are_a_list(text: str) -> None:
    assert spoken_code_of(text) is None


@pytest.mark.parametrize("text", ["well,yes", "yes,I do", "I,you and me", "no!yes", "5,a"])
def test_other_letters_right_behind_a_mark_are_glued(text: str) -> None:
    assert spoken_code_of(text) == "glued_words"


def test_a_long_sentence_may_say_its_words_again() -> None:
    twin = (
        "The height of the tower is 9 (since the number of the floors is 3), and the height of the chimney is 8 "
        "(since the number of the rings is 4)."
    )
    assert code_of(twin, lines=False) is None
    assert code_of("the end of the tower of the end of the tower and the end of the end of the tower, and the end of it "
                   "is the tower of the end and the tower", lines=False) == "repeated_words"  # fmt: skip


@pytest.mark.parametrize("text", ["5 kΩ", "3 μm", "Δx is small", "π r²", "α + β = 90°", "20 °C, ½ µm"])
def test_a_greek_letter_alone_is_a_symbol(text: str) -> None:
    assert code_of(text, ["Latin"]) is None


@pytest.mark.parametrize("text", ["the word και here", "it is αβ", "an я", "a 好 day"])
def test_other_letters_of_another_script_are_foreign(text: str) -> None:
    assert code_of(text, ["Latin"]) == "foreign_script"


def test_a_foreign_word_after_a_symbol_is_found() -> None:
    assert code_of("Ω and что", ["Latin"]) == "foreign_script"


SPECIAL_TOKENS = """
<bos> <BOS> <EOS> <PAD> <unk> <s> </s> <THINK> <think> </think> </thinking> <tool_calls> <tool_call> <function_call> <unused12>
<fim_prefix> <file_sep> <reponame> <jupyter_start> <end_of_utterance> <end_of_turn> <image> <extra_id_0> <0x0A> <reserved_1>
<|im_end|> <|im_end <|eot_id|> [INST] [/INST] [CLS] [SEP] [MASK] [PAD] [TOOL_CALLS] [AVAILABLE_TOOLS] <<SYS>>
<｜end▁of▁sentence｜>
"""


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS.split(), "<think >", "<|end of text|>"])
def test_special_tokens_are_found(token: str) -> None:
    assert code_of(f"well {token} so") == "special_tokens"


@pytest.mark.parametrize(
    "text",
    [
        "a <b>bold</b> <div class='x'> <br/> word",
        '<image src="a.png">',
        "List<Image> and Box<S>",
        "rows[mask] = x[pad]",
        "a <| b, a | b, x < y > z",
        "[1] [note] [OK]",
    ],
)
def test_html_and_code_hold_no_special_tokens(text: str) -> None:
    assert code_of(text) is None


@pytest.mark.parametrize("hidden", ["\u202e", "\u202a", "\u2066", "\u2069", "\ufeff", "\u200b", "\U000e0041", "\x00"])
def test_hidden_characters_are_found(hidden: str) -> None:
    assert code_of(f"well{hidden} so") == "control_chars"


@pytest.mark.parametrize("text", ["\N{WOMAN}\u200d\N{GIRL} go", "می\u200cخواهم", "right\u200fmark", "soft\u00adhyphen"])
def test_joiners_and_marks_that_writing_needs_pass(text: str) -> None:
    assert code_of(text) is None
