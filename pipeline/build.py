"""The whole build: the stages in their order, each resumed or run. The command line and the Prefect flow both call these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import folders
from pipeline.asked import Asked, recording
from pipeline.config import BuildConfig
from pipeline.convert import ConvertConfig, ShardCounts, ShardResult
from pipeline.errors import PipelineError
from pipeline.filters import parse_filters
from pipeline.manifest import Manifest, Result
from pipeline.sections import (
    check_sections,
    convert_config,
    dedup_config,
    evaluate_config,
    ingest_config,
    input_source,
    shuffle_config,
    stages_of,
    synth_config,
    train_config,
)
from pipeline.stages.ingest import ingest_stage
from pipeline.together import manifests_of
from pipeline.watching import Watcher as Watcher
from pipeline.watching import tell_part, tell_rejected

if TYPE_CHECKING:
    from pipeline.stages.convert import RunShards
    from synth.shards import RunShards as AskShards
    from synth.stage import State as SynthState


class GateError(PipelineError):
    """The spot-evaluation's gate failed; the report says why."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The folders of a finished build."""

    out: Path
    stages: tuple[Result, ...]


def run_ingest(config: BuildConfig, base: Path, out: Path, fresh: bool, watcher: Watcher) -> Result:
    """Stage 1: inputs to shards of source units."""
    watcher.stage(folders.INGEST)
    sources = [input_source(s) for s in config.sources]
    result = ingest_stage(
        sources,
        base,
        out / folders.INGEST,
        ingest_config(config),
        fresh,
        lambda n: watcher.progress(n, "units"),
        lambda code: tell_rejected(watcher, {code: 1}),
    )
    watcher.finished(result)
    return result


def run_convert(
    config: BuildConfig,
    out: Path,
    ingest: Result,
    workers: int,
    fresh: bool,
    watcher: Watcher,
    run_shards: RunShards | None = None,
) -> Result:
    """Stage 2: source units to records and tokens. ``run_shards``: who converts, where it is not this machine's processes."""
    from pipeline.stages.convert import Shard, convert_stage, run_in_processes

    watcher.stage(folders.CONVERT)
    total, told = ingest.manifest.counters["out"], 0
    tell_part(watcher, total)

    def progress(counts: ShardCounts) -> None:
        nonlocal told
        told += counts.units
        watcher.progress(counts.units, "units")
        tell_rejected(watcher, counts.reject_reasons)

    def convert(
        todo: Sequence[Shard], directory: Path, settings: ConvertConfig, processes: int
    ) -> Iterator[tuple[int, str, ShardResult]]:
        tell_part(watcher, total, kept=told)  # what was told until here is of an earlier run
        return (run_shards or run_in_processes)(todo, directory, settings, processes)

    limit = config.convert.max_rejected_fraction
    result = convert_stage(
        ingest, out / folders.CONVERT, convert_config(config), limit, workers, fresh, progress, convert
    )
    watcher.finished(result)
    return result


def run_synthesize(
    config: BuildConfig,
    base: Path,
    out: Path,
    fresh: bool,
    watcher: Watcher,
    run_shards: AskShards | None = None,
) -> Result | None:
    """Stage 3: new dialogues from a chat model; None if the configuration asks for none.

    ``run_shards``: who asks for shards (``synth.shards.RunShards``), where it is not this machine's processes.
    """
    if config.synth is None:
        return None
    from synth.errors import SynthError
    from synth.stage import ResumeError, State, synthesize_stage

    watcher.stage(folders.SYNTH)
    told, part = 0, ""
    rejected: Counter[str] = Counter()

    def progress(state: State) -> None:
        nonlocal told, part
        what, done = ("dialogues asked", state.usage.finished) if state.in_shards else ("dialogues", state.done)
        if _is_replayed(state):  # what comes before the first new answer is of an earlier run
            tell_part(watcher, state.asked, kept=state.usage.finished)
            told, part = state.usage.finished, what
        elif part != what:
            tell_part(watcher, state.asked)
            told, part = 0, what
        speed = state.usage.tokens_per_second
        watcher.progress(max(0, done - told), what + (f", {speed:,.0f} tokens/s" if speed else ""))
        tell_rejected(watcher, state.rejected - rejected)
        told = max(told, done)
        rejected.update(state.rejected - rejected)

    settings = synth_config(config)
    try:
        result = synthesize_stage(
            settings,
            out / folders.SYNTH,
            config.convert.tokenizer,
            config.convert.lag,
            base,
            fresh,
            progress=progress,
            on_load=lambda what: watcher.progress(0, what),
            run_shards=run_shards,
        )
    except ResumeError as error:
        result = error.result  # whole, and its report says what can be asked for again; the server may be off by now
    except SynthError as error:
        raise PipelineError(str(error)) from error
    watcher.finished(result)
    return result


