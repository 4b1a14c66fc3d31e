"""The filter ``profanity``: English words, counted; innocent ones that hold them stay."""

from __future__ import annotations

import pytest
from filter_cases import asked, judged, verdicts

from pipeline.filters import DEFAULT

INNOCENT = (
    "Scunthorpe is a town.",
    "The assistant assesses the class of the cockpit.",
    "He shot the basket in Essex.",
    "An analysis of the titration.",
    "Was die Fackel betrifft: dick ist sie nicht, und so bleibt sie auch.",
    "那个东西很好。",
    "12345",
)


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_words_stay(text: str) -> None:
    assert judged("profanity", asked(text), where="all") == [None]


def test_words_are_counted_and_named() -> None:
    found = verdicts("profanity", [asked("What the fuck is this shit?"), asked("What is this?")])
    assert {talk: verdict.reason for talk, verdict in found.items()} == {0: "profanity"}
    assert found[0].detail == "2 of 6 words: fuck (1), shit (1)"


def test_both_limits_must_be_passed() -> None:
    talk = asked("This shit is what they said to me on that day.")
    assert judged("profanity", talk, max_count=1) == [None]
    assert judged("profanity", talk, max_share=0.05) == ["profanity"]
    assert judged("profanity", talk, max_share=0.1) == [None]


def test_what_is_read_counts_only_where_all_is_asked_for() -> None:
    talk = asked("Please stay calm.", question="What the fuck?")
    assert judged("profanity", talk) == [None]
    assert judged("profanity", talk, where="all") == ["profanity"]


def test_it_is_no_default() -> None:
    assert not {"profanity", "secrets", "personal", "language"} & set(DEFAULT)
    assert "encoding" in DEFAULT
