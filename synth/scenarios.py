"""Scenarios: who is there, which streams they speak on, and what happens. One YAML file each."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import regex
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline import strict_yaml
from pipeline.timeline import Stream
from synth.errors import SynthError
from synth.patterns import PATTERNS

SILENCE = "-"
#: What may not be said twice is told apart by these: words for every row and stream of a score.
_STAND_IN = "r{row}s{stream}"

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n]+$")]
StreamName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(/[0-9]+)?$", max_length=32)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,31}$")]
ScriptName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]+$")]
DomainName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=32)]
Topics = Annotated[tuple[Line, ...], Field(min_length=1)]


#: Roles that are always read, or always written: a model must never learn to invent results.
_DIRECTIONS = {"tool": "input", "call": "output"}


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


class Latency(_Strict):
    """How many slices lie between a call and its result, both ends included; 1 is the slice after the call."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"latency.min {self.min} is above latency.max {self.max}")
        return self


class ToolSpec(_Strict):
    """A tool that the scene has.

    ``simulator``: who makes its results: ``calculator`` computes, ``clock`` tells the time, ``lookup`` finds the query among
    ``entries`` (query to answer), ``model`` has the chat model play it, told what a result is by ``says``.
    """

    name: ToolName
    description: Line
    simulator: Literal["calculator", "clock", "lookup", "model"]
    latency: Latency = Latency()
    entries: dict[Line, Line] = {}
    says: Line | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.simulator == "lookup") != bool(self.entries):
            raise ValueError("entries: simulator lookup needs some, the others have none")
        if (self.simulator == "model") != (self.says is not None):
            raise ValueError("says: simulator model needs it, the others have none")
        return self


Track = Annotated[str, StringConstraints(pattern=r"^[x-]+$")]


