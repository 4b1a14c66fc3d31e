"""The synthesize stage: dialogues become records and token grids, or reject rows with what had been written.

A run that was broken off is run again: every answer was stored when it came (``answers.sqlite``), so the same dialogues are
made of the same answers, and only what was not answered is asked. So is a run that has ended, where the engine refused
requests or gave them up that it may answer another time. In shards (``synth/shards.py``) several engines are asked first.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.claim import claimed
from pipeline.manifest import Output, Result, damaged, read_manifest, run_stage, sha256_file, write_manifest
from pipeline.models import name_of
from pipeline.plan import Plan
from pipeline.records import Clock
from pipeline.tokenization import TextTokenizer, load_tokenizer, metadata
from synth.config import EngineOptions, SynthConfig, VllmOptions
from synth.engines import Engine
from synth.engines.cache import AnswerCache
from synth.engines.open import open_engine
from synth.engines.replay import StoredFirst
from synth.errors import SynthError
from synth.finish import STAGE
from synth.kept import KeptAnswers
from synth.making import has_own_judge
from synth.making import judge_engine as judge_engine
from synth.material import read_material
from synth.models import weights
from synth.processes import run_in_processes
from synth.run import Usage
from synth.scenarios import Scenario, load_scenarios
from synth.shards import (
    CACHE,
    CONVERSATIONS,
    JUDGE_CACHE,
    MATERIAL,
    Asked,
    RunShards,
    Shard,
    Stores,
    Tell,
    Work,
    cut,
    engine_of,
    identities_of,
    opener,
    synthesize_shard,
    total,
)
from synth.writing import Run, refuse_too_many
from synth.writing import State as State

VERSION = 3

#: Called whenever something has come.
Progress = Callable[[State], None]

#: What ``run_stage`` wants of a stage's work: outputs, counters, notes.
Written = tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]


class ResumeError(SynthError):
    """What the engine had refused or given up could not be asked again. ``result``: the run that ended before, still whole."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def resolve_paths(config: SynthConfig, base: Path | None) -> SynthConfig:
    """The configuration with paths taken relative to ``base``."""
    if base is None:
        return config
    folder = Path(glob.escape(str(base)))
    scenarios = [str(folder / s) if isinstance(s, str) else s for s in config.scenarios]
    conversations = [path if "://" in path else str(base / path) for path in config.conversations]
    return config.model_copy(update={"scenarios": scenarios, "conversations": conversations})


def plan(
    config: SynthConfig,
    scenarios: Sequence[Scenario],
    tokenizer: TextTokenizer,
    lag: int,
    inputs: Mapping[str, str],
) -> Plan:
    """What the dialogues depend on. ``inputs``: of ``Material``; empty where the configuration names no conversations."""
    settings = {
        **config.model_dump(mode="json", exclude=_NO_SETTINGS),
        "model": name_of(config.model),
        "engine": _engine_settings(config.model, config.engine),
        "judge": _judge_settings(config),
        "scenarios": [s.model_dump(mode="json") for s in scenarios],
        "tokenizer": metadata(tokenizer),
        "lag": lag,
    }
    return Plan(STAGE, VERSION, settings, inputs)


def synthesize_stage(
    config: SynthConfig,
    directory: Path,
    tokenizer: str = "smollm2",
    lag: int = 0,
    base: Path | None = None,
    fresh: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
    on_load: Callable[[str], None] | None = None,
    run_shards: RunShards | None = None,
) -> Result:
    """Writes ``records-00000``, ``tokens-*-00000`` and ``rejects-00000.parquet``. Requested = accepted + rejected.

    ``base``: what relative paths are relative to. ``engine``: asked instead of the one that the configuration names. With
    ``fresh`` nothing that was answered before is used. ``run_shards``: who asks, where the run has several shards, in the
    place of this machine's processes. The note ``resumable`` counts dialogues that were rejected for
    requests which the engine may answer another time; while there are any, the same run is not skipped but resumed.

    Raises:
        SynthError: no engine can run, or it cannot go on; what was answered is kept.
        ResumeError: so it is, and what the run had come to before is still there.
        PipelineError: another run writes to ``directory``; no request was answered; more than ``max_rejected_fraction`` of
            the dialogues were rejected.
    """
    with claimed(directory):
        return _synthesize(config, directory, tokenizer, lag, base, fresh, engine, progress, on_load, run_shards)


