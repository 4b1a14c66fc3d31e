"""The ``table`` generator: a chat model writes a whole table, one column per stream, ``-`` for silence.

The way of Su, Yang, Li and Geiping (2026, arXiv 2605.12460), with one change. A model writes JSON from left to right,
so within a row a column sees the columns before it. The columns are therefore asked for in reverse: outputs first and
inputs last, so that what an output says in a row cannot have been taken from what an input says in it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from synth.config import SynthConfig
from synth.engines import Completion, Message, Request
from synth.generators import Rejected, Table
from synth.scenarios import SILENCE, Scenario

MAX_WORD_CHARS = 30

#: Why a completion is rejected. The first one found is given; later ones are looked for later.
REASONS: Mapping[str, str] = {
    "truncated": "the completion ran into max_tokens",
    "aborted": "the engine stopped it for another reason",
    "not_json": "it is no JSON",
    "duplicate_key": "an object names a key twice",
    "wrong_shape": "it is not one object with the key rows, an array of objects",
    "wrong_columns": "a row lacks a stream or has one too many",
    "wrong_type": "a cell is no string",
    "too_few_rows": "fewer rows than the scenario allows",
    "too_many_rows": "more rows than asked for",
    "too_long": "a cell is longer than max_cell_chars",
    "control_chars": "a cell holds a line break, a control character, or a code point that is no character",
    "empty_cell": "a cell is empty; silence is spelled -",
    "not_speech": "a cell has no letter or digit, spells silence out, or starts with -",
    "markup": "a cell holds brackets, braces, angle brackets, a bar or a backslash",
    "glued_words": f"a word of more than {MAX_WORD_CHARS} characters, or a letter right after , ; ! or ?",
    "repeated_words": "a cell of six words or more has less than half as many different ones",
    "wrong_timing": "a stream speaks or is silent where the score has it otherwise",
    "all_silent": "no stream ever speaks",
    "empty_stream": "a required stream never speaks",
    "wrong_opening": "an output speaks before the row after the opening stream's first words",
    "repeated_rows": "two rows are the same",
    "repeated_text": "a stream says the same twice: three words or more, or four fifths of five or more",
    "copied_cell": "two streams say the same, as in repeated_text",
    "copied_prompt": "four words or more stand in the prompt, or two or more are a whole cell of the example",
    "no_overlap": "too few rows in which two streams speak",
    "duplicate": "the same table was accepted before in this run",
}

_SPELLED_SILENCE = frozenset(["silence", "silent", "none", "null", "nothing", "empty", "n/a", "pause", "no response"])
#: Character classes of the grammar, in terms of ASCII; every other character counts as a letter.
_FIRST = r"[^\u0000-/:-@\[-`{-\u007f]"
_INNER = r'[^\u0000-\u001f"\\{}\[\]<>|\u007f]'
_LETTER = r"[^\u0000-@\[-`{-\u007f]"
_LAST_WORD = 14

_MARKUP = frozenset("{}[]<>|\\")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_GLUED = re.compile(r"[,;!?][A-Za-z]")
_NO_CHARACTER = frozenset(["Cc", "Cs", "Co", "Cn", "Zl", "Zp"])
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SYSTEM = (
    "You write scripts of scenes in which several streams speak at the same time. A script is a JSON table. Each row "
    "is one short moment. In each row, every stream has one value: the few words that it says in that moment, or "
    f'"{SILENCE}" if it is silent. What a stream says may depend only on earlier rows, never on the same row or a '
    "later row. No stream repeats itself or copies another. A value has ten words at most."
)


class TableError(ValueError):
    """A completion that is not a table of its scenario. ``code``: see :data:`REASONS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


#: ``[row][stream]``: whether the stream speaks in the row.
Timing = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One sample before it is written: ``min_rows`` to ``max_rows`` rows, or the rows of ``timing``."""

    index: int
    scenario: Scenario
    topic: str
    min_rows: int
    max_rows: int
    max_cell_chars: int
    timing: Timing | None
    request: Request


def plan(config: SynthConfig, scenarios: Sequence[Scenario], index: int) -> Plan:
    """Sample number ``index``: its scenario (drawn by weight), topic, timing or row limit, and request.

    A function of (config, scenarios, index) alone, so that any slice of a run can be made anywhere.
    """
    seed = int.from_bytes(hashlib.sha256(f"{config.seed}:{index}".encode()).digest()[:6])
    draw = random.Random(seed)
    (scenario,) = draw.choices(scenarios, [scenario.weight for scenario in scenarios])
    topic = draw.choice(scenario.topics)
    min_rows = min(scenario.rows.min, config.max_rows)
    max_rows = draw.randint(min_rows, max(min_rows, min(scenario.rows.max, config.max_rows)))
    timings = [timing for timing in map(partial(_timing, scenario), scenario.scores) if len(timing) <= config.max_rows]
    timing = draw.choice(timings) if timings and config.timing == "scored" else None
    if timing is not None:
        min_rows = max_rows = len(timing)
    request = Request(
        messages=_messages(scenario, topic, min_rows, max_rows, timing),
        schema=grammar_schema(scenario, min_rows, max_rows, config.max_cell_chars, timing),
        seed=seed,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
    )
    return Plan(index, scenario, topic, min_rows, max_rows, config.max_cell_chars, timing, request)


def table_schema(scenario: Scenario, min_rows: int, max_rows: int, max_cell_chars: int) -> dict[str, Any]:
    """JSON Schema (2020-12) of ``{"rows": [{stream: cell, …}, …]}``: what every answer is validated against."""
    cell = {"type": "string", "minLength": 1, "maxLength": max_cell_chars}
    names = _writing_order(scenario)
    rows = {"type": "array", "items": _row(names, [cell] * len(names)), "minItems": min_rows, "maxItems": max_rows}
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def grammar_schema(
    scenario: Scenario, min_rows: int, max_rows: int, max_cell_chars: int, timing: Timing | None
) -> dict[str, Any]:
    """The narrower schema that the engine's grammar is made from; what follows it also follows :func:`table_schema`.

    Keys come in the order of writing. A cell starts with a letter or digit, has no brackets, and near
    ``max_cell_chars`` may only finish its word: a model that cannot stop is cut off between words, not inside one. The
    length is in the pattern because vLLM takes no ``maxLength`` beside one. With ``timing`` each cell is held silent or
    speaking.
    """
    end = f"{_LETTER}{{0,{_LAST_WORD}}}[.,?!]?"
    words = f"{_FIRST}{_INNER}{{0,{max_cell_chars - _LAST_WORD - 2}}}{end}"
    silent: dict[str, Any] = {"type": "string", "const": SILENCE}
    speaking: dict[str, Any] = {"type": "string", "pattern": f"^{words}$"}
    free: dict[str, Any] = {"type": "string", "pattern": f"^(-|{words})$"}
    names = _writing_order(scenario)
    rows: dict[str, Any] = {"type": "array", "minItems": min_rows, "maxItems": max_rows}
    rows["items"] = _row(names, [free] * len(names))
    if timing is not None:
        column = {stream.name: index for index, stream in enumerate(scenario.streams)}
        rows["prefixItems"] = [
            _row(names, [speaking if moment[column[name]] else silent for name in names]) for moment in timing
        ]
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def _row(names: Sequence[str], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    properties = dict(zip(names, cells, strict=True))
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}


def prompt_sha256(messages: Sequence[Message]) -> str:
    """SHA-256 of the messages as compact JSON ``[[role, content], …]``, whatever chat template an engine uses."""
    pairs = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def read(plan: Plan, completion: Completion) -> Table | Rejected:
    """The table that the completion holds, or why it holds none."""
    sha256 = prompt_sha256(plan.request.messages)
    try:
        rows = parse(plan, completion.text, completion.finish_reason)
    except TableError as error:
        name, seed = plan.scenario.name, plan.request.seed
        return Rejected(name, sha256, seed, plan.index, error.code, str(error), completion.text)
    streams = tuple(stream.stream for stream in plan.scenario.streams)
    return Table(plan.scenario.name, streams, rows, sha256, plan.request.seed, plan.index)


def parse(plan: Plan, text: str, finish_reason: str = "stop") -> tuple[tuple[str | None, ...], ...]:
    """Cells ``[row][stream]`` in the order of the scenario's streams, silence as None, outer spaces cut off.

    Nothing else is repaired. Raises:
        TableError: see :data:`REASONS`.
    """
    if finish_reason == "length":
        raise TableError("truncated", f"the completion ran into max_tokens {plan.request.max_tokens}")
    if finish_reason != "stop":
        raise TableError("aborted", f"the engine stopped with {finish_reason}")
    content = _load(text)
    schema = table_schema(plan.scenario, plan.min_rows, plan.max_rows, plan.max_cell_chars)
    failures = sorted(Draft202012Validator(schema).iter_errors(content), key=_rank)
    if failures:
        code, message = _explain(failures[0])
        raise TableError(code, message)
    names = [stream.name for stream in plan.scenario.streams]
    rows = tuple(
        tuple(_cell(row[name], f"row {number} {name}") for name in names)
        for number, row in enumerate(content["rows"], 1)
    )
    if plan.timing is not None:
        _check_timing(plan, rows)
    check(plan.scenario, rows, "\n".join(message.content for message in plan.request.messages))
    return rows


def check(scenario: Scenario, rows: Sequence[Sequence[str | None]], prompt: str = "") -> None:
    """What makes well-formed cells a scene of several streams. Without ``prompt`` copies of it are not looked for.

    Raises:
        TableError: all_silent, empty_stream, wrong_opening, repeated_rows, repeated_text, copied_cell, copied_prompt
            or no_overlap.
    """
    names = [stream.name for stream in scenario.streams]
    spoken = [[(number, cell) for number, cell in enumerate(column) if cell] for column in zip(*rows, strict=True)]
    if not any(spoken):
        raise TableError("all_silent", "no stream ever speaks")
    for stream, cells in zip(scenario.streams, spoken, strict=True):
        if stream.required and not cells:
            raise TableError("empty_stream", f"{stream.name} never speaks")
    if scenario.opens is not None:
        _check_opening(scenario, spoken)
    _check_repetition(names, rows, spoken)
    source = _fold(prompt)
    shown = {_fold(cell) for row in scenario.cells for cell in row if cell} if prompt else set()
    for name, cells in zip(names, spoken, strict=True):
        for number, cell in cells:
            words = len(_fold(cell).split())
            if (words >= 4 and _fold(cell) in source) or (words >= 2 and _fold(cell) in shown):
                raise TableError("copied_prompt", f"row {number + 1} {name} is copied from the prompt: {cell}")
    overlap = sum(1 for row in rows if sum(cell is not None for cell in row) > 1)
    if overlap < scenario.min_overlap:
        raise TableError(
            "no_overlap", f"{overlap} rows in which two streams speak, at least {scenario.min_overlap} needed"
        )


def _messages(
    scenario: Scenario, topic: str, min_rows: int, max_rows: int, timing: Timing | None
) -> tuple[Message, ...]:
    names = [stream.name for stream in scenario.streams]
    says = {stream.name: stream.says for stream in scenario.streams}
    order = _writing_order(scenario)
    columns = "\n".join(f"- {name}: {says[name]}" for name in order)

    def ask(subject: str, low: int, high: int, moments: Timing | None) -> str:
        head = f"Scene: {scenario.description}\nStreams:\n{columns}\nTopic: {subject}\n"
        rows = f"{low} to {high} rows" if low < high else f"{low} rows"
        if moments is None:
            overlap = f" In at least {scenario.min_overlap} of them two streams speak." if scenario.min_overlap else ""
            return f"{head}Write {rows}.{overlap}"
        spoken = [[name for name, speaks in zip(names, moment, strict=True) if speaks] for moment in moments]
        lines = "\n".join(f"Row {number}: {', '.join(row) or 'silence'}" for number, row in enumerate(spoken, 1))
        return f"{head}Write {rows}. Who speaks:\n{lines}"

    messages = [Message("system", _SYSTEM)]
    if scenario.example_topic is not None:
        shown = [dict(zip(names, row, strict=True)) for row in scenario.example]
        table = {"rows": [{name: row[name] for name in order} for row in shown]}
        heard = tuple(tuple(cell is not None for cell in row) for row in scenario.cells)
        request = ask(scenario.example_topic, len(shown), len(shown), heard if timing is not None else None)
        messages.append(Message("user", request))
        messages.append(Message("assistant", json.dumps(table, ensure_ascii=False, separators=(",", ":"))))
    messages.append(Message("user", ask(topic, min_rows, max_rows, timing)))
    return tuple(messages)


def _timing(scenario: Scenario, score: Mapping[str, str]) -> Timing:
    tracks = [score[stream.name] for stream in scenario.streams]
    return tuple(tuple(letter != SILENCE for letter in moment) for moment in zip(*tracks, strict=True))


def _writing_order(scenario: Scenario) -> list[str]:
    return [
        stream.name
        for direction in ("output", "input")
        for stream in reversed(scenario.streams)
        if stream.direction == direction
    ]


def _load(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise TableError("duplicate_key", f"the key {key[:80]!r} stands twice in one object")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise TableError("not_json", f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except TableError:
        raise
    except RecursionError as error:
        raise TableError("not_json", "nested too deeply") from error
    except ValueError as error:
        raise TableError("not_json", str(error)) from error


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


def _cell(text: str, place: str) -> str | None:
    for character in text:
        if character == _REPLACEMENT or unicodedata.category(character) in _NO_CHARACTER:
            raise TableError("control_chars", f"{place} holds U+{ord(character):04X}")
    text = text.strip()
    if not text:
        raise TableError("empty_cell", f"{place} is empty")
    if text == SILENCE:
        return None
    if not any(character.isalnum() for character in text):
        raise TableError("not_speech", f"{place} has no word: {text}")
    if text.strip("()[]*-. ").casefold() in _SPELLED_SILENCE:
        raise TableError("not_speech", f"{place} spells silence out: {text}")
    if text.startswith(SILENCE):
        raise TableError("not_speech", f"{place} starts with the sign of silence: {text}")
    if not _MARKUP.isdisjoint(text):
        raise TableError("markup", f"{place} holds brackets or a backslash: {text}")
    if _GLUED.search(text) or any(len(word) > MAX_WORD_CHARS and _spaced_script(word) for word in text.split()):
        raise TableError("glued_words", f"{place} has words without spaces between them: {text}")
    words = _fold(text).split()
    if len(words) >= 6 and len(set(words)) < len(words) / 2:
        raise TableError("repeated_words", f"{place} goes round in circles: {text}")
    return text


def _spaced_script(word: str) -> bool:
    """Whether no letter is of a script without case, many of which put no spaces between words."""
    return all(unicodedata.category(character) != "Lo" for character in word)


def _check_timing(plan: Plan, rows: Sequence[Sequence[str | None]]) -> None:
    for number, (row, moment) in enumerate(zip(rows, plan.timing or (), strict=True), 1):
        for stream, cell, speaks in zip(plan.scenario.streams, row, moment, strict=True):
            if (cell is not None) != speaks:
                asked = "speak" if speaks else "be silent"
                raise TableError("wrong_timing", f"{stream.name} was asked to {asked} in row {number}")


def _check_opening(scenario: Scenario, spoken: Sequence[Sequence[tuple[int, str]]]) -> None:
    opener = next(index for index, stream in enumerate(scenario.streams) if stream.name == scenario.opens)
    if not spoken[opener]:
        raise TableError("wrong_opening", f"{scenario.opens} opens the scene but never speaks")
    opening = spoken[opener][0][0]
    for stream, cells in zip(scenario.streams, spoken, strict=True):
        if stream.name != scenario.opens and stream.direction == "output" and cells and cells[0][0] <= opening:
            raise TableError(
                "wrong_opening",
                f"{stream.name} speaks in row {cells[0][0] + 1}, {scenario.opens} opens in row {opening + 1}",
            )


def _check_repetition(
    names: Sequence[str], rows: Sequence[Sequence[str | None]], spoken: Sequence[Sequence[tuple[int, str]]]
) -> None:
    seen: dict[tuple[str | None, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if any(row) and seen.setdefault(tuple(row), number) != number:
            raise TableError("repeated_rows", f"rows {seen[tuple(row)]} and {number} are the same")
    for name, cells in zip(names, spoken, strict=True):
        for (_, left), (number, right) in combinations(cells, 2):
            if _alike(left, right):
                raise TableError("repeated_text", f"{name} repeats itself in row {number + 1}: {right}")
    for (first, ours), (second, theirs) in combinations(zip(names, spoken, strict=True), 2):
        for (_, left), (_, right) in product(ours, theirs):
            if _alike(left, right):
                raise TableError("copied_cell", f"{first} and {second} say the same: {left}")


def _alike(left: str, right: str) -> bool:
    ours, theirs = _fold(left).split(), _fold(right).split()
    if min(len(ours), len(theirs)) < 3:
        return False
    both, either = set(ours) & set(theirs), set(ours) | set(theirs)
    return ours == theirs or (min(len(ours), len(theirs)) >= 5 and len(both) >= 0.8 * len(either))


def _fold(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))


def digest(table: Table) -> bytes:
    """A key of the table's scenario and cells, to find duplicates by (16 bytes)."""
    cells = json.dumps([table.scenario, table.rows], ensure_ascii=False)
    return hashlib.sha256(cells.encode()).digest()[:16]


def duplicate(table: Table) -> Rejected:
    """The reject that a table becomes when the run has accepted it before."""
    raw = json.dumps({"rows": table.rows}, ensure_ascii=False)
    message = "the same table was accepted before"
    return Rejected(table.scenario, table.prompt_sha256, table.seed, table.index, "duplicate", message, raw)


def plans(config: SynthConfig, scenarios: Sequence[Scenario]) -> Iterator[list[Plan]]:
    """All samples of the run in batches of ``config.batch_size``, in the order of their index."""
    for start in range(0, config.samples, config.batch_size):
        stop = min(start + config.batch_size, config.samples)
        yield [plan(config, scenarios, index) for index in range(start, stop)]
