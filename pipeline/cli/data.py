"""formats, inspect, validate, stats, view: looking at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Place = Annotated[
    Path, typer.Argument(help="A build, a data set, a stage's folder, or one records-*.parquet.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (inspect, formats, validate, stats, view):
        app.command(rich_help_panel="Look")(command)


def formats(as_json: AsJson = False) -> None:
    """The message formats that can be converted.

    Example: `multistream formats`
    """
    from converters import CONVERTERS
    from pipeline.cli import console

    rows = [(name, getattr(c, "UNIT", ""), (c.__doc__ or "").strip().splitlines()[0]) for name, c in CONVERTERS.items()]
    if as_json:
        console.print_json([{"format": f, "unit": u, "about": about} for f, u, about in rows])
    else:
        console.table(["format", "unit", "about"], rows)


def inspect(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """What inputs are, and what will become of them: container, format, messages, streams.

    Example: `multistream inspect examples/conversations`
    """
    from pipeline.cli import console
    from pipeline.inspection import inspect_inputs

    found = [item for path in inputs for item in inspect_inputs(Path(path))]
    if as_json:
        console.print_json(found)
        return
    rows = [
        (f["file"], f["format"] or "unknown", f["sampled"], f["convertible"], ", ".join(f["streams"]), f["problem"])
        for f in found
    ]
    console.table(["file", "format", "sampled", "convertible", "streams", "first problem"], rows)


def validate(
    paths: Annotated[
        list[Path], typer.Argument(help="Builds, data sets, stage folders or shards.", show_default=False)
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Tokenizer of the token shards, to encode again.", show_default="the packaged one"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Checks schema, invariants, leaks, tokens and conservation; prints counts and the first offenders.

    Example: `multistream validate build/demo`
    """
    from pipeline.cli import console
    from pipeline.tokenization import load_tokenizer
    from pipeline.validate import validate as check

    loaded = load_tokenizer(tokenizer) if tokenizer else None
    reports = {}
    for path in paths:
        with console.bar(f"validating {console.shown(path)}") as advance:
            reports[str(path)] = check(path, advance, loaded)
    if as_json:
        console.print_json({name: report.to_json() for name, report in reports.items()})
    else:
        for name, report in reports.items():
            console.out.print(f"{name}: {report.records:,} records, {report.tokens:,} tokens")
            kinds = list(dict.fromkeys([*report.checked, *report.failures]))
            console.table(["check", "checked", "failed"], [(k, report.checked[k], report.failures[k]) for k in kinds])
            for kind, found in report.offenders.items():
                for where, message in found:
                    console.out.print(f"  {kind}: {where}: {message}", markup=False)
            for note in report.notes:
                console.out.print(f"note: {note}", markup=False)
            console.out.print("valid" if report.ok else f"NOT valid: {report.failures.total():,} failures")
    if not all(report.ok for report in reports.values()):
        raise typer.Exit(1)


def stats(path: Place, as_json: AsJson = False) -> None:
    """Streams, silence, overlap, rows saved against `turns`, tokens, and rejects by reason.

    Example: `multistream stats build/demo --json`
    """
    from pipeline.cli import console
    from pipeline.folders import find_records
    from pipeline.stats import reject_reasons, stats_of

    summary = stats_of(find_records(path).records).summary()
    summary["rejects"] = dict(reject_reasons(sorted(path.glob("*/rejects-*.parquet")) if path.is_dir() else []))
    if as_json:
        console.print_json(summary)
        return
    for key, value in summary.items():
        if isinstance(value, dict):
            console.table([key.replace("_", " "), ""], value.items())
            console.out.print()
        else:
            console.out.print(f"{key.replace('_', ' ')}: {console._cell(value)}")


def view(
    path: Place,
    record: Annotated[
        str | None, typer.Option("--record", "-r", help="Id, start of an id, or index.", show_default="the first")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print the record and leave; the only viewer so far.")] = True,
    width: Annotated[int | None, typer.Option(help="Columns to use.", min=40, show_default="the terminal's")] = None,
    as_json: AsJson = False,
) -> None:
    """One record, a column per stream, a line per row at which something starts.

    ◂ input, ▸ output, ■ end of message, ✂ cut off, > speaks while another stream does, ‹ header, ⚒ tool call, § definitions.

    Example: `multistream view build/demo --plain --record 0`
    """
    import sys

    from pipeline.cli import console
    from pipeline.viewer.plain import find_record, render

    found = find_record(path, record)
    if as_json:
        console.print_json(found)
        return
    for line in render(found, width):
        sys.stdout.write(line + "\n")