def _synthesize(
    config: SynthConfig,
    directory: Path,
    tokenizer: str,
    lag: int,
    base: Path | None,
    fresh: bool,
    engine: Engine | None,
    progress: Progress | None,
    on_load: Callable[[str], None] | None,
    run_shards: RunShards | None,
) -> Result:
    resolved = resolve_paths(config, base)
    scenarios = load_scenarios(resolved.scenarios)
    loaded_tokenizer = load_tokenizer(tokenizer)
    clock = Clock(loaded_tokenizer, lag)
    material = read_material(resolved.conversations, None, directory / MATERIAL) if config.conversations else None
    if material is not None and not len(material.conversations):
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(material.left_out.items())) or "they are empty"
        raise SynthError(f"no conversation with an answer in {', '.join(config.conversations)}: {why}")
    planned = plan(config, scenarios, loaded_tokenizer, lag, material.inputs if material is not None else {})

    def work() -> Written:
        run = Run(resolved, directory, clock, scenarios, material)
        stores = Stores(directory)
        if fresh:
            stores.forget()
        if config.cache:
            stores.gather()
        shards = cut(run.count, config.shards)
        if len(shards) > 1:
            inline = resolved.model_copy(update={"scenarios": list(scenarios)})
            read = sha256_file(directory / CONVERSATIONS) if material is not None else None
            shared = Work(inline, tokenizer, lag, read, stores.share(), storage.mounts())
            asking = run_shards or (run_in_processes if engine is None else _in_turn(engine))
            return _write_of_shards(run, shards, shared, asking, stores, engine, progress, on_load)
        with ExitStack() as stack:
            cache = directory / CACHE if config.cache else None
            answers = KeptAnswers([directory / CACHE, directory / JUDGE_CACHE] if cache else [])
            answers.restore()
            stack.callback(answers.copy)

            def watch(state: State) -> None:
                answers.copy_now_and_then()
                if progress is not None:
                    progress(state)

            writer, critic = engine, engine
            if writer is None:
                if on_load:
                    on_load(f"loading {config.model}")
                writer = stack.enter_context(
                    open_engine(config.model, config.engine, config.batch_size, config.seed, cache)
                )
                critic = writer
                if has_own_judge(config):
                    model, options = judge_engine(config)
                    kept = directory / JUDGE_CACHE if cache else None
                    critic = stack.enter_context(open_engine(model, options, config.batch_size, config.seed, kept))
            return run.write(writer, critic, watch)

    there = read_manifest(directory)
    again = not fresh and there is not None and bool(there.notes.get("resumable"))
    try:
        result = run_stage(
            directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh or again
        )
    except SynthError as error:
        if there is None or not again or there.fingerprint != planned.fingerprint or damaged(directory, there.outputs):
            raise
        write_manifest(directory, there)
        many = f"{there.notes['resumable']:,} dialogues that were refused or given up could not be asked for again"
        raise ResumeError(f"{many}: {error}", Result(directory, there, skipped=True)) from error
    if result.skipped:
        refuse_too_many(result.manifest.counters, config.max_rejected_fraction)
    if config.conversations:
        for name in storage.files_below(directory / MATERIAL) or ():
            storage.remove(directory / MATERIAL / name)
        shutil.rmtree(directory / MATERIAL)
    return result


def _write_of_shards(
    run: Run,
    shards: Sequence[Shard],
    work: Work,
    run_shards: RunShards,
    stores: Stores,
    engine: Engine | None,
    progress: Progress | None,
    on_load: Callable[[str], None] | None,
) -> Written:
    """Asks in shards; then all dialogues once more, in order, from what is stored."""
    config, directory = work.config, run.directory
    if on_load:
        on_load(f"opening {len(shards)} engines of {config.model}")
    if work.material is not None:
        storage.send([directory / CONVERSATIONS])
    state, usages, begun = State(run.count, in_shards=True), dict[int, Usage](), 0.0

    def tell(number: int, usage: Usage) -> None:
        nonlocal begun
        begun = begun or time.monotonic() - usage.seconds
        usages[number] = usage
        state.usage = total(list(usages.values()), time.monotonic() - begun)
        if progress is not None:
            progress(state)

    asked: list[Asked] = []
    for one in run_shards(shards, directory, work, tell):
        asked.append(one)
        tell(one.number, one.usage)
    asked.sort(key=lambda one: one.number)
    stores.gather()
    with ExitStack() as stack:
        opened: list[StoredFirst] = []
        stack.callback(lambda: stores.copy() if any(one.asked for one in opened) else None)
        for judge in (False, True) if has_own_judge(config) else (False,):
            model, options = engine_of(config, judge)
            told = [one.identities[judge] for one in asked]
            known = [*identities_of(model, options, engine), *told]
            failed = {key: completion for one in asked for key, completion in one.failed.items()}
            before = [found for one in asked if (found := one.judge if judge else one.writer) is not None]
            store = AnswerCache(directory / (JUDGE_CACHE if judge else CACHE))
            opening = opener(config, model, options, engine)
            opened.append(stack.enter_context(StoredFirst(store, [], known, opening, failed, before)))
        return run.write(opened[0], opened[-1], progress, state.usage)


def _in_turn(engine: Engine) -> RunShards:
    """One engine, which is there, for one shard after the other."""

    def run_shards(todo: Sequence[Shard], directory: Path, work: Work, tell: Tell) -> Iterator[Asked]:
        for shard in todo:
            yield synthesize_shard(shard, directory, work, tell, engine)

    return run_shards


#: Of a configuration, what no record depends on, or what stands in the settings in another form.
_NO_SETTINGS = {
    "scenarios", "conversations", "batch_size", "engine", "judge", "cache", "max_rejected_fraction", "shards",
}  # fmt: skip


def _engine_settings(model: str, options: EngineOptions) -> dict[str, Any]:
    """What of an engine's options the answers may depend on, and which weights these are where they lie in a folder here."""
    chosen = {"kind", "dtype", "lora", "structured", "max_model_len"}
    settings = {k: v for k, v in options.model_dump(mode="json").items() if k in chosen}
    if isinstance(options, VllmOptions):
        settings["lora"] = None if options.lora is None else name_of(options.lora)
        folders = {"weights": model, "adapter": options.lora}
        settings |= {k: weights(name) for k, name in folders.items() if name and Path(name).expanduser().is_dir()}
    return settings


def _judge_settings(config: SynthConfig) -> dict[str, Any] | None:
    if config.judge is None:
        return None
    model, options = judge_engine(config)
    return config.judge.model_dump(mode="json") | {"model": name_of(model), "engine": _engine_settings(model, options)}
