"""The future-information gain of events: 0 for who waited, else two plain forward passes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.scoring import Scorer, ScoreStore, record_gains, with_gains
from pipeline.scoring.gains import event_gains
from pipeline.tables import RECORDS
from tests.scoring.scoring_cases import (
    EARLY,
    chat,
    event,
    ids_of,
    plain_logp,
    record,
    reference,
    table,
    tiny_scorer,
)

FIRST, SECOND = "The ferry leaves at nine.", " It costs four crowns."


@pytest.fixture(scope="module")
def scorer(tiny_model: Path) -> Scorer:
    return tiny_scorer(tiny_model)


def gain(read: list[int], everything: list[int], text: str) -> float:
    """By plain forward passes."""
    target = ids_of(text)
    return float((plain_logp(reference(), everything, target) - plain_logp(reference(), read, target)).mean())


def test_an_early_event_is_held_against_all_that_its_author_had_read(scorer: Scorer) -> None:
    gains, counters = record_gains(scorer, table(EARLY))
    expected = gain(chat(("user", FIRST)), chat(("user", FIRST + SECOND)), "It leaves at nine.")
    assert gains == [None, None, pytest.approx(expected, abs=1e-5), 0.0]
    assert expected != 0
    assert (counters.events, counters.waited, counters.scored, counters.over_window, counters.nothing) == (
        2,
        1,
        1,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("cue", "handed_over"),
    [("turn", chat(("user", FIRST))), ("ellipsis", chat(("user", FIRST, " …")))],
)
def test_the_cue_hands_over_what_was_cut_off(tiny_model: Path, cue: str, handed_over: list[int]) -> None:
    gains, _ = record_gains(tiny_scorer(tiny_model, cue=cue), table(EARLY))
    expected = gain(handed_over, chat(("user", FIRST + SECOND)), "It leaves at nine.")
    assert gains[2] == pytest.approx(expected, abs=1e-5)


def test_nothing_is_scored_where_everything_waited(scorer: Scorer) -> None:
    events = [dict(one) for one in EARLY["events"]]
    events[2] |= {"start": 11, "end": 15}
    events[3] |= {"start": 15, "end": 19}
    before = scorer.counters.forwarded
    gains, counters = record_gains(scorer, table(record(["user", "assistant"], events)))
    assert gains == [None, None, 0.0, 0.0]
    assert counters.waited == 2
    assert scorer.counters.forwarded == before


def test_the_lag_of_the_clock_counts_for_other_streams_only(scorer: Scorer) -> None:
    events = [
        event(0, FIRST, 0, 6, message=0, part=0),
        event(0, SECOND, 6, 11, message=0, part=0, final=True),
        event(1, "Well.", 11, 13, message=1, part=0),
        event(1, " Four.", 13, 15, message=1, part=0, final=True),
    ]
    states = event_gains(
        scorer, table(record(["user", "assistant"], events), record(["user", "assistant"], events, lag=1))
    )
    assert states.states[2:4] == ["waited", "waited"]
    assert states.states[6:8] == ["scored", "waited"]


def test_a_hole_in_what_was_read_is_left_out(scorer: Scorer) -> None:
    """The answer knows its own beginning and the second result; the first result is still being read."""
    events = [
        event(0, "Two prices?", 0, 3, message=0, part=0, final=True),
        event(1, "price#0", 3, 5, message=1, part=0, kind="header", weight=0.0),
        event(1, "Four crowns.", 5, 20, message=1, part=0, final=True, kind="tool_result"),
        event(2, "price#1", 3, 5, message=2, part=0, kind="header", weight=0.0),
        event(2, "Six crowns.", 5, 9, message=2, part=0, final=True, kind="tool_result"),
        event(3, "Let me see.", 3, 6, message=3, part=0),
        event(3, " One is six.", 9, 13, message=3, part=0, final=True),
    ]
    gains, _ = record_gains(scorer, table(record(["user", "tool", "tool", "assistant"], events)))
    said = ids_of("Let me see. One is six.")
    own, target = said[: len(ids_of("Let me see."))], said[len(ids_of("Let me see.")) :]
    read = chat(("user", "Two prices?"), ("tool", "Six crowns.")) + own
    everything = chat(("user", "Two prices?"), ("tool", "Four crowns."), ("tool", "Six crowns.")) + own
    expected = plain_logp(reference(), everything, target) - plain_logp(reference(), read, target)
    assert gains[6] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert gains[1] is None
    assert gains[3] is None


def test_a_thought_counts_as_known_to_the_answer_behind_it(scorer: Scorer) -> None:
    events = [
        event(0, "Six times seven?", 0, 5, message=0, part=0, final=True),
        event(1, "Six sevens are 42.", 5, 15, message=1, part=0, final=True),
        event(2, "42.", 6, 10, message=1, part=1, final=True),
    ]
    gains, _ = record_gains(scorer, table(record(["user", "thought", "assistant"], events)))
    read = chat(("user", "Six times seven?"))
    assert gains[1] == 0.0
    assert gains[2] == pytest.approx(gain(read, [*read, *ids_of("Six sevens are 42.\n")], "42."), abs=1e-5)


def test_without_a_source_order_later_inputs_count(scorer: Scorer) -> None:
    events = [
        event(0, "Stop", 0, 2),
        event(1, "One two", 0, 3),
        event(0, " now.", 4, 6),
        event(1, " three", 4, 6),
        event(2, "Hm.", 5, 7),
    ]
    gains, counters = record_gains(scorer, table(record(["user", "assistant", "thought"], events, policy="source")))
    assert counters.scored == 3
    assert gains[1] == pytest.approx(gain(chat(), chat(("user", "Stop now.")), "One two"), abs=1e-5)


def watched(policy: str) -> dict[str, Any]:
    events = [
        event(0, "Six times seven?", 0, 5, message=0, part=0, final=True),
        event(1, "42, I say.", 5, 12, message=1, part=0, final=True),
        event(2, "6 × 7 = 42: right.", 7, 15, message=1, part=1, final=True),
        event(1, "And more.", 12, 15, message=2, part=0, final=True),
    ]
    return record(["user", "assistant", "audit"], events, policy=policy)


def test_what_an_auditor_adds_is_in_nobodys_context_and_has_no_gain(scorer: Scorer) -> None:
    found = event_gains(scorer, table(watched("audit")))
    assert found.states == ["read", "waited", "nothing", "waited"]
    assert found.values == [None, 0.0, None, 0.0]
    assert event_gains(scorer, table(watched("source"))).states == ["read", "waited", "scored", "scored"]


def test_over_the_window_has_no_gain_and_is_counted(tiny_model: Path) -> None:
    gains, counters = record_gains(tiny_scorer(tiny_model, max_context=12), table(EARLY))
    assert gains == [None, None, None, 0.0]
    assert (counters.scored, counters.over_window, counters.waited) == (0, 1, 1)


def test_an_event_without_text_says_nothing(scorer: Scorer) -> None:
    events = [
        event(0, "Go on.", 0, 3, message=0, part=0, final=True),
        event(1, "", 1, 2, message=1, part=0, final=True),
    ]
    assert event_gains(scorer, table(record(["user", "assistant"], events))).states == ["read", "nothing"]


def test_records_scored_together_are_those_scored_alone(scorer: Scorer) -> None:
    records = [EARLY, watched("source"), record(["user", "assistant"], EARLY["events"][:3], id="s")]
    together, counters = record_gains(scorer, table(*records))
    alone = [value for one in records for value in record_gains(scorer, table(one))[0]]
    assert [value is None for value in together] == [value is None for value in alone]
    np.testing.assert_allclose([v for v in together if v is not None], [v for v in alone if v is not None], atol=1e-5)
    assert counters.events == counters.waited + counters.scored + counters.over_window + counters.nothing


def test_gains_are_kept_in_a_store(tiny_model: Path, tmp_path: Path) -> None:
    first = record_gains(tiny_scorer(tiny_model), table(EARLY), ScoreStore(tmp_path))
    again = tiny_scorer(tiny_model)
    assert record_gains(again, table(EARLY), ScoreStore(tmp_path)) == first
    assert again.counters.forwarded == 0


def test_gains_are_written_into_their_events_and_nothing_else_changes(scorer: Scorer) -> None:
    before = table(EARLY, watched("source"))
    gains, _ = record_gains(scorer, before)
    after = with_gains(before, gains)
    assert after.schema.equals(RECORDS)
    rows, told = after.to_pylist(), [value for row in after.to_pylist() for value in (e["gain"] for e in row["events"])]
    assert told == [None if value is None else pytest.approx(value, abs=1e-6) for value in gains]
    for row in rows:
        for one in row["events"]:
            one["gain"] = None
    assert rows == before.to_pylist()
    assert with_gains(before.slice(1), gains[len(EARLY["events"]) :]).num_rows == 1
