"""The ``teacher`` generator: answers of converted conversations, re-written so that they can be said while their input is read.

The reading before an answer comes in slices. After each the writer sees what has been read so far, its own words so far
and, to stay on course, the points of the original answer that are supported by now (see ``synth/reading.py``), never another
one; it says something or stays silent. With the last slice it sees the whole original answer, and completes. A
piece waits for what its writer had seen, so causality holds by construction; that a point has not slipped in too early is
looked at again in the record.

All answers of a conversation are re-written in order, a later one after the re-written earlier ones. Messages with calls
stay as they are. A request's messages begin with those of the former request and its answer: what was computed for them
can be kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pyarrow as pa
import regex

from pipeline.alignment import align_all, parse_align_spec
from pipeline.conversation import Conversation, RecordError, conversation_id, group_of
from pipeline.evaluation.latency import Event, Latency, measure_latency, turns_layout
from pipeline.leaks import lexical
from pipeline.models import name_of
from pipeline.records import Clock, Document, build_tables, encode_spans
from pipeline.timeline import Timeline, spans_of
from pipeline.tokenization import TextTokenizer
from synth.answers import calls_of, final_of
from synth.checks import TextError, alike, check_finish, check_text, load_json
from synth.config import SynthConfig
from synth.engines import Completion, Message, Request
from synth.finish import Placed
from synth.generators import Dialogue, Rejected, Written
from synth.reading import Piece, Point, Retold, Said, Task, Voice, tasks_of, timeline_of
from synth.samples import seed_of

PROMPT_VERSION = "2"
POLICY = "synth/teacher"

_TURNS = parse_align_spec("turns")
_STOPS = ".!?。！？"
#: The keys of what is written, in order, and what they become.
_KEYS: tuple[tuple[str, Voice], ...] = (("think", "thinking"), ("say", "text"))

#: Scripts that letters may be of, where letters of them stand in the conversation.
_SCRIPT_NAMES = """
Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada
Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Khmer Mongolian Hiragana Katakana Bopomofo Han
"""
_SCRIPTS = {name: regex.compile(rf"\p{{Script={name}}}") for name in _SCRIPT_NAMES.split()}


@dataclass(frozen=True, slots=True)
class Teacher:
    """The dialogues of a run: dialogue number ``index`` re-writes conversation number ``index``.

    ``tokenizer``: of the run's clock; latencies are counted in its rows.
    """

    config: SynthConfig
    conversations: Sequence[Conversation]
    tokenizer: TextTokenizer

    @property
    def count(self) -> int:
        """How many conversations are re-written."""
        known = len(self.conversations)
        return known if self.config.samples is None else min(known, self.config.samples)

    def dialogue(self, index: int) -> Dialogue:
        """Slice by slice of every answer that can be re-written, each with one request."""
        original = self.conversations[index]
        scenario = original.sources[0].corpus if original.sources else "teacher"
        options = self.config.teacher
        tasks = tasks_of(original, options.slice_chars, options.min_coverage)
        if not tasks:
            message = "no answer of text alone follows a reading of two sentences or more"
            return Rejected(index, scenario, "nothing_to_rewrite", message, "[]")
        writing = _Writing(self.config, index, original, tasks)
        try:
            retold = yield from writing.write()
            return _written(self.config, index, scenario, original, retold, self.tokenizer)
        except (TextError, RecordError) as error:
            raw = json.dumps(writing.answers, ensure_ascii=False)
            return Rejected(index, scenario, error.code, " ".join(str(error).split()), raw)


class _Writing:
    """The requests of one dialogue, and the words that came back. ``answers``: every completion as it was."""

    def __init__(self, config: SynthConfig, index: int, original: Conversation, tasks: Sequence[Task]) -> None:
        self._config, self._index, self._tasks = config, index, tasks
        self._original = original
        self._scripts = _scripts_of(original)
        thinks = any(task.thinks for task in tasks)
        self._history = [Message("system", _rules(thinks, config.teacher.max_slice_chars))]
        self.answers: list[str] = []

    def write(self) -> Generator[Sequence[Request], Sequence[Completion], list[Retold]]:
        """All answers, slice by slice. Raises TextError."""
        retold = []
        for task in self._tasks:
            said: list[Said] = []
            for number in range(len(task.slices)):
                self._history.append(Message("user", self._news(task, number, said)))
                (completion,) = yield [self._request(task, number, said)]
                said.extend(self._read(task, number, completion))
            retold.append(Retold(task, tuple(said)))
        return retold

    def _news(self, task: Task, number: int, said: Sequence[Said]) -> str:
        """What is new since the last request, and what is wanted. ``said``: what was written of this answer before."""
        paragraphs = []
        if number == 0 and task.earlier:
            paragraphs.append("Before:\n" + _shown(task.earlier))
        paragraphs.append("Read:\n" + _shown(task.slices[number]))
        form = _form(task)
        if number == task.last:
            paragraphs.append(_whole(self._original, task))
            paragraphs.append(
                "Everything has been read. Now complete your answer: what of the recorded answer you have not said yet, "
                f"without repeating what you have said.{_ending(task, said)} Write {form}{_or_nothing(task, said)}."
            )
            return "\n\n".join(paragraphs)
        for key, voice in _KEYS:
            if points := [point for point in task.points if point.slice == number and point.voice == voice]:
                paragraphs.append(f"You may now {key}:\n" + "\n".join(map(_as_item, points)))
        paragraphs.append(f'More will come. Write {form}, or "" to stay silent.')
        return "\n\n".join(paragraphs)

    def _request(self, task: Task, number: int, said: Sequence[Said]) -> Request:
        keys = _keys(task)
        limits: dict[str, dict[str, Any]]
        if number < task.last:
            limits = {key: {"maxLength": self._config.teacher.max_slice_chars} for key in keys}
        else:
            limits = {key: {"minLength": 1} if key in _silent(task, said) else {} for key in keys}
        return Request(
            messages=tuple(self._history),
            schema={
                "type": "object",
                "properties": {key: {"type": "string", **limits[key]} for key in keys},
                "required": list(keys),
                "additionalProperties": False,
            },
            seed=seed_of(self._config.seed, self._index, len(self.answers)),
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            max_tokens=self._config.max_tokens,
        )

    def _read(self, task: Task, number: int, completion: Completion) -> list[Said]:
        """What was written after a slice. Raises TextError."""
        self.answers.append(completion.text)
        check_finish(completion, self._config.max_tokens)
        place = f"message {task.message}, slice {number + 1}"
        written = load_json(completion.text)
        keys = _keys(task)
        if not isinstance(written, dict) or set(written) != set(keys):
            raise TextError("wrong_shape", f"{place}: no object with the keys {', '.join(keys)} alone")
        found = []
        for key, voice in keys.items():
            if not isinstance(text := written[key], str):
                raise TextError("wrong_shape", f"{place}: {key} is no string")
            most = self._config.teacher.max_slice_chars
            if number < task.last and len(text) > most:
                raise TextError("too_long", f"{place}: {key} has {len(text)} characters of at most {most}")
            if text := text.strip():
                check_text(text, self._scripts, place=f"{place}: {key}", lines=True)
                found.append(Said(number, voice, text))
        self._history.append(Message("assistant", completion.text))
        return found


def _written(
    config: SynthConfig,
    index: int,
    scenario: str,
    original: Conversation,
    retold: Sequence[Retold],
    tokenizer: TextTokenizer,
) -> Written:
    """The re-written conversation, if it holds. Raises TextError, RecordError."""
    for one in retold:
        _check_words(one)
    if not any(due < one.task.last for one in retold for _, _, due in one.chunks()):
        raise TextError("no_overlap", "nothing was said before the end of the reading")
    answers = {one.task.message: one for one in retold}
    messages = tuple(answers[i].message(m) if i in answers else m for i, m in enumerate(original.messages))
    finals = [
        {"message": one.task.message, "answer": one.task.final.value if one.task.final else None} for one in retold
    ]
    about = {"model": name_of(config.model), "original": conversation_id(original), "answers": finals}
    conversation = replace(
        original, messages=messages, extra={**original.extra, "teacher": about}, group=group_of(original)
    )
    for one in retold:
        _check_answer(original, conversation, one)
    if calls_of(conversation) != calls_of(original):
        raise TextError("wrong_calls", "other calls than the original's, or a call spelled out in what is said")
    timeline = timeline_of(conversation, answers)
    options = {"slice_chars", "min_coverage", "max_slice_chars"}
    about_prompt = {"prompt": PROMPT_VERSION, **config.teacher.model_dump(include=options)}
    params = json.dumps(about_prompt, sort_keys=True, separators=(",", ":"))
    documents = (
        Document(original, _turns(original), _TURNS),
        Document(conversation, timeline, Placed(POLICY, params)),
    )
    records = _records(documents, tokenizer)
    _check_leaks(records.slice(1, 1))
    (before, _), (after, turns) = map(_latencies, records.select(["streams", "clock", "events"]).to_pylist())
    silent = spans_of(conversation)[2]
    answered = _answered_turns(conversation, silent, answers)
    saved = _saved(before, after, answered)
    if saved <= 0:
        raise TextError("no_overlap", f"{saved:.1%} of the response latency is saved: nothing is answered earlier")
    labels: dict[str, Any] = {
        "teacher": {
            "messages": sorted(answers),
            "latency": {"original": _four(before), "turns": _four(turns), "rewritten": _four(after)},
            "saved": saved,
            "saved_against_own_turns": _saved(turns, after, answered),
        }
    }
    if silent:
        labels["empty_messages"] = silent
    return Written(index, scenario, conversation, timeline, POLICY, params, labels)


def _check_words(retold: Retold) -> None:
    """Whether an answer is said at all, and nothing of it twice. Raises TextError."""
    for _, voice in _KEYS:
        pieces = [one for one in retold.said if one.voice == voice]
        if voice == "text" and not pieces:
            raise TextError("empty_answer", f"message {retold.task.message}: nothing is said")
        for left, right in combinations(pieces, 2):
            if alike(left.text, right.text) or _bare(left.text) == _bare(right.text):
                place = f"message {retold.task.message}, slices {left.slice + 1} and {right.slice + 1}"
                raise TextError("repeated_text", f"{place} say the same: {right.text[:200]}")


def _bare(text: str) -> str:
    """A piece without what may surround the same words."""
    return " ".join(text.casefold().split()).strip(" .,;:!?…*_\"'()[]。，！？；：、")


def _check_answer(original: Conversation, conversation: Conversation, retold: Retold) -> None:
    """Whether the final answer is the original's, where there is one to compare. Raises TextError."""
    at = retold.task.message
    final = final_of(replace(original, messages=original.messages[: at + 1]))
    if final is None:
        return
    said = "\n".join(part.text for part in conversation.messages[at].parts if part.kind == "text")
    if (given := final.given_by(said)) != final.value:
        which = "no final answer" if given is None else "another final answer"
        raise TextError("wrong_answer", f"message {at} gives {which}, the original {final.shown!r}: {said[-200:]}")


