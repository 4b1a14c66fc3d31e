"""What a text mentions and makes known, and how much of a reading must have passed before it may be said."""

from __future__ import annotations

import pytest
from conversation_cases import QUICK, prose, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alignment.grounding import Reading
from pipeline.mentions import denies, is_known, known, mentions, ngrams, number_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1,234", "1234"),
        ("1234.0", "1234"),
        ("1234.50", "1234.5"),
        ("007", "7"),
        ("0", "0"),
        ("0.0", "0"),
        ("1,234,567.80", "1234567.8"),
    ],
)
def test_one_number_has_one_key(text: str, key: str) -> None:
    assert number_key(text) == key


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("It costs 1,250.50 dollars.", ("1250.5",)),
        ("Ask Maria about the trip to Oslo.", ("maria", "oslo")),
        ("Call get_user with userId and X9.", ("get_user", "userid", "x9")),
        ('They say "grumpy cats" rule.', ("grumpy", "cats")),
        ("1. First\n2. Second", ()),
        ("The weather is nice today.", ()),
        ("On 2024-05-20 at 08:30.", ("2024-05-20", "08:30")),
        ("NASA launched it.", ("nasa",)),
    ],
)
def test_numbers_names_identifiers_and_quoted_words_are_required(text: str, required: tuple[str, ...]) -> None:
    assert mentions(text).required == required


@settings(QUICK, max_examples=100)
@given(texts)
def test_a_text_makes_known_all_that_it_mentions(text: str) -> None:
    found = mentions(text)
    assert set(found.required) <= set(found.content)
    assert all(is_known(key, known(text)) for key in found.content)
    assert len(set(found.content)) == len(found.content)


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("2024-05-20", "in 2024, month 05, day 20", True),
        ("2024-05-20", "in 2024 on day 20", False),
        ("get_user", "get the user", True),
        ("flight", "flights", True),
        ("flights", "flight", True),
        ("1250.5", "1,250.50", True),
        ("51", "511", False),
        ("paris", "Paris", True),
    ],
)
def test_a_key_is_known_whole_by_its_pieces_or_in_the_other_number(key: str, text: str, found: bool) -> None:
    assert is_known(key, known(text)) is found


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("It is not so.", True),
        ("It isn't.", True),
        ("Nothing.", False),
        ("A knot.", False),
        ("没有航班。", True),
        ("有航班。", False),
        ("No flights", True),
    ],
)
def test_negations_are_seen(text: str, denied: bool) -> None:
    assert denies(text) is denied


def test_ngrams_need_words_of_content() -> None:
    assert ngrams("the quick brown fox jumps") == {"the quick brown fox jumps"}
    assert ngrams("it is what it is to me") == frozenset()
    assert "明天下午三點在台" in ngrams("我們明天下午三點在台北見")


def needed_by_definition(text: str, reading: list[str], before: set[str], min_coverage: float) -> int | None:
    """``Reading.needed_for`` without its index: every piece is looked at for every key."""
    found = mentions(text)
    places = {key: [i for i, piece in enumerate(reading, 1) if is_known(key, known(piece))] for key in found.content}
    needed = covered = 0
    for key in found.content:
        if is_known(key, before):
            covered += 1
        elif places[key]:
            covered += 1
            needed = max(needed, places[key][0])
        elif key in found.required:
            return None
    if needed == 0 or covered < min_coverage * len(found.content):
        return None
    matches = [sum(i in places[key] for key in found.content) for i in range(1, len(reading) + 1)]
    needed = max(needed, max(i for i, count in enumerate(matches, 1) if count == max(matches)))
    if denies(text) and not any(denies(piece) for piece in reading[:needed]):
        return None
    joined = [(reading[i - 1][-80:] if i else "") + piece for i, piece in enumerate(reading)]
    for gram in ngrams(text):
        needed = max(needed, next((i for i, piece in enumerate(joined, 1) if gram in ngrams(piece)), 0))
    return needed


@settings(QUICK, max_examples=150)
@given(prose, st.lists(prose, min_size=1, max_size=6), prose, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_the_index_of_a_reading_finds_what_its_definition_says(
    text: str, reading: list[str], before: str, coverage: float
) -> None:
    expected = needed_by_definition(text, reading, set(known(before)), coverage)
    assert Reading(reading).needed_for(text, (known(before),), coverage) == expected


@settings(QUICK, max_examples=100)
@given(prose, st.lists(prose, min_size=1, max_size=6), st.sampled_from([0.0, 0.8]))
def test_what_may_be_said_mentions_nothing_that_is_still_to_be_read(
    text: str, reading: list[str], coverage: float
) -> None:
    needed = Reading(reading).needed_for(text, (), coverage)
    if needed is not None:
        assert 1 <= needed <= len(reading)
        for key in mentions(text).required:
            assert any(is_known(key, known(piece)) for piece in reading[:needed])
