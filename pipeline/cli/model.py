"""train, evaluate: the proof of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.places import READ, WRITTEN

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: --set steps=100", metavar="KEY=VALUE")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run anew, also if finished.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(rich_help_panel="Train")(train)
    app.command(rich_help_panel="Train")(evaluate)


def _settings(items: list[str] | None) -> dict[str, Any]:
    import yaml

    from pipeline import strict_yaml
    from pipeline.config import ConfigError

    values: dict[str, Any] = {}
    for item in items or ():
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item!r}: expected key=value")
        try:
            values[key] = strict_yaml.load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item!r}: {' '.join(str(error).split())}") from error
    return values


def _dataset(path: Path) -> Any:
    from pipeline import folders
    from pipeline.manifest import Result, need_manifest

    place = path / folders.DATASET if (path / folders.DATASET).is_dir() else path
    return Result(place, need_manifest(place), skipped=True)


def train(
    dataset: Annotated[Path, typer.Argument(help="A build or its data set.", show_default=False, **READ)],
    model: Annotated[str, typer.Option(help="smollm2 (packaged), a folder, or a Hub id of a Llama model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder or URL of the checkpoint.", show_default=False, **WRITTEN)
    ],
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", min=1, show_default="200")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of order and sampling.", min=0, show_default="0")] = None,
    set_: Settings = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tunes a Llama model with stream embeddings on the train split. A killed run goes on at its last saved state.

    Example: `multistream train build/demo --model smollm2 --out build/checkpoint --steps 20`

    Several GPUs: `torchrun --nproc-per-node 8 -m pipeline.cli train build/demo --model … --out … --set packs_per_step=8`
    """
    from pipeline.cli import console
    from pipeline.config import ConfigError
    from pipeline.sections import section
    from pipeline.stages.train import train_stage
    from pipeline.training.loop import TrainConfig
    from pipeline.training.processes import rank

    settings = _settings(set_)
    for name, given in (("steps", steps), ("seed", seed)):
        if given is not None and name in settings:
            raise ConfigError(f"--{name} and --set {name}=… say the same thing twice: give one of them")
        settings |= {} if given is None else {name: given}
    config = section(settings, "train", TrainConfig)
    result = train_stage(_dataset(dataset), model, out, config, fresh, lambda step: console.err.print(str(step)))
    if rank():
        return
    if as_json:
        console.print_json(dict(result.manifest.counters))
    else:
        console.stage_table([("checkpoint", result.manifest)], ["checkpoint"] if result.skipped else [])
        resumed = result.manifest.notes.get("resumed_from_step")
        after = f"  (went on after step {resumed})" if resumed and not result.skipped else ""
        console.out.print(f"checkpoint  {console.shown(out)}{after}")


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of `multistream train`.", show_default=False, **READ)
    ],
    dataset: Annotated[Path, typer.Argument(help="A build or its data set.", show_default=False, **READ)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder or URL of the report.", show_default=False, **WRITTEN)
    ],
    model: Annotated[
        str | None, typer.Option(help="The base model to compare with.", show_default="the one it was trained from")
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help="A checkpoint trained with shuffle_inputs, to compare with.", show_default="none", **READ),
    ] = None,
    set_: Settings = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """What a checkpoint learnt: losses against its base model and controls, turn-taking, latency, what it writes, a gate.

    Exit code 1: the gate failed; the report says why.

    Example: `multistream evaluate build/checkpoint build/demo --out build/report`
    """
    from pipeline.build import check_gate
    from pipeline.cli import console
    from pipeline.errors import ConfigError, InputError
    from pipeline.evaluation.evaluate import EvaluateConfig
    from pipeline.evaluation.gate import GateConfig
    from pipeline.manifest import Result, need_manifest
    from pipeline.sections import section
    from pipeline.stages.evaluate import evaluate_stage

    values = _settings(set_)
    if control is not None:
        values["control"] = control
    if "gate" in values:
        raise ConfigError("the gate is set by its keys: --set gate.min_improvement=0.1")
    gate = section(
        {k.removeprefix("gate."): values.pop(k) for k in list(values) if k.startswith("gate.")}, "gate", GateConfig
    )
    config = section(values, "evaluate", EvaluateConfig, gate=gate)
    trained = Result(checkpoint, need_manifest(checkpoint), skipped=True)
    if "model" not in trained.manifest.notes:
        raise InputError(
            f"{checkpoint} is not a checkpoint of `multistream train`, stage {trained.manifest.stage!r} made it"
        )
    base = model or str(trained.manifest.notes["model"])
    with console.bar("evaluating") as advance:
        result = evaluate_stage(
            _dataset(dataset), trained, base, out, config, fresh, lambda phase, n, total: advance(0)
        )
    if as_json:
        console.print_json(
            {"counters": dict(result.manifest.counters), "gate_failures": result.manifest.notes["gate_failures"]}
        )
    else:
        console.stage_table([("report", result.manifest)], ["report"] if result.skipped else [])
        console.out.print(f"report  {console.shown(out)}/report.md")
    check_gate(result)
