"""The build configuration: one YAML file for the whole pipeline. Unknown keys are errors that name the nearest key."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline import strict_yaml
from pipeline.alignment import AlignmentError, parse_align_spec
from pipeline.dedup.config import DedupConfig
from pipeline.errors import ConfigError as ConfigError
from pipeline.mixing import MixConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Section):
    """One input corpus: a file, folder or glob, or a Hub data set."""

    path: str | None = Field(
        None, description="file, folder, glob or archive, relative to the configuration file; or a URL"
    )
    dataset: str | None = Field(None, description="Hub data set, owner/name")
    config: str | None = Field(None, description="configuration of the Hub data set")
    split: str = Field("train", description="split of the Hub data set")
    revision: str | None = Field(None, description="revision of the Hub data set")
    corpus: str | None = Field(None, description="name in the source pointers; default: the folder's name")
    format: str = Field(
        "auto",
        description="a format (multistream formats lists them), with options as in message_tree:paths=first; or auto",
    )
    license: str | None = Field(None, description="SPDX expression; default: of the licence text found beside the data")
    limit: int | None = Field(None, ge=1, description="take only the first so many units of each file")

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        from converters import parse_format

        if value != "auto":
            parse_format(value)
        return value

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("name either path or dataset")
        return self


class IngestSection(_Section):
    """Cutting inputs into shards of source units."""

    max_unit_bytes: int = Field(32 << 20, ge=1024, description="larger units become reject rows")
    shard_units: int = Field(4096, ge=1, description="most units of a shard")
    shard_bytes: int = Field(8 << 20, ge=1024, description="a shard is closed once it holds so many bytes")


class ConvertSection(_Section):
    """Conversion, alignment and layout."""

    align: str = Field(
        "auto", description="alignment policies; auto: those that have something to do in a conversation"
    )
    question: Literal["first", "last"] = Field("first", description="question before or after its context")
    tokenizer: str = Field("smollm2", description="smollm2, a folder, a Hub id, or tiktoken:PATH")
    lag: int = Field(
        0, ge=0, le=1, description="rows between an event's end and its first possible use on another stream"
    )
    max_cells: int = Field(8192, ge=64, description="window in tokens; longer conversations are cut into segments")
    media: Literal["placeholder", "reject"] = Field(
        "placeholder",
        description="what is no text (an image): a placeholder with its reference, or the unit is rejected",
    )
    max_rejected_fraction: float = Field(0.05, ge=0, le=1, description="above it the run stops")

    @field_validator("align")
    @classmethod
    def _known_policies(cls, value: str) -> str:
        try:
            parse_align_spec(value)
        except AlignmentError as error:
            raise ValueError(str(error)) from error
        return value


class ShardSection(_Section):
    """Split, shuffle and final shards."""

    test_fraction: float = Field(0.1, ge=0, lt=1, description="share of the groups that goes to the test split")
    shard_rows: int = Field(10_000, ge=1, description="about how many records a shard holds")
    marks: Literal["ignore", "drop-bad", "only-good"] = Field(
        "ignore", description="what the viewer's marks do (`marks.jsonl` in the build's folder)"
    )


class BuildConfig(_Section):
    """The whole build."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the data set")
    title: str | None = Field(None, description="title of the card")
    seed: int = Field(0, ge=0, description="seed of the shuffle, the synthesis and the training")
    sources: list[SourceConfig] = Field(min_length=1)
    ingest: IngestSection = IngestSection()
    convert: ConvertSection = ConvertSection()
    shards: ShardSection = ShardSection()
    filters: Literal["default"] | list[str | dict[str, Any]] | None = Field(
        None, description="what the data set should not hold: `default`, or a list of filters; see docs/filters.md"
    )
    dedup: DedupConfig | None = Field(None, description="exact and near copies, across all sources; see docs/dedup.md")
    mix: MixConfig | None = Field(None, description="how much of each source; see docs/mixing.md")
    synth: dict[str, Any] | None = Field(None, description="synthesis; see docs/synthesis.md")
    train: dict[str, Any] | None = Field(None, description="training; see docs/training.md")
    evaluate: dict[str, Any] | None = Field(None, description="evaluation and its gate; see docs/evaluation.md")
    exclude_ids: list[str] = Field(default_factory=list, description="conversation or record ids to leave out")

    @field_validator("filters")
    @classmethod
    def _known_filters(cls, value: Any) -> Any:
        from pipeline.filters import parse_filters

        try:
            parse_filters(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value


def source_of(argument: str) -> dict[str, Any]:
    """An input as the command line names it: a path, glob or URL, or ``hub:OWNER/NAME,config=…,split=…,revision=…``.

    The keys are those of ``SourceConfig``. Raises ConfigError.
    """
    if not argument.startswith("hub:"):
        return {"path": argument if "://" in argument else str(Path(argument).expanduser())}
    name, *options = argument.removeprefix("hub:").split(",")
    source = {"dataset": name}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in ("config", "split", "revision") or not equals or not value:
            raise ConfigError(f"{argument}: {option!r} is none of config=…, split=…, revision=…")
        source[key] = value
    return source


def load_config(path: Path, overrides: Sequence[str] = ()) -> BuildConfig:
    """Reads a YAML configuration; ``overrides`` are ``key.sub=value`` with YAML values. Raises ConfigError.

    Paths of models and tokenizers are made absolute; sources and scenarios stay relative to the file.
    """
    try:
        value = strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"configuration {path} must be a mapping of keys, not {type(value).__name__}")
    for override in overrides:
        _set(value, override)
    from pipeline.located import located

    config: BuildConfig = parse_config(value, str(path))
    return located(config, path.resolve().parent)


def _set(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override!r}: expected key=value")
    *parents, last = key.split(".")
    for parent in parents:
        if value.get(parent) is None:
            value[parent] = {}
        value = value[parent]
        if not isinstance(value, dict):
            raise ConfigError(f"--set {override!r}: {parent} is not a section")
    try:
        value[last] = strict_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {' '.join(str(error).split())}") from error


def parse_config(value: Any, where: str, model: type[BaseModel] = BuildConfig) -> Any:
    """Validates a configuration value against a model. Raises ConfigError with one line for all that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(item, model) for item in error.errors())) from error


def _explain(item: Any, model: type[BaseModel]) -> str:
    places, known = _walk(model, item["loc"])
    place = ".".join(places)
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
        return f"unknown key {place!r}" + (
            f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
        )
    return (f"{place}: " if place else "") + str(item["msg"].removeprefix("Value error, "))


def _walk(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """The place of an error without the names that pydantic gives the members of a union, and the keys that are known
    beside its last part."""
    at, places = [model], []
    for number, part in enumerate(loc):
        known = [key for one in at for key in one.model_fields]
        if isinstance(part, int):
            places.append(str(part))
            continue
        if part in known or number == len(loc) - 1:
            places.append(part)
            if number < len(loc) - 1:
                fields = [one.model_fields[part] for one in at if part in one.model_fields]
                at = [found for field in fields for found in _models_in(field.annotation, *field.metadata)]
            continue
        at = [one for one in at if _is_member(one, part)] or at
    return places, [key for one in at for key in one.model_fields]


def _is_member(model: type[BaseModel], name: str) -> bool:
    """Whether pydantic calls this member of a union so: by its class, or by the value of its ``kind``."""
    kind = model.model_fields.get("kind")
    return name == model.__name__ or (kind is not None and name in typing.get_args(kind.annotation))


def _models_in(*annotations: Any) -> Iterator[type[BaseModel]]:
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        yield from _models_in(*typing.get_args(annotation))
