"""What makes cells a scene: each said by somebody, on time, in the right order, nobody repeating or copying another."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.words import CJK, IntArray, key_of, key_text, scan
from synth.checks import TextError, check_repetition, check_speech, check_text, fold, spoken_cells
from synth.scenarios import SILENCE, Scenario
from synth.scenes import Scene, Utterance
from synth.simulators import parse_call

#: Words and numbers with what joins them, and pairs of characters of scripts without spaces: as ``pipeline.words`` has them.
_WORD = re.compile(rf"[^\W{CJK}]+(?:['’@./:,\-][^\W{CJK}]+)*")
_PAIR = re.compile(rf"(?=([{CJK}]{{2}}))[{CJK}]|[^{CJK}]+|[{CJK}]")
#: How many words in a row, or pairs, tell that a result is repeated; and how many of them must be new.
_WORDS, _PAIRS, _NEW = (2, 3), (3,), 2

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

    Said too early is a number, a name or an identifier that stands in a result that comes no earlier, and two or three words
    in a row that say something (four characters in scripts without spaces), of which two at least are new. What has been said
    in an earlier row, by whomever, was known; what an output computes is its own. Raises TextError: leak.
    """
    results = [i for i, u in enumerate(scene.utterances) if u.kind == "tool_result"]
    last = max((scene.utterances[i].slice for i in results), default=-1)
    asked = [
        i
        for i, u in enumerate(scene.utterances)
        if u.slice <= last and u.kind == "message" and scene.streams[u.stream].direction == "output"
    ]
    if not asked:
        return
    told = _Told(scene)
    for at in asked:
        said = scene.utterances[at]
        read = [i for i, u in enumerate(scene.utterances) if u.slice < said.slice]
        for result in results:
            if scene.utterances[result].slice >= said.slice and (fact := told.early(at, result, read)):
                name = scene.streams[said.stream].name
                rows = f"row {said.slice + 1}, before the result of row {scene.utterances[result].slice + 1}"
                raise TextError("leak", f"{name} says {fact} in {rows}")


class _Told:
    """What the utterances of a scene say, word by word as ``pipeline.leaks`` reads them."""

    def __init__(self, scene: Scene) -> None:
        texts = [u.text for u in scene.utterances]
        words = scan(texts)
        said = words.mentions()
        self._known = _by_text(len(texts), words.known_text, words.known_key)
        self._facts = _by_text(len(texts), *words.facts(np.ones(len(texts), bool)))
        #: Per utterance: as it is said, its key, the keys of its pieces, and whether it is a fact here.
        self._mentions: list[list[tuple[str, str, set[str], bool]]] = [[] for _ in texts]
        for i, text in enumerate(said.text.tolist()):
            pieces = {key_text(piece) for piece in said.pieces[said.pieces_at[i] : said.pieces_at[i + 1]].tolist()}
            self._mentions[text].append((said.shown(i), key_text(int(said.key[i])), pieces, bool(said.required[i])))
        self._runs = _runs(scene, [{key for _, key, _, _ in mentions} for mentions in self._mentions])

    def early(self, said: int, result: int, read: Sequence[int]) -> str:
        """What an utterance says of a result, and nothing of ``read`` does; "" for nothing."""
        known = set[str]().union(*(self._known[i] for i in read))
        for shown, key, pieces, is_fact in self._mentions[said]:
            if key in known or (pieces and any(pieces <= self._known[i] for i in read)):
                continue
            if (is_fact or key in self._facts[result]) and ({key, *pieces} - known) & self._known[result]:
                return shown
        for run in sorted(self._runs[said] & self._runs[result]):
            if len(set(run) - known) >= _NEW:
                return " ".join(run)
        return ""


def _by_text(count: int, text: IntArray, key: IntArray) -> list[set[str]]:
    """The keys of each of ``count`` texts, from pairs of a text and a key."""
    found: list[set[str]] = [set() for _ in range(count)]
    for at, number in zip(text.tolist(), key.tolist(), strict=True):
        found[at].add(key_text(number))
    return found


def _runs(scene: Scene, content: Sequence[set[str]]) -> list[set[tuple[str, ...]]]:
    """Per utterance, the runs of words that say something (``content``), and of pairs of characters, that end in it.

    Words may be those that the stream said in the slice before.
    """
    found: list[set[tuple[str, ...]]] = []
    before: dict[int, tuple[int, list[str]]] = {}
    for u, says in zip(scene.utterances, content, strict=True):
        last, tail = before.get(u.stream, (-1, []))
        tail = tail if u.kind == "message" and last == u.slice - 1 else []
        words = [*tail, *(key for word in _WORD.findall(u.text) if (key := key_of(word)) in says)]
        found.append({run for size in _WORDS for run in _windows(words, size, len(tail))})
        pairs = [pair if pair in says else "" for pair in _PAIR.findall(u.text)]
        found[-1].update(run for size in _PAIRS for run in _windows(pairs, size, 0) if "" not in run)
        before[u.stream] = (u.slice, words[1 - max(_WORDS) :])
    return found


def _windows(row: Sequence[str], size: int, ends_behind: int) -> Iterator[tuple[str, ...]]:
    return (tuple(row[end - size : end]) for end in range(max(ends_behind + 1, size), len(row) + 1))


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
