"""What texts mention and make known, and how much of a reading must have passed before a chunk may be said."""

from __future__ import annotations

import numpy as np
import pytest
from conversation_cases import QUICK, message, prose, talk, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alignment.grounding import Ground, Questions
from pipeline.alignment.plan import Plan, start_plan
from pipeline.timeline import draft_of
from pipeline.words import RUN_CONTENT, Words, key_of, key_text, number_key, pieces_of, scan


def known(words: Words, text: int) -> set[str]:
    return {key_text(k) for k in words.known_key[words.known_text == text].tolist()}


def mentioned(words: Words, text: int, required: bool = False) -> set[str]:
    said = words.mentions()
    return {key_text(k) for k in said.key[(said.text == text) & (said.required if required else True)].tolist()}


def runs(words: Words, text: int) -> set[str]:
    found = words.runs
    return {found.text(i, words) for i in np.flatnonzero((found.first == text) & (found.last == text)).tolist()}


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
    assert known(scan([f"It is {text} now."]), 0) == {"it", "is", "now", key}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Flights", "flight", True),
        ("Maria's", "maria", True),
        ("seven", "7", True),
        ("glass", "glas", False),
        ("51", "511", False),
        ("Paris", "PARIS", True),
    ],
)
def test_two_spellings_of_a_word_share_a_key(one: str, other: str, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("It costs 1,250.50 dollars.", {"1250.5"}),
        ("Ask Maria about the trip to Oslo.", {"maria", "oslo"}),
        ("Call get_user with userId and X9.", {"get_user", "userid", "x9"}),
        ('They say "grumpy cats" rule.', {"grumpy", "cat"}),
        ("1. First\n2. Second", set()),
        ("- Milk\n- Bread", set()),
        ("The weather is nice today.", set()),
        ("On 2024-05-20 at 08:30.", {"2024-05-20", "08:30"}),
        ("NASA launched it.", {"nasa"}),
        ("That makes 48 / 2 = 24 of them.", {"48", "2"}),
        ("That makes 48 / 2 = 25 of them.", {"48", "2", "25"}),
        ("明天下午三點在台北車站南門", set()),
    ],
)
def test_numbers_names_identifiers_and_quoted_words_are_required_unless_the_text_computes_them(
    text: str, required: set[str]
) -> None:
    assert mentioned(scan([text]), 0, required=True) == required


@settings(QUICK, max_examples=100)
@given(st.lists(texts, min_size=1, max_size=5))
def test_a_text_makes_known_all_that_it_mentions_and_says_nothing_of_its_neighbours(several: list[str]) -> None:
    together = scan(several)
    for i, text in enumerate(several):
        alone = scan([text])
        assert mentioned(together, i, required=True) <= mentioned(together, i) <= known(together, i)
        assert (known(together, i), mentioned(together, i), runs(together, i)) == (
            known(alone, 0),
            mentioned(alone, 0),
            runs(alone, 0),
        )
        assert bool(together.denies[i]) == bool(alone.denies[0])


def test_only_the_texts_asked_for_have_mentions() -> None:
    words = scan(["Ask Maria.", "Ask Peter.", "請問台北"])
    said = words.mentions(np.array([False, True, False]))
    assert [key_text(k) for k in said.key.tolist()] == ["ask", "peter"]
    assert (said.text.tolist(), said.required.tolist(), said.shown(1)) == ([1, 1], [False, True], "peter")
    assert "maria" in known(words, 0)
    assert known(words, 2) == {"請問", "問台", "台北"}


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("2024-05-20", ("2024", "5", "20")),
        ("get_user", ("get", "user")),
        ("12kg", ("12", "kg")),
        ("1,234", ()),
        ("plain", ()),
        ("Bob's", ()),
    ],
)
def test_a_compound_is_made_of_its_words_and_numbers(word: str, pieces: tuple[str, ...]) -> None:
    assert pieces_of(word) == pieces


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
    assert bool(scan([text]).denies[0]) is denied


