"""The synthesize stage: dialogues become records and token grids, or reject rows with what had been written.

A run that was broken off is run again: every answer was stored when it came (``answers.sqlite``), so the same dialogues are
made of the same answers, and only what was not answered is asked.
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
from pipeline.manifest import Output, Result, balance, output_of, publish_text, run_stage
from pipeline.records import Clock, token_grid_metadata
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, REJECTS, TOKENS
from pipeline.tokenization import load_tokenizer, metadata
from synth.config import SynthConfig
from synth.coverage import Coverage
from synth.diversity import Diversity
from synth.engines import Engine
from synth.engines.open import open_engine
from synth.errors import SynthError
from synth.finish import STAGE, Finisher
from synth.generators import Maker, Outcome, Written
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.generators.teacher import Teacher
from synth.material import Material, read_material
from synth.run import Usage, outcomes
from synth.scenarios import Scenario, load_scenarios

VERSION = 2
CACHE = "answers.sqlite"
COVERAGE = "coverage.md"
#: What is read of conversations, while a run lasts.
MATERIAL = ".material"
#: So many dialogues are finished together, whatever the batch size: files depend on it.
_BATCH = 16


@dataclass(slots=True)
class State:
    """Where a run stands. ``asked``: dialogues in all; ``accepted`` and ``rejected`` (by reason) of those finished."""

    asked: int
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
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
    ``fresh`` nothing that was answered before is used.

    Raises:
        SynthError: no engine can run, or it cannot go on; what was answered is kept.
        PipelineError: another run writes to ``directory``.
    """
    with claimed(directory):
        if fresh:
            for path in directory.glob(f"*{CACHE}*"):
                path.unlink()
        return _synthesize(config, directory, tokenizer, lag, base, fresh, engine, progress, on_load)


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
    settings = {
        **config.model_dump(mode="json", exclude={"scenarios", "conversations", "batch_size", "engine", "cache"}),
        "engine": _engine_settings(config.engine),
        "scenarios": [s.model_dump(mode="json") for s in scenarios],
        "tokenizer": metadata(loaded_tokenizer),
        "lag": lag,
    }

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        with ExitStack() as stack:
            cache = directory / CACHE if config.cache else None
            writer, critic = engine, engine
            if writer is None:
                if on_load:
                    on_load(f"loading {config.model}")
                writer = stack.enter_context(
                    open_engine(config.model, config.engine, config.batch_size, config.seed, cache)
                )
                critic = writer
                if config.judge is not None and (config.judge.model or config.judge.engine):
                    critic = stack.enter_context(
                        open_engine(
                            config.judge.model or config.model,
                            config.judge.engine or config.engine,
                            config.batch_size,
                            config.seed,
                            cache.with_name(f"judge-{CACHE}") if cache else None,
                        )
                    )
            return _Run(resolved, directory, clock, scenarios, material).write(writer, critic, progress)

    inputs = material.inputs if material is not None else {}
    result = run_stage(directory, STAGE, VERSION, settings, inputs, work, fresh)
    if config.conversations:
        shutil.rmtree(directory / MATERIAL)
    return result


def _engine_settings(options: Any) -> dict[str, Any]:
    """What of an engine's options the answers may depend on."""
    chosen = {"kind", "dtype", "lora", "structured", "max_model_len"}
    return {k: v for k, v in options.model_dump(mode="json").items() if k in chosen}


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
        if self._config.generator != "teacher":
            publish_text(self._directory / COVERAGE, self._coverage.to_markdown())
            outputs.append(output_of(self._directory / COVERAGE, self._directory))
        return outputs, counters, self._notes(finisher, engine, critic)

    def _book(self, batch: Sequence[Outcome], state: State) -> None:
        for one in batch:
            sample = self._maker.sample(one.index) if isinstance(self._maker, Tables | Concurrent) else None
            if isinstance(one, Written):
                state.accepted += 1
                if "teacher" in one.labels:
                    self._latency.append(one.labels["teacher"])
            else:
                state.rejected[one.code] += 1
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
            "tokens_per_second": round(usage.completion_tokens / usage.seconds, 2) if usage.seconds else 0.0,
        }

    def _notes(self, finisher: Finisher, engine: Engine, critic: Engine | None) -> dict[str, Any]:
        notes: dict[str, Any] = {"engine": engine.describe(), "diversity": self._diversity.report()}
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
