"""The whole build: the stages in their order, each resumed or run. The command line and the Prefect flow both call these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline import folders
from pipeline.config import BuildConfig, ConfigError, SourceConfig, parse_config
from pipeline.convert import ConvertConfig, ShardCounts
from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, Result, read_manifest
from pipeline.shards import ShuffleConfig
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluateConfig


class GateError(PipelineError):
    """The spot-evaluation's gate failed; the report says why."""


class Watcher(Protocol):
    """Told what a build is doing."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, done: int, what: str) -> None:
        """So many more units of the stage are done."""

    def finished(self, result: Result) -> None:
        """A stage is done or was skipped."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The folders of a finished build."""

    out: Path
    stages: tuple[Result, ...]


def input_source(source: SourceConfig) -> InputSource:
    """The ingest stage's form of a configured source."""
    return InputSource(**{f.name: getattr(source, f.name) for f in fields(InputSource)})


def convert_config(config: BuildConfig) -> ConvertConfig:
    """The convert stage's form of the configuration."""
    c = config.convert
    return ConvertConfig(
        c.align, c.question, c.tokenizer, c.lag, c.max_cells, tuple(sorted(config.exclude_ids)), c.media
    )


def section(
    config: dict[str, Any] | None, what: str, kind: type[Any], base: Path | None = None, **defaults: Any
) -> Any:
    """A dataclass made of a free section of the configuration. Raises ConfigError for keys and values it does not take."""
    values = {**defaults, **(config or {})}
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            from difflib import get_close_matches

            close = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
            raise ConfigError(f"unknown key {what + '.' + key!r}{hint}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error


def run_ingest(config: BuildConfig, base: Path, out: Path, fresh: bool, watcher: Watcher) -> Result:
    """Stage 1: inputs to shards of source units."""
    watcher.stage(folders.INGEST)
    i = config.ingest
    settings = IngestConfig(i.max_unit_bytes, i.shard_units, i.shard_bytes)
    sources = [input_source(s) for s in config.sources]
    result = ingest_stage(sources, base, out / folders.INGEST, settings, fresh, lambda n: watcher.progress(n, "units"))
    watcher.finished(result)
    return result


def run_convert(config: BuildConfig, out: Path, ingest: Result, workers: int, fresh: bool, watcher: Watcher) -> Result:
    """Stage 2: source units to records and tokens."""
    from pipeline.stages.convert import convert_stage

    watcher.stage(folders.CONVERT)

    def progress(counts: ShardCounts) -> None:
        watcher.progress(counts.units, "units")

    limit = config.convert.max_rejected_fraction
    result = convert_stage(ingest, out / folders.CONVERT, convert_config(config), limit, workers, fresh, progress)
    watcher.finished(result)
    return result


def run_synthesize(config: BuildConfig, base: Path, out: Path, fresh: bool, watcher: Watcher) -> Result | None:
    """Stage 3: new dialogues from a chat model; None if the configuration asks for none."""
    if config.synth is None:
        return None
    from synth.config import SynthConfig
    from synth.errors import SynthError
    from synth.stage import ResumeError, State, synthesize_stage

    watcher.stage(folders.SYNTH)
    told = 0

    def progress(state: State) -> None:
        nonlocal told
        watcher.progress(state.done - told, "dialogues")
        told = state.done

    settings = parse_config({"seed": config.seed, **config.synth}, "synth", SynthConfig)
    try:
        result = synthesize_stage(
            settings,
            out / folders.SYNTH,
            config.convert.tokenizer,
            config.convert.lag,
            base,
            fresh,
            progress=progress,
        )
    except ResumeError as error:
        result = error.result  # whole, and its report says what can be asked for again; the server may be off by now
    except SynthError as error:
        raise PipelineError(str(error)) from error
    watcher.finished(result)
    return result


def run_dataset(config: BuildConfig, out: Path, inputs: Sequence[Result], fresh: bool, watcher: Watcher) -> Result:
    """Stage 4: split by group, global shuffle, final shards, and the card."""
    from pipeline.card import write_card
    from pipeline.stages.dataset import dataset_stage

    watcher.stage(folders.DATASET)
    settings = ShuffleConfig(config.seed, config.shards.test_fraction, config.shards.shard_rows)
    result = dataset_stage(inputs, out / folders.DATASET, settings, fresh)
    write_card(out, config.title or config.name)
    watcher.finished(result)
    return result


def run_train(config: BuildConfig, out: Path, dataset: Result, fresh: bool, watcher: Watcher) -> Result | None:
    """Stage 5: fine-tuning on the train split; None if the configuration asks for none."""
    return None if config.train is None else _train(config, out, folders.CHECKPOINT, dataset, fresh, watcher)


def run_control(config: BuildConfig, out: Path, dataset: Result, fresh: bool, watcher: Watcher) -> Result | None:
    """Stage 6: the same training on permuted inputs; None unless ``evaluate.control`` is true."""
    if config.train is None or (config.evaluate or {}).get("control") is not True:
        return None
    return _train(config, out, folders.CONTROL, dataset, fresh, watcher, shuffle_inputs=True)


def _train(
    config: BuildConfig, out: Path, folder: str, dataset: Result, fresh: bool, watcher: Watcher, **changes: bool
) -> Result:
    from pipeline.stages.train import train_stage
    from pipeline.training.loop import TrainConfig

    watcher.stage(folder)
    values = dict(config.train or {})
    model = values.pop("model", "smollm2")
    settings = section({**values, **changes}, "train", TrainConfig, seed=config.seed)
    result = train_stage(dataset, model, out / folder, settings, fresh, lambda step: watcher.progress(1, str(step)))
    watcher.finished(result)
    return result


def run_evaluate(
    config: BuildConfig,
    out: Path,
    dataset: Result,
    checkpoint: Result,
    control: Result | None,
    fresh: bool,
    watcher: Watcher,
) -> Result:
    """Stage 7: spot-evaluation on the test split and its report. Raises GateError if the gate fails."""
    from pipeline.card import write_card
    from pipeline.stages.evaluate import evaluate_stage

    watcher.stage(folders.REPORT)
    settings = evaluate_config(config, control)
    model = (config.train or {}).get("model", "smollm2")
    result = evaluate_stage(
        dataset, checkpoint, model, out / folders.REPORT, settings, fresh, lambda p, n, t: watcher.progress(n, p)
    )
    write_card(out, config.title or config.name)
    watcher.finished(result)
    return result


def evaluate_config(config: BuildConfig, control: Result | None = None) -> EvaluateConfig:
    """The ``evaluate`` section; its ``control`` is true (the build trains one) or a checkpoint. Raises ConfigError."""
    from pipeline.evaluation.evaluate import EvaluateConfig
    from pipeline.evaluation.gate import GateConfig

    values = dict(config.evaluate or {})
    gate = section(values.pop("gate", None), "evaluate.gate", GateConfig)
    named = values.pop("control", None)
    if isinstance(named, bool) or named is None:
        place = control.directory if control is not None else None
    else:
        place = Path(str(named))
    return cast(EvaluateConfig, section({**values, "control": place}, "evaluate", EvaluateConfig, gate=gate))


def check_gate(report: Result) -> None:
    """Raises GateError unless the report's gate passed."""
    failures = report.manifest.notes["gate_failures"]
    if failures:
        raise GateError("the evaluation's gate failed: " + "; ".join(f["message"] for f in failures))


def check_sections(config: BuildConfig) -> None:
    """Validates the free sections before any work is done. Raises ConfigError."""
    if config.synth is not None:
        from synth.config import SynthConfig

        parse_config({"seed": config.seed, **config.synth}, "synth", SynthConfig)
    if config.train is not None:
        from pipeline.training.loop import TrainConfig

        values = {k: v for k, v in config.train.items() if k != "model"}
        section(values, "train", TrainConfig, seed=config.seed)
        evaluate_config(config)


def build(
    config: BuildConfig, base: Path, out: Path, watcher: Watcher, workers: int = 0, fresh: bool = False
) -> BuildResult:
    """Runs every stage that the configuration asks for. ``base`` is what its paths are relative to.

    Raises PipelineError; what was finished stays and is skipped by the next run.
    """
    check_sections(config)
    ingest = run_ingest(config, base, out, fresh, watcher)
    convert = run_convert(config, out, ingest, workers, fresh, watcher)
    synth = run_synthesize(config, base, out, fresh, watcher)
    dataset = run_dataset(config, out, [convert, *([synth] if synth else [])], fresh, watcher)
    done = [ingest, convert, *([synth] if synth else []), dataset]
    checkpoint = run_train(config, out, dataset, fresh, watcher)
    if checkpoint is not None:
        control = run_control(config, out, dataset, fresh, watcher)
        report = run_evaluate(config, out, dataset, checkpoint, control, fresh, watcher)
        done += [checkpoint, *([control] if control else []), report]
        check_gate(report)
    return BuildResult(out, tuple(done))


def stage_rows(out: Path) -> list[tuple[str, Manifest]]:
    """The finished stages of a build, from their manifests."""
    found = [(name, read_manifest(out / name)) for name in folders.STAGES]
    return [(name, manifest) for name, manifest in found if manifest is not None]