def _check_leaks(records: pa.Table) -> None:
    """Whether an answer says what had not been read. Raises TextError: leak."""
    for finding in lexical(records):
        if finding.evidence:
            events = records.column("events")[finding.record].as_py()
            early = "; ".join(
                f"{fact!r} of {events[source]['text'].strip()[:80]!r}" for fact, source in finding.evidence[:3]
            )
            said = events[finding.event]["text"].strip()[:120]
            raise TextError("leak", f"{said!r} says {early} before it had been read")


def _turns(conversation: Conversation) -> Timeline:
    (aligned,) = align_all([conversation], _TURNS)
    return aligned.timeline


def _records(documents: Sequence[Document], tokenizer: TextTokenizer) -> pa.Table:
    """The records of both. Raises TextError: unencodable."""
    encoded, first = encode_spans([document.timeline for document in documents], tokenizer)
    tables = build_tables(documents, Clock(tokenizer), encoded, first)
    for _, error in tables.failed:
        raise TextError("unencodable", str(error))
    return tables.records


def _latencies(record: Mapping[str, Any]) -> tuple[Latency, Latency]:
    """The latencies of a record, as it is laid out and under ``turns``."""
    outputs = [stream["direction"] == "output" for stream in record["streams"]]
    events = [
        Event(e["stream"], outputs[e["stream"]], e["message"], e["part"], e["start"], e["end"], tuple(e["after"]))
        for e in record["events"]
    ]
    laid = measure_latency(events, [(event.start, event.end) for event in events])
    turns = measure_latency(events, turns_layout(events, record["clock"]["lag"]))
    assert laid is not None
    assert turns is not None
    return laid, turns


