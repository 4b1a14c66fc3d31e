"""The report of a spot-evaluation: ``report.md``, ``report.json`` and, where matplotlib is installed, plots."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.generation import Generation, TextCodec
from pipeline.evaluation.heldout import HeldOut, StreamLoss, TurnTaking
from pipeline.evaluation.latency import LatencySummary
from pipeline.evaluation.markdown import report_markdown

if TYPE_CHECKING:
    from pipeline.evaluation.compare import Loss, TurnTakingF1
    from pipeline.evaluation.evaluate import EvaluationResult
    from pipeline.evaluation.intervals import Estimate

REPORT_SCHEMA_ID = "evaluation-report/2"
REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"

__all__ = ["REPORT_JSON", "REPORT_MARKDOWN", "REPORT_SCHEMA_ID", "report_json", "report_markdown", "write_report"]


def write_report(
    directory: Path,
    result: EvaluationResult,
    checkpoint_dir: Path | None = None,
    text: TextCodec | None = None,
    eom_id: int | None = None,
) -> None:
    """Write the report's files into an existing directory.

    ``checkpoint_dir`` holds the training log that is drawn; ``text`` and ``eom_id`` show what was generated.
    """
    plots: list[tuple[str, str]] = []
    if importlib.util.find_spec("matplotlib"):
        from pipeline.evaluation.plots import write_plots

        plots = write_plots(directory, result, checkpoint_dir, text, eom_id)
    (directory / REPORT_JSON).write_text(json.dumps(report_json(result), indent=2, allow_nan=False) + "\n")
    (directory / REPORT_MARKDOWN).write_text(report_markdown(result, plots, text, eom_id))


def report_json(result: EvaluationResult) -> dict[str, Any]:
    """The report as JSON values (docs/evaluation.md); numbers that are not finite become null."""
    models = {name: _held_out_json(name, model, result) for name, model in result.models.items()}
    turns = result.differences.get("turns")
    report = {
        "schema": REPORT_SCHEMA_ID,
        "passed": not result.failures,
        "failures": [asdict(failure) for failure in result.failures],
        "mask": result.mask,
        "tokenizer": result.tokenizer,
        "untrained_roles": list(result.untrained_roles),
        "confidence": result.confidence,
        **{name: models.get(name) for name in ("before", "after", "control")},
        "controls": {name: models[name] for name in result.controls},
        "differences": {name: asdict(each) for name, each in result.differences.items()},
        "price_of_overlap": _estimate_json(turns.text if turns is not None else None),
        "turns_layout": asdict(result.turns_layout) if result.turns_layout is not None else None,
        "latency": _latency_json(result.latency) if result.latency is not None else None,
        "generation": _generation_json(result.generation) if result.generation is not None else None,
        "injection": asdict(result.injection) if result.injection is not None else None,
    }
    finite: dict[str, Any] = _finite(report)
    return finite


def _held_out_json(name: str, model: HeldOut, result: EvaluationResult) -> dict[str, Any]:
    losses, decisions = result.losses.get(name, {}), result.turn_taking.get(name, {})
    return {
        "records": model.records,
        "over_budget": model.over_budget,
        "over_budget_ids": list(model.over_budget_ids),
        "total": _stream_json(model.total, losses.get("all")),
        "streams": {role: _stream_json(loss, losses.get(role)) for role, loss in model.streams.items()},
        "turn_taking": _turn_taking_json(model.turn_taking, decisions.get("all")),
        "onset": _turn_taking_json(model.onset, decisions.get("onset")),
    }


def _stream_json(loss: StreamLoss, interval: Loss | None) -> dict[str, Any]:
    return {
        **asdict(loss),
        "text_loss": loss.text_loss,
        "silence_loss": loss.silence_loss,
        "text_interval": _interval(interval.text if interval else None),
        "silence_interval": _interval(interval.silence if interval else None),
    }


def _turn_taking_json(decisions: TurnTaking, interval: TurnTakingF1 | None) -> dict[str, Any]:
    return {
        **asdict(decisions),
        "speak_f1": decisions.speak_f1,
        "silence_f1": decisions.silence_f1,
        "speak_interval": _interval(interval.speak if interval else None),
        "silence_interval": _interval(interval.silence if interval else None),
    }


def _interval(estimate: Estimate | None) -> list[float | None] | None:
    return None if estimate is None or estimate.low is None else [estimate.low, estimate.high]


def _estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _latency_json(latency: LatencySummary) -> dict[str, Any]:
    return {name: value for name, value in asdict(latency).items() if name != "values"}


def _generation_json(made: Generation) -> dict[str, Any]:
    counted = {
        name: value for name, value in vars(made).items() if name not in ("pairs", "valid_share", "first_output")
    }
    return {
        **counted,
        "valid_share": _estimate_json(made.valid_share),
        "first_output": [asdict(rows) for rows in made.first_output],
        "median_first_output": asdict(made.median_first_output),
    }


def _finite(value: Any) -> Any:
    """The value with numbers that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
