"""build, convert: from inputs to a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.places import WRITTEN

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder or URL to write to.", show_default=False, **WRITTEN)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run every stage anew, also the finished ones.")]
Workers = Annotated[int, typer.Option("--workers", help="Worker processes; 0: one per core.", min=0)]
Events = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs; on standard error one event a line, as they come.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(rich_help_panel="Build")(build)
    app.command(rich_help_panel="Build")(convert)


def build(
    config: Annotated[Path, typer.Argument(help="YAML configuration.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder or URL to write to.", show_default="build/NAME", **WRITTEN),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set convert.align=turns", metavar="KEY=VALUE")
    ] = None,
    fresh: Fresh = False,
    workers: Workers = 0,
    as_json: Events = False,
) -> None:
    """The whole pipeline: ingest, convert, synthesize, data set, card, train, evaluate. Resumes where it stopped.

    Example: `multistream build examples/configs/demo.yaml --out build/demo`
    """
    from pipeline.build import build as run
    from pipeline.cli import live
    from pipeline.config import load_config
    from pipeline.sections import stages_of

    loaded = load_config(config, set_ or ())
    target = out or Path("build") / loaded.name
    with live.watching(stages_of(loaded), as_json) as watcher:
        run(loaded, config.resolve().parent, target, watcher, workers, fresh, config, set_ or ())
        watcher.ended(_document(target, watcher.skipped))
    _summary(target, watcher.skipped, as_json)


def _document(out: Path, skipped: list[str]) -> dict[str, Any]:
    """What programs are told of a finished build."""
    from pipeline import storage
    from pipeline.build import stage_rows

    stages = {name: dict(manifest.counters) for name, manifest in stage_rows(out)}
    return {"out": storage.shown(out), "stages": stages, "skipped": skipped}


def _summary(out: Path, skipped: list[str], as_json: bool) -> None:
    """The stage table and what to do next, or the same for programs."""
    from pipeline.build import stage_rows
    from pipeline.cli import console

    if as_json:
        console.print_json(_document(out, skipped))
        return
    rows = stage_rows(out)
    console.stage_table(rows, skipped)
    _next_steps(out, [name for name, _ in rows])


def _next_steps(target: Path, stages: list[str]) -> None:
    from pipeline.cli import console

    place = console.shown(target)
    console.out.print(f"\ndata set    {place}/dataset  (card: README.md)")
    if "checkpoint" in stages:
        console.out.print(f"checkpoint  {place}/checkpoint")
    if "report" in stages:
        console.out.print(f"report      {place}/report/report.md")
    console.out.print(
        f"\nnext:  multistream view {place}\n       multistream stats {place}\n       multistream validate {place}"
    )
    console.out.print(f"       multistream push {place} OWNER/NAME --dry-run")


def convert(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, archives, URLs, or hub:OWNER/NAME,split=train.", show_default=False
        ),
    ],
    out: Out,
    format_: Annotated[
        str, typer.Option("--format", help="A format name (see `multistream formats`), or auto.")
    ] = "auto",
    align: Annotated[
        str,
        typer.Option(help="Alignment: policies joined by +, parameters after a colon; auto chooses per conversation."),
    ] = "auto",
    question: Annotated[str, typer.Option(help="A question before (first) or after (last) its context.")] = "first",
    tokenizer: Annotated[str, typer.Option(help="smollm2, a folder, a Hub id, or tiktoken:PATH.")] = "smollm2",
    license_: Annotated[str | None, typer.Option("--license", help="SPDX expression of the inputs.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Name in the source pointers.", show_default="the folder's name")
    ] = None,
    lag: Annotated[int, typer.Option(help="0, or 1 for training with the strict mask.", min=0, max=1)] = 0,
    max_cells: Annotated[
        int, typer.Option(help="Window in tokens; longer conversations become segments.", min=64)
    ] = 8192,
    test_fraction: Annotated[float, typer.Option(help="Share of the groups in the test split.", min=0, max=0.9)] = 0.1,
    media: Annotated[
        str, typer.Option(help="What is no text, an image: a placeholder, or reject the record.")
    ] = "placeholder",
    max_rejected_fraction: Annotated[
        float, typer.Option(help="More rejects than this stop the run.", min=0, max=1)
    ] = 0.05,
    max_unit_bytes: Annotated[int, typer.Option(help="Larger records become reject rows.", min=1024)] = 32 << 20,
    limit: Annotated[int | None, typer.Option(help="Take only the first so many records of each file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and the shuffle.", min=0)] = 0,
    fresh: Fresh = False,
    workers: Workers = 0,
    as_json: Events = False,
) -> None:
    """Message corpora to multi-stream records and token shards, checked and split.

    Example: `multistream convert examples/conversations/math_qa.jsonl --out build/math --align thinking`
    """
    from pipeline.asked import Asked, recording
    from pipeline.build import run_convert, run_dataset, run_ingest
    from pipeline.cli import live
    from pipeline.config import parse_config, source_of
    from pipeline.sections import check_sections, stages_of

    sources: list[dict[str, Any]] = [
        {**source_of(i), "format": format_, "license": license_, "corpus": corpus, "limit": limit} for i in inputs
    ]
    value = {
        "name": "convert",
        "title": "Multi-stream conversations",
        "seed": seed,
        "sources": sources,
        "ingest": {"max_unit_bytes": max_unit_bytes},
        "convert": {
            "align": align, "question": question, "tokenizer": tokenizer, "lag": lag, "max_cells": max_cells,
            "max_rejected_fraction": max_rejected_fraction, "media": media,
        },
        "shards": {"test_fraction": test_fraction},
    }  # fmt: skip
    config = parse_config(value, "convert")
    check_sections(config)
    with live.watching(stages_of(config), as_json) as watcher, recording(out, Asked(config, Path())):
        ingest = run_ingest(config, Path(), out, fresh, watcher)
        converted = run_convert(config, out, ingest, workers, fresh, watcher)
        run_dataset(config, out, [converted], [], fresh, watcher)
        watcher.ended(_document(out, watcher.skipped))
    _summary(out, watcher.skipped, as_json)
