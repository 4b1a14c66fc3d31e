"""export: a data set in the forms that other people's tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.places import READ, WRITTEN


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Publish")(export)


def export(
    path: Annotated[
        Path,
        typer.Argument(
            help="A build, a data set, a stage's folder, or one records-*.parquet.", show_default=False, **READ
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", help="upstream-grid, upstream-npz, tables, openai or webdataset.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder or URL to write to.", show_default=False, **WRITTEN)],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Only this split; may be given again.", show_default="all but input_only"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take only the first so many records of each split.", min=1)] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="upstream-npz: write the N×N attention masks that the paper's loader reads.")
    ] = False,
    silence: Annotated[
        str,
        typer.Option(
            help="upstream-grid: silent cells hold the token ' -' (hyphen, as the paper) or an id of their own (reserved)."
        ),
    ] = "hyphen",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="upstream-grid: spec of the token shards' tokenizer.", show_default="by its name"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Write again what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Exports a data set for other tools, and says what their form cannot hold (also in `export.json`).

    upstream-grid and upstream-npz are what the paper's own loaders read, tables its ten-stream text, openai a single-stream
    baseline for any fine-tuning tool, webdataset tar shards. See docs/exports.md.

    Example: `multistream export build/demo --to openai --out build/chat`
    """
    from pipeline.cli import console
    from pipeline.errors import ConfigError
    from pipeline.exports import Options, target_of
    from pipeline.exports.running import REPORT, Wanted
    from pipeline.exports.running import export as run
    from pipeline.viewer.lanes import one_line

    target = target_of(to)
    if silence not in ("hyphen", "reserved"):
        raise ConfigError(f"--silence is {silence!r}, choose hyphen or reserved")
    for name, given, of in (
        ("--masks", masks, "upstream-npz"), ("--silence", silence == "reserved", "upstream-grid"),
        ("--tokenizer", tokenizer is not None, "upstream-grid"),
    ):  # fmt: skip
        if given and to != of:
            raise ConfigError(f"{name} is for {of}, not for {to}")
    options = Options(masks, "reserved" if silence == "reserved" else "hyphen", tokenizer)
    wanted = Wanted(to, tuple(dict.fromkeys(split or ())), limit, options)
    with console.bar(f"exporting {console.shown(path)}") as advance:
        result = run(
            path,
            out,
            wanted,
            fresh,
            advance,
            lambda line: console.err.print(f"warning: {one_line(line, 2000)}", markup=False),
        )
    counters, notes = result.manifest.counters, result.manifest.notes["notes"]
    if as_json:
        console.print_json({"out": console.shown(out), "skipped": result.skipped, **counters, "notes": notes})
        return
    console.out.print(
        f"{counters['out']:,} of {counters['in']:,} records to {console.shown(out)}, {len(result.manifest.outputs):,} files"
        + (" (there already)" if result.skipped else ""),
        markup=False,
    )
    for code, count in counters["reasons"].items():
        console.out.print(f"not representable: {count:,} {code}", markup=False)
    if counters["lost"]:
        console.table(["lost", "count", ""], [(name, n, target.lost[name]) for name, n in counters["lost"].items()])
    else:
        console.out.print("nothing lost")
    for note in notes:
        console.out.print(f"note: {one_line(note, 2000)}", markup=False)
    console.out.print(f"the same by split: {console.shown(out / REPORT)}", markup=False)
