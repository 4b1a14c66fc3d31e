"""Models and tokenizers that a configuration names: their paths are relative to its file, and are there before a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import BuildConfig, ConfigError
from pipeline.models import CHECKPOINT_FILE, PACKAGED, ModelError, check_model

if TYPE_CHECKING:
    from synth.config import SynthConfig

_TIKTOKEN = "tiktoken:"


def located(config: BuildConfig, base: Path) -> BuildConfig:
    """The configuration with absolute paths where it names a model, an adapter, a tokenizer, a checkpoint or an evaluation
    set by a path.

    Sources, scenarios and conversations stay as they are. No fingerprint and no record holds these paths:
    ``pipeline.models.name_of``.
    """
    tokenizer = config.convert.tokenizer
    if tokenizer.startswith(_TIKTOKEN):
        tokenizer = _TIKTOKEN + str(_path(tokenizer.removeprefix(_TIKTOKEN), base))
    else:
        tokenizer = located_name(tokenizer, base)
    changed: dict[str, Any] = {"convert": config.convert.model_copy(update={"tokenizer": tokenizer})}
    if config.train is not None:
        changed["train"] = _with(config.train, "model", base)
    if config.evaluate is not None and isinstance(control := config.evaluate.get("control"), str):
        changed["evaluate"] = {**config.evaluate, "control": str(_path(control, base))}
    if config.synth is not None:
        changed["synth"] = located_synth(config.synth, base)
    if isinstance(config.filters, list):
        changed["filters"] = [_filter(entry, base) for entry in config.filters]
    return config.model_copy(update=changed)


def _filter(entry: str | dict[str, Any], base: Path) -> str | dict[str, Any]:
    """A filter's entry with absolute paths of evaluation sets."""
    section = entry.get("contamination") if isinstance(entry, dict) else None
    if not isinstance(section, dict) or not isinstance(section.get("sets"), dict):
        return entry
    sets = {name: _set(place, base) for name, place in section["sets"].items()}
    return {"contamination": {**section, "sets": sets}}


def _set(place: Any, base: Path) -> Any:
    is_path = isinstance(place, str) and "://" not in place and place != "hub" and not place.startswith("hub:")
    return str(_path(place, base)) if is_path else place


def located_name(name: str, base: Path) -> str:
    """An absolute path where a name is a path: it starts with ``/``, ``~``, ``./`` or ``../``, or is there below ``base``."""
    if name == PACKAGED or "://" in name or not name:
        return name
    is_path = name in (".", "..") or name.startswith(("/", "~", "./", "../")) or (base / name).exists()
    return str(_path(name, base)) if is_path else name


def _path(name: str, base: Path) -> Path:
    return Path(os.path.abspath(base / Path(name).expanduser()))


def _with(section: Mapping[str, Any], key: str, base: Path) -> dict[str, Any]:
    """A section with one of its names located; a value of another type is left for whoever checks it."""
    name = section.get(key)
    return {**section, key: located_name(name, base)} if isinstance(name, str) else dict(section)


def located_synth(section: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A ``synth`` section with absolute paths of the models of engines here; what an endpoint calls its model is no path."""
    engine, judge = section.get("engine"), section.get("judge")
    made = _engine(section, engine, base)
    if isinstance(judge, Mapping):
        made["judge"] = _engine(judge, engine if judge.get("engine") is None else judge["engine"], base)
    return made


def _engine(section: Mapping[str, Any], engine: Any, base: Path) -> dict[str, Any]:
    if isinstance(engine, Mapping) and engine.get("kind", "vllm") != "vllm":
        return dict(section)
    made = _with(section, "model", base)
    own = section.get("engine")
    if isinstance(own, Mapping) and isinstance(own.get("lora"), str):
        made["engine"] = {**own, "lora": str(_path(own["lora"], base))}
    return made


def check_tokenizer_of(config: BuildConfig) -> None:
    """Loads the tokenizer, where it is here; a Hub id is left to the run. Raises ConfigError."""
    from pipeline.tokenization import TokenizerError, check_tokenizer

    try:
        check_tokenizer(config.convert.tokenizer)
    except TokenizerError as error:
        if config.convert.tokenizer == PACKAGED:
            raise  # the installation is to be mended, not the configuration
        raise ConfigError(f"convert.tokenizer: {' '.join(str(error).split())}") from error


def check_named(model: str, key: str) -> None:
    """Looks whether a model is there; a Hub id is left to the run. Raises ConfigError."""
    try:
        check_model(model)
    except ModelError as error:
        if model == PACKAGED:
            raise
        raise ConfigError(f"{key}: {error}") from error


def check_control(place: Path) -> None:
    """Looks whether a folder is a checkpoint. Raises ConfigError."""
    if not (place / CHECKPOINT_FILE).is_file():
        raise ConfigError(f"evaluate.control: {place} is no checkpoint, it has no {CHECKPOINT_FILE}: train one first")


def check_synth_models(config: SynthConfig) -> None:
    """Looks whether the models and adapters of engines that run here are there. Raises ConfigError."""
    engines = [("synth.model", config.model, config.engine)]
    if (judge := config.judge) is not None:
        engines.append(("synth.judge.model", judge.model or config.model, judge.engine or config.engine))
    for key, model, options in engines:
        if options.kind != "vllm":
            continue
        if "/" in model or model == PACKAGED:
            check_named(model, key)
        if options.lora is not None and not (Path(options.lora).expanduser() / "adapter_config.json").is_file():
            raise ConfigError(f"{key.rpartition('.')[0]}.engine.lora: {options.lora} holds no adapter_config.json")
