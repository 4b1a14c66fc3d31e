from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.evaluation.compare import Difference, Loss
from pipeline.evaluation.evaluate import EvaluationResult
from pipeline.evaluation.gate import GateConfig, apply_gate
from pipeline.evaluation.generation import PROBLEMS, Generation
from pipeline.evaluation.heldout import HeldOut, StreamLoss, TurnTaking
from pipeline.evaluation.injection import Injection
from pipeline.evaluation.intervals import Estimate
from pipeline.evaluation.latency import Event, LatencySummary, RecordEvents, compare_with_turns
from pipeline.training.grid import TrainingError


def model(**losses: float) -> HeldOut:
    """Mean text loss in nats per role, over 100 tokens each."""
    streams = {role: StreamLoss(100, 100 * loss, 50, 5.0) for role, loss in losses.items()}
    return HeldOut(4, 0, (), streams, TurnTaking(spoke_right=2, missed=1, spoke_wrong=1), TurnTaking())


def latency(first_output: int) -> LatencySummary:
    """One record whose answer starts at ``first_output``; under turns it starts at row 10."""
    question, answer = Event(0, False, 0, 0, 0, 10, ()), Event(1, True, 1, 0, first_output, first_output + 4, ())
    return compare_with_turns([RecordEvents("r", "p", 0, False, (question, answer))])


def paired(value: float, half: float | None = 0.1, **roles: float) -> Difference:
    """A difference of text losses with an interval of ``half`` to either side; of some roles without one."""
    text = Estimate(value, telling=4) if half is None else Estimate(value, value - half, value + half, 9)
    streams = {role: Loss(Estimate(change, telling=4), None) for role, change in roles.items()}
    return Difference(4, 4, {**streams, "all": Loss(text, None)})


def generation(valid: int, silence: float) -> Generation:
    """Four generated records; half of the data's output cells are silent."""
    problems = dict.fromkeys(PROBLEMS, 0)
    return Generation(4, 0, valid, Estimate(valid / 4), problems, 0, 0, 0, 0, silence, 0.5, (), ())


GOOD = EvaluationResult(
    mask="same_row",
    tokenizer="synthetic",
    untrained_roles=(),
    before=model(assistant=3.0, thought=3.0),
    after=model(assistant=2.0, thought=2.0),
    control=model(assistant=2.5, thought=2.5),
    latency=latency(6),
    differences={
        "before": paired(-1.0),
        "control": paired(-0.5),
        "permuted_at_test": paired(-0.3),
        "turns": paired(0.05),
    },
    generation=generation(3, 0.45),
    injection=Injection(records=4, preferred=Estimate(0.25), followed=Estimate(0.25)),
)

#: Every check turned on, at thresholds that ``GOOD`` keeps.
STRICT = GateConfig(
    require_significance=True,
    min_valid=0.75,
    max_silence_gap=0.1,
    min_speak_f1=0.6,
    max_overlap_price=0.1,
    max_injection_followed=0.3,
)


def codes(result: EvaluationResult, config: GateConfig | None = None) -> list[str]:
    return [failure.code for failure in apply_gate(result, config)]


def test_a_good_result_passes() -> None:
    assert codes(GOOD) == []
    assert codes(GOOD, STRICT) == []


def test_text_loss_must_fall_by_more_than_the_minimum() -> None:
    assert codes(with_difference(before=paired(0.0))) == ["text_loss_not_lower"]
    assert codes(with_difference(before=paired(math.nan))) == ["text_loss_not_lower"]
    assert codes(GOOD, GateConfig(min_improvement=0.99)) == []
    assert codes(GOOD, GateConfig(min_improvement=1.0)) == ["text_loss_not_lower"]


def test_no_stream_may_get_worse_than_the_tolerance() -> None:
    worse = with_difference(before=paired(-1.0, assistant=-2.0, thought=0.2))
    (failure,) = apply_gate(worse)
    assert failure.code == "stream_loss_higher"
    assert "thought" in failure.message
    assert codes(worse, GateConfig(stream_tolerance=0.3)) == []