def _four(latency: Latency) -> dict[str, Any]:
    """The four latencies in rows; the first two with one value per input turn that is answered."""
    return {
        "time_to_first_output": list(latency.time_to_first_output),
        "response_latency": list(latency.response_latency),
        "rows_to_end": latency.rows_to_end,
        "decode_steps": latency.decode_steps,
    }


def _answered_turns(conversation: Conversation, silent: Collection[int], messages: Collection[int]) -> list[int]:
    """The input turns, counted as latencies count them, that ``messages`` answer."""
    found = []
    turn, is_read = -1, bool(conversation.tools)
    for index, message in enumerate(conversation.messages):
        if index in silent:
            continue
        if message.role != "assistant":
            is_read = True
            continue
        turn, is_read = turn + is_read, False
        if index in messages:
            found.append(turn)
    return found


def _saved(before: Latency, after: Latency, turns: Sequence[int]) -> float:
    """The share of the response latency of these turns that is saved (1: all of it; below 0: it has grown)."""
    now, then = (sum(latency.response_latency[turn] for turn in turns) for latency in (after, before))
    return round(1 - now / then, 4) if then else 0.0


def _scripts_of(conversation: Conversation) -> Collection[str]:
    text = "\n".join(part.text for message in conversation.messages for part in message.parts)
    return [name for name, script in _SCRIPTS.items() if script.search(text)]


