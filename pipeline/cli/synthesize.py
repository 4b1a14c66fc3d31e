"""synth: new dialogues from a chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be asked; no engine is started.")
    ] = False,
    tokenizer: Annotated[str, typer.Option(help="Tokenizer of the clock.")] = "smollm2",
    fresh: Annotated[bool, typer.Option("--fresh", help="Write anew, also if finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Multi-stream dialogues written by a chat model on vLLM, parsed strictly; what is refused is kept with its reason.

    Example: `multistream synth examples/configs/demo.yaml --out build/synth --dry-run`
    """
    import yaml

    from pipeline.cli import console
    from pipeline.config import ConfigError, parse_config
    from pipeline.errors import PipelineError
    from synth.config import SynthConfig
    from synth.errors import SynthError
    from synth.generate import dry_run as count
    from synth.stage import resolve_scenarios, synthesize_stage

    try:
        value = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"configuration {config} cannot be read: {' '.join(str(error).split())}") from error
    if isinstance(value, dict) and "sources" in value:
        value = {"seed": value.get("seed", 0), **(value.get("synth") or {})}
    settings = parse_config(value, str(config), SynthConfig)
    base = config.resolve().parent
    try:
        if dry_run:
            console.print_json(count(resolve_scenarios(settings, base)))
            return
        with console.bar("writing dialogues", settings.samples) as advance:
            last = 0

            def progress(done: int, total: int) -> None:
                nonlocal last
                advance(done - last)
                last = done

            result = synthesize_stage(settings, out, tokenizer, 0, base, fresh, progress=progress)
    except SynthError as error:
        raise PipelineError(str(error)) from error
    if as_json:
        console.print_json({"counters": dict(result.manifest.counters), "engine": result.manifest.notes["engine"]})
        return
    console.stage_table([("synth", result.manifest)], ["synth"] if result.skipped else [])
    c = result.manifest.counters
    console.out.print(
        f"acceptance {c['acceptance']:.1%}, {c['completion_tokens']:,} tokens written, {c['tokens_per_second']} tokens/s"
    )