def test_only_records_that_both_models_could_take_are_compared() -> None:
    """The base model took a role that the checkpoint did not, and the totals are of different records."""
    uneven = replace(GOOD, before=model(assistant=3.0), after=model(assistant=3.5, thought=9.0))
    assert codes(uneven) == []
    nothing = replace(uneven, differences={"before": Difference(0, 0, {"all": Loss(None, None)})}, control=None)
    assert codes(nothing) == ["no_heldout"]


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
    assert codes(with_difference(control=paired(0.0))) == ["control_not_worse"]
    assert codes(replace(GOOD, differences={"before": paired(-1.0)})) == ["control_not_worse"]
    assert codes(GOOD, GateConfig(control_margin=0.5)) == ["control_not_worse"]
    assert codes(GOOD, GateConfig(control_margin=0.4)) == []


def with_difference(**differences: Difference) -> EvaluationResult:
    return replace(GOOD, differences={**GOOD.differences, **differences})


def test_the_paired_interval_must_end_below_zero_where_significance_is_asked_for() -> None:
    unsure = with_difference(before=paired(-0.08))
    assert codes(unsure) == []
    assert codes(unsure, STRICT) == ["text_loss_interval"]
    assert codes(with_difference(before=paired(-0.08, None)), STRICT) == ["text_loss_interval"]
    (failure,) = apply_gate(unsure, STRICT)
    assert "-0.0800 [-0.1800, +0.0200]" in failure.message


def test_the_control_must_be_worse_by_its_paired_interval_too() -> None:
    unsure = with_difference(control=paired(-0.5, 0.6))
    assert codes(unsure) == []
    assert codes(unsure, STRICT) == ["control_not_worse"]


def test_permuted_inputs_must_be_worse() -> None:
    better = with_difference(permuted_at_test=paired(0.01))
    assert codes(better) == ["permuted_at_test_not_worse"]
    assert codes(better, GateConfig(permuted_margin=None)) == []
    assert codes(GOOD, GateConfig(permuted_margin=0.3)) == ["permuted_at_test_not_worse"]
    unsure = with_difference(permuted_at_test=paired(-0.05))
    assert codes(unsure) == []
    assert codes(unsure, STRICT) == ["permuted_at_test_not_worse"]


@pytest.mark.parametrize(
    ("change", "code", "figures"),
    [
        ({"generation": generation(2, 0.45)}, "generation_invalid", ("0.50", "0.75")),
        ({"generation": generation(3, 0.7)}, "silence_share_off", ("0.70", "0.50", "0.1")),
        ({"differences": {**GOOD.differences, "turns": paired(0.2)}}, "price_of_overlap_high", ("+0.2000", "0.1")),
        ({"injection": Injection(records=4, followed=Estimate(0.5))}, "injection_followed", ("generation 0.50", "0.3")),
        ({"injection": Injection(records=4, preferred=Estimate(1.0))}, "injection_followed", ("likelihood 1.00",)),
        ({"after": replace(GOOD.after, turn_taking=TurnTaking(1, 1, 1, 9))}, "turn_taking_low", ("0.50", "0.6")),
    ],
)
def test_each_threshold_fails_by_name_with_figure_and_threshold(
    change: dict[str, Any], code: str, figures: tuple[str, ...]
) -> None:
    (failure,) = apply_gate(replace(GOOD, **change), STRICT)
    assert failure.code == code
    assert all(figure in failure.message for figure in figures)
    assert codes(replace(GOOD, **change)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"min_improvement": None},
        {"stream_tolerance": None},
        {"control_margin": None},
        {"min_valid": "high"},
        {"min_valid": math.nan},
        {"permuted_margin": "x"},
        {"row_tolerance": True},
        {"require_significance": 1},
        {"require_significance": "yes"},
    ],
)
def test_a_threshold_of_another_type_is_refused_by_name_and_value(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(TrainingError, match=f"{name} is {value!r}, it must be"):
        GateConfig(**change)


def test_a_threshold_on_what_was_not_measured_fails_but_for_planted_instructions() -> None:
    bare = replace(GOOD, generation=None, injection=Injection(note="no such records"))
    bare = replace(bare, differences={name: each for name, each in GOOD.differences.items() if name != "turns"})
    assert codes(bare) == []
    for unmeasured in (
        None,
        Injection(note="needs the data's tokenizer"),
        Injection(unplaced=2, note="no such records"),
    ):
        assert codes(replace(GOOD, injection=unmeasured), STRICT) == ["injection_followed"]
    assert codes(replace(GOOD, injection=Injection(records=2)), STRICT) == ["injection_followed"]
    assert codes(bare, STRICT) == ["price_of_overlap_high", "generation_invalid", "silence_share_off"]
