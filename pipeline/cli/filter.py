"""filter: what filters would take of records that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.places import READ

if TYPE_CHECKING:
    from pipeline.filters import Step
    from pipeline.filters.trying import Trial


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Look")(filter)


def filter(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A build, a data set, a stage's folder, or one records-*.parquet; without one the filters are listed.",
            show_default=False,
            **READ,
        ),
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(
            "--use",
            help="A filter, with keys after a colon: `length:min_output_characters=20`. May be repeated; `default`: the usual.",
            metavar="FILTER",
            show_default="those of the build, else default",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples of each reason.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Shows what filters would take: each alone, and all in their order; with examples. Nothing is written.

    What a build leaves out is said by `filters:` in its configuration. See docs/filters.md.

    Example: `multistream filter build/demo --use length:min_output_characters=20 --use truncated`
    """
    from pipeline.cli import console
    from pipeline.filters import parse_filters, parse_use
    from pipeline.filters.trying import try_filters

    if path is None:
        _list_filters(as_json)
        return
    shards = _shards(path)
    if use:
        steps = parse_filters("default" if use == ["default"] else [parse_use(each) for each in use])
    else:
        steps = _of_build(path) or parse_filters("default")
    with console.bar("reading records") as advance:
        trials = try_filters(shards, steps, examples, advance)
    if as_json:
        console.print_json([_plain(trial) for trial in trials])
        return
    _print(trials)


def _shards(path: Path) -> Sequence[Path]:
    """What conversion and synthesis made, before any filter; or the records of what else is named."""
    from pipeline import folders
    from pipeline.folders import find_records
    from pipeline.leftout import RECORD_SHARDS

    made = [
        shard
        for stage in (folders.CONVERT, folders.SYNTH)
        for prefix in RECORD_SHARDS
        for shard in sorted((path / stage).glob(f"{prefix}*.parquet"))
    ]
    return made or find_records(path).records


def _of_build(path: Path) -> tuple[Step, ...]:
    from pipeline.asked import read_asked
    from pipeline.errors import ConfigError
    from pipeline.filters import parse_filters

    try:
        asked = read_asked(path)
    except ConfigError:
        return ()
    return () if asked is None else parse_filters(asked.config.filters)


def _list_filters(as_json: bool) -> None:
    from pipeline.cli import console
    from pipeline.filters import DEFAULT, FILTERS

    if as_json:
        console.print_json(
            [
                {"filter": name, "about": module.ABOUT, "default": name in DEFAULT, "keys": _keys(name)}
                for name, module in FILTERS.items()
            ]
        )
        return
    rows = [(name, "yes" if name in DEFAULT else "", module.ABOUT) for name, module in FILTERS.items()]
    console.table(["filter", "default", "takes"], rows)
    console.out.print("\nkeys and defaults: docs/filters.md, or --json", markup=False)


def _keys(name: str) -> dict[str, Any]:
    from pipeline.filters import FILTERS

    return FILTERS[name].Params().model_dump(mode="json")


def _plain(trial: Trial) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **trial.step.settings(),
        "seen": trial.seen,
        "taken": trial.taken,
        "alone": trial.alone,
        "reasons": dict(trial.reasons),
        "corpora": dict(trial.corpora),
        "examples": [asdict(example) for example in trial.examples],
    }


def _print(trials: Sequence[Trial]) -> None:
    from pipeline.cli import console
    from pipeline.viewer.lanes import one_line

    rows = [
        (
            trial.step.name,
            trial.step.action,
            f"{trial.seen:,}",
            f"{trial.taken:,}",
            f"{trial.taken / trial.seen:.2%}" if trial.seen else "–",
            f"{trial.alone:,}",
            ", ".join(f"{reason} {count:,}" for reason, count in trial.reasons.most_common()),
        )
        for trial in trials
    ]
    console.table(["filter", "action", "sees", "takes", "", "alone", "reasons (alone)"], rows)
    for trial in trials:
        for example in trial.examples:
            head = f"{trial.step.name}: {example.reason} · {example.corpus} · {example.conversation_id}"
            console.out.print(f"\n{one_line(head, 200)}", markup=False)
            if example.detail:
                console.out.print(f"  {one_line(example.detail, 200)}", markup=False)
            console.out.print(f"  {one_line(example.text, 200)}", markup=False)
