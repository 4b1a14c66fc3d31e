"""What a run works with, by its configuration: the dialogues, and whom it asks."""

from __future__ import annotations

from pipeline.records import Clock
from synth.config import EngineOptions, SynthConfig, VllmOptions
from synth.errors import SynthError
from synth.generators import Maker
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.generators.teacher import Teacher
from synth.material import Material
from synth.scenarios import Scenario


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


def judge_engine(config: SynthConfig) -> tuple[str, EngineOptions]:
    """The judge's model, and the engine's options for it. The writer's adapter is made for the writer's model alone."""
    if config.judge is None or (config.judge.model is None and config.judge.engine is None):
        return config.model, config.engine
    options = config.judge.engine or config.engine
    if config.judge.model is not None and config.judge.engine is None and isinstance(options, VllmOptions):
        options = options.model_copy(update={"lora": None})
    return config.judge.model or config.model, options


def has_own_judge(config: SynthConfig) -> bool:
    """Whether the judge is another engine than the writer."""
    return config.judge is not None and bool(config.judge.model or config.judge.engine)
