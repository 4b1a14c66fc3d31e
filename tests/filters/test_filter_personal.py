"""The filter ``personal`` and the spans that it goes by: what may be somebody's is found, what is nobody's is not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from filter_cases import asked, judged, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn

from pipeline.errors import ConfigError
from pipeline.filters import parse_filters
from pipeline.sensitive import personal
from pipeline.sensitive.spans import Span

SOMEBODYS = (
    ("email", "anna.k+news@uni-kl.de"),
    ("email", "m_weber7@firma-nord.co.uk"),
    ("phone", "+49 30 901820"),
    ("phone", "(415) 823-2671"),
    ("phone", "415-823-2671"),
    ("phone", "01 42 68 53 00"),
    ("card", "4539 1488 0343 6467"),
    ("card", "6011-0009-9013-9432"),
    ("card", "379354508162306"),
    ("iban", "DE44 5001 0517 5407 3249 31"),
    ("iban", "NL39RABO0300065264"),
)
NOBODYS = (
    "joe@example.com", "joe@mail.example.org", "anna@firma.test", "you@yourdomain.com", "anna@company.com",
    "john.doe@gmail.com", "support@firma-nord.de", "no-reply@firma-nord.de", "git@github.com:owner/name.git",
    "icon@2x.png", "react@18.2.0", "@decorator.name", "a @ b.T", "self.w@x.mean(0)",
    "(202) 555-0143", "555-1234", "+44 7700 900123", "123-456-7890", "+1 800 742 5877",
    "4242 4242 4242 4242", "4111111111111111", "5555-5555-5555-4444", "378282246310005",
    "4539 1488 0343 6466", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "DE45 5001 0517 5407 3249 31",
    "2024-05-20", "20240520 101500", "3.14159265358", "between 1990-2000 and 2005-2010", "order 4159205371",
    "1234567890123456", "ISBN 978-3-16-148410-0", "10.1000/182", "0x4159205371", "commit 4159205371823266",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), SOMEBODYS)
def test_somebodys_data_is_found_whole(kind: str, value: str) -> None:
    for text in (value, f"请联系 {value} 谢谢", f'{{"to": "{value}"}}', f"It is {value}."):
        at = text.index(value)
        assert personal.find([text]) == [[Span(at, at + len(value), kind)]], text


@pytest.mark.parametrize("value", NOBODYS)
def test_nobodys_data_is_not_found(value: str) -> None:
    assert personal.find([value, f"It is {value}, I think."]) == [[], []]


def test_digits_alone_are_a_phone_number_where_something_says_so() -> None:
    texts = ["Call me on 4158232671.", "The number of the order is 4158232671.", "电话：4158232671"]
    assert [len(spans) for spans in personal.find(texts)] == [1, 0, 1]


def test_regions_say_what_a_number_without_country_code_is() -> None:
    assert personal.find(["030 901820 22"], regions=["US"]) == [[]]
    assert [s.kind for s in personal.find(["030 90182022"], regions=["DE"])[0]] == ["phone"]
    assert [s.kind for s in personal.find(["+49 30 90182022"], regions=["US"])[0]] == ["phone"]


def test_numbers_for_films_and_tests_are_found_where_they_are_asked_for() -> None:
    texts = ["joe@example.com", "(202) 555-0143", "4242 4242 4242 4242", "GB82WEST12345698765432"]
    found = personal.find(texts, placeholders=True)
    assert [[span.kind for span in spans] for spans in found] == [["email"], ["phone"], ["card"], ["iban"]]


def test_addresses_of_machines_are_found_where_they_are_asked_for() -> None:
    texts = ["at 91.198.174.192 now", "at 192.168.1.10", "version 1.2.3.4.5", "2a00:1450:4001:0:0:0:0:200e", "10:30:45"]
    assert personal.find(texts) == [[]] * 5
    assert [len(spans) for spans in personal.find(texts, ["ip"])] == [1, 0, 0, 1, 0]


def test_a_word_of_capitals_behind_an_account_number_is_not_of_it() -> None:
    text = "IBAN DE44 5001 0517 5407 3249 31 BITTE"
    assert personal.find([text]) == [[Span(5, 32, "iban")]]


def test_allowed_domains_stay() -> None:
    talks = [asked("Write to anna@uni-kl.de."), asked("Write to anna@mail.uni-kl.de."), asked("Write to anna@kl.de.")]
    assert judged("personal", *talks) == ["email"] * 3
    assert judged("personal", *talks, allow=["@Uni-KL.de"]) == [None, None, "email"]


def test_verdicts_mask_what_they_found() -> None:
    for kind, value in SOMEBODYS:
        verdict = verdicts("personal", [asked(f"It is {value}.")])[0]
        assert verdict.reason == kind
        assert value[:5] not in verdict.detail
        assert f"({len(value)} characters)" in verdict.detail


def test_the_most_frequent_kind_is_the_reason() -> None:
    talk = asked("(415) 823-2671, anna@uni-kl.de, ben@uni-kl.de, ben@uni-kl.de")
    found = verdicts("personal", [talk])[0]
    assert found.reason == "email"
    assert found.detail.endswith("1 phone, 2 email")
    assert judged("personal", talk, max_count=3) == [None]
    assert judged("personal", talk, kinds=["card"]) == [None]


@pytest.mark.parametrize(("key", "value"), [("kinds", ["e-mail"]), ("regions", ["Germany"])])
def test_settings_are_checked(key: str, value: list[str]) -> None:
    with pytest.raises(ConfigError, match=value[0]):
        parse_filters([{"personal": {key: value}}])


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4), st.sampled_from(SOMEBODYS))
@settings(max_examples=60, deadline=None)
def test_spans_lie_in_their_texts_in_order(texts: list[str], planted: tuple[str, str]) -> None:
    kind, value = planted
    texts = [*texts, f"{' '.join(texts)} : {value}"]
    found = personal.find(texts, personal.KINDS)
    assert kind in {span.kind for span in found[-1]}
    for text, spans in zip(texts, found, strict=True):
        assert all(0 <= span.start < span.end <= len(text) for span in spans)
        assert all(a.end <= b.start for a, b in pairwise(spans))


@given(st.text("0123456789", min_size=11, max_size=11))
@settings(max_examples=60, deadline=None)
def test_a_card_has_the_right_last_digit(digits: str) -> None:
    number = "5280" + digits
    right = luhn.calc_check_digit(number)
    wrong = str((int(right) + 1) % 10)
    assert personal.find([number + wrong], ["card"]) == [[]]
    assert personal.find([number + right], ["card"], placeholders=True) == [[Span(0, 16, "card")]]