def test_runs_need_words_of_content_and_may_cross_from_one_text_of_a_group_to_the_next() -> None:
    words = scan(["the quick brown fox jumps", "it is what it is to me", "我們明天下午三點在台北見"])
    assert (runs(words, 0), runs(words, 1)) == ({"the quick brown fox", "quick brown fox jumps"}, set())
    assert "明天下午三點在台" in runs(words, 2)
    split = ["the quick brown", "fox jumps over"]
    crossing = scan(split, groups=[0, 0])
    assert [crossing.runs.text(i, crossing) for i in range(len(crossing.runs))] == [
        "the quick brown fox",
        "quick brown fox jumps",
        "brown fox jumps over",
    ]
    assert (crossing.runs.first.tolist(), crossing.runs.last.tolist()) == ([0, 0, 0], [1, 1, 1])
    assert not len(scan(split).runs)


# grounding


def plan_of(before: str, reading: list[str], said: str) -> Plan:
    """A plan of a system message, a user's message cut into ``reading``, and an answer."""
    draft = draft_of(talk(message("system", before), message("user", "".join(reading)), message("assistant", said)))
    streams, spans = draft.columns()
    which = next((i for i, s in enumerate(spans) if streams[s.stream].role == "user"), -1)
    ends = np.cumsum([len(piece) for piece in reading]).tolist()
    return start_plan(draft, streams, spans, {which: ends})


def needed_by_definition(text: str, reading: list[str], before: str, min_coverage: float) -> int:
    """``Ground.needed`` without its index: every piece is looked at for every key. Pieces count from 0; -1: all of them."""
    words = scan([before, *reading, text], groups=[0, *([1] * len(reading)), 2])
    last = len(reading) + 1
    keys, required = mentioned(words, last), mentioned(words, last, required=True)
    every = words.mentions()
    required |= keys & {key_text(k) for k in every.key[every.fact & (every.text > 0) & (every.text < last)].tolist()}
    said = words.mentions()
    pieces = {
        key_text(int(k)): [key_text(p) for p in said.pieces[a:b].tolist()]
        for t, k, a, b in zip(said.text, said.key, said.pieces_at, said.pieces_at[1:], strict=False)
        if t == last
    }
    have = [known(words, i) for i in range(last)]

    def first_read(key: str) -> int | None:
        return next((i for i, keys in enumerate(have) if key in keys), None)

    needed, covered = 0, 0
    for key in keys:
        found = first_read(key)
        if found is None and pieces.get(key):
            places = [first_read(piece) for piece in pieces[key]]
            found = None if None in places else max(p for p in places if p is not None)
        if found is not None:
            covered += 1
            needed = max(needed, found)
        elif key in required:
            return -1
    if needed == 0 or not keys or covered < min_coverage * len(keys):
        return -1
    alike = [sum(key in have[i] for key in keys) for i in range(1, last)]
    if not max(alike):
        return -1
    needed = max(needed, max(i for i, count in enumerate(alike, 1) if count == max(alike)))
    asked = np.arange(len(words.texts)) == last
    every = words.runs_for(asked, asked)
    for own in np.flatnonzero((every.first == last) & (every.last == last)).tolist():
        places = every.last[(every.hash == every.hash[own]) & (every.last < last)].tolist()
        if places and min(places) > 0:
            needed = max(needed, min(places))
    if words.denies[last]:
        denied = np.flatnonzero(words.denies[1:last])
        if not len(denied):
            return -1
        needed = max(needed, int(denied[-1]) + 1)
    while needed + 1 < last and words.contrasts[needed + 1]:
        needed += 1
    return needed - 1


sentences = st.lists(prose.filter(lambda t: t.strip() != ""), min_size=1, max_size=6)


