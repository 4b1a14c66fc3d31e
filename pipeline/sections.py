"""The sections of a build configuration as its stages take them, and which stages one asks for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline import folders
from pipeline.config import BuildConfig, ConfigError, SourceConfig, parse_config
from pipeline.convert import ConvertConfig
from pipeline.filters import parse_filters
from pipeline.located import check_control, check_named, check_synth_models, check_tokenizer_of
from pipeline.manifest import Manifest, Result
from pipeline.shards import ShuffleConfig
from pipeline.stages.ingest import IngestConfig, InputSource

if TYPE_CHECKING:
    from pipeline.dedup.config import DedupConfig
    from pipeline.evaluation.settings import EvaluateConfig
    from pipeline.training.settings import TrainConfig
    from synth.config import SynthConfig


def stages_of(config: BuildConfig) -> tuple[str, ...]:
    """The stages, by folder, that a build of this configuration runs or skips, in their order."""
    control = config.train is not None and (config.evaluate or {}).get("control") is True
    asked = {
        folders.SYNTH: config.synth is not None,
        folders.FILTER: bool(parse_filters(config.filters)),
        folders.DEDUP: config.dedup is not None,
        folders.MIX: config.mix is not None,
        folders.CHECKPOINT: config.train is not None,
        folders.CONTROL: control,
        folders.REPORT: config.train is not None,
    }
    return tuple(name for name in folders.STAGES if asked.get(name, True))


def check_sections(config: BuildConfig) -> None:
    """Validates the free sections before any work is done, and looks whether what they name is there. Raises ConfigError.

    Nothing is fetched: whether the Hub has a model or a data set is found by the stage that needs it.
    """
    check_tokenizer_of(config)
    if config.synth is not None:
        check_synth_models(synth_config(config))
    if config.train is not None:
        check_named(train_config(config)[0], "train.model")
    if config.train is not None or config.evaluate is not None:
        control = evaluate_config(config).control
        if control is not None:
            check_control(control)


def input_source(source: SourceConfig) -> InputSource:
    """The ingest stage's form of a configured source."""
    return InputSource(**{f.name: getattr(source, f.name) for f in fields(InputSource)})


def ingest_config(config: BuildConfig) -> IngestConfig:
    """The ingest stage's form of the configuration."""
    i = config.ingest
    return IngestConfig(i.max_unit_bytes, i.shard_units, i.shard_bytes)


def convert_config(config: BuildConfig) -> ConvertConfig:
    """The convert stage's form of the configuration."""
    c = config.convert
    return ConvertConfig(
        c.align, c.question, c.tokenizer, c.lag, c.max_cells, tuple(sorted(config.exclude_ids)), c.media
    )


def synth_config(config: BuildConfig) -> SynthConfig:
    """The ``synth`` section. Raises ConfigError."""
    from synth.config import SynthConfig

    return cast(SynthConfig, parse_config({"seed": config.seed, **(config.synth or {})}, "synth", SynthConfig))


def dedup_config(config: BuildConfig, ingest: Manifest) -> DedupConfig:
    """The ``dedup`` section; where it names no order of sources, theirs in the configuration."""
    assert config.dedup is not None
    if config.dedup.sources:
        return config.dedup
    from pipeline.stages.ingest import corpora_in_order

    return config.dedup.model_copy(update={"sources": corpora_in_order(ingest)})


def shuffle_config(config: BuildConfig) -> ShuffleConfig:
    """The dataset stage's form of the configuration."""
    s = config.shards
    return ShuffleConfig(config.seed, s.test_fraction, s.shard_rows, s.marks)


def train_config(config: BuildConfig, folder: str = folders.CHECKPOINT) -> tuple[str, TrainConfig]:
    """The model's name and the ``train`` section, for the checkpoint or the control. Raises ConfigError."""
    from pipeline.training.settings import TrainConfig

    values = dict(config.train or {})
    model = values.pop("model", "smollm2")
    if not isinstance(model, str) or not model:
        raise ConfigError(f"train.model is {model!r}, it must be smollm2, a folder, or a Hub id")
    if folder == folders.CONTROL:
        values["shuffle_inputs"] = True
    return model, cast(TrainConfig, section(values, "train", TrainConfig, seed=config.seed))


def evaluate_config(config: BuildConfig, control: Result | None = None) -> EvaluateConfig:
    """The ``evaluate`` section; its ``control`` is true (the build trains one) or a checkpoint. Raises ConfigError."""
    from pipeline.evaluation.settings import EvaluateConfig, GateConfig

    values = dict(config.evaluate or {})
    gate = section(values.pop("gate", None), "evaluate.gate", GateConfig)
    named = values.pop("control", None)
    if isinstance(named, bool) or named is None:
        place = control.directory if control is not None else None
    elif isinstance(named, str) and named:
        place = Path(named)
    else:
        raise ConfigError(f"evaluate.control is {named!r}, it must be true, false, or the folder of a checkpoint")
    return cast(EvaluateConfig, section({**values, "control": place}, "evaluate", EvaluateConfig, gate=gate))


def section(
    config: dict[str, Any] | None, what: str, kind: type[Any], base: Path | None = None, **defaults: Any
) -> Any:
    """A dataclass made of a free section of the configuration. Raises ConfigError for keys and values it does not take."""
    if config is not None and not isinstance(config, dict):
        raise ConfigError(f"{what} is {config!r}, it must be a section of keys")
    values = {**defaults, **(config or {})}
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            from difflib import get_close_matches

            close = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
            raise ConfigError(f"unknown key {f'{what}.{key}'!r}{hint}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error
