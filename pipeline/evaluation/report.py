"""The report of a spot-evaluation: ``report.md``, ``report.json`` and, where matplotlib is installed, two plots."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.heldout import HeldOut, StreamLoss, TurnTaking
from pipeline.evaluation.latency import LatencySummary

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationResult

REPORT_SCHEMA_ID = "evaluation-report/1"
REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
LOSS_PLOT = "loss.png"
LATENCY_PLOT = "latency.png"


def write_report(directory: Path, result: EvaluationResult) -> None:
    """Write the report's files into an existing directory."""
    plots = write_plots(directory, result) if importlib.util.find_spec("matplotlib") else []
    (directory / REPORT_JSON).write_text(json.dumps(report_json(result), indent=2, allow_nan=False) + "\n")
    (directory / REPORT_MARKDOWN).write_text(report_markdown(result, plots))


def report_json(result: EvaluationResult) -> dict[str, Any]:
    """The report as JSON values; numbers that are not finite become null."""
    models = {"before": result.before, "after": result.after, "control": result.control}
    report = {
        "schema": REPORT_SCHEMA_ID,
        "passed": not result.failures,
        "failures": [asdict(failure) for failure in result.failures],
        "mask": result.mask,
        "tokenizer": result.tokenizer,
        "untrained_roles": list(result.untrained_roles),
        **{name: _held_out_json(model) if model is not None else None for name, model in models.items()},
        "latency": asdict(result.latency) if result.latency is not None else None,
    }
    finite: dict[str, Any] = _finite(report)
    return finite


def report_markdown(result: EvaluationResult, plots: Sequence[str]) -> str:
    """The report as Markdown; ``plots`` are file names beside it."""
    return "\n".join(_markdown_lines(result, plots)) + "\n"


def write_plots(directory: Path, result: EvaluationResult) -> list[str]:
    """Draw losses per stream, and latencies where they were measured; returns the file names written."""
    roles = [role for role, loss in result.after.streams.items() if loss.text_tokens]
    written = []
    if roles:
        before, after = (
            [_number(model.streams[role].text_loss) for role in roles] for model in (result.before, result.after)
        )
        bars = {"before": before, "after": after}
        _draw_bars(directory / LOSS_PLOT, "Held-out text loss", "nats per text token", roles, bars)
        written.append(LOSS_PLOT)
    if result.latency is not None and result.latency.records:
        measured = [each for each in result.latency.overall if each.layout is not None]
        labels = [each.measure.replace("_", " ") for each in measured]
        bars = {"this layout": [_number(c.layout) for c in measured], "turns": [_number(c.turns) for c in measured]}
        _draw_bars(directory / LATENCY_PLOT, "Latency", "rows (median)", labels, bars)
        written.append(LATENCY_PLOT)
    return written


def _markdown_lines(result: EvaluationResult, plots: Sequence[str]) -> Iterator[str]:
    held = result.after
    yield "# Spot-evaluation"
    yield ""
    yield f"Gate: **{'failed' if result.failures else 'passed'}**."
    for failure in result.failures:
        yield f"- `{failure.code}`: {failure.message}"
    yield ""
    yield f"{held.records} held-out records, mask `{result.mask}`, tokenizer `{result.tokenizer}`."
    if held.over_budget:
        more = ", …" if held.over_budget > len(held.over_budget_ids) else ""
        yield f"Left out as longer than the budget: {held.over_budget} ({', '.join(held.over_budget_ids)}{more})."
    if result.untrained_roles:
        yield f"Roles never seen in training: {', '.join(result.untrained_roles)}."
    yield ""
    yield from _loss_lines(result)
    yield from _turn_taking_lines(result)
    yield from _latency_lines(result.latency)
    for plot in plots:
        yield f"![{plot.removesuffix('.png')}]({plot})"
    if not plots:
        yield "No plots: nothing to draw, or matplotlib is not installed."


def _loss_lines(result: EvaluationResult) -> Iterator[str]:
    models = {"before": result.before, "after": result.after}
    if result.control is not None:
        models["control"] = result.control
    yield "## Held-out loss (nats per cell)"
    yield ""
    yield f"| output stream | text tokens |{''.join(f' text {name} |' for name in models)} silent cells |" + "".join(
        f" silence {name} |" for name in models
    )
    yield "|---|" + "---:|" * (2 + 2 * len(models))
    for role in [*result.after.streams, "all"]:
        losses = [model.total if role == "all" else model.streams.get(role, StreamLoss()) for model in models.values()]
        yield (
            f"| {role} | {losses[1].text_tokens} |{''.join(f' {_show(loss.text_loss)} |' for loss in losses)}"
            f" {losses[1].silence_cells} |{''.join(f' {_show(loss.silence_loss)} |' for loss in losses)}"
        )
    yield ""


def _turn_taking_lines(result: EvaluationResult) -> Iterator[str]:
    yield "## Turn-taking (speak or stay silent, likeliest next cell)"
    yield ""
    yield "| decisions | F1 speak before | F1 speak after | F1 silent before | F1 silent after |"
    yield "|---|---:|---:|---:|---:|"
    for name in ("turn_taking", "onset"):
        before, after = getattr(result.before, name), getattr(result.after, name)
        label = "all" if name == "turn_taking" else "while silent"
        cells = (before.speak_f1, after.speak_f1, before.silence_f1, after.silence_f1)
        yield f"| {label} |{''.join(f' {_show(cell)} |' for cell in cells)}"
    yield ""


def _latency_lines(latency: LatencySummary | None) -> Iterator[str]:
    yield "## Latency against `turns` (rows, median)"
    yield ""
    if latency is None:
        yield "Not measured: the split has no record shards."
        yield ""
        return
    yield (
        f"{latency.records} records compared; not compared: {latency.real_time} in real time, "
        f"{latency.no_output} without output."
    )
    yield ""
    yield "| policy | measure | values | this layout | turns |"
    yield "|---|---|---:|---:|---:|"
    for policy, comparisons in {"all": latency.overall, **latency.by_policy}.items():
        for each in comparisons:
            yield (
                f"| {policy} | {each.measure.replace('_', ' ')} | {each.count} | {_show(each.layout, 1)} "
                f"| {_show(each.turns, 1)} |"
            )
    yield ""


def _held_out_json(model: HeldOut) -> dict[str, Any]:
    return {
        "records": model.records,
        "over_budget": model.over_budget,
        "over_budget_ids": list(model.over_budget_ids),
        "total": _stream_json(model.total),
        "streams": {role: _stream_json(loss) for role, loss in model.streams.items()},
        "turn_taking": _turn_taking_json(model.turn_taking),
        "onset": _turn_taking_json(model.onset),
    }


def _stream_json(loss: StreamLoss) -> dict[str, Any]:
    return {**asdict(loss), "text_loss": loss.text_loss, "silence_loss": loss.silence_loss}


def _turn_taking_json(decisions: TurnTaking) -> dict[str, Any]:
    return {**asdict(decisions), "speak_f1": decisions.speak_f1, "silence_f1": decisions.silence_f1}


def _finite(value: Any) -> Any:
    """The value with numbers that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _draw_bars(path: Path, title: str, unit: str, labels: Sequence[str], bars: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 1.6 * len(labels)), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for number, (name, heights) in enumerate(bars.items()):
        places = [index + (number - (len(bars) - 1) / 2) * width for index in range(len(labels))]
        axes.bar(places, heights, width, label=name)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
