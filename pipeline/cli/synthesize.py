"""synth: new dialogues from a chat model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.places import WRITTEN

if TYPE_CHECKING:
    from synth.stage import State


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Build")(synth)


def synth(
    config: Annotated[
        Path,
        typer.Argument(
            help="YAML: a build configuration with a synth section, or that section alone.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder or URL to write to.", show_default=False, **WRITTEN)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show prompts and count what would be asked; no engine is started.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(help="Tokens per second of the engine, for --dry-run's estimate of the time.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of the clock; by default the build's convert.tokenizer, else smollm2.", show_default=False
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Write anew, also if finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Multi-stream dialogues written by a chat model, checked strictly; what is refused is kept with its reason.

    A run that was broken off goes on where it stopped: no answer is asked for twice.

    Example: `multistream synth examples/configs/demo.yaml --out build/synth --dry-run`
    """
    import yaml

    from pipeline import strict_yaml
    from pipeline.cli import console
    from pipeline.config import BuildConfig, ConfigError, ConvertSection, parse_config
    from pipeline.errors import PipelineError
    from pipeline.located import located, located_synth
    from synth.config import SynthConfig
    from synth.errors import SynthError
    from synth.report import missing, summary
    from synth.stage import resolve_paths, synthesize_stage

    try:
        value = strict_yaml.load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"configuration {config} cannot be read: {' '.join(str(error).split())}") from error
    clock, base = ConvertSection(), config.resolve().parent
    if isinstance(value, dict) and "sources" in value:
        build: BuildConfig = located(parse_config(value, str(config)), base)
        clock, value = build.convert, {"seed": build.seed, **(build.synth or {})}
    elif isinstance(value, dict):
        value = located_synth(value, base)
    settings = parse_config(value, str(config), SynthConfig)
    tokenizer = tokenizer or clock.tokenizer
    try:
        if dry_run:
            from synth.estimate import dry_run as estimate

            _show_estimate(estimate(resolve_paths(settings, base), tokenizer, rate), as_json)
            return
        with _live() as (progress, on_load):
            result = synthesize_stage(
                settings, out, tokenizer, clock.lag, base, fresh, progress=progress, on_load=on_load
            )
    except SynthError as error:
        raise PipelineError(str(error)) from error
    manifest = result.manifest
    if as_json:
        console.print_json({"counters": dict(manifest.counters), **manifest.notes, "skipped": result.skipped})
        return
    console.stage_table([("synth", manifest)], ["synth"] if result.skipped else [])
    for line in (*summary(manifest), *missing(manifest)):
        console.out.print(line, markup=False, highlight=False)


def _show_estimate(found: dict[str, Any], as_json: bool) -> None:
    from pipeline.cli import console

    if as_json:
        console.print_json(found)
        return
    for name in ("first_prompt", "last_prompt"):
        console.out.rule(name.replace("_", " "))
        console.out.print(found[name], markup=False, highlight=False)
    console.out.rule()
    for name, value in found.items():
        if name not in ("first_prompt", "last_prompt", "scenarios") and value is not None:
            console.out.print(
                f"{name.replace('_', ' '):24}{value:,}" if isinstance(value, int) else f"{name:24}{value}"
            )
    for name, count in found["scenarios"].items():
        console.out.print(f"  {name:22}{count:,}")


@contextmanager
def _live() -> Iterator[tuple[Callable[[State], None], Callable[[str], None]]]:
    """A bar with tokens/s, acceptance and time left, and the reasons of rejects as they occur; nothing off a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from pipeline.cli import console

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[rate]}"),
    )  # fmt: skip
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        task = bar.add_task("writing dialogues", total=None, rate="")

        def on_load(what: str) -> None:
            bar.update(task, description=what)

        def progress(state: State) -> None:
            usage = state.usage
            speed = f"{usage.tokens_per_second:,.0f} tokens/s" if usage.tokens_per_second else ""
            share = f", {state.accepted / state.done:.0%} accepted" if state.done else ""
            kept = f", {usage.cached_tokens / usage.prompt_tokens:.0%} kept" if usage.prompt_tokens else ""
            common = "".join(f", {n} {code}" for code, n in state.rejected.most_common(3))
            bar.update(
                task, description="writing dialogues", total=state.asked, completed=usage.finished,
                rate=f"{speed}{kept}{share}{common}",
            )  # fmt: skip

        yield progress, on_load
