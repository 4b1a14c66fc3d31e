"""The ``concurrent`` generator: time advances in slices, and every stream is written by itself.

In each slice one request per stream that may speak sees what all streams have said in the slices before, and writes what
its own stream says now, or stays silent. Nothing of the slice itself is in any request of it, so causality holds by
construction. A request's messages begin with those of the stream's former request: what was computed for them can be kept.

Tool streams are not written but answered: a call is simulated (``synth/simulators.py``), or its result is written by the
model where the scenario says so, and it arrives after a latency drawn per call, or where the score has it.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator

from pipeline.models import name_of
from synth.checks import TextError, check_finish, load_json
from synth.config import SynthConfig
from synth.engines import Completion, Message, Request
from synth.generators import Dialogue, Rejected, Written
from synth.generators.table import cell_pattern
from synth.samples import CORPUS, FromScenarios, Sample, draw, extra_of, source_of
from synth.scenarios import SILENCE, ToolSpec
from synth.scene_checks import check_scene, check_timing, read_call, read_cell
from synth.scenes import broken_off, told
from synth.simulators import simulate

PROMPT_VERSION = "2"


class Concurrent(FromScenarios):
    """The dialogues of a run, each written slice by slice."""

    def sample(self, index: int) -> Sample:
        """What dialogue number ``index`` is to be."""
        options = self.config.concurrent
        return draw(self.config, self.scenarios, self.topics, index, options.max_slices, options.timing == "scored")

    def dialogue(self, index: int) -> Dialogue:
        """Slice by slice, to the end of the score, or until nobody speaks any more."""
        stage = _Stage(self.config, self.sample(index))
        while not stage.is_over():
            asked = stage.requests()
            completions = (yield [request for _, request in asked]) if asked else ()
            try:
                stage.play([stream for stream, _ in asked], completions)
            except TextError as error:
                return stage.rejected(error, completions)
        try:
            return stage.written()
        except TextError as error:
            return stage.rejected(error, ())


@dataclass(order=True, slots=True)
class _Result:
    """A result on its way: the slice it is due in, its call, its slot, the tool, and its text (None: the model writes it)."""

    due: int
    call: int
    slot: int = field(compare=False)
    tool: str = field(compare=False)
    arguments: str = field(compare=False)
    text: str | None = field(compare=False)


class _Stage:
    """One dialogue while it is played."""

    def __init__(self, config: SynthConfig, sample: Sample) -> None:
        self._config, self._sample, self._scenario = config, sample, sample.scenario
        self._options = config.concurrent
        self._rows: list[list[str | None]] = []
        streams = self._scenario.streams
        has_calls = any(stream.role == "call" for stream in streams)
        #: Columns of the tool slots that are answered, not written.
        self._slots = {s.slot: i for i, s in enumerate(streams) if s.role == "tool" and has_calls}
        self._free = sorted(self._slots)
        self._coming: list[_Result] = []
        self._calls = 0
        self._history = {
            i: [Message("system", _cast(sample, i))] for i in range(len(streams)) if i not in self._slots.values()
        }
        #: Per stream, the first slice that its next message tells of, and its number of requests.
        self._unread = dict.fromkeys(self._history, 0)
        self._results = random.Random(sample.request_seed(-1))

    def is_over(self) -> bool:
        """Whether the last slice has been played."""
        played, sample = len(self._rows), self._sample
        if sample.timing is not None or played >= sample.max_rows:
            return played >= sample.max_rows
        quiet = self._options.silent_slices
        return (
            played >= max(sample.min_rows, quiet)
            and not self._coming
            and not any(cell for row in self._rows[-quiet:] for cell in row)
        )

    def requests(self) -> list[tuple[int, Request]]:
        """What is asked in the slice that comes: the stream, and its request. A stream that the score keeps silent is not
        asked."""
        now = len(self._rows)
        asked = []
        for stream, history in self._history.items():
            if self._sample.timing is not None and not self._sample.timing[now][stream]:
                continue
            if not self._may_open(stream):
                continue
            history.append(Message("user", self._news(stream, now)))
            self._unread[stream] = now
            asked.append((stream, self._request(stream, tuple(history), now)))
        for result in self._due(now):
            if result.text is None:
                column = self._slots[result.slot]
                asked.append((column, self._request(column, self._tool_messages(result), now)))
        return asked

    def play(self, streams: Sequence[int], completions: Sequence[Completion]) -> None:
        """Takes what was written for the slice. Raises TextError."""
        now = len(self._rows)
        row: list[str | None] = [None] * len(self._scenario.streams)
        for stream, completion in zip(streams, completions, strict=True):
            name = self._scenario.streams[stream].name
            check_finish(completion, self._config.max_tokens)
            said = _said(completion.text, self._limit(stream), name)
            if stream in self._history:
                self._history[stream].append(Message("assistant", completion.text))
            row[stream] = read_cell(self._scenario, stream, said, f"slice {now + 1} {name}")
            if stream not in self._history and row[stream] is None:
                raise TextError("wrong_call", f"slice {now + 1} {name}: the tool says nothing to the call")
        for result in [r for r in self._coming if r.due <= now]:
            row[self._slots[result.slot]] = row[self._slots[result.slot]] or result.text
            self._coming.remove(result)
            heapq.heappush(self._free, result.slot)
        for column, spec in enumerate(self._scenario.streams):
            if spec.role == "call" and self._slots and (said_call := row[column]):
                self._call(said_call, now)
        self._rows.append(row)

    def written(self) -> Written:
        """The dialogue, if it is one. Raises TextError."""
        sample = self._sample
        if sample.timing is not None:
            check_timing(self._scenario, self._rows, sample.timing)
        while self._rows and not any(self._rows[-1]):
            self._rows.pop()
        prompt = next(iter(self._history.values()))[0].content
        scene = check_scene(self._scenario, self._rows, prompt)
        extra = extra_of(sample, name_of(self._config.model), [history[0] for history in self._history.values()])
        group = sample.topic.group or f"{CORPUS}/{extra['prompt_sha256']}"
        scene = broken_off(scene)
        conversation, timeline = told(scene, [source_of(sample, "concurrent", scene.rows())], group, extra)
        timing = "free" if sample.timing is None else "scored"
        params = json.dumps({"prompt": PROMPT_VERSION, "timing": timing}, sort_keys=True)
        return Written(
            sample.index, self._scenario.name, conversation, timeline, "synth/concurrent", params, scene=scene
        )

    def rejected(self, error: TextError, completions: Sequence[Completion]) -> Rejected:
        """The dialogue so far, and what could not be taken."""
        names = [stream.name for stream in self._scenario.streams]
        rows = [{name: cell for name, cell in zip(names, row, strict=True) if cell} for row in self._rows]
        raw = json.dumps({"slices": rows, "answers": [c.text for c in completions]}, ensure_ascii=False)
        return Rejected(self._sample.index, self._scenario.name, error.code, str(error), raw)

    def _may_open(self, stream: int) -> bool:
        """Whether the stream may speak: outputs only after the opening stream has."""
        opens = self._scenario.opens
        own = self._scenario.streams[stream]
        if opens is None or own.name == opens or own.direction == "input":
            return True
        opener = next(i for i, s in enumerate(self._scenario.streams) if s.name == opens)
        return any(row[opener] for row in self._rows)

    def _news(self, stream: int, now: int) -> str:
        """What the other streams have said since the stream was asked last, and what is wanted of it."""
        lines = []
        for at in range(self._unread[stream], now):
            for other, cell in enumerate(self._rows[at]):
                if cell is not None and other != stream:
                    lines.append(f"{self._scenario.streams[other].name}: {json.dumps(cell, ensure_ascii=False)}")
        sample = self._sample
        last = sample.timing is not None and not any(moment[stream] for moment in sample.timing[now + 1 :])
        if sample.timing is not None:
            lines.append("Your last words, to end with." if last else "Your words now.")
        else:
            lines.append('Your words now, or "-".')
        return "\n".join(lines)

    def _request(self, stream: int, messages: tuple[Message, ...], now: int) -> Request:
        role = self._scenario.streams[stream].role
        pattern = cell_pattern(self._scenario, role, self._limit(stream))
        free = self._sample.timing is None and stream in self._history
        say = {"type": "string", "pattern": f"^({SILENCE}|{pattern})$" if free else f"^{pattern}$"}
        return Request(
            messages=messages,
            schema={"type": "object", "properties": {"say": say}, "required": ["say"], "additionalProperties": False},
            seed=self._sample.request_seed(now, stream),
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            max_tokens=self._config.max_tokens,
        )

    def _limit(self, stream: int) -> int:
        return self._options.max_slice_chars * (2 if self._scenario.streams[stream].role == "tool" else 1)

    def _call(self, text: str, now: int) -> None:
        """Sends a call to its tool. Its result is due where the score has one on its slot, else after a drawn latency."""
        name, arguments = read_call(self._scenario, text, f"slice {now + 1} call")
        call = self._calls
        self._calls += 1
        if not self._free:
            return
        slot = heapq.heappop(self._free)
        spec = self._tool(name)
        due = now + (self._results.randint(spec.latency.min, spec.latency.max) if spec else 1)
        if self._sample.timing is not None:
            column = self._slots[slot]
            due = next((at for at in range(now + 1, len(self._sample.timing)) if self._sample.timing[at][column]), due)
        text_ = None
        if spec is not None and spec.simulator != "model":
            text_ = simulate(spec, arguments, due, self._sample.seed)
        heapq.heappush(self._coming, _Result(due, call, slot, name, arguments, text_))

    def _due(self, now: int) -> list[_Result]:
        return sorted(result for result in self._coming if result.due <= now)

    def _tool(self, name: str) -> ToolSpec | None:
        return next((tool for tool in self._scenario.tools if tool.name == name), None)

    def _tool_messages(self, result: _Result) -> tuple[Message, ...]:
        spec = self._tool(result.tool)
        says = spec.says if spec is not None and spec.says else "a short factual result"
        about = f"Tool {result.tool}: {spec.description}" if spec is not None else f"Tool {result.tool}"
        return (
            Message(
                "system",
                "You are a tool. You answer a call with its result, in the words of a data source, in one line, and "
                'nothing else. You write JSON: {"say": "…"}.',
            ),
            Message("user", f"{about}\nTopic: {self._sample.topic.text}\nCall: {result.arguments}\nResult: {says}"),
        )


def _said(text: str, most: int, name: str) -> str:
    """The text of ``{"say": text}``. Raises TextError."""
    content: Any = load_json(text)
    shape = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}
    if not Draft202012Validator(shape | {"additionalProperties": False}).is_valid(content):
        raise TextError("wrong_shape", f"{name} wrote no object with the one key say")
    said: str = content["say"]
    if len(said) > most:
        raise TextError("too_long", f"{name} wrote {len(said)} characters of at most {most}")
    return said


def _cast(sample: Sample, stream: int) -> str:
    """The system message of a stream: the scene, who else is there, and how to write."""
    scenario = sample.scenario
    own = scenario.streams[stream]
    others = "\n".join(f"- {s.name}: {s.says}" for i, s in enumerate(scenario.streams) if i != stream)
    tools = "".join(f"Tool {tool.name}: {tool.description}\n" for tool in scenario.tools)
    # Who answers must learn the topic from what is said: nothing else of it is in the record.
    is_told = (
        own.direction == "input" or own.name == scenario.opens or all(s.direction == "output" for s in scenario.streams)
    )
    topic = f"Topic: {sample.topic.text}\n" if is_told else ""
    persona = f"\nYou are {sample.personas[own.name]}." if own.name in sample.personas else ""
    form = (
        'You write a call as the tool\'s name, a space, and what to ask: {"say": "name words"}.'
        if own.role == "call"
        else f'You write only your own words, ten at most, as JSON: {{"say": "words"}}. To be silent: {{"say": "{SILENCE}"}}.'
    )
    return (
        f"A scene in {scenario.language} in which several streams speak at the same time: {scenario.description}\n"
        f"{topic}{tools}"
        f"You are the stream {own.name}: {own.says}.{persona}\n"
        f"The other streams:\n{others}\n"
        "Time goes in short moments. In each you hear what the others have said before, and say your next few words, or "
        f"go on where you stopped. Never repeat yourself or others. {form}"
    )
