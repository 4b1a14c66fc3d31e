"""The gate: what must hold of a spot-evaluation before a data set is pushed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.evaluation.compare import ALL
from pipeline.evaluation.intervals import FEWEST_GROUPS, Estimate
from pipeline.evaluation.settings import GateConfig as GateConfig

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationResult


@dataclass(frozen=True)
class GateFailure:
    """``code`` is one of the reason codes in docs/evaluation.md, ``message`` says it with the numbers."""

    code: str
    message: str


def apply_gate(result: EvaluationResult, config: GateConfig | None = None) -> list[GateFailure]:
    """Every reason why a result does not pass, in a fixed order; an empty list is a pass.

    Codes: ``no_heldout``, ``loss_not_finite``, ``text_loss_not_lower``, ``text_loss_interval``, ``stream_loss_higher``
    (one per role), ``rows_to_first_output_worse``, ``control_not_worse``, ``permuted_at_test_not_worse``,
    ``turn_taking_low``, ``price_of_overlap_high``, ``generation_invalid``, ``silence_share_off``,
    ``injection_followed``. Losses are compared by their paired differences, and only where they are there and finite. What
    is checked by default is checked where it was measured; a threshold that was asked for fails where nothing was measured,
    but for planted instructions in a split that has none.
    """
    config = config or GateConfig()
    return [
        *_loss_failures(result, config),
        *_latency_failures(result, config),
        *_control_failures(result, config),
        *_turn_failures(result, config),
        *_generation_failures(result, config),
        *_injection_failures(result, config),
    ]


def _loss_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    before, after = result.before.total, result.after.total
    if before.text_loss is None or after.text_loss is None:
        return [GateFailure("no_heldout", "the held-out records have no trained text token")]
    sums = [before.text_nats, before.silence_nats, after.text_nats, after.silence_nats]
    if not all(map(math.isfinite, sums)):
        return [GateFailure("loss_not_finite", "a held-out loss is not a finite number")]
    change = _paired(result, "before")
    if change is None:
        return [GateFailure("no_heldout", "no held-out record with a trained text token fits both models")]
    failures = []
    if not change.value < -config.min_improvement:
        message = f"change of the held-out text loss {_shown(change)}, must be below "
        failures.append(GateFailure("text_loss_not_lower", f"{message}{-config.min_improvement:g} nats/token"))
    if config.require_significance and not _clearly_below(change, -config.min_improvement):
        message = f"change of the held-out text loss {_shown(change)}, its interval must end below "
        failures.append(GateFailure("text_loss_interval", f"{message}{-config.min_improvement:g} nats/token"))
    for role, loss in result.differences["before"].streams.items():
        if role == ALL or loss.text is None or loss.text.value <= config.stream_tolerance:
            continue
        message = f"change of the held-out text loss of {role} {_shown(loss.text)}, may be "
        failures.append(GateFailure("stream_loss_higher", f"{message}{config.stream_tolerance:+g} nats/token"))
    return failures


def _latency_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    if result.latency is None or config.row_tolerance is None:
        return []
    rows = result.latency.comparison("rows_to_first_output")
    if rows.layout is None or rows.turns is None or rows.layout <= rows.turns + config.row_tolerance:
        return []
    message = (
        f"median rows to first output {rows.layout:g}, under turns {rows.turns:g}, "
        f"may exceed it by {config.row_tolerance:g}"
    )
    return [GateFailure("rows_to_first_output_worse", message)]


def _control_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    after = result.after.total.text_loss
    if after is None or not math.isfinite(after):
        return []
    failures = []
    if result.control is not None:
        gap, limit = _paired(result, "control"), -config.control_margin
        clear = not config.require_significance or _clearly_below(gap, limit)
        if gap is None or not gap.value < limit or not clear:
            message = (
                f"text loss less that of the control with permuted inputs {_shown(gap)}, must be below {limit:g} "
                "nats/token: the inputs say nothing"
            )
            failures.append(GateFailure("control_not_worse", message))
    permuted = _paired(result, "permuted_at_test")
    if permuted is not None and config.permuted_margin is not None:
        limit = -config.permuted_margin
        if not permuted.value < limit or (config.require_significance and not _clearly_below(permuted, limit)):
            message = (
                f"text loss less that on permuted inputs {_shown(permuted)}, must be below {limit:g} nats/token: "
                "the model does not use its inputs"
            )
            failures.append(GateFailure("permuted_at_test_not_worse", message))
    return failures


def _turn_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    failures = []
    if config.min_speak_f1 is not None:
        speak = result.after.turn_taking.speak_f1
        if speak is None or speak < config.min_speak_f1:
            message = f"F1 of speaking {_number(speak)}, must be at least {config.min_speak_f1:g}"
            failures.append(GateFailure("turn_taking_low", message))
    if config.max_overlap_price is not None:
        price = _paired(result, "turns")
        if price is None or not price.value <= config.max_overlap_price:
            message = f"text loss less that under turns {_shown(price)}, may be {config.max_overlap_price:g} nats/token"
            failures.append(GateFailure("price_of_overlap_high", message))
    return failures


def _generation_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    made = result.generation
    failures = []
    if config.min_valid is not None:
        share = made.valid / made.records if made is not None and made.records else None
        if share is None or share < config.min_valid:
            message = f"share of well-formed generated records {_number(share)}, must be at least {config.min_valid:g}"
            failures.append(GateFailure("generation_invalid", message))
    if config.max_silence_gap is not None:
        own, data = (made.silence, made.data_silence) if made is not None else (None, None)
        if own is None or data is None or abs(own - data) > config.max_silence_gap:
            message = (
                f"share of silence in generated records {_number(own)}, in the data {_number(data)}, "
                f"may differ by {config.max_silence_gap:g}"
            )
            failures.append(GateFailure("silence_share_off", message))
    return failures


def _injection_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    limit, found = config.max_injection_followed, result.injection
    if limit is None or (found is not None and found.none_there):
        return []
    measured = {"generation": found.followed, "likelihood": found.preferred} if found is not None else {}
    shares = {how: share.value for how, share in measured.items() if share is not None}
    if not shares:
        return [GateFailure("injection_followed", f"planted instructions: not measured, may be {limit:g}")]
    return [
        GateFailure(
            "injection_followed", f"share of planted instructions followed, by {how} {share:.2f}, may be {limit:g}"
        )
        for how, share in shares.items()
        if not share <= limit
    ]


def _paired(result: EvaluationResult, other: str) -> Estimate | None:
    """The text loss of the checkpoint less that of another arm, over all streams."""
    return result.differences[other].streams[ALL].text if other in result.differences else None


def _clearly_below(estimate: Estimate | None, limit: float) -> bool:
    return estimate is not None and estimate.high is not None and estimate.high < limit


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.4f} (no interval: fewer than {FEWEST_GROUPS} groups)"
    return f"{estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}] ({estimate.telling} groups)"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
