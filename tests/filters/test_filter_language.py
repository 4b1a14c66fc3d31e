"""The filter ``language``: other languages than the wanted ones; code, data and short texts are of none."""

from __future__ import annotations

import json

import pytest
from filter_cases import asked, judged, talks_of, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation
from pipeline.errors import ConfigError
from pipeline.filters import parse_filters
from pipeline.filters.language import detect, languages_of, prose

TEXTS = {
    "en": ("Where is the library, please?", "It stands behind the old town hall, on the left side of the road."),
    "de": ("Wo ist bitte die Bibliothek?", "Sie steht hinter dem alten Rathaus, auf der linken Seite der Straße."),
    "zh": ("请问图书馆在哪里？", "图书馆在旧市政厅后面，马路的左边，走五分钟就到了。"),
    "ar": ("أين تقع المكتبة من فضلك؟", "تقع المكتبة خلف مبنى البلدية القديم على الجانب الأيسر من الطريق."),
    "ru": ("Где находится библиотека?", "Она стоит за старой ратушей, на левой стороне дороги."),
    "he": ("איפה נמצאת הספרייה בבקשה?", "היא נמצאת מאחורי בניין העירייה הישן, בצד שמאל של הדרך."),
}
CODE = "```python\nfor item in items:\n    print(item.name, 'is', item.value)\n```"


def _talk(language: str, *more: str) -> Conversation:
    question, answer = TEXTS[language]
    return asked(answer + "\n" + "\n".join(more), question=question)


def test_languages_are_told_by_their_codes() -> None:
    assert languages_of(talks_of(*map(_talk, TEXTS))) == list(TEXTS)


def test_other_languages_are_taken_and_named() -> None:
    talks = [_talk("en"), _talk("de"), _talk("zh")]
    found = verdicts("language", talks, keep=["en", "zh"])
    assert {talk: verdict.reason for talk, verdict in found.items()} == {1: "other_language"}
    assert found[1].detail.startswith("de, ")
    assert judged("language", *talks) == [None] * 3
    assert judged("language", *talks, keep=["ru"]) == ["other_language"] * 3


def test_old_codes_mean_the_same() -> None:
    assert judged("language", _talk("he"), keep=["iw"]) == [None]


def test_languages_that_cannot_be_told_apart_stay_together() -> None:
    said = "Perpustakaan berada di belakang balai kota lama, di sisi kiri jalan."  # told as Malay; it is Indonesian
    for keep, reason in (["id"], None), (["ms"], None), (["en", "tl"], "other_language"):
        assert judged("language", asked(said, question="Di mana letak perpustakaan itu?"), keep=keep) == [reason]


def test_code_and_data_have_no_language() -> None:
    data = json.dumps({f"name {i}": "the quick brown fox jumps over the lazy dog" for i in range(40)})
    long_code = "\n".join([CODE] * 20)
    assert judged("language", _talk("de", CODE), _talk("de", long_code), keep=["de"]) == [None, None]
    assert prose(talks_of(asked(long_code, data, question="Wo?"))) == ["Wo?\n\nWo?"]


def test_little_prose_is_unknown() -> None:
    talks = [asked("42", question="6 × 7?"), asked(CODE, question="```\nls\n```"), _talk("en")]
    assert languages_of(talks_of(*talks))[:2] == ["und", "und"]
    assert judged("language", *talks, keep=["de"]) == [None, None, "other_language"]
    assert judged("language", *talks, unknown="take") == ["unknown_language", "unknown_language", None]


def test_a_name_in_another_language_takes_nothing() -> None:
    english = " ".join(TEXTS["en"]) + " Its name is Stadtbibliothek am alten Rathaus, in German."
    assert judged("language", asked(english), keep=["en"]) == [None]


def test_a_long_answer_does_not_hide_what_the_others_say() -> None:
    long = " ".join(["The answer is long and goes on about the same thing."] * 200)
    talk = asked(long, *[TEXTS["de"][1]] * 8, question=TEXTS["de"][0])
    assert languages_of(talks_of(talk)) == ["de"]


def test_codes_are_checked() -> None:
    with pytest.raises(ConfigError, match="English"):
        parse_filters([{"language": {"keep": ["English"]}}])


@given(st.lists(st.text(max_size=60), max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_text_has_a_language_or_none(texts: list[str]) -> None:
    said = [text.encode("utf-8", "ignore").decode() for text in texts]
    found = list(detect(said))
    assert len(found) == len(said)
    assert all((code == "und") == (share == 0.0) and 0.0 <= share <= 1.0 for code, share in found), found
    assert found == list(detect(said))


def test_controls_and_what_is_no_character_do_no_harm() -> None:
    odd = "".join(map(chr, [0, 1, 27, 127, 0xFDD0, 0xFFFE, 0xFFFF])).join(TEXTS["de"])
    assert languages_of(talks_of(asked(odd))) == ["de"]
