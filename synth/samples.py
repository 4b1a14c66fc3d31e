"""What one dialogue of a run is to be: drawn from the scenarios, by the run's seed and the dialogue's number alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.conversation import Source
from synth.config import SynthConfig
from synth.engines import Message
from synth.scenarios import Scenario
from synth.scene_checks import Timing, timing_of

CORPUS = "synthetic"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a dialogue is about. ``group``: what must stay on one side of a split with it (a conversation's group)."""

    text: str
    domain: str = ""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Dialogue number ``index``. ``personas``: per stream, who speaks there. ``timing``: who speaks when, None: the writer
    decides, in ``min_rows`` to ``max_rows`` rows (or slices)."""

    index: int
    seed: int
    scenario: Scenario
    topic: Topic
    personas: Mapping[str, str]
    min_rows: int
    max_rows: int
    timing: Timing | None
    license: str | None = None

    def request_seed(self, *place: int) -> int:
        """The seed of one request of the dialogue."""
        return seed_of(self.seed, *place)


@dataclass(frozen=True, slots=True)
class FromScenarios:
    """The dialogues of a run that are drawn from scenarios. ``topics``: what they are about, where not the scenarios' own."""

    config: SynthConfig
    scenarios: tuple[Scenario, ...]
    topics: tuple[Topic, ...] = ()

    @property
    def count(self) -> int:
        """How many dialogues are asked for."""
        return self.config.samples or 0


def seed_of(*place: int) -> int:
    """A seed of 48 bits for a place in a run."""
    text = ":".join(map(str, place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def draw(
    config: SynthConfig,
    scenarios: Sequence[Scenario],
    topics: Sequence[Topic],
    index: int,
    most_rows: int,
    scored: bool,
) -> Sample:
    """Sample number ``index``: its scenario by weight, topic (of ``topics`` if there are any, else of the scenario), personas,
    and a score of at most ``most_rows`` rows or a range of rows.

    A function of its arguments alone, so that any slice of a run can be made anywhere.
    """
    seed = seed_of(config.seed, index)
    die = random.Random(seed)
    (scenario,) = die.choices(scenarios, [scenario.weight for scenario in scenarios])
    if topics:
        topic = die.choice(topics)
    else:
        domain, text = die.choice(scenario.subjects())
        topic = Topic(text, domain)
    personas = {stream: die.choice(lines) for stream, lines in sorted(scenario.personas.items())}
    min_rows = min(scenario.rows.min, most_rows)
    max_rows = die.randint(min_rows, max(min_rows, min(scenario.rows.max, most_rows)))
    timings = [timing for timing in (timing_of(scenario, s) for s in scenario.scores) if len(timing) <= most_rows]
    timing = die.choice(timings) if timings and scored else None
    if timing is not None:
        min_rows = max_rows = len(timing)
    return Sample(index, seed, scenario, topic, personas, min_rows, max_rows, timing, config.license)


def prompt_sha256(messages: Sequence[Message]) -> str:
    """SHA-256 of the messages as compact JSON ``[[role, content], …]``, whatever chat template an engine uses."""
    pairs = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def extra_of(sample: Sample, model: str, prompts: Sequence[Message]) -> dict[str, Any]:
    """What a record keeps of how it was asked for."""
    return {
        "scenario": sample.scenario.name,
        "topic": sample.topic.text,
        "personas": dict(sample.personas),
        "model": model,
        "seed": sample.seed,
        "prompt_sha256": prompt_sha256(prompts),
    }


def source_of(sample: Sample, format_: str, written: object) -> Source:
    """The source pointer of a dialogue: its scenario and number, and the digest of what was written (a JSON value)."""
    raw = json.dumps(written, sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(raw.encode()).hexdigest()
    return Source(CORPUS, sample.scenario.name, sample.index, format_, sample.license, digest)
