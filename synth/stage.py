"""The synthesize stage: dialogues become records and token grids, or reject rows with what had been written.

A run that was broken off is run again: every answer was stored when it came (``answers.sqlite``), so the same dialogues are
made of the same answers, and only what was not answered is asked. So is a run that has ended, where the engine refused
requests or gave them up that it may answer another time.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.claim import claimed
from pipeline.errors import PipelineError
from pipeline.manifest import (
    Output,
    Result,
    balance,
    damaged,
    output_of,
    publish_text,
    read_manifest,
    run_stage,
    write_manifest,
)
from pipeline.plan import Plan
from pipeline.records import Clock, token_grid_metadata
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, REJECTS, TOKENS
from pipeline.tokenization import TextTokenizer, load_tokenizer, metadata
from synth.config import EngineOptions, SynthConfig, VllmOptions
from synth.coverage import Coverage
from synth.diversity import Diversity
from synth.engines import Completion, Engine
from synth.engines.open import open_engine
from synth.errors import SynthError
from synth.finish import STAGE, Finisher
from synth.generators import Maker, Outcome, Written
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.generators.teacher import Teacher
from synth.kept import KeptAnswers
from synth.material import Material, read_material
from synth.models import weights
from synth.run import Usage, outcomes
from synth.scenarios import Scenario, load_scenarios

VERSION = 3
CACHE = "answers.sqlite"
JUDGE_CACHE = f"judge-{CACHE}"
#: What SQLite may leave beside a file.
_BESIDE = ("", "-wal", "-shm", "-journal")
COVERAGE = "coverage.md"
#: What is read of conversations, while a run lasts.
MATERIAL = ".material"
#: So many dialogues are finished together, whatever the batch size: files depend on it.
_BATCH = 16
#: Reasons to reject that are about the engine, not about what was written.
_NOT_ANSWERED = ("refused", "aborted")


class ResumeError(SynthError):
    """What the engine had refused or given up could not be asked again. ``result``: the run that ended before, still whole."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@dataclass(slots=True)
class State:
    """Where a run stands. ``asked``: dialogues in all; ``accepted`` and ``rejected`` (by reason) of those finished;
    ``unanswered``: why the engine last refused a request or gave it up."""

    asked: int
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unanswered: str = ""
    usage: Usage = field(default_factory=Usage)
    engine: Engine | None = None

    @property
    def done(self) -> int:
        """Dialogues whose fate is known."""
        return self.accepted + self.rejected.total()


#: Called whenever something has come.
Progress = Callable[[State], None]


def resolve_paths(config: SynthConfig, base: Path | None) -> SynthConfig:
    """The configuration with paths taken relative to ``base``."""
    if base is None:
        return config
    folder = Path(glob.escape(str(base)))
    scenarios = [str(folder / s) if isinstance(s, str) else s for s in config.scenarios]
    conversations = [path if "://" in path else str(base / path) for path in config.conversations]
    return config.model_copy(update={"scenarios": scenarios, "conversations": conversations})


def make(config: SynthConfig, scenarios: tuple[Scenario, ...], material: Material | None, clock: Clock) -> Maker:
    """The dialogues of a run."""
    if config.generator == "teacher":
        if material is None:
            raise ValueError("the teacher has nothing to re-write")
        return Teacher(config, material.conversations, clock.tokenizer)
    topics = material.topics() if material is not None else ()
    if material is not None and not topics:
        raise SynthError("no user of the conversations says anything in words: there is no topic in them")
    return (Concurrent if config.generator == "concurrent" else Tables)(config, scenarios, topics)


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
) -> Result:
    """Writes ``records-00000``, ``tokens-*-00000`` and ``rejects-00000.parquet``. Requested = accepted + rejected.

    ``base``: what relative paths are relative to. ``engine``: asked instead of the one that the configuration names. With
    ``fresh`` nothing that was answered before is used. The note ``resumable`` counts dialogues that were rejected for
    requests which the engine may answer another time; while there are any, the same run is not skipped but resumed.

    Raises:
        SynthError: no engine can run, or it cannot go on; what was answered is kept.
        ResumeError: so it is, and what the run had come to before is still there.
        PipelineError: another run writes to ``directory``; no request was answered; more than ``max_rejected_fraction`` of
            the dialogues were rejected.
    """
    with claimed(directory):
        return _synthesize(config, directory, tokenizer, lag, base, fresh, engine, progress, on_load)


