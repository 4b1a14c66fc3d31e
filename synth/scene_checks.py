"""What makes cells a scene: each said by somebody, on time, in the right order, nobody repeating or copying another."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Mapping, Sequence

from synth.checks import TextError, check_repetition, check_speech, check_text, fold, spoken_cells
from synth.scenarios import SILENCE, Scenario
from synth.scenes import Scene, Utterance
from synth.simulators import parse_call

#: What is not known before a tool has found it: numbers, and words with a capital.
_FACT = re.compile(r"\d[\d.,:]*\d|(?<=\w )[A-Z]\w{2,}")

#: ``[row][stream]``: whether the stream speaks in the row.
Timing = tuple[tuple[bool, ...], ...]


def timing_of(scenario: Scenario, score: Mapping[str, str]) -> Timing:
    """A score of the scenario, row by row."""
    tracks = [score[stream.name] for stream in scenario.streams]
    return tuple(tuple(letter != SILENCE for letter in moment) for moment in zip(*tracks, strict=True))


def read_cell(scenario: Scenario, stream: int, text: str, place: str) -> str | None:
    """What a cell says, outer spaces cut off; None for silence. Raises TextError."""
    text = text.strip(" ")
    if not text:
        raise TextError("empty_cell", f"{place} is empty")
    if text == SILENCE:
        return None
    role = scenario.streams[stream].role
    if role == "call":
        check_text(text, None, place=place)
        read_call(scenario, text, place)
    else:
        check_text(text, scenario.scripts, place=place)
        if role != "tool":
            check_speech(text, place)
    return text


def read_call(scenario: Scenario, text: str, place: str) -> tuple[str, str]:
    """The tool's name and the arguments (JSON text) of a call, written ``name {"key": "value"}`` or plainly ``name words``.

    Raises TextError: wrong_call.
    """
    try:
        name, arguments = parse_call(text if "{" in text else _with_object(text))
    except ValueError as error:
        raise TextError("wrong_call", f"{place}: {error}: {text}") from error
    known = [tool.name for tool in scenario.tools]
    if known and name not in known:
        raise TextError("wrong_call", f"{place} calls {name}, and the scenario has {', '.join(known)}")
    return name, arguments


def _with_object(text: str) -> str:
    name, _, words = text.partition(" ")
    key = "expression" if name in ("calculator", "calc") else "query"
    return f"{name} {json.dumps({key: words.strip()}, ensure_ascii=False)}" if words.strip() else f"{name} {{}}"


def check_timing(scenario: Scenario, rows: Sequence[Sequence[str | None]], timing: Timing) -> None:
    """Whether everybody speaks where the score has it. Raises TextError: wrong_timing."""
    for number, (row, moment) in enumerate(zip(rows, timing, strict=True), 1):
        for stream, cell, speaks in zip(scenario.streams, row, moment, strict=True):
            if (cell is not None) != speaks:
                asked = "speak" if speaks else "be silent"
                raise TextError("wrong_timing", f"{stream.name} was asked to {asked} in row {number}")


def check_scene(scenario: Scenario, rows: Sequence[Sequence[str | None]], prompt: str = "") -> Scene:
    """The scene of well-formed cells. Without ``prompt`` copies of it are not looked for.

    Raises:
        TextError: all_silent, empty_stream, wrong_opening, repeated_rows, repeated_text, copied_cell, copied_prompt,
            no_overlap or wrong_call.
    """
    names = [stream.name for stream in scenario.streams]
    spoken = spoken_cells(rows) if rows else [[] for _ in names]
    if not any(spoken):
        raise TextError("all_silent", "no stream ever speaks")
    for stream, cells in zip(scenario.streams, spoken, strict=True):
        if stream.required and not cells:
            raise TextError("empty_stream", f"{stream.name} never speaks")
    if scenario.opens is not None:
        _check_opening(scenario, spoken)
    check_repetition(names, rows)
    _check_copies(scenario, spoken, prompt)
    overlap = sum(1 for row in rows if sum(cell is not None for cell in row) > 1)
    if overlap < scenario.min_overlap:
        raise TextError(
            "no_overlap", f"{overlap} rows in which two streams speak, at least {scenario.min_overlap} needed"
        )
    return scene_of(scenario, rows)


def scene_of(scenario: Scenario, rows: Sequence[Sequence[str | None]]) -> Scene:
    """Cells as utterances. Every call takes the lowest tool slot that is free; a result on a slot is that call's.

    Raises:
        TextError: wrong_call, a result that nobody has asked for.
    """
    streams = tuple(spec.stream for spec in scenario.streams)
    slots = sorted(spec.slot for spec in scenario.streams if spec.role == "tool")
    has_calls = any(spec.role == "call" for spec in scenario.streams)
    free = list(slots)
    open_: dict[int, tuple[int, str]] = {}
    calls = 0
    said: list[Utterance] = []
    for row, cells in enumerate(rows):
        asked: list[tuple[int, str]] = []
        for column, (stream, cell) in enumerate(zip(streams, cells, strict=True)):
            if cell is None:
                continue
            if stream.role == "call":
                name, arguments = read_call(scenario, cell, f"row {row + 1} {stream.name}")
                said.append(Utterance(row, column, f"{name}\n{arguments}", "tool_call", calls, name))
                asked.append((calls, name))
                calls += 1
            elif stream.role == "tool" and has_calls:
                if stream.slot not in open_:
                    raise TextError("wrong_call", f"row {row + 1} {stream.name} is a result that nobody has asked for")
                call, name = open_.pop(stream.slot)
                heapq.heappush(free, stream.slot)
                said.append(Utterance(row, column, cell, "tool_result", call, name))
            else:
                said.append(Utterance(row, column, cell))
        for call, name in asked:
            if free:
                open_[heapq.heappop(free)] = (call, name)
    return Scene(streams, tuple(said))


def check_results(scene: Scene) -> None:
    """Whether nobody says what a tool finds before it has: a writer of a whole table knows its own results.

    A number of two digits or more, or a word with a capital inside a sentence, that stands in a result and in what an output
    says no later, and nowhere before. Raises TextError: leak.
    """
    results = [u for u in scene.utterances if u.kind == "tool_result"]
    for said in scene.utterances:
        if scene.streams[said.stream].direction != "output" or said.kind != "message":
            continue
        before = " ".join(u.text for u in scene.utterances if u.slice < said.slice)
        for result in results:
            if result.slice < said.slice:
                continue
            early = (set(_FACT.findall(said.text)) & set(_FACT.findall(result.text))) - set(_FACT.findall(before))
            if early:
                name = scene.streams[said.stream].name
                fact = min(early)
                rows = f"row {said.slice + 1}, before the result of row {result.slice + 1}"
                raise TextError("leak", f"{name} says {fact} in {rows}")


def _check_opening(scenario: Scenario, spoken: Sequence[Sequence[tuple[int, str]]]) -> None:
    opener = next(index for index, stream in enumerate(scenario.streams) if stream.name == scenario.opens)
    if not spoken[opener]:
        raise TextError("wrong_opening", f"{scenario.opens} opens the scene but never speaks")
    opening = spoken[opener][0][0]
    for stream, cells in zip(scenario.streams, spoken, strict=True):
        if stream.name != scenario.opens and stream.direction == "output" and cells and cells[0][0] <= opening:
            raise TextError(
                "wrong_opening",
                f"{stream.name} speaks in row {cells[0][0] + 1}, {scenario.opens} opens in row {opening + 1}",
            )


def _check_copies(scenario: Scenario, spoken: Sequence[Sequence[tuple[int, str]]], prompt: str) -> None:
    source = fold(prompt)
    shown = {fold(cell) for row in scenario.cells for cell in row if cell} if prompt else set()
    for stream, cells in zip(scenario.streams, spoken, strict=True):
        if stream.role in ("call", "tool"):
            continue
        for number, cell in cells:
            words = len(fold(cell).split())
            if (words >= 4 and fold(cell) in source) or (words >= 2 and fold(cell) in shown):
                raise TextError("copied_prompt", f"row {number + 1} {stream.name} is copied from the prompt: {cell}")
