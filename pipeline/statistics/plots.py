"""Plots of statistics, each with what it shows in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import publish_text
from pipeline.statistics.drawing import Shape, circle, fitted, is_ours, label, line, picture, rect, ticks
from pipeline.statistics.rejects import Rejected
from pipeline.statistics.sums import PolicyStats, Spread, merged
from pipeline.stats import RecordStats

WIDTH = 760
#: The files of all plots.
NAMES = ("streams.svg", "saved.svg", "latency.svg", "lengths.svg", "rejects.svg")

#: Rows of a plot by corpus and policy, or by reason; the rest is one row.
MOST = 14

#: The corpora have the left of the names, the policies the rest.
_LEFT, _CORPUS, _RIGHT, _TOP, _ROW = 322, 104, 20, 48, 24

Group = tuple[str, str, PolicyStats]


@dataclass(frozen=True, slots=True)
class Plot:
    """``name`` of its file, what it shows in ``words``, and the picture."""

    name: str
    words: str
    svg: str


def draw_plots(stats: RecordStats, rejects: Sequence[Rejected] = ()) -> list[Plot]:
    """All plots for which there are figures, always in the same order."""
    drawn = (_streams(stats), _saved(stats), _latency(stats), _lengths(stats.lengths), _rejects(rejects))
    return [plot for plot in drawn if plot is not None]


def write_plots(directory: Path, stats: RecordStats, rejects: Sequence[Rejected] = ()) -> list[Path]:
    """Writes the plots into a folder; their paths. Those of before for which there are no figures now are removed.

    Raises PipelineError where nothing can be written, or a file of such a name is not a plot of ours: then nothing is.
    """
    check_plots(directory)
    written = []
    for plot in draw_plots(stats, rejects):
        publish_text(directory / plot.name, plot.svg)
        written.append(directory / plot.name)
    for name in NAMES:
        if directory / name not in written:
            (directory / name).unlink(missing_ok=True)
    return written


def check_plots(directory: Path) -> None:
    """Raises PipelineError where a file has the name of a plot and is none of ours, or the folder is a file."""
    if directory.exists() and not directory.is_dir():
        raise PipelineError(f"{directory} is a file: name a folder for the plots")
    for path in (directory / name for name in NAMES):
        if path.exists() and not (path.is_file() and is_ours(path)):
            raise PipelineError(f"{path} is there, and is no plot that was drawn here: choose another folder")


def _streams(stats: RecordStats) -> Plot | None:
    roles = [
        (role, count) for role, count in sorted(stats.tokens_per_role.items(), key=lambda i: (-i[1], i[0])) if count
    ]
    if not roles:
        return None
    most = max(count for _, count in roles)
    scale = (WIDTH - 150 - _RIGHT - 150) / most
    shapes: list[Shape] = [
        rect(150, 34, 10, 10, "read"), label(165, 43, "read by the model", "dim small"),
        rect(290, 34, 10, 10, "written"), label(305, 43, "written by it", "dim small"),
    ]  # fmt: skip
    for number, (role, count) in enumerate(roles[:MOST]):
        y = 56 + number * _ROW
        kind = "written" if stats.output_roles[role] else "read"
        silent = 1 - count / stats.slots_per_role[role] if stats.slots_per_role[role] else 0.0
        shapes += [
            label(142, y + 13, fitted(role, 126), anchor="end"),
            rect(150, y, count * scale, 16, kind),
            label(156 + count * scale, y + 13, f"{count:,} · {silent:.0%} silent", "dim"),
        ]
    words = "Tokens per stream, and in how many of its rows it is silent: " + ", ".join(
        f"{role} {count:,}" for role, count in roles[:MOST]
    )
    height = 66 + len(roles[:MOST]) * _ROW
    return Plot("streams.svg", words, picture(WIDTH, height, "Tokens per stream", words, shapes))


def _saved(stats: RecordStats) -> Plot | None:
    groups = [group for group in _groups(stats) if group[2].compared_turns_rows]
    if not any(own.shortened or own.compared_rows != own.compared_turns_rows for *_, own in groups):
        return None
    quartiles = [own.saved.quantiles([0.1, 0.9]) for *_, own in groups]
    shares = [own.saved_share or 0.0 for *_, own in groups]
    low = min(0.0, *(q[0] for q in quartiles), *shares)
    high = max(0.05, *(q[1] for q in quartiles), *shares)
    low = max(low, -1.0)
    x = _scale(low, high, _LEFT, WIDTH - _RIGHT - 64)
    shapes = [label(_LEFT, 43, "bar: of all rows; line: 10th to 90th percentile of the records", "dim small")]
    bottom = _TOP + 8 + len(groups) * _ROW
    shapes += _group_labels(groups, _TOP + 21)
    shapes += _axis(ticks(low, high), x, _TOP + 4, bottom, lambda v: f"{v:.0%}")
    for number, (share, (p10, p90)) in enumerate(zip(shares, quartiles, strict=True)):
        y = _TOP + 8 + number * _ROW
        if share:
            shapes.append(rect(min(x(0), x(max(share, low))), y + 2, abs(x(max(share, low)) - x(0)), 13, "written"))
        shapes += [
            line(x(max(p10, low)), y + 8.5, x(max(p90, low)), y + 8.5, "axis", 2),
            label(WIDTH - _RIGHT, y + 13, f"{share:.1%}", "dim", "end"),
        ]
    words = "Share of the rows saved against turns: " + ", ".join(
        f"{_named(corpus, policy)} {share:.1%}" for (corpus, policy, _), share in zip(groups, shares, strict=True)
    )
    return Plot("saved.svg", words, picture(WIDTH, bottom + 28, "Rows saved against turns", words, shapes))


def _latency(stats: RecordStats) -> Plot | None:
    groups = [group for group in _groups(stats) if group[2].layout]
    if not groups:
        return None
    panels = (
        ("rows_to_first_output", "rows to the first output"),
        ("decode_steps", "decode steps"),
        ("rows_to_end", "rows to the end"),
    )
    width = (WIDTH - _LEFT - _RIGHT) / len(panels)
    bottom = _TOP + 30 + len(groups) * _ROW
    shapes = [
        circle(_LEFT + 6, 38, 4.5, "written"), label(_LEFT + 15, 42, "this layout", "dim small"),
        circle(_LEFT + 96, 38, 4, "hollow"), label(_LEFT + 105, 42, "under turns", "dim small"),
    ]  # fmt: skip
    told = []
    for column, (name, title) in enumerate(panels):
        pairs = [(own.layout[name].quantiles([0.5])[0], own.turns[name].quantiles([0.5])[0]) for *_, own in groups]
        highest = max(1.0, *(value for pair in pairs for value in pair))
        lowest = max(1.0, min(value for pair in pairs for value in pair))
        places = [math.log10(max(v, 1.0)) for v in (lowest, highest)]
        left = _LEFT + column * width
        x = _scale(
            math.floor(places[0]), max(math.ceil(places[1]), math.floor(places[0]) + 1), left + 12, left + width - 18
        )
        powers = [
            float(p) for p in range(math.floor(places[0]), max(math.ceil(places[1]), math.floor(places[0]) + 1) + 1)
        ]
        shapes.append(label(left + 12, _TOP + 18, title, "ink small"))
        shapes += _axis(powers, x, _TOP + 26, bottom, lambda v: _short(10**v))
        for number, (layout, turns) in enumerate(pairs):
            y = _TOP + 38 + number * _ROW
            at, base = x(math.log10(max(layout, 1.0))), x(math.log10(max(turns, 1.0)))
            shapes += [line(base, y, at, y, "axis", 2), circle(base, y, 4, "hollow"), circle(at, y, 4.5, "written")]
        told.append(title + " " + ", ".join(f"{layout:,.0f} against {turns:,.0f}" for layout, turns in pairs))
    shapes += _group_labels(groups, _TOP + 42)
    names = ", ".join(_named(corpus, policy) for corpus, policy, _ in groups)
    words = f"Latency in rows against turns, medians: of {names}: {'; '.join(told)}"
    return Plot("latency.svg", words, picture(WIDTH, bottom + 28, "Latency in rows (median, log scale)", words, shapes))


def _lengths(lengths: Spread) -> Plot | None:
    if not lengths.counts:
        return None
    bins: Counter[int] = Counter()
    for value, count in lengths.counts.items():
        bins[max(int(value), 1).bit_length() - 1] += count
    total = bins.total()
    first, last = min(bins), max(bins)
    most = max(bins.values())
    width = (WIDTH - 60 - _RIGHT) / (last - first + 1)
    shapes: list[Shape] = [line(60, 190, WIDTH - _RIGHT, 190, "axis")]
    for value in ticks(0, most, 4):
        y = 190 - 130 * value / most
        shapes += [line(60, y, WIDTH - _RIGHT, y, "grid"), label(54, y + 4, _short(value), "dim small", "end")]
    for place in range(first, last + 1):
        x, height = 60 + (place - first) * width, 130 * bins[place] / most
        tip = f"{2**place:,} to {2 ** (place + 1) - 1:,} tokens: {bins[place]:,} records"
        shapes.append(
            rect(x + 2, 190 - height, width - 4, height, "read", tip=tip) if bins[place] else line(0, 0, 0, 0, "grid")
        )
        shapes.append(label(x, 206, _power(2**place), "dim small", "middle"))
    shapes.append(label(WIDTH - _RIGHT, 206, _power(2 ** (last + 1)), "dim small", "end"))
    median, p90, longest = lengths.quantiles([0.5, 0.9, 1.0])
    words = f"Tokens per record: median {median:,.0f}, 90th percentile {p90:,.0f}, longest {longest:,.0f}, of {total:,}"
    shapes.append(
        label(16, 42, f"median {median:,.0f} · 90th percentile {p90:,.0f} · longest {longest:,.0f}", "dim small")
    )
    return Plot("lengths.svg", words, picture(WIDTH, 220, "Records by their tokens", words, shapes))


def _rejects(rejects: Sequence[Rejected]) -> Plot | None:
    counts: Counter[tuple[str, str]] = Counter()
    for each in rejects:
        counts[each.stage, each.code] += each.count
    if not counts:
        return None
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [(f"{stage}: {code}", count) for (stage, code), count in rows[:MOST]]
    if rest := sum(count for _, count in rows[MOST:]):
        listed.append((f"{len(rows) - MOST} other reasons", rest))
    scale = (WIDTH - _LEFT - _RIGHT - 70) / max(count for _, count in listed)
    shapes: list[Shape] = []
    for number, (name, count) in enumerate(listed):
        y = _TOP + number * _ROW
        shapes += [
            label(_LEFT - 8, y + 13, fitted(name, _LEFT - 24), anchor="end"),
            rect(_LEFT, y, count * scale, 16, "grey"),
            label(_LEFT + 6 + count * scale, y + 13, f"{count:,}", "dim"),
        ]
    words = "Rejects by reason: " + ", ".join(f"{name} {count:,}" for name, count in listed)
    return Plot(
        "rejects.svg", words, picture(WIDTH, _TOP + 12 + len(listed) * _ROW, "Rejects by reason", words, shapes)
    )


def _groups(stats: RecordStats) -> list[Group]:
    """The corpora and policies with the most records, by name; what is left as one."""
    groups = [(corpus, policy, own) for (corpus, policy), own in stats.by_policy.items()]
    groups.sort(key=lambda g: (-g[2].records, g[0], g[1]))
    shown = sorted(groups[:MOST], key=lambda g: g[:2])
    if len(groups) > MOST:
        shown.append((f"{len(groups) - MOST} others", "", merged(own for *_, own in groups[MOST:])))
    return shown


def _named(corpus: str, policy: str) -> str:
    return " · ".join(filter(None, (corpus, policy)))


def _group_labels(groups: Sequence[Group], y: float) -> list[Shape]:
    """The corpora, each at the first of its policies, and the policies; ``y``: of the first base line."""
    shapes, last = [], None
    for number, (corpus, policy, _) in enumerate(groups):
        at = y + number * _ROW
        if corpus != last:
            shapes.append(label(16, at, fitted(corpus, _CORPUS), "dim"))
        last = corpus
        shapes.append(label(_LEFT - 8, at, fitted(policy, _LEFT - _CORPUS - 30), anchor="end"))
    return shapes


def _axis(
    values: Sequence[float], x: Callable[[float], float], top: float, bottom: float, text: Callable[[float], str]
) -> list[Shape]:
    return [
        shape
        for value in values
        for shape in (
            line(x(value), top, x(value), bottom, "grid"),
            label(x(value), bottom + 15, text(value), "dim small", "middle"),
        )
    ]


def _scale(low: float, high: float, left: float, right: float) -> Callable[[float], float]:
    return lambda value: left + (value - low) / ((high - low) or 1.0) * (right - left)


def _short(value: float) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:g}{unit}" if value % size == 0 else f"{value / size:.1f}{unit}"
    return f"{value:g}"


def _power(value: int) -> str:
    """A power of two as lengths of windows are named: 8k is 8192."""
    return f"{value >> 20}M" if value >= 1 << 20 else f"{value >> 10}k" if value >= 1 << 10 else str(value)