def judge_engine(config: SynthConfig) -> tuple[str, EngineOptions]:
    """The judge's model, and the engine's options for it. The writer's adapter is made for the writer's model alone."""
    if config.judge is None or (config.judge.model is None and config.judge.engine is None):
        return config.model, config.engine
    options = config.judge.engine or config.engine
    if config.judge.model is not None and config.judge.engine is None and isinstance(options, VllmOptions):
        options = options.model_copy(update={"lora": None})
    return config.judge.model or config.model, options


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

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        with ExitStack() as stack:
            cache = directory / CACHE if config.cache else None
            answers = KeptAnswers([directory / CACHE, directory / JUDGE_CACHE] if cache else [])
            if fresh:
                answers.forget()
                _forget(directory)
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
                if config.judge is not None and (config.judge.model or config.judge.engine):
                    model, options = judge_engine(config)
                    kept = directory / JUDGE_CACHE if cache else None
                    critic = stack.enter_context(open_engine(model, options, config.batch_size, config.seed, kept))
            return _Run(resolved, directory, clock, scenarios, material).write(writer, critic, watch)

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
        _refuse_too_many(result.manifest.counters, config.max_rejected_fraction)
    if config.conversations:
        shutil.rmtree(directory / MATERIAL)
    return result


#: Of a configuration, what no record depends on, or what stands in the settings in another form.
_NO_SETTINGS = {
    "scenarios", "conversations", "batch_size", "engine", "judge", "cache", "max_rejected_fraction",
}  # fmt: skip


def _engine_settings(model: str, options: EngineOptions) -> dict[str, Any]:
    """What of an engine's options the answers may depend on, and which weights these are where they lie in a folder here."""
    chosen = {"kind", "dtype", "lora", "structured", "max_model_len"}
    settings = {k: v for k, v in options.model_dump(mode="json").items() if k in chosen}
    if isinstance(options, VllmOptions):
        folders = {"weights": model, "adapter": options.lora}
        settings |= {k: weights(name) for k, name in folders.items() if name and Path(name).expanduser().is_dir()}
    return settings


def _judge_settings(config: SynthConfig) -> dict[str, Any] | None:
    if config.judge is None:
        return None
    model, options = judge_engine(config)
    return config.judge.model_dump(mode="json") | {"model": model, "engine": _engine_settings(model, options)}


def _forget(directory: Path) -> None:
    """Removes the answers that earlier runs kept."""
    for name in (CACHE, JUDGE_CACHE):
        for ending in _BESIDE:
            (directory / f"{name}{ending}").unlink(missing_ok=True)


def _may_answer(reason: str, options: EngineOptions) -> bool:
    """Whether another run may have an answer where this one was rejected. vLLM in process refuses by its settings alone."""
    return reason == "aborted" or (reason == "refused" and options.kind != "vllm")


def _ended(completion: Completion) -> str:
    """The reason to reject that a completion's end is, if it is one."""
    end = completion.finish_reason
    return end if end in ("stop", "length", "refused") else "aborted"


def _refuse_too_many(counters: Mapping[str, Any], limit: float | None) -> None:
    asked, rejected = counters["requested"], counters["rejected"]
    if limit is None or rejected <= limit * asked:
        return
    reasons = ", ".join(f"{count:,} {code}" for code, count in Counter(counters["reject_reasons"]).most_common(5))
    raise PipelineError(
        f"{rejected:,} of {asked:,} dialogues were rejected ({reasons}), more than max_rejected_fraction = {limit}; "
        "see rejects-*.parquet"
    )


