"""status: how far a build is, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.status import StageStatus

#: Reasons of a stage that are shown; JSON has all.
_MOST_REASONS = 8


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Build")(status)


def status(
    path: Annotated[str, typer.Argument(help="Folder of a build.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(help="Compare with this YAML configuration.", show_default="the one it was built from"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set convert.align=turns", metavar="KEY=VALUE")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Compare files by size alone; read no inputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """What a build has finished; what is stale and why, cut off, damaged, running or failed. Changes nothing.

    Exit code 0 if everything that the configuration asks for is done, else 1.

    Example: `multistream status build/demo`
    """
    from pipeline import storage
    from pipeline.asked import asked_now
    from pipeline.cli import console
    from pipeline.errors import InputError
    from pipeline.status import is_done, status_of

    out = storage.open_folder(path, reading=True)
    asked, note = asked_now(out, config, set_ or ())
    stages = status_of(out, asked, digests=not quick)
    if asked is None and not stages:
        raise InputError(f"{path} holds no build: no stage is finished or begun there")
    if as_json:
        named = None if asked is None or asked.path is None else str(asked.path)
        known = {"out": path, "configuration": named, "note": note or None, "done": is_done(stages)}
        console.print_json({**known, "stages": [_document(stage) for stage in stages]})
    else:
        _show(stages)
        if note:
            console.out.print(f"\n{note}", markup=False)
    if not is_done(stages):
        raise typer.Exit(1)


def _document(stage: StageStatus) -> dict[str, Any]:
    from dataclasses import asdict

    manifest = stage.manifest
    return {
        "stage": stage.name,
        "state": stage.state,
        "reasons": list(stage.reasons),
        "parts": None if stage.parts is None else asdict(stage.parts),
        "counters": None if manifest is None else dict(manifest.counters),
        "seconds": None if manifest is None else manifest.seconds,
    }


def _show(stages: list[StageStatus]) -> None:
    from pipeline.cli import console

    rows = []
    sides = ["in", "out", "rejected"]
    if any(stage.manifest is not None and stage.manifest.counters.get("filtered") for stage in stages):
        sides.append("filtered")
    for stage in stages:
        counters = stage.manifest.counters if stage.manifest is not None else {}
        seconds = stage.manifest.seconds if stage.manifest is not None else None
        rows.append([stage.name, stage.state, *(counters.get(side) for side in sides), seconds])
    console.table(["stage", "state", *sides, "seconds"], rows)
    told = [stage for stage in stages if stage.reasons]
    if told:
        console.out.print()
    for stage in told:
        lines = list(stage.reasons[:_MOST_REASONS])
        if len(stage.reasons) > len(lines):
            lines.append(f"and {len(stage.reasons) - len(lines):,} more: --json names all")
        for line in lines:
            console.out.print(f"{stage.name}: {stage.state}: {line}", markup=False)
