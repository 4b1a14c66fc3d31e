"""stats: what a data set's records and rejects are, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.places import LOCAL, READ

if TYPE_CHECKING:
    from pipeline.statistics.rejects import Rejected
    from pipeline.stats import RecordStats


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Look")(stats)


def stats(
    path: Annotated[
        Path,
        typer.Argument(
            help="A build, a data set, a stage's folder, or one records-*.parquet.", show_default=False, **READ
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    plots: Annotated[
        Path | None,
        typer.Option(help="Write the plots (SVG) into this folder too.", metavar="DIR", show_default=False, **LOCAL),
    ] = None,
    rejects: Annotated[
        bool,
        typer.Option(
            "--rejects",
            help="Only what is not in: rejects and filtered records by reason and corpus, each with a message.",
        ),
    ] = False,
) -> None:
    """Conversations, tokens, silence, overlap, rows saved against `turns`, latencies, leaks and rejects.

    By corpus and policy. What the figures mean is in docs/stats.md.

    Example: `multistream stats build/demo --json`
    """
    from pipeline import storage
    from pipeline.cli import console
    from pipeline.errors import InputError
    from pipeline.folders import find_records
    from pipeline.statistics.rejects import find_rejects, left_out_of, rejects_of

    if rejects and plots is not None:
        raise typer.BadParameter("--plots draws records: leave out --rejects")
    if rejects and not path.exists():
        raise InputError(f"{storage.shown(path)} is not there")
    found_rejects = find_rejects(path)
    refused, left_out = rejects_of(found_rejects or ()), left_out_of(path)
    if rejects:
        if found_rejects is None:
            raise InputError(
                f"no stage that rejects is at {storage.shown(path)}: name a build, or its folder ingest or convert"
            )
        if as_json:
            console.print_json(_listed([*refused, *left_out]))
        else:
            _print_rejects(refused, with_messages=True)
            _print_left_out(left_out, with_messages=True)
        return
    from pipeline.stats import stats_of

    if plots is not None:
        from pipeline.statistics.plots import check_plots, write_plots

        check_plots(plots)
    with console.bar("reading records") as advance:
        found = stats_of(find_records(path).answered, advance)
    if plots is not None:
        written = write_plots(plots, found, refused)
    if as_json:
        console.print_json(
            {
                **found.summary(),
                "rejects": None if found_rejects is None else _listed(refused),
                "left_out": _listed(left_out),
            }
        )
        return
    _print_records(found)
    if found_rejects is not None:
        _print_rejects(refused, with_messages=False)
    _print_left_out(left_out, with_messages=False)
    if plots is not None:
        console.out.print(f"\n{len(written)} plots in {console.shown(plots)}", markup=False)


def _print_records(found: RecordStats) -> None:
    from pipeline.cli import console

    summary, whole = found.summary(), found.all()
    say = console.out.print
    say(
        f"{whole.records:,} records of {whole.conversations:,} conversations, {whole.events:,} events, "
        f"{whole.tokens:,} tokens in {whole.rows:,} rows"
    )
    if not whole.records:
        return
    compared = f"{_share(whole.saved_share)} of the rows under turns saved" if whole.saved_share is not None else ""
    say(
        f"{_share(whole.silence)} silent, {whole.overlapped:,} records with overlap{', ' if compared else ''}{compared}"
    )
    if whole.real_time:
        say(f"{whole.real_time:,} records are in real time and are not compared with turns")
    groups = sorted(found.by_policy.items())
    _table(
        "Records",
        ["corpus", "policy", "convs", "events", "tokens", "silent", "overlap", "saved", "leaks"],
        [
            [
                corpus, policy, _count(own.conversations), _count(own.events), _count(own.tokens), _share(own.silence),
                _share(own.overlap_rows / own.rows if own.rows else None), _share(own.saved_share),
                _count(own.verdicts["leak"] + own.verdicts["weak"]),
            ]
            for (corpus, policy), own in groups
        ],
        texts=2,
    )  # fmt: skip
    _table(
        "Latency in rows, median (the same under turns)",
        ["corpus", "policy", "first output", "wait", "response", "rows", "steps"],
        [
            [corpus, policy, *(_latency(own, name) for name in own.layout)]
            for (corpus, policy), own in groups
            if own.layout
        ],
        texts=2,
    )
    _table(
        "Streams",
        ["stream", "", "tokens", "share", "silent"],
        [
            [
                role,
                "written" if found.output_roles[role] else "read",
                _count(tokens),
                _share(tokens / whole.tokens),
                _share(summary["silence_per_role"].get(role)),
            ]
            for role, tokens in summary["tokens_per_role"].items()
        ],
        texts=2,
    )
    for title, name in (("Licences", "licenses"), ("Languages as stated", "languages")):
        if summary[name]:
            unit = "conversations" if name == "languages" else "sources"
            _table(title, ["", unit], [[each, _count(n)] for each, n in summary[name].items()], texts=1)


def _print_rejects(refused: Sequence[Rejected], with_messages: bool) -> None:
    if not refused:
        from pipeline.cli import console

        console.out.print("\nno rejects")
        return
    more = [" first message"] if with_messages else []
    _table(
        "Rejects",
        ["stage", "reason", "corpus", "rejects", *more],
        [[r.stage, r.code, r.corpus, _count(r.count), *([" " + r.message] if with_messages else [])] for r in refused],
        texts=3,
        last_is_text=with_messages,
    )


def _print_left_out(found: Sequence[Rejected], with_messages: bool) -> None:
    if not found:
        return
    more = [" first detail"] if with_messages else []
    _table(
        "Filters",
        ["", "filter and reason", "corpus", "records", *more],
        [[r.stage, r.code, r.corpus, _count(r.count), *([" " + r.message] if with_messages else [])] for r in found],
        texts=3,
        last_is_text=with_messages,
    )


def _table(
    title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], texts: int, last_is_text: bool = False
) -> None:
    """A table; ``texts`` columns on the left are text, those after them figures. What cells hold is not interpreted."""
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli import console
    from pipeline.viewer.lanes import one_line

    view = Table(title=Text(title, "bold"), title_justify="left", header_style="bold", box=None, pad_edge=False)
    rows, by_policy = list(rows), "policy" in headers
    for i, header in enumerate(headers):
        pieces = [len(piece) + 1 for row in rows for piece in row[1].split("+")] if header == "policy" else []
        text = i < texts or (last_is_text and i == len(headers) - 1)
        view.add_column(
            header,
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=not text,
            min_width=min(max(pieces, default=0), 16),
            max_width=12 if header == "corpus" and by_policy and console.out.width < 100 else None,
        )
    last = ""
    for row in rows:
        cells = [Text(one_line(cell)) for cell in row]
        if by_policy:
            cells[1] = Text(one_line(row[1]).replace("+", "\n+"))
        if texts > 1 and headers[0] == "corpus":
            cells[0] = Text("") if row[0] == last else cells[0]
            last = row[0]
        view.add_row(*cells)
    console.out.print()
    console.out.print(view)


def _latency(own: Any, name: str) -> str:
    layout, turns = own.layout[name].quantiles([0.5])[0], own.turns[name].quantiles([0.5])[0]
    return f"{layout:,.0f}" if not own.layout[name].counts or layout == turns else f"{layout:,.0f} ({turns:,.0f})"


def _listed(refused: Sequence[Rejected]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(each) for each in refused]


def _count(value: int) -> str:
    """At most five characters."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= 10 * size or (value >= size and unit != "k"):
            return f"{value / size:.{1 if value < 100 * size else 0}f}{unit}"
    return f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
