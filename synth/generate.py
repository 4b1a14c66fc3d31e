"""Synthesis from a configuration to tables, rejects and counters."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from synth.config import SynthConfig
from synth.engines import Completion, Engine
from synth.generators import Rejected, Table, table
from synth.models import check_length, load_tokenizer, render
from synth.scenarios import load_scenarios

#: Called after every batch with (samples done, samples requested).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Counters:
    """The books of a run: ``requested`` = ``accepted`` + the sum of ``rejected``.

    ``rejected``: by reason code. ``scenarios``: per scenario, requested and accepted. ``prompts``: distinct prompts.
    ``seconds``: time spent in the engine, loading it not included; ``engine`` is its :meth:`Engine.describe`.
    """

    requested: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    scenarios: dict[str, dict[str, int]] = field(default_factory=dict)
    prompts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    engine: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All counters with ``acceptance`` (a fraction) and ``tokens_per_second`` (completion tokens)."""
        return asdict(self) | {
            "acceptance": round(self.accepted / self.requested, 4) if self.requested else 0.0,
            "tokens_per_second": round(self.completion_tokens / self.seconds, 2) if self.seconds else 0.0,
        }


def synthesize_tables(
    config: SynthConfig, engine: Engine, progress: Progress | None = None
) -> tuple[list[Table], list[Rejected], Counters]:
    """Ask the engine for ``config.samples`` tables; each sample is in exactly one of the two lists, in order of index.

    A table that was accepted before in the run is rejected as a duplicate.

    Raises:
        SynthError: a scenario cannot be read, or a request does not fit the model.
    """
    books = _Books()
    tables: list[Table] = []
    rejects: list[Rejected] = []
    for result in _results(config, engine, books, progress):
        if isinstance(result, Table):
            tables.append(result)
        else:
            rejects.append(result)
    return tables, rejects, books.close(engine)


def dry_run(config: SynthConfig) -> dict[str, Any]:
    """What a run would ask, without an engine: requests per scenario, prompt tokens, and the first prompt as text.

    ``max_completion_tokens`` is the most that the answers can cost. Raises:
        SynthError: a scenario or the model's tokenizer cannot be read, or a prompt and its answer exceed
            ``engine.max_model_len``.
    """
    scenarios = load_scenarios(config.scenarios)
    tokenizer = load_tokenizer(config.model)
    counts: Counter[str] = Counter()
    prompts: set[str] = set()
    lengths: list[int] = []
    first = ""
    for plan in (plan for batch in table.plans(config, scenarios) for plan in batch):
        ids = render(tokenizer, plan.request.messages)
        check_length(len(ids), config.max_tokens, config.engine.max_model_len)
        first = first or tokenizer.decode(ids)
        counts[plan.scenario.name] += 1
        prompts.add(table.prompt_sha256(plan.request.messages))
        lengths.append(len(ids))
    return {
        "requested": config.samples,
        "scenarios": {scenario.name: counts[scenario.name] for scenario in scenarios},
        "prompts": len(prompts),
        "prompt_tokens": sum(lengths),
        "longest_prompt_tokens": max(lengths),
        "max_completion_tokens": config.samples * config.max_tokens,
        "first_prompt": first,
    }


def _results(
    config: SynthConfig, engine: Engine, books: _Books, progress: Progress | None
) -> Iterator[Table | Rejected]:
    seen: set[bytes] = set()
    for batch in table.plans(config, load_scenarios(config.scenarios)):
        started = time.monotonic()
        completions = engine.generate([plan.request for plan in batch])
        books.seconds += time.monotonic() - started
        for plan, completion in zip(batch, completions, strict=True):
            result = table.read(plan, completion)
            if isinstance(result, Table):
                key = table.digest(result)
                if key in seen:
                    result = table.duplicate(result)
                seen.add(key)
            books.enter(result, completion)
            yield result
        if progress is not None:
            progress(books.requested, config.samples)


class _Books:
    """Counters while they grow."""

    def __init__(self) -> None:
        self.requested = 0
        self.seconds = 0.0
        self._tokens = [0, 0]
        self._accepted: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._prompts: set[str] = set()

    def enter(self, result: Table | Rejected, completion: Completion) -> None:
        self.requested += 1
        self._asked[result.scenario] += 1
        self._prompts.add(result.prompt_sha256)
        self._tokens[0] += completion.prompt_tokens
        self._tokens[1] += completion.completion_tokens
        if isinstance(result, Table):
            self._accepted[result.scenario] += 1
        else:
            self._codes[result.code] += 1

    def close(self, engine: Engine) -> Counters:
        return Counters(
            requested=self.requested,
            accepted=self._accepted.total(),
            rejected=dict(sorted(self._codes.items())),
            scenarios={
                name: {"requested": asked, "accepted": self._accepted[name]}
                for name, asked in sorted(self._asked.items())
            },
            prompts=len(self._prompts),
            prompt_tokens=self._tokens[0],
            completion_tokens=self._tokens[1],
            seconds=round(self.seconds, 3),
            engine=engine.describe(),
        )
