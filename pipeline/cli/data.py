"""formats, inspect, validate: looking at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.places import READ

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Place = Annotated[
    Path,
    typer.Argument(help="A build, a data set, a stage's folder, or one records-*.parquet.", show_default=False, **READ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (inspect, formats, validate):
        app.command(rich_help_panel="Look")(command)


def formats(
    name: Annotated[
        str | None, typer.Argument(help="One format, to see it in full.", show_default="all of them")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The message formats that can be converted; with a name, its options, an example and what becomes of it.

    Example: `multistream formats alpaca`
    """
    from pipeline.cli import console, inspect_report
    from pipeline.inspection import describe_format, list_formats

    if name is None:
        rows = list_formats()
        console.print_json(rows) if as_json else inspect_report.print_formats(rows)
        return
    about, record = describe_format(name)
    if as_json:
        console.print_json({**about, "record": record})
    else:
        inspect_report.print_format(about, record)


def inspect(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, archives, URLs, or hub:OWNER/NAME,split=train.", show_default=False
        ),
    ],
    format_: Annotated[
        str, typer.Option("--format", help="A format with its options, NAME:option=value; or auto.")
    ] = "auto",
    align: Annotated[str, typer.Option(help="Alignment of the records that are shown and counted.")] = "auto",
    records: Annotated[int, typer.Option(help="Records to show as they will be converted.", min=0, max=100)] = 2,
    sample: Annotated[
        int, typer.Option(help="Look at the first N records of each file only.", min=0, show_default="all")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """What inputs are, and what will become of them: container, format and why, messages, streams, oddities, two records.

    Example: `multistream inspect examples/conversations`
    """
    from pipeline.cli import console, inspect_report
    from pipeline.config import source_of
    from pipeline.inspection import InspectConfig, inspect_inputs
    from pipeline.stages.ingest import InputSource

    sources = [InputSource(**source_of(argument)) for argument in inputs]
    with console.bar("inspecting") as advance:
        report = inspect_inputs(sources, InspectConfig(format_, align, records, sample), progress=advance)
    if as_json:
        console.print_json(report.to_json())
    else:
        inspect_report.print_report(report)
    if all(file.problem for file in report.files):
        raise typer.Exit(1)


def validate(
    paths: Annotated[
        list[Path], typer.Argument(help="Builds, data sets, stage folders or shards.", show_default=False, **READ)
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
    from pipeline import storage
    from pipeline.cli import console
    from pipeline.tokenization import load_tokenizer
    from pipeline.validate import validate as check

    loaded = load_tokenizer(tokenizer) if tokenizer else None
    reports = {}
    for path in paths:
        with console.bar(f"validating {console.shown(path)}") as advance:
            reports[storage.shown(path)] = check(path, advance, loaded)
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
