"""The ``table`` generator: a chat model writes a whole table, one column per stream, ``-`` for silence.

The way of Su, Yang, Li and Geiping (2026, arXiv 2605.12460), with one change. A model writes JSON from left to right,
so within a row a column sees the columns before it. The columns are therefore asked for in reverse: outputs first and
inputs last, so that what an output says in a row cannot have been taken from what an input says in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pipeline.models import name_of
from synth.checks import TextError, check_finish, load_json
from synth.engines import Completion, Message, Request
from synth.generators import Dialogue, Rejected, Written
from synth.samples import CORPUS, FromScenarios, Sample, draw, extra_of, source_of
from synth.scenarios import SILENCE, Scenario
from synth.scene_checks import Timing, check_results, check_scene, check_timing, read_cell
from synth.scenes import Scene, broken_off, told

#: Character classes of the grammar, in terms of ASCII; every other character counts as a letter.
_FIRST = r"[^\u0000-/:-@\[-`{-\u007f]"
_INNER = r'[^\u0000-\u001f"\\{}\[\]<>|\u007f]'
_LETTER = r"[^\u0000-@\[-`{-\u007f]"
_LAST_WORD = 14

_SYSTEM = (
    "You write scripts of scenes in which several streams speak at the same time. A script is a JSON table. Each row "
    "is one short moment. In each row, every stream has one value: the few words that it says in that moment, or "
    f'"{SILENCE}" if it is silent. What a stream says may depend only on earlier rows, never on the same row or a '
    "later row. No stream repeats itself or copies another. A value has ten words at most."
)


class Tables(FromScenarios):
    """The dialogues of a run, each one table."""

    def sample(self, index: int) -> Sample:
        """What table number ``index`` is to be."""
        options = self.config.table
        return draw(self.config, self.scenarios, self.topics, index, options.max_rows, options.timing == "scored")

    def request(self, sample: Sample) -> Request:
        """What the writer is asked."""
        chars = self.config.table.max_cell_chars
        return Request(
            messages=_messages(sample),
            schema=grammar_schema(sample, chars),
            seed=sample.seed,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            max_tokens=self.config.max_tokens,
        )

    def dialogue(self, index: int) -> Dialogue:
        """One request, and what is made of its answer."""
        sample = self.sample(index)
        request = self.request(sample)
        (completion,) = yield [request]
        try:
            scene = read(sample, completion, request, self.config.table.max_cell_chars)
        except TextError as error:
            return Rejected(index, sample.scenario.name, error.code, str(error), completion.text)
        return _written(sample, scene, request, self.config.model)


def _written(sample: Sample, scene: Scene, request: Request, model: str) -> Written:
    extra = extra_of(sample, name_of(model), request.messages)
    group = sample.topic.group or f"{CORPUS}/{extra['prompt_sha256']}"
    scene = broken_off(scene)
    conversation, timeline = told(scene, [source_of(sample, "table", scene.rows())], group, extra)
    return Written(sample.index, sample.scenario.name, conversation, timeline, "synth/table", scene=scene)


def table_schema(sample: Sample, max_cell_chars: int) -> dict[str, Any]:
    """JSON Schema (2020-12) of ``{"rows": [{stream: cell, …}, …]}``: what every answer is validated against."""
    cell = {"type": "string", "minLength": 1, "maxLength": max_cell_chars}
    names = _writing_order(sample.scenario)
    rows: dict[str, Any] = {"type": "array", "items": _row(names, [cell] * len(names))}
    rows |= {"minItems": sample.min_rows, "maxItems": sample.max_rows}
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def grammar_schema(sample: Sample, max_cell_chars: int) -> dict[str, Any]:
    """The narrower schema that the engine's grammar is made from; what follows it also follows :func:`table_schema`.

    Keys come in the order of writing. A cell starts with a letter or digit (a call with the tool's name) and has no brackets.
    Near ``max_cell_chars`` it may only finish its word: a model that cannot stop is cut off between words, not inside one.
    The length is in the pattern because vLLM takes no ``maxLength`` beside one. With a timing each cell is held silent or
    speaking.
    """
    scenario = sample.scenario
    patterns = {stream.name: cell_pattern(scenario, stream.role, max_cell_chars) for stream in scenario.streams}
    silent: dict[str, Any] = {"type": "string", "const": SILENCE}
    speaking = {name: {"type": "string", "pattern": f"^{pattern}$"} for name, pattern in patterns.items()}
    free = {name: {"type": "string", "pattern": f"^(-|{pattern})$"} for name, pattern in patterns.items()}
    names = _writing_order(scenario)
    rows: dict[str, Any] = {"type": "array", "minItems": sample.min_rows, "maxItems": sample.max_rows}
    rows["items"] = _row(names, [free[name] for name in names])
    if sample.timing is not None:
        column = {stream.name: index for index, stream in enumerate(scenario.streams)}
        rows["prefixItems"] = [
            _row(names, [speaking[name] if moment[column[name]] else silent for name in names])
            for moment in sample.timing
        ]
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def cell_pattern(scenario: Scenario, role: str, max_chars: int) -> str:
    """A regular expression for what a stream of that role says at a time."""
    if role == "call":
        names = "|".join(tool.name for tool in scenario.tools) or "[a-z][a-z0-9_]{1,31}"
        return rf"({names}) {_FIRST}{_INNER}{{0,{max_chars // 2}}}"
    return f"{_FIRST}{_INNER}{{0,{max_chars - _LAST_WORD - 2}}}{_LETTER}{{0,{_LAST_WORD}}}[.,?!]?"


def _row(names: Sequence[str], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    properties = dict(zip(names, cells, strict=True))
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}


def read(sample: Sample, completion: Completion, request: Request, max_cell_chars: int) -> Scene:
    """The scene that a completion tells. Outer spaces of a cell are cut off; nothing else is repaired. Raises TextError."""
    check_finish(completion, request.max_tokens)
    content = load_json(completion.text)
    failures = sorted(Draft202012Validator(table_schema(sample, max_cell_chars)).iter_errors(content), key=_rank)
    if failures:
        raise TextError(*_explain(failures[0]))
    scenario = sample.scenario
    rows = [
        [
            read_cell(scenario, column, row[stream.name], f"row {number} {stream.name}")
            for column, stream in enumerate(scenario.streams)
        ]
        for number, row in enumerate(content["rows"], 1)
    ]
    if sample.timing is not None:
        check_timing(scenario, rows, sample.timing)
    scene = check_scene(scenario, rows, "\n".join(message.content for message in request.messages))
    check_results(scene)
    return scene


def _messages(sample: Sample) -> tuple[Message, ...]:
    scenario = sample.scenario
    order = _writing_order(scenario)
    messages = [Message("system", _SYSTEM)]
    if scenario.example_topic is not None:
        shown = [dict(zip([stream.name for stream in scenario.streams], row, strict=True)) for row in scenario.example]
        heard = tuple(tuple(cell is not None for cell in row) for row in scenario.cells)
        timing = heard if sample.timing is not None else None
        messages.append(Message("user", _ask(scenario, scenario.example_topic, {}, len(shown), len(shown), timing)))
        table = {"rows": [{name: row[name] for name in order} for row in shown]}
        messages.append(Message("assistant", json.dumps(table, ensure_ascii=False, separators=(",", ":"))))
    asked = _ask(scenario, sample.topic.text, sample.personas, sample.min_rows, sample.max_rows, sample.timing)
    return (*messages, Message("user", asked))


def _ask(
    scenario: Scenario, topic: str, personas: Mapping[str, str], low: int, high: int, timing: Timing | None
) -> str:
    says = {stream.name: stream.says for stream in scenario.streams}
    columns = "\n".join(
        f"- {name}: {says[name]}" + (f" ({personas[name]})" if name in personas else "")
        for name in _writing_order(scenario)
    )
    tools = "".join(f"\nTool {tool.name}: {tool.description}" for tool in scenario.tools)
    head = f"Scene: {scenario.description}\nStreams:\n{columns}{tools}\nTopic: {topic}\n"
    rows = f"{low} to {high} rows" if low < high else f"{low} rows"
    if timing is None:
        overlap = f" In at least {scenario.min_overlap} of them two streams speak." if scenario.min_overlap else ""
        return f"{head}Write {rows}.{overlap}"
    names = [stream.name for stream in scenario.streams]
    spoken = [[name for name, speaks in zip(names, moment, strict=True) if speaks] for moment in timing]
    lines = "\n".join(f"Row {number}: {', '.join(row) or 'silence'}" for number, row in enumerate(spoken, 1))
    return f"{head}Write {rows}. Who speaks:\n{lines}"


def _writing_order(scenario: Scenario) -> list[str]:
    return [
        stream.name
        for direction in ("output", "input")
        for stream in reversed(scenario.streams)
        if stream.direction == direction
    ]


_SCHEMA_ORDER = (
    "wrong_shape",
    "wrong_columns",
    "wrong_type",
    "too_few_rows",
    "too_many_rows",
    "empty_cell",
    "too_long",
)


def _explain(error: ValidationError) -> tuple[str, str]:
    instance: Any = error.instance
    path = [str(part + 1) if isinstance(part, int) else part for part in error.absolute_path]
    place = " ".join(["row", *path[1:]]) if len(path) > 1 else "the table"
    match error.validator, len(path):
        case "minItems", _:
            return "too_few_rows", f"{len(instance)} rows, at least {error.validator_value} needed"
        case "maxItems", _:
            return "too_many_rows", f"{len(instance)} rows, at most {error.validator_value} allowed"
        case "maxLength", _:
            return "too_long", f"{place} has {len(instance)} characters of at most {error.validator_value}"
        case "minLength", _:
            return "empty_cell", f"{place} is empty"
        case "type", 3:
            return "wrong_type", f"{place} is no string"
        case "required" | "additionalProperties", 2:
            return "wrong_columns", f"{place} has the wrong streams"
        case _:
            return "wrong_shape", f"{place} is not as asked: {error.validator}"


def _rank(error: ValidationError) -> tuple[int, list[str]]:
    return _SCHEMA_ORDER.index(_explain(error)[0]), [str(part).zfill(6) for part in error.absolute_path]
