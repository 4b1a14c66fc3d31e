"""Plots of a spot-evaluation (PNG, matplotlib), each with what it shows in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.compare import ALL, Loss
from pipeline.evaluation.generation import Generation, TextCodec, output_cells
from pipeline.evaluation.latency import LatencySummary
from pipeline.training.grid import TokenGrid
from pipeline.training.metrics import LOG_FILE, StepLog, read_log

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationResult

LOSS_PLOT = "loss.png"
CURVE_PLOT = "training.png"
TIMELINE_PLOT = "timeline.png"
LATENCY_PLOT = "latency.png"

# Okabe and Ito's colours, which do not depend on how one sees red and green.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#000000")
_GREY = "#8A8A8A"
_LATENCIES = ("time_to_first_output", "response_latency", "rows_to_end", "decode_steps")
#: Inches of one row of a timeline, and inches of its figure at most.
_ROW_INCHES, _WIDEST = 0.09, 15.0


def write_plots(
    directory: Path,
    result: EvaluationResult,
    checkpoint_dir: Path | None = None,
    text: TextCodec | None = None,
    eom_id: int | None = None,
) -> list[tuple[str, str]]:
    """Draw what was measured; returns the file names written and what they show."""
    shown = {
        LOSS_PLOT: draw_losses(directory / LOSS_PLOT, result),
        CURVE_PLOT: draw_curves(directory / CURVE_PLOT, log_of(checkpoint_dir)),
        TIMELINE_PLOT: draw_timeline(directory / TIMELINE_PLOT, result.generation, text, eom_id),
        LATENCY_PLOT: draw_latency(directory / LATENCY_PLOT, result.latency),
    }
    return [(name, words) for name, words in shown.items() if words]


def log_of(checkpoint_dir: Path | None) -> list[StepLog]:
    """The steps that a checkpoint was trained for; none where it has no log."""
    path = checkpoint_dir / LOG_FILE if checkpoint_dir is not None else None
    return read_log(path) if path is not None and path.is_file() else []


def draw_losses(path: Path, result: EvaluationResult) -> str:
    """Text loss per output stream of every model that was trained, with intervals; "" where there is no text."""
    roles = [role for role, loss in result.after.streams.items() if loss.text_tokens]
    names = [name for name in ("before", "after", "control") if name in result.losses]
    if not roles or not names:
        return ""
    rows = [ALL, *roles] if len(roles) > 1 else roles
    figure, axes = _figure(6.4, 1.3 + 0.22 * len(rows) * (len(names) + 1))
    for number, name in enumerate(names):
        found = [result.losses[name].get(role, Loss(None, None)).text for role in rows]
        values = [each.value if each else math.nan for each in found]
        low = [each.value - each.low if each and each.low is not None else 0.0 for each in found]
        high = [each.high - each.value if each and each.high is not None else 0.0 for each in found]
        places = np.arange(len(rows)) + (number - (len(names) - 1) / 2) * 0.22
        axes.errorbar(
            values,
            places,
            xerr=np.clip([low, high], 0, None),
            fmt="o",
            color=_COLOURS[number],
            capsize=3,
            markersize=5,
            label=name,
        )
    axes.set_yticks(range(len(rows)), ["all streams" if row == ALL else drawable(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"held-out text loss, nats per token (bars: {result.confidence:.0%} interval over records)")
    axes.grid(axis="x", color="#DDDDDD")
    _legend(figure, axes, len(names))
    figure.savefig(path, dpi=130)
    total = result.losses["before"][ALL].text, result.losses["after"][ALL].text
    told = " → ".join(f"{each.value:.2f}" for each in total if each)
    return f"Held-out text loss per output stream, {', '.join(names)}; over all streams {told} nats per token"


def draw_curves(path: Path, log: Sequence[StepLog]) -> str:
    """Training loss over the steps, text and silence side by side: in total, and per stream where the log has it.

    A loss of 0 is that of a step without such cells, and is not drawn.
    """
    if len(log) < 2:
        return ""
    figure, panels = _figure(9.0, 3.4, columns=2)
    steps = [entry.step for entry in log]
    roles = sorted({role for entry in log for role in entry.streams})
    colours = {role: _COLOURS[number % len(_COLOURS)] for number, role in enumerate(roles)}
    for column, (axes, kind) in enumerate(zip(panels, ("text", "silence"), strict=True)):
        for role in roles:
            values = [(entry.streams.get(role) or (None, None))[column] for entry in log]
            _curve(axes, steps, values, colours[role], drawable(role))
        _curve(axes, steps, [getattr(entry, f"{kind}_loss") or None for entry in log], "black", "all streams", 1.8)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(f"{kind} loss, nats per {'token' if kind == 'text' else 'silent cell'}")
        axes.set_ylim(bottom=0)
        axes.grid(color="#DDDDDD")
    _legend(figure, panels[0], len(roles) + 1)
    figure.savefig(path, dpi=130)
    told = [entry.text_loss for entry in log if entry.text_loss]
    change = f"; text {told[0]:.2f} → {told[-1]:.2f} nats per token" if told else ""
    return f"Training loss over {len(log)} steps, {', '.join([*roles, 'all streams'])}{change}"


def draw_timeline(path: Path, made: Generation | None, text: TextCodec | None, eom_id: int | None) -> str:
    """Streams as lanes over rows: inputs, what the model wrote, what the data says.

    Of the record that the data's outputs fill most, among those where the model spoke.
    """
    pairs = made.pairs if made is not None else ()
    if not pairs:
        return ""
    spoken = [pair for pair in pairs if len(output_cells(pair[1]))]
    data, generated = max(spoken or pairs, key=lambda pair: len(output_cells(pair[0])) / pair[0].rows)
    lanes: list[tuple[str, TokenGrid, int, str]] = []
    for index, stream in enumerate(data.streams):
        if stream.direction == "input":
            lanes.append((f"{stream.name} (read)", data, index, _GREY))
        else:
            lanes.append((f"{stream.name}, generated", generated, index, _COLOURS[1]))
            lanes.append((f"{stream.name}, in the data", data, index, _COLOURS[0]))
    rows = max(data.rows, generated.rows)
    width = min(_WIDEST, max(6.4, 2.2 + rows * _ROW_INCHES))
    figure, axes = _figure(width, 1.2 + 0.42 * len(lanes))
    row_inches = (width - 2.2) / rows
    for place, (_, grid, lane, colour) in enumerate(lanes):
        for start, ids in _runs(grid, lane, eom_id):
            axes.broken_barh([(start, len(ids))], (place - 0.36, 0.72), color=colour, linewidth=0)
            if eom_id is not None and ids[-1] == eom_id:
                axes.broken_barh([(start + len(ids) - 1, 1)], (place - 0.36, 0.72), color="black", linewidth=0)
            said = [token for token in ids if token != eom_id]
            if text is not None and said:
                line = " ".join(text.decode(said).split())
                room = int(len(said) * row_inches / 0.06)
                line = line if len(line) <= room else line[: room - 1].rstrip() + "…"
                if room >= 3:
                    axes.text(
                        start + 0.4, place, drawable(line), va="center", fontsize=7.5, color="white", clip_on=True
                    )
    axes.set_yticks(range(len(lanes)), [drawable(name) for name, *_ in lanes])
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlim(0, rows)
    axes.set_xlabel("row (one token per stream and row; black: end of message)")
    axes.set_title(f"record {drawable(data.id)}", fontsize=9, loc="left")
    figure.savefig(path, dpi=130)
    return f"Timeline of record {data.id}: what was read, what the model wrote and what the data says, by row"


def draw_latency(path: Path, latency: LatencySummary | None) -> str:
    """Histograms of the four latencies in rows, in the data's layout and under ``turns``.

    The outermost bars also hold what lies beyond the 2nd and 98th percentile.
    """
    if latency is None or not latency.records or not any(latency.values.get(name, ((),))[0] for name in _LATENCIES):
        return ""
    figure, panels = _figure(9.0, 5.4, columns=2, rows=2)
    for axes, name in zip(np.ravel(panels), _LATENCIES, strict=True):
        layout, turns = (np.array(values) for values in latency.values[name])
        unit = "turns" if name in ("time_to_first_output", "response_latency") else "records"
        axes.set_xlabel(f"{name.replace('_', ' ')} (rows)")
        axes.set_ylabel(f"number of {unit}")
        axes.yaxis.get_major_locator().set_params(integer=True)
        if not len(layout):
            continue
        low, high = np.quantile(np.concatenate([layout, turns]), [0.02, 0.98])
        step = max(1, math.ceil((high - low + 1) / 40))
        bins = np.arange(math.floor(low), math.ceil(high) + 2 * step, step) - 0.5
        own, baseline = (np.clip(values, bins[0] + 0.5, bins[-1] - 0.5) for values in (layout, turns))
        axes.hist(baseline, bins, color="#C8C8C8", label="turns")
        axes.hist(own, bins, histtype="step", linewidth=1.8, color=_COLOURS[1], label="this layout")
        axes.set_title(f"median {np.median(layout):g}, under turns {np.median(turns):g}", fontsize=9, loc="left")
    _legend(figure, panels[0][0], 2)
    figure.savefig(path, dpi=130)
    medians = "; ".join(
        f"{each.measure.replace('_', ' ')} {each.layout:g} against {each.turns:g}"
        for each in latency.overall
        if each.measure in _LATENCIES and each.layout is not None and each.turns is not None
    )
    return f"Latency in rows, this layout against turns; medians: {medians}"


def drawable(text: str) -> str:
    """The text as the font can draw it: "□" for a character that it lacks, "$" as such and not as a formula."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in text).replace("$", r"\$")


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns)
    for axes in np.ravel(panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, panels


def _legend(figure: Any, axes: Any, entries: int) -> None:
    """Above the panels, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(entries, 6), frameon=False, fontsize=9)


def _curve(
    axes: Any, steps: Sequence[int], values: Sequence[float | None], colour: str, label: str, width: float = 1.2
) -> None:
    """One curve; of more than 100 steps the mean over a hundredth of them, with the steps behind it."""
    there = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not there:
        return
    x, y = (np.array(column, dtype=np.float64) for column in zip(*there, strict=True))
    window = len(y) // 50
    if window >= 2:
        axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.25)
        x, y = x[window - 1 :], np.convolve(y, np.full(window, 1 / window), mode="valid")
    axes.plot(x, y, color=colour, linewidth=width, label=label)


def _runs(grid: TokenGrid, stream: int, eom_id: int | None) -> list[tuple[int, list[int]]]:
    """The cells of a stream as runs in consecutive rows, parted after ends of messages: first row and ids."""
    own = np.flatnonzero(grid.token_streams == stream)
    rows, ids = grid.token_rows[own], grid.token_ids[own]
    if not len(own):
        return []
    breaks = (np.diff(rows) > 1) | (ids[:-1] == eom_id)
    starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
    return [
        (int(rows[first]), ids[first:last].tolist())
        for first, last in zip(starts, [*starts[1:], len(own)], strict=True)
    ]