class Scenario(_Strict):
    """One kind of scene.

    ``weight``: its share among the scenarios of a run. ``patterns``: what has to happen, names of
    :data:`synth.patterns.PATTERNS`. ``opens``: the stream that speaks first; output streams must be silent until the row
    after its first words. ``min_overlap``: rows in which at least two streams speak. ``scores``: timings to draw from; per
    stream one letter a row, ``x`` where it speaks and ``-`` where it is silent. ``topics``: what a scene may be about;
    ``domains``: the same by field of life. ``personas``: per stream, who may be speaking there. ``tools``: what a ``call``
    stream may call. ``scripts``: Unicode scripts that letters may be of. ``example``: a table shown to the writer, rows of
    cells in the order of ``streams``, ``-`` for silence; it has to pass the same checks as what the writer makes.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    description: str
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    patterns: tuple[str, ...] = ()
    language: Line = "English"
    scripts: Annotated[tuple[ScriptName, ...], Field(min_length=1)] = ("Latin",)
    streams: Annotated[tuple[StreamSpec, ...], Field(min_length=2, max_length=16)]
    opens: StreamName | None = None
    rows: RowRange
    min_overlap: Annotated[int, Field(ge=0)] = 1
    scores: tuple[dict[StreamName, Track], ...] = ()
    topics: tuple[Line, ...] = ()
    domains: dict[DomainName, Topics] = {}
    personas: dict[StreamName, Annotated[tuple[Line, ...], Field(min_length=1)]] = {}
    tools: tuple[ToolSpec, ...] = ()
    example_topic: Line | None = None
    example: tuple[tuple[Line, ...], ...] = ()

    @field_validator("description")
    @classmethod
    def _one_line(cls, value: str) -> str:
        text = " ".join(value.split())
        if not text:
            raise ValueError("description is empty")
        return text

    @field_validator("scripts")
    @classmethod
    def _known_scripts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                regex.compile(rf"\p{{Script={name}}}")
            except regex.error as error:
                raise ValueError(f"{name} is no Unicode script, such as Latin or Cyrillic") from error
        return value

    @field_validator("patterns")
    @classmethod
    def _known_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PATTERNS:
                raise ValueError(f"there is no pattern {name}; there are {', '.join(PATTERNS)}")
        if len(set(value)) < len(value):
            raise ValueError("a pattern is named twice")
        return value

    @model_validator(mode="after")
    def _has_roles(self) -> Self:
        roles = {stream.role for stream in self.streams}
        for name in self.patterns:
            if missing := [role for role in PATTERNS[name].ROLES if role not in roles]:
                raise ValueError(f"pattern {name} needs a stream of role {' and one of role '.join(missing)}")
        if self.tools and not {"call", "tool"} <= roles:
            raise ValueError("tools: they need a stream of role call and one of role tool")
        for stream in self.streams:
            if stream.role in _DIRECTIONS and stream.direction != _DIRECTIONS[stream.role]:
                raise ValueError(f"stream {stream.name}: role {stream.role} is always an {_DIRECTIONS[stream.role]}")
        if "call" in roles and any(s.name == self.opens and s.role == "tool" for s in self.streams):
            raise ValueError(f"opens: {self.opens} answers calls, so it cannot open")
        if len({tool.name for tool in self.tools}) < len(self.tools):
            raise ValueError("two tools have the same name")
        return self

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
        if not self.topics and not self.domains:
            raise ValueError("at least 1 topic is needed, in topics or in domains")
        if unknown := sorted(set(self.personas) - set(names)):
            raise ValueError(f"personas: there is no stream {unknown[0]}")
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
        if self.example and not self.rows.min <= len(self.example) <= self.rows.max:
            raise ValueError(f"example has {len(self.example)} rows, a number outside of rows")
        return self

    @model_validator(mode="after")
    def _can_be_accepted(self) -> Self:
        """The example passes what a table has to pass, and so does some text for every score."""
        from synth.checks import TextError
        from synth.scene_checks import check_results, check_scene, read_cell

        try:
            place = "the example"
            if self.example:
                check_results(
                    check_scene(
                        self,
                        [
                            [
                                read_cell(self, i, cell, f"row {number} {self.streams[i].name}")
                                for i, cell in enumerate(row)
                            ]
                            for number, row in enumerate(self.example, 1)
                        ],
                    )
                )
            for number, score in enumerate(self.scores, 1):
                place = f"score {number}"
                check_scene(self, self._stand_in(score))
        except TextError as error:
            raise ValueError(f"{place} can never be accepted, {error.code}: {error}") from error
        return self

    def _stand_in(self, score: Mapping[str, str]) -> list[list[str | None]]:
        """Rows in which everybody speaks when the score has it, and nobody says what another does."""
        call = f"{self.tools[0].name if self.tools else 'find'} "
        tracks = [(("", call)[stream.role == "call"], score[stream.name]) for stream in self.streams]
        return [
            [
                f"{name}{_STAND_IN.format(row=row, stream=i)}" if track[row] != SILENCE else None
                for i, (name, track) in enumerate(tracks)
            ]
            for row in range(len(tracks[0][1]))
        ]

    def subjects(self) -> tuple[tuple[str, str], ...]:
        """All (domain, topic) in the order of the file; the domain of ``topics`` is the empty string."""
        named = ((domain, topic) for domain, topics in self.domains.items() for topic in topics)
        return (*(("", topic) for topic in self.topics), *named)

    @property
    def cells(self) -> tuple[tuple[str | None, ...], ...]:
        """The example ``[row][stream]``, silence as None."""
        return tuple(tuple(None if cell == SILENCE else cell for cell in row) for row in self.example)


class _Shared(_Strict):
    """What a file that is included may hold. ``tools`` by name."""

    domains: dict[DomainName, Topics] = {}
    personas: dict[StreamName, Annotated[tuple[Line, ...], Field(min_length=1)]] = {}
    tools: dict[ToolName, ToolSpec] = {}

    @field_validator("tools", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: body | {"name": name} if isinstance(body, dict) else body for name, body in value.items()}


def load_scenario(path: Path) -> Scenario:
    """Read one scenario file.

    ``include`` names further files (relative to this one) that hold ``domains``, ``personas`` and ``tools`` by name. The
    scenario gets all their domains, or those that it names where its ``domains`` is a list; their personas for streams that
    it has; and those tools that its ``tools`` names. What stands in the scenario itself goes before what is included.

    Raises:
        SynthError: a file is not YAML or not a scenario; the message names the file and the field.
    """
    content = _read(path)
    if isinstance(content, dict) and "include" in content:
        content = _composed(path, content)
    return _validated(path, Scenario, content)


def _composed(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    names = content["include"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SynthError(f"{path}: include: is not a list of file names")
    shared = _Shared()
    for name in names:
        other = path.parent / name
        found = _validated(other, _Shared, _read(other))
        shared = _Shared(
            domains=shared.domains | found.domains,
            personas=shared.personas | found.personas,
            tools=shared.tools | found.tools,
        )
    composed = {key: value for key, value in content.items() if key != "include"}
    composed["domains"] = _picked_domains(path, content.get("domains", {}), shared)
    composed["tools"] = _picked_tools(path, content.get("tools", []), shared)
    streams = content.get("streams")
    own = content.get("personas", {})
    if isinstance(streams, list) and isinstance(own, dict):
        present = [stream.get("name") for stream in streams if isinstance(stream, dict)]
        composed["personas"] = {n: lines for n, lines in shared.personas.items() if n in present} | own
    return composed


def _picked_domains(path: Path, wanted: Any, shared: _Shared) -> Any:
    if isinstance(wanted, dict):
        return shared.domains | wanted
    if not isinstance(wanted, list):
        return wanted
    for name in wanted:
        if not isinstance(name, str) or name not in shared.domains:
            raise SynthError(f"{path}: domains: no included file has the domain {name}")
    return {name: shared.domains[name] for name in wanted}


def _picked_tools(path: Path, wanted: Any, shared: _Shared) -> Any:
    if not isinstance(wanted, list):
        return wanted
    for tool in wanted:
        if isinstance(tool, str) and tool not in shared.tools:
            raise SynthError(f"{path}: tools: no included file has the tool {tool}")
    return [shared.tools[tool] if isinstance(tool, str) else tool for tool in wanted]


def _read(path: Path) -> Any:
    try:
        return strict_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SynthError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error


_Model = TypeVar("_Model", bound=_Strict)


def _validated(path: Path, model: type[_Model], content: Any) -> _Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        message = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise SynthError(f"{path}: {place}: {message}") from error


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
