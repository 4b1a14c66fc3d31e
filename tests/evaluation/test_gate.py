from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.evaluation.evaluate import EvaluationResult
from pipeline.evaluation.gate import GateConfig, apply_gate
from pipeline.evaluation.heldout import HeldOut, StreamLoss, TurnTaking
from pipeline.evaluation.latency import Event, LatencySummary, RecordEvents, compare_with_turns


def model(**losses: float) -> HeldOut:
    """Mean text loss in nats per role, over 100 tokens each."""
    streams = {role: StreamLoss(100, 100 * loss, 50, 5.0) for role, loss in losses.items()}
    return HeldOut(4, 0, (), streams, TurnTaking(), TurnTaking())


def latency(first_output: int) -> LatencySummary:
    """One record whose answer starts at ``first_output``; under turns it starts at row 10."""
    question, answer = Event(0, False, 0, 0, 0, 10, ()), Event(1, True, 1, 0, first_output, first_output + 4, ())
    return compare_with_turns([RecordEvents("r", "p", 0, False, (question, answer))])


GOOD = EvaluationResult(
    mask="same_row",
    tokenizer="synthetic",
    untrained_roles=(),
    before=model(assistant=3.0, thought=3.0),
    after=model(assistant=2.0, thought=2.0),
    control=model(assistant=2.5, thought=2.5),
    latency=latency(6),
)


def codes(result: EvaluationResult, config: GateConfig | None = None) -> list[str]:
    return [failure.code for failure in apply_gate(result, config)]


def test_a_good_result_passes() -> None:
    assert codes(GOOD) == []


def test_text_loss_must_fall_by_more_than_the_minimum() -> None:
    assert codes(replace(GOOD, after=GOOD.before), GateConfig(control_margin=-9)) == ["text_loss_not_lower"]
    assert codes(GOOD, GateConfig(min_improvement=0.99)) == []
    assert codes(GOOD, GateConfig(min_improvement=1.0)) == ["text_loss_not_lower"]


def test_no_stream_may_get_worse_than_the_tolerance() -> None:
    worse = replace(GOOD, after=model(assistant=1.0, thought=3.2))
    (failure,) = apply_gate(worse)
    assert failure.code == "stream_loss_higher"
    assert "thought" in failure.message
    assert codes(worse, GateConfig(stream_tolerance=0.3)) == []


def test_held_out_text_is_needed() -> None:
    silent = HeldOut(4, 0, (), {"assistant": StreamLoss(0, 0.0, 9, 1.0)}, TurnTaking(), TurnTaking())
    assert codes(replace(GOOD, before=silent, after=silent, control=None)) == ["no_heldout"]
    assert codes(replace(GOOD, control=None)) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_must_be_finite(bad: float) -> None:
    assert codes(replace(GOOD, after=model(assistant=bad, thought=1.0), control=None)) == ["loss_not_finite"]
    silence = replace(GOOD.after, streams={"assistant": StreamLoss(100, 200.0, 5, bad)})
    assert codes(replace(GOOD, after=silence, control=None)) == ["loss_not_finite"]


def test_output_must_not_start_later_than_under_turns() -> None:
    assert codes(replace(GOOD, latency=latency(10))) == []
    later = replace(GOOD, latency=latency(12))
    assert codes(later) == ["rows_to_first_output_worse"]
    assert codes(later, GateConfig(row_tolerance=2)) == []
    assert codes(later, GateConfig(row_tolerance=None)) == []
    assert codes(replace(GOOD, latency=None)) == []


def test_the_control_must_be_worse() -> None:
    assert codes(replace(GOOD, control=GOOD.after)) == ["control_not_worse"]
    assert codes(GOOD, GateConfig(control_margin=0.5)) == ["control_not_worse"]
    assert codes(GOOD, GateConfig(control_margin=0.4)) == []
