"""The filter ``encoding``: damage is told by its kind; what only looks odd stays."""

from __future__ import annotations

import pytest
from filter_cases import asked, judged, message, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part

GERMAN = "Die Straße führt über die Brücke; „größer“ wäre schöner – für 5 € mehr."
CLEAN = (
    GERMAN,
    "L’été, à Noël, où naïfs et cœurs s’émeuvent : « déjà vu » à 20 °C.",
    "东京的“地铁”很方便，票价是 200 円。",
    "متى تأسست المدينة؟ في عام ١٩٤٥.",
    "Где находится библиотека? — Там, за углом…",
    "Το βιβλίο είναι εδώ· πού είναι;",
    "Tiếng Việt rất đẹp, phải không?",
    "คุณอยู่ที่ไหน ฉันอยู่ที่บ้าน",
    "∑ᵢ xᵢ² ≤ √2 · ∫ f(x) dx ± ½, α ≠ β ⇒ ∞",
    "┌──┐\n│ab│\n└──┘ ✓ 👩‍👩‍👧 ™ © ½",
)


def test_clean_text_of_many_scripts_stays() -> None:
    assert judged("encoding", *map(asked, CLEAN)) == [None] * len(CLEAN)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_utf8_that_was_read_as_something_else(encoding: str) -> None:
    text = "Größe: für schöne Brücken über Flüsse, naïve Café"
    damaged = text.encode().decode(encoding)
    found = verdicts("encoding", [asked(damaged), asked(text)], max_controls=None)
    assert {talk: verdict.reason for talk, verdict in found.items()} == {0: "mojibake"}
    assert "GrÃ" in found[0].detail


def test_one_sequence_may_be_what_is_talked_about() -> None:
    talk = asked("You see Ã© where é should be.")
    assert judged("encoding", talk) == ["mojibake"]
    assert judged("encoding", talk, max_mojibake=1) == [None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It costs \ufffd5.", "replacement_characters"),
        ("Three \ufffd\ufffd\ufffd\ufffd times", "replacement_characters"),
        ("A NUL\x00 here", "controls"),
        ("The answer is \x08oxed{4}.", "controls"),
        ("It is \x0crac{1}{2}.", "controls"),
        ("C1: \x93quoted\x94", "controls"),
        ("Logos: \ue000\ue001", "private_use"),
        ("An apple \uf8ff computer", None),
        ("A page.\x0c\nThe next one.\tEnd\r\n", None),
        ("\x1b[31mred\x1b[0m", None),
    ],
)
def test_kinds_of_damage(text: str, reason: str | None) -> None:
    assert judged("encoding", asked(text)) == [reason]
    assert judged("encoding", asked(text), max_replacement_characters=9, max_controls=9, max_private_use=9) == [None]
    off = {"max_replacement_characters": None, "max_controls": None, "max_private_use": None, "max_mojibake": None}
    assert judged("encoding", asked(text), **off) == [None]


def test_what_the_model_reads_counts_only_where_all_is_asked_for() -> None:
    talk = asked("I cannot read that.", question="Look: \ufffd\ufffd")
    assert judged("encoding", talk) == [None]
    assert judged("encoding", talk, where="all") == ["replacement_characters"]


def test_what_programs_print_is_no_damage() -> None:
    def ran(result: str) -> Conversation:
        call = message("assistant", Part("tool_call", "{}", name="run", call_id="1"))
        return Conversation(
            (
                message("user", "Run it."),
                call,
                message("tool", Part("tool_result", result, call_id="1")),
                message("assistant", "Done."),
            )
        )

    printed = "\x1b[2K\r50%\x08\x08\x0899%\x07 \x1b]0;title\x07"
    assert judged("encoding", ran(printed), ran("a\x00b"), where="all") == [None, "controls"]


@given(st.lists(st.sampled_from(CLEAN), min_size=1, max_size=3), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_damage_is_counted_to_the_character(texts: list[str], count: int) -> None:
    talk = asked(*texts, "End" + " \ufffd" * count + ".")
    expected = "replacement_characters" if count > 2 else None
    assert judged("encoding", talk, max_replacement_characters=2) == [expected]
