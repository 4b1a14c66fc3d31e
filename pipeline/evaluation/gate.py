"""The gate: what must hold of a spot-evaluation before a data set is pushed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationResult


@dataclass(frozen=True)
class GateConfig:
    """Thresholds, in nats per text token and rows.

    ``min_improvement``: the text loss over all streams must fall by more than this; ``stream_tolerance``: that of one
    stream role may rise by this; ``row_tolerance``: the median of rows to first output may exceed that of ``turns`` by
    this (None: not checked); ``control_margin``: the control's text loss must exceed the checkpoint's by more than this
    (checked where there is a control).
    """

    min_improvement: float = 0.0
    stream_tolerance: float = 0.05
    row_tolerance: float | None = 0.0
    control_margin: float = 0.0


@dataclass(frozen=True)
class GateFailure:
    """``code`` is one of the reason codes in docs/evaluation.md, ``message`` says it with the numbers."""

    code: str
    message: str


def apply_gate(result: EvaluationResult, config: GateConfig | None = None) -> list[GateFailure]:
    """Every reason why a result does not pass, in a fixed order; an empty list is a pass.

    Codes: ``no_heldout``, ``loss_not_finite``, ``text_loss_not_lower``, ``stream_loss_higher`` (one per role),
    ``rows_to_first_output_worse``, ``control_not_worse``. Losses are compared only where they are there and finite.
    """
    config = config or GateConfig()
    losses = _loss_failures(result, config)
    return [*losses, *_latency_failures(result, config), *_control_failures(result, config)]


def _loss_failures(result: EvaluationResult, config: GateConfig) -> list[GateFailure]:
    before, after = result.before.total, result.after.total
    if before.text_loss is None or after.text_loss is None:
        return [GateFailure("no_heldout", "the held-out records have no trained text token")]
    sums = [before.text_nats, before.silence_nats, after.text_nats, after.silence_nats]
    if not all(map(math.isfinite, sums)):
        return [GateFailure("loss_not_finite", "a held-out loss is not a finite number")]
    failures = []
    if not after.text_loss < before.text_loss - config.min_improvement:
        failures.append(
            GateFailure(
                "text_loss_not_lower",
                f"held-out text loss {before.text_loss:.4f} → {after.text_loss:.4f}, "
                f"must fall by more than {config.min_improvement:g} nats/token",
            )
        )
    for role, stream in result.after.streams.items():
        earlier = result.before.streams[role].text_loss
        if earlier is None or stream.text_loss is None or stream.text_loss <= earlier + config.stream_tolerance:
            continue
        failures.append(
            GateFailure(
                "stream_loss_higher",
                f"held-out text loss of {role} {earlier:.4f} → {stream.text_loss:.4f}, "
                f"may rise by {config.stream_tolerance:g} nats/token",
            )
        )
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
    control = result.control.total.text_loss if result.control is not None else None
    if after is None or control is None or control > after + config.control_margin:
        return []
    message = f"text loss {after:.4f}, of the control with shuffled inputs {control:.4f}: the inputs say nothing"
    return [GateFailure("control_not_worse", message)]
