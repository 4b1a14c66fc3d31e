"""One pass over the dialogues of a run: from what an engine answers to the files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import PipelineError
from pipeline.manifest import Output, balance, output_of, publish_text
from pipeline.records import Clock, token_grid_metadata
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, REJECTS, TOKENS
from synth.config import EngineOptions, SynthConfig
from synth.coverage import Coverage
from synth.diversity import Diversity
from synth.engines import Completion, Engine
from synth.finish import BATCH, STAGE, Finisher
from synth.generators import Outcome, Written
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.making import judge_engine, make
from synth.material import Material
from synth.run import Usage, outcomes
from synth.scenarios import Scenario

COVERAGE = "coverage.md"
#: Reasons to reject that are about the engine, not about what was written.
_NOT_ANSWERED = ("refused", "aborted")


@dataclass(slots=True)
class State:
    """Where a run stands. ``asked``: dialogues in all; ``accepted`` and ``rejected`` (by reason) of those finished;
    ``unanswered``: why the engine last refused a request or gave it up. ``in_shards``: several engines are asked now, and no
    dialogue is finished; ``usage`` is of all of them."""

    asked: int
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unanswered: str = ""
    usage: Usage = field(default_factory=Usage)
    engine: Engine | None = None
    in_shards: bool = False

    @property
    def done(self) -> int:
        """Dialogues whose fate is known."""
        return self.accepted + self.rejected.total()


class Run:
    """One run from its dialogues to its files."""

    def __init__(
        self,
        config: SynthConfig,
        directory: Path,
        clock: Clock,
        scenarios: tuple[Scenario, ...],
        material: Material | None,
    ) -> None:
        self._config, self.directory, self._clock = config, directory, clock
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

    @property
    def count(self) -> int:
        """How many dialogues there are."""
        return self._maker.count

    def write(
        self,
        engine: Engine,
        critic: Engine | None,
        progress: Callable[[State], None] | None,
        before: Usage | None = None,
    ) -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        """Asks, looks, writes. Returns what ``run_stage`` wants. ``before``: of engines that have asked for this pass."""
        state = State(self.count, engine=engine)
        if before is not None:
            state.usage.new_tokens, state.usage.seconds = before.new_tokens, before.seconds
        scorer = None
        if self._config.generator == "teacher" and self._config.teacher.max_gain is not None:
            from pipeline.scoring import Scorer

            scorer = Scorer("smollm2")
        finisher = Finisher(self._config, self._clock, self._diversity, critic, scorer)
        names = ("records-00000", f"tokens-{self._clock.tokenizer.name}-00000", "rejects-00000")
        records, tokens, rejects = (self.directory / f"{name}.parquet" for name in names)
        grid = TOKENS.with_metadata(token_grid_metadata(self._clock))
        started = time.monotonic()

        def watch(_: Usage) -> None:
            if progress is not None:
                progress(state)

        told = outcomes(self._maker, engine, self._config.batch_size, state.usage, watch)
        with TableWriter.several({records: RECORDS, tokens: grid, rejects: REJECTS}) as write:
            for batch in _batches(told, BATCH):
                done = finisher.finish(batch)
                write(records, done.records)
                write(tokens, done.tokens)
                write(rejects, done.rejects)
                self._book(done.outcomes, state)
                if progress is not None:
                    progress(state)
        outputs = [output_of(p, self.directory, pq.read_metadata(p).num_rows) for p in (records, tokens, rejects)]
        balance(STAGE, total=state.asked, accepted=outputs[0].rows or 0, rejected=outputs[2].rows or 0)
        counters = self._counters(state, time.monotonic() - started + (before.seconds if before is not None else 0.0))
        if state.asked and sum(state.rejected[reason] for reason in _NOT_ANSWERED) == state.asked:
            raise PipelineError(
                f"the engine answered for none of {state.asked:,} dialogues (last: {state.unanswered}): mend what is wrong "
                "and run again"
            )
        refuse_too_many(counters, self._config.max_rejected_fraction)
        if self._config.generator != "teacher":
            publish_text(self.directory / COVERAGE, self._coverage.to_markdown())
            outputs.append(output_of(self.directory / COVERAGE, self.directory))
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


def _may_answer(reason: str, options: EngineOptions) -> bool:
    """Whether another run may have an answer where this one was rejected. vLLM in process refuses by its settings alone."""
    return reason == "aborted" or (reason == "refused" and options.kind != "vllm")


def _ended(completion: Completion) -> str:
    """The reason to reject that a completion's end is, if it is one."""
    end = completion.finish_reason
    return end if end in ("stop", "length", "refused") else "aborted"


def refuse_too_many(counters: Mapping[str, Any], limit: float | None) -> None:
    asked, rejected = counters["requested"], counters["rejected"]
    if limit is None or rejected <= limit * asked:
        return
    reasons = ", ".join(f"{count:,} {code}" for code, count in Counter(counters["reject_reasons"]).most_common(5))
    raise PipelineError(
        f"{rejected:,} of {asked:,} dialogues were rejected ({reasons}), more than max_rejected_fraction = {limit}; "
        "see rejects-*.parquet"
    )
