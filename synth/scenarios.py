"""Scenarios: who is there, which streams they speak on, and what happens. One YAML file each."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline.timeline import Stream
from synth.errors import SynthError

SILENCE = "-"

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n]+$")]
StreamName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(/[0-9]+)?$", max_length=32)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamSpec(_Strict):
    """One stream of a scenario. ``says`` tells the writer what it is for; ``required``: it must speak at least once."""

    name: StreamName
    role: StreamName
    slot: Annotated[int, Field(ge=0, le=255)] = 0
    direction: Literal["input", "output"]
    says: Line
    required: bool = True

    @property
    def stream(self) -> Stream:
        return Stream(self.name, self.role, self.slot, self.direction)


class RowRange(_Strict):
    """How many rows a table has, both ends included."""

    min: Annotated[int, Field(ge=2)]
    max: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"rows.min {self.min} is above rows.max {self.max}")
        return self


Track = Annotated[str, StringConstraints(pattern=r"^[x-]+$")]


class Scenario(_Strict):
    """One kind of scene.

    ``weight``: its share among the scenarios of a run. ``opens``: the stream that speaks first; output streams must be
    silent until the row after its first words. ``min_overlap``: rows in which at least two streams speak. ``scores``:
    timings to draw from; per stream one letter a row, ``x`` where it speaks and ``-`` where it is silent. ``example``:
    a table shown to the writer, rows of cells in the order of ``streams``, ``-`` for silence; it has to pass the same
    checks as what the writer makes.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    description: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    streams: Annotated[tuple[StreamSpec, ...], Field(min_length=2, max_length=16)]
    opens: StreamName | None = None
    rows: RowRange
    min_overlap: Annotated[int, Field(ge=0)] = 1
    scores: tuple[dict[StreamName, Track], ...] = ()
    topics: Annotated[tuple[Line, ...], Field(min_length=1)]
    example_topic: Line | None = None
    example: tuple[tuple[Line, ...], ...] = ()

    @field_validator("description")
    @classmethod
    def _one_line(cls, value: str) -> str:
        text = " ".join(value.split())
        if not text:
            raise ValueError("description is empty")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stream.name for stream in self.streams]
        if len(set(names)) < len(names):
            raise ValueError("two streams have the same name")
        if len({(stream.role, stream.slot) for stream in self.streams}) < len(names):
            raise ValueError("two streams have the same role and slot")
        if not any(stream.direction == "output" for stream in self.streams):
            raise ValueError("no stream is an output")
        if self.opens is not None and self.opens not in names:
            raise ValueError(f"opens: there is no stream {self.opens}")
        if self.min_overlap > self.rows.min:
            raise ValueError(f"min_overlap {self.min_overlap} is above rows.min {self.rows.min}")
        for number, score in enumerate(self.scores, 1):
            if sorted(score) != sorted(names):
                raise ValueError(f"score {number} does not have exactly one track per stream")
            lengths = {len(track) for track in score.values()}
            if len(lengths) > 1 or not self.rows.min <= min(lengths) <= self.rows.max:
                raise ValueError(f"score {number} has tracks of unequal length, or a length outside of rows")
        if bool(self.example) != (self.example_topic is not None):
            raise ValueError("example and example_topic go together")
        for number, row in enumerate(self.example, 1):
            if len(row) != len(names):
                raise ValueError(f"example row {number} has {len(row)} cells for {len(names)} streams")
        return self

    @property
    def cells(self) -> tuple[tuple[str | None, ...], ...]:
        """The example ``[row][stream]``, silence as None."""
        return tuple(tuple(None if cell == SILENCE else cell for cell in row) for row in self.example)


def load_scenario(path: Path) -> Scenario:
    """Read one scenario file.

    Raises:
        SynthError: the file is not YAML or not a scenario; the message names the file and the field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SynthError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SynthError(f"{path}: {place}: {first['msg']}") from error


def load_scenarios(sources: Sequence[str | Scenario]) -> tuple[Scenario, ...]:
    """The scenarios of ``sources`` (paths, glob patterns, or scenarios as they are), sorted by name.

    Raises:
        SynthError: a path or pattern matches nothing, a file is wrong, or two scenarios have the same name.
    """
    found: dict[str, Scenario] = {}
    for source in sources:
        if isinstance(source, Scenario):
            loaded = [source]
        else:
            paths = sorted(glob.glob(source, recursive=True))
            if not paths:
                raise SynthError(
                    f"no scenario file matches {source}: check the path, or give a glob such as dir/*.yaml"
                )
            loaded = [load_scenario(Path(path)) for path in paths]
        for scenario in loaded:
            if found.get(scenario.name, scenario) != scenario:
                raise SynthError(f"two different scenarios are named {scenario.name}: rename one of them")
            found[scenario.name] = scenario
    return tuple(found[name] for name in sorted(found))