class _Run:
    """One run from its dialogues to its files."""

    def __init__(
        self,
        config: SynthConfig,
        directory: Path,
        clock: Clock,
        scenarios: tuple[Scenario, ...],
        material: Material | None,
    ) -> None:
        self._config, self._directory, self._clock = config, directory, clock
        self._scenarios = scenarios
        self._material = material
        self._maker = make(config, scenarios, material, clock)
        self._diversity = Diversity(config.diversity)
        if material is not None:
            for number, conversation in enumerate(material.conversations):
                text = "\n".join(p.text for m in conversation.messages for p in m.parts)
                self._diversity.add_reference(text, f"input {number}")
        self._coverage = Coverage(scenarios)
        self._latency: list[dict[str, Any]] = []

    def write(
        self, engine: Engine, critic: Engine | None, progress: Progress | None
    ) -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        """Asks, looks, writes. Returns what ``run_stage`` wants."""
        state = State(self._maker.count, engine=engine)
        scorer = None
        if self._config.generator == "teacher" and self._config.teacher.max_gain is not None:
            from pipeline.scoring import Scorer

            scorer = Scorer("smollm2")
        finisher = Finisher(self._config, self._clock, self._diversity, critic, scorer)
        names = ("records-00000", f"tokens-{self._clock.tokenizer.name}-00000", "rejects-00000")
        records, tokens, rejects = (self._directory / f"{name}.parquet" for name in names)
        grid = TOKENS.with_metadata(token_grid_metadata(self._clock))
        started = time.monotonic()

        def watch(_: Usage) -> None:
            if progress is not None:
                progress(state)

        told = outcomes(self._maker, engine, self._config.batch_size, state.usage, watch)
        with TableWriter.several({records: RECORDS, tokens: grid, rejects: REJECTS}) as write:
            for batch in _batches(told, _BATCH):
                done = finisher.finish(batch)
                write(records, done.records)
                write(tokens, done.tokens)
                write(rejects, done.rejects)
                self._book(done.outcomes, state)
                if progress is not None:
                    progress(state)
        outputs = [output_of(p, self._directory, pq.read_metadata(p).num_rows) for p in (records, tokens, rejects)]
        balance(STAGE, total=state.asked, accepted=outputs[0].rows or 0, rejected=outputs[2].rows or 0)
        counters = self._counters(state, time.monotonic() - started)
        if state.asked and sum(state.rejected[reason] for reason in _NOT_ANSWERED) == state.asked:
            raise PipelineError(
                f"the engine answered for none of {state.asked:,} dialogues (last: {state.unanswered}): mend what is wrong "
                "and run again"
            )
        _refuse_too_many(counters, self._config.max_rejected_fraction)
        if self._config.generator != "teacher":
            publish_text(self._directory / COVERAGE, self._coverage.to_markdown())
            outputs.append(output_of(self._directory / COVERAGE, self._directory))
        return outputs, counters, self._notes(state, finisher, engine, critic)

    def _book(self, batch: Sequence[Outcome], state: State) -> None:
        for one in batch:
            sample = self._maker.sample(one.index) if isinstance(self._maker, Tables | Concurrent) else None
            if isinstance(one, Written):
                state.accepted += 1
                if "teacher" in one.labels:
                    self._latency.append(one.labels["teacher"])
            else:
                state.rejected[one.code] += 1
                if one.code in _NOT_ANSWERED:
                    state.unanswered = one.message
            if sample is not None:
                self._coverage.add(sample, one)

    def _counters(self, state: State, seconds: float) -> dict[str, Any]:
        usage = state.usage
        return {
            "in": state.asked,
            "out": state.accepted,
            "rejected": state.rejected.total(),
            "reject_reasons": dict(sorted(state.rejected.items())),
            "requested": state.asked,
            "accepted": state.accepted,
            "acceptance": round(state.accepted / state.asked, 4) if state.asked else 0.0,
            **{k: v for k, v in asdict(usage).items() if k not in ("open", "finished", "seconds")},
            "prefix_hit_rate": round(usage.cached_tokens / usage.prompt_tokens, 4) if usage.prompt_tokens else 0.0,
            "seconds": round(seconds, 3),
            "engine_seconds": round(usage.seconds, 3),
            "tokens_per_second": None if usage.tokens_per_second is None else round(usage.tokens_per_second, 2),
        }

    def _notes(self, state: State, finisher: Finisher, engine: Engine, critic: Engine | None) -> dict[str, Any]:
        notes: dict[str, Any] = {
            "engine": engine.describe(),
            "diversity": self._diversity.report(),
            "resumable": self._resumable(state, finisher),
        }
        if self._config.generator != "teacher":
            notes["coverage"] = self._coverage.to_json()
        else:
            notes["latency"] = _latencies(self._latency)
        if self._material is not None:
            notes["conversations_left_out"] = self._material.left_out
        if self._config.judge is not None and critic is not None:
            notes["judge"] = {
                "engine": critic.describe(),
                "requests": len(finisher.judge_usage),
                "completion_tokens": sum(c.completion_tokens for c in finisher.judge_usage),
                "agreement_with_lexical": finisher.agreement.to_json(),
            }
        return notes

    def _resumable(self, state: State, finisher: Finisher) -> int:
        """Dialogues that were rejected for requests which the engine may answer another time.

        Without kept answers there are none: all others would be asked for again beside them.
        """
        if not self._config.cache:
            return 0
        _, judging = judge_engine(self._config)
        unjudged = sum(_may_answer(_ended(completion), judging) for completion in finisher.judge_usage)
        return unjudged + sum(n for code, n in state.rejected.items() if _may_answer(code, self._config.engine))


def _latencies(labels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Quartiles over the accepted dialogues of what a re-written answer saves of its response latency (shares, 0 to 1)."""
    found: dict[str, Any] = {"dialogues": len(labels)}
    for key in ("saved", "saved_against_own_turns"):
        values = [label[key] for label in labels if label.get(key) is not None]
        found[key] = [round(float(v), 4) for v in np.percentile(values, [25, 50, 75])] if values else []
    return found


def _batches(told: Iterator[Outcome], size: int) -> Iterator[list[Outcome]]:
    while batch := list(islice(told, size)):
        yield batch