def _keys(task: Task) -> dict[str, Voice]:
    return {key: voice for key, voice in _KEYS if voice == "text" or task.thinks}


def _form(task: Task) -> str:
    return json.dumps(dict.fromkeys(_keys(task), "…"), ensure_ascii=False)


def _rules(thinks: bool, most: int) -> str:
    """The system message: what to do, and how."""
    keys = (
        '"say" is what you say to the user now, "think" what you think before you say it, which nobody hears'
        if thinks
        else '"say" is what you say to the user now'
    )
    return (
        "You are an assistant who speaks while the input is still coming in. You have a recorded answer to re-write, so that "
        "as much of it as possible is said early.\n"
        f"The input comes piece by piece. After each piece you write one JSON object: {keys}.\n"
        "- Say only what follows from what you have read. Never guess what comes, never say that you wait or read.\n"
        '- Under "You may now" stand points of the recorded answer that what you have read supports. Put them in your own '
        "flow of words. Without such points you may still say what follows from the piece.\n"
        '- Silence is "". Be silent rather than vague.\n'
        "- What you have said is said. Go on from there; repeat nothing, take nothing back. All that you say, one after the "
        "other, is one answer in the language of the recorded one.\n"
        f"- At most {most} characters at a time.\n"
        "- At the end you are shown the whole recorded answer, and complete yours. Its final answer is kept exactly."
    )


def _shown(pieces: Sequence[Piece]) -> str:
    return "\n".join(f"[{p.label}] {p.text.strip()}" for p in pieces if not p.where[2] and p.text.strip())


def _as_item(point: Point) -> str:
    return "- " + " ".join(point.text.split())


def _whole(original: Conversation, task: Task) -> str:
    """The original answer, thoughts first."""
    message = original.messages[task.message]
    lines = []
    for kind, title in (("thinking", "The recorded thought"), ("text", "The recorded answer")):
        if text := "\n".join(part.text.strip() for part in message.parts if part.kind == kind and part.text.strip()):
            lines.append(f"{title}:\n{text}")
    return "\n\n".join(lines)


def _ending(task: Task, said: Sequence[Said]) -> str:
    """What is asked of the final answer: to end with it, or where it has been given to give no other."""
    if (final := task.final) is None:
        return ""
    if final.given_by("\n".join(one.text for one in said if one.voice == "text")) == final.value:
        return f" You have given its final answer, {final.shown}: keep to it."
    return f" End with its final answer: {final.shown}{'' if final.shown[-1] in _STOPS else '.'}"


def _silent(task: Task, said: Sequence[Said]) -> dict[str, Voice]:
    """The keys under which nothing has been written of an answer."""
    spoken = {one.voice for one in said}
    return {key: voice for key, voice in _keys(task).items() if voice not in spoken}


def _or_nothing(task: Task, said: Sequence[Said]) -> str:
    spoken = [key for key in _keys(task) if key not in _silent(task, said)]
    return f', with "" for {" or ".join(spoken)} where nothing is left' if spoken else ""