def _is_replayed(state: SynthState) -> bool:
    """Whether there were answers, and all of them were stored by an earlier run."""
    usage = state.usage
    if usage.new_tokens or not usage.requests:
        return False
    return state.in_shards or not getattr(state.engine, "asked", True)


def run_filter(
    config: BuildConfig, out: Path, inputs: Sequence[Result], workers: int, fresh: bool, watcher: Watcher
) -> Result | None:
    """Stage 4: what the configured filters leave out; None if the configuration asks for none."""
    steps = parse_filters(config.filters)
    if not steps:
        return None
    from pipeline.stages.filter import filter_stage

    watcher.stage(folders.FILTER)
    tell_part(watcher, sum(result.manifest.counters["out"] for result in inputs))
    result = filter_stage(
        inputs, out / folders.FILTER, steps, workers, fresh, lambda records: watcher.progress(records, "records")
    )
    watcher.finished(result)
    return result


def run_dedup(
    config: BuildConfig,
    out: Path,
    ingest: Result,
    inputs: Sequence[Result],
    left_out: Sequence[Result],
    workers: int,
    fresh: bool,
    watcher: Watcher,
) -> Result | None:
    """Which records are copies of others; None if the configuration does not ask for it."""
    if config.dedup is None:
        return None
    from pipeline.stages.dedup import dedup_stage

    watcher.stage(folders.DEDUP)
    tell_part(watcher, sum(result.manifest.counters["out"] for result in inputs))
    settings = dedup_config(config, ingest.manifest)
    result = dedup_stage(
        inputs,
        out / folders.DEDUP,
        settings,
        left_out,
        workers,
        fresh,
        lambda records: watcher.progress(records, "records"),
    )
    watcher.finished(result)
    return result


def run_mix(
    config: BuildConfig,
    out: Path,
    inputs: Sequence[Result],
    left_out: Sequence[Result],
    fresh: bool,
    watcher: Watcher,
) -> Result | None:
    """What is left out so that each source has its share; None if the configuration asks for none."""
    if config.mix is None:
        return None
    from pipeline.stages.mix import mix_stage

    watcher.stage(folders.MIX)
    result = mix_stage(inputs, out / folders.MIX, config.mix, config.seed, left_out, fresh)
    watcher.finished(result)
    return result


def run_dataset(
    config: BuildConfig,
    out: Path,
    inputs: Sequence[Result],
    left_out: Sequence[Result],
    fresh: bool,
    watcher: Watcher,
) -> Result:
    """Stage 5: what is left, split by group, globally shuffled into final shards, and the card."""
    from pipeline.card import renew_card
    from pipeline.stages.dataset import dataset_stage

    watcher.stage(folders.DATASET)
    result = dataset_stage(inputs, out / folders.DATASET, shuffle_config(config), fresh, left_out)
    renew_card(out, config.title or config.name)
    watcher.finished(result)
    return result


def run_train(config: BuildConfig, out: Path, dataset: Result, fresh: bool, watcher: Watcher) -> Result | None:
    """Stage 6: fine-tuning on the train split; None if the configuration asks for none."""
    return None if config.train is None else _train(config, out, folders.CHECKPOINT, dataset, fresh, watcher)