@settings(QUICK, max_examples=200)
@given(prose.filter(bool), sentences, prose.filter(bool), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_the_index_of_a_reading_finds_what_its_definition_says(
    text: str, reading: list[str], before: str, coverage: float
) -> None:
    plan = plan_of(before, reading, text)
    first = plan.first[1]
    questions = Questions(reading=[(first, first + len(reading))])
    questions.add(len(plan.chunk_end) - 1, first, first + len(reading))
    (found,) = Ground([plan] if len(reading) > 1 else [plan, plan]).needed(questions, coverage)
    expected = needed_by_definition(text, reading, before, coverage)
    if len(reading) > 1:
        assert found == (expected + first if expected >= 0 else -1)


@settings(QUICK, max_examples=100)
@given(prose.filter(bool), st.lists(prose.filter(bool), min_size=2, max_size=6))
def test_what_may_be_said_mentions_nothing_that_is_still_to_be_read(text: str, reading: list[str]) -> None:
    plan = plan_of("Begin.", reading, text)
    first = plan.first[1]
    questions = Questions(reading=[(first, first + len(reading))])
    questions.add(len(plan.chunk_end) - 1, first, first + len(reading))
    ground = Ground([plan])
    (needed,), (copied,) = ground.needed(questions, 0.8), ground.copied(questions)
    words = scan([text, "Begin.", *reading[: max(needed, copied) - first + 1]])
    heard = set().union(*(known(words, i) for i in range(1, len(words.texts))))
    late = scan([*reading[copied - first + 1 :], ""])
    unread = set().union(*(known(late, i) for i in range(len(late.texts))))
    if needed >= 0:
        pieces = {piece for key in mentioned(words, 0, required=True) - heard for piece in pieces_of(key)}
        assert pieces <= heard
        assert needed >= copied
    assert not {key for key in mentioned(words, 0, required=True) - heard if not pieces_of(key)} & unread


def test_a_run_is_the_shortest_that_says_enough() -> None:
    assert runs(scan(["father of the founder of psychoanalysis"]), 0) == {"father of the founder of psychoanalysis"}
    assert runs(scan(["father of the founder of the psychoanalysis"]), 0) == set()
    assert RUN_CONTENT == 3


@pytest.mark.parametrize(
    ("said", "whole", "found"),
    [
        ("trade unions", False, {"trade unions"}),
        ("Rex is a wumpus.", False, {"rex is a wumpus"}),
        ("oxygen", True, {"oxygen"}),
        ("oxygen", False, set()),
        ("It is so.", True, set()),
        ("台北車站", False, {"台北車站"}),
        ("台北", True, {"台北"}),
        ("台北", False, set()),
    ],
)
def test_a_short_text_is_a_run_as_a_whole(said: str, whole: bool, found: set[str]) -> None:
    words = scan([f"We know that {said} and more of it", said])
    asked = np.array([False, True])
    every = words.runs_for(asked, asked & whole)
    own = {int(h) for h, last in zip(every.hash, every.last, strict=True) if last == 1}
    assert {
        every.text(i, words) for i in range(len(every)) if every.last[i] == 0 and int(every.hash[i]) in own
    } == found


def test_a_dash_in_a_line_opens_no_list() -> None:
    minus, listed = "Then 250 - ( 10 ) = 240 are left.", "- 10) apples\n- 11) pears"
    words = scan([minus, listed], [0, 1])
    assert "10" in mentioned(words, 0, required=True)
    assert not {"10", "11"} & mentioned(words, 1)


@pytest.mark.parametrize(
    ("text", "of_all"),
    [
        ("The cheapest hotel is Alba.", True),
        ("In total there are 12.", True),
        ("Only Berna has a pool.", True),
        ("All of them are open.", True),
        ("I suggest the forest walk.", False),
        ("Hotel Alba costs 50.", False),
    ],
)
def test_what_speaks_of_everything_is_seen(text: str, of_all: bool) -> None:
    assert scan([text, "Nothing here."], [0, 1]).of_all.tolist() == [of_all, False]