def run_control(config: BuildConfig, out: Path, dataset: Result, fresh: bool, watcher: Watcher) -> Result | None:
    """Stage 7: the same training on permuted inputs; None unless ``evaluate.control`` is true."""
    if folders.CONTROL not in stages_of(config):
        return None
    return _train(config, out, folders.CONTROL, dataset, fresh, watcher)


def _train(config: BuildConfig, out: Path, folder: str, dataset: Result, fresh: bool, watcher: Watcher) -> Result:
    from pipeline.stages.train import train_stage
    from pipeline.training.loop import StepLog

    watcher.stage(folder)
    model, settings = train_config(config, folder)
    told = 0

    def progress(step: StepLog) -> None:
        nonlocal told
        if not told:
            total = settings.steps if settings.max_tokens is None else None
            tell_part(watcher, total, kept=step.step - 1)  # a run that goes on begins at a later step
        told = step.step
        watcher.progress(1, str(step))

    result = train_stage(dataset, model, out / folder, settings, fresh, progress)
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
    """Stage 8: spot-evaluation on the test split and its report. Raises GateError if the gate fails."""
    from pipeline.card import renew_card
    from pipeline.stages.evaluate import evaluate_stage

    watcher.stage(folders.REPORT)
    if control is not None:
        control.fetch()
    settings = evaluate_config(config, control)
    model = (config.train or {}).get("model", "smollm2")
    running, told = "", 0

    def progress(phase: str, records: int, total: int) -> None:
        nonlocal running, told
        if phase != running or records < told:
            running, told = phase, 0
            tell_part(watcher, total)
        watcher.progress(records - told, f"records ({phase})")
        told = records

    result = evaluate_stage(dataset, checkpoint, model, out / folders.REPORT, settings, fresh, progress)
    renew_card(out, config.title or config.name)
    watcher.finished(result)
    return result


def check_gate(report: Result) -> None:
    """Raises GateError unless the report's gate passed."""
    failures = report.manifest.notes["gate_failures"]
    if failures:
        raise GateError("the evaluation's gate failed: " + "; ".join(f["message"] for f in failures))


def build(
    config: BuildConfig,
    base: Path,
    out: Path,
    watcher: Watcher,
    workers: int = 0,
    fresh: bool = False,
    path: Path | None = None,
    overrides: Sequence[str] = (),
) -> BuildResult:
    """Runs every stage that the configuration asks for. ``base`` is what its paths are relative to.

    ``path`` and ``overrides``, where it came from, are only written down in ``out``. Raises PipelineError; what was finished
    stays and is skipped by the next run.
    """
    check_sections(config)
    with recording(out, Asked(config, base, path, tuple(overrides))):
        return _build(config, base, out, watcher, workers, fresh)


def _build(config: BuildConfig, base: Path, out: Path, watcher: Watcher, workers: int, fresh: bool) -> BuildResult:
    ingest = run_ingest(config, base, out, fresh, watcher)
    convert = run_convert(config, out, ingest, workers, fresh, watcher)
    synth = run_synthesize(config, base, out, fresh, watcher)
    records = [convert, *([synth] if synth else [])]
    filtered = run_filter(config, out, records, workers, fresh, watcher)
    left_out = [filtered] if filtered else []
    unique = run_dedup(config, out, ingest, records, left_out, workers, fresh, watcher)
    left_out += [unique] if unique else []
    mixed = run_mix(config, out, records, left_out, fresh, watcher)
    left_out += [mixed] if mixed else []
    dataset = run_dataset(config, out, records, left_out, fresh, watcher)
    done = [ingest, *records, *left_out, dataset]
    checkpoint = run_train(config, out, dataset, fresh, watcher)
    if checkpoint is not None:
        control = run_control(config, out, dataset, fresh, watcher)
        report = run_evaluate(config, out, dataset, checkpoint, control, fresh, watcher)
        done += [checkpoint, *([control] if control else []), report]
        check_gate(report)
    return BuildResult(out, tuple(done))


def stage_rows(out: Path) -> list[tuple[str, Manifest]]:
    """The finished stages of a build that belong together, from their manifests, in their order."""
    return list(manifests_of(out).items())
