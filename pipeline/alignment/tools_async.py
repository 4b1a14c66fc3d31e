"""tools_async: calls leave on the call stream, results arrive on tool slots, and nothing waits for what it does not need.

A result waits for its own call only, so parallel calls run side by side. Within one message a call and the words around
it wait neither for each other: the words bring nothing to the call that its author had not read or thought before.
What comes after the results waits for them, as its author did.

*Early calls*: a call that only reads, and that follows other such calls in the same turn, leaves as soon as its arguments and
the decision to make it were knowable: no argument may stand only in a result that it then does not wait for, and (``early:
same``) only calls of the same tool are overtaken, since going through a list is decided once, while another tool is chosen by
what the last one said. Nothing overtakes a call that may change something, a result that is an error, or the user.

*Latency*: results come so many rows after their call: drawn once per call from a lognormal distribution (``latency``:
``tool:median:sigma`` in rows, joined by ``;``, ``*`` for all others), or as long as it took in the log (``latency=log``,
``ms_per_row``). Results then arrive out of order where the tools do.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.timeline import Draft, Span, Stream

NAME = "tools_async"
CLAIM = "results arrive while others speak; a call that only reads leaves once its arguments are known"

#: Names of tools that only read begin with one of these words, unless one of the others is in them.
_READ_WORDS = """
get list search find read lookup query fetch check calculate compute count show view describe retrieve browse visit open
grep glob ls cat web weather convert
"""
_READS = frozenset(_READ_WORDS.split())
_WRITE_WORDS = "update delete remove create send cancel write edit modify reset execute submit insert replace"
_WRITES = frozenset(_WRITE_WORDS.split())
_NAME_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True, slots=True)
class Params:
    """``early``: which calls a reading call may overtake: ``same`` tool, ``any`` reading call, or ``off``; ``reads``: tools
    that only read, joined by ``;`` (``*``: all; empty: by their names, get…, list…, search…); ``latency``, ``ms_per_row``,
    ``seed``: see the module; no latency if empty."""

    early: Literal["same", "any", "off"] = "same"
    reads: str = ""
    latency: str = ""
    ms_per_row: Annotated[float, Field(gt=0)] = 50.0
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("latency")
    @classmethod
    def _readable(cls, value: str) -> str:
        latencies(value)
        return value


@lru_cache(maxsize=64)
def latencies(text: str) -> Mapping[str, tuple[float, float]]:
    """Median and sigma (of the logarithm) of each tool's latency in rows. Raises ValueError."""
    found: dict[str, tuple[float, float]] = {}
    for item in filter(None, text.split(";") if text != "log" else ()):
        name, _, numbers = item.partition(":")
        median, _, sigma = numbers.partition(":")
        try:
            found[name] = (float(median), float(sigma or 0))
        except ValueError:
            found[name] = (-1, 0)
        if not (name and 0 <= found[name][0] <= 1e6 and 0 <= found[name][1] <= 10):
            raise ValueError(f"{item!r} is no tool:median or tool:median:sigma in rows")
    return found


def only_reads(name: str, params: Params) -> bool:
    """Whether a call of this tool changes nothing, by ``reads`` or by the words of its name."""
    if params.reads:
        return params.reads == "*" or name in params.reads.split(";")
    return _reads_by_name(name)


@lru_cache(maxsize=4096)
def _reads_by_name(name: str) -> bool:
    words = [w.lower() for w in _NAME_WORDS.findall(name)]
    return bool(words) and words[0] in _READS and not any(word in _WRITES for word in words)


def why(draft: Draft) -> str:
    """Calls that are answered."""
    calls = sum(span.kind == "tool_call" for _, _, span in draft.items)
    results = sum(span.kind == "tool_result" for _, _, span in draft.items)
    return f"{calls} calls, {results} results" if calls and results else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One message with reading calls: its number among the messages, its calls (ordinals), and the tools' names."""

    message: int
    calls: tuple[int, ...]
    names: frozenset[str]


def _runs(plan: Plan, params: Params) -> list[list[_Step]]:
    """Steps of reading calls that follow one another with nothing but their results, without errors, in between."""
    failed: set[int | None] = set()
    answered: set[int | None] = set()
    by_message: dict[int | None, list[Span]] = {}
    for span in plan.spans:
        by_message.setdefault(span.message, []).append(span)
        if span.kind == "tool_result" and span.message is not None and span.part is not None:
            answered.add(span.call)
            if plan.conversation.messages[span.message].parts[span.part].error:
                failed.add(span.call)
    runs: list[list[_Step]] = [[]]
    for message, said in by_message.items():
        calls = [s for s in said if s.kind == "tool_call" and s.call is not None]
        if calls and message is not None:
            names = frozenset(s.text.partition("\n")[0] for s in calls)
            numbers = tuple(s.call for s in calls if s.call is not None)
            if all(only_reads(n, params) for n in names) and all(c in answered for c in numbers):
                if runs[-1] and params.early == "same" and runs[-1][-1].names != names:
                    runs.append([])
                runs[-1].append(_Step(message, numbers, names))
                if any(c in failed for c in numbers):
                    runs.append([])
                continue
        if any(s.kind not in ("header", "tool_result") for s in said):
            runs.append([])
    return [run for run in runs if run]


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """No span is cut: a call is issued whole and a result is one answer."""
    return {}


def relax(batch: Batch, params: Params) -> None:
    """Results wait for their call; calls and words of one message do not wait for each other; reading calls leave early."""
    for plan in batch.plans:
        if any(span.kind == "tool_call" for span in plan.spans):
            _relax_plan(plan, params)
    if params.early != "off":
        _leave_early(batch, params)


def _relax_plan(plan: Plan, params: Params) -> None:
    call_span: dict[int, int] = {}
    for message in plan.messages():
        words = [s for s in message if plan.is_output(s) and plan.spans[s].source_kind == "text"]
        calls = [s for s in message if plan.spans[s].kind == "tool_call"]
        if calls:
            word_bits, call_bits = plan.mask(words), plan.mask(calls)
            for span in calls:
                plan.drop(plan.chunks(span), word_bits | call_bits)
                call_span[plan.spans[span].call or 0] = span
            for span in words:
                plan.drop(plan.chunks(span), call_bits)
        for span in message:
            call = plan.spans[span].call
            if plan.spans[span].kind in ("header", "tool_result") and call in call_span:
                header = [span - 1] if plan.spans[span].kind == "tool_result" else []
                for chunk in plan.chunks(span):
                    plan.requires[chunk] &= plan.mask([call_span[call], *header])
                if plan.spans[span].kind == "header" and params.latency:
                    plan.delay[plan.first[span]] = _latency(plan, call_span[call], span, params)


def _latency(plan: Plan, call: int, header: int, params: Params) -> int:
    """Rows from the end of a call to its result."""
    if params.latency == "log":
        asked, came = plan.spans[call].time_ms, plan.spans[header + 1].time_ms
        return max(round((came - asked) / params.ms_per_row), 0) if asked is not None and came is not None else 0
    known = latencies(params.latency)
    name, _, arguments = plan.spans[call].text.partition("\n")
    median, sigma = known.get(name, known.get("*", (0.0, 0.0)))
    drawn = hashlib.sha256(f"{params.seed}\0{name}\0{plan.spans[call].call}\0{arguments}".encode()).digest()
    share = (int.from_bytes(drawn[:8], "big") + 0.5) / 2**64
    return round(median * math.exp(sigma * NormalDist().inv_cdf(share))) if median else 0


def _leave_early(batch: Batch, params: Params) -> None:
    """Reading calls do not wait for the calls before them in their run, nor for the results that tell them nothing."""
    questions = Questions()
    asked: list[tuple[Plan, int, int, int]] = []
    for number, plan in enumerate(batch.plans):
        runs = [run for run in _runs(plan, params) if len(run) > 1]
        if not runs:
            continue
        base = int(batch.ground.base[number])
        spans_of: dict[int, list[int]] = {}
        for span, told in enumerate(plan.spans):
            spans_of.setdefault(-1 if told.message is None else told.message, []).append(span)
        for run in runs:
            opening = spans_of[run[0].message]
            start = plan.first[opening[0]]
            questions.reading.append((base + start, base + plan.first[spans_of[run[-1].message][0]]))
            for step in run[1:]:
                spans = spans_of[step.message]
                if any(plan.spans[s].kind != "tool_call" for s in spans):
                    continue
                for span in spans:
                    chunk = plan.first[span]
                    questions.add(base + chunk, base + start, base + plan.first[spans[0]], alone=True)
                    asked.append((plan, chunk, start, base))
    if not asked:
        return
    moved: dict[int, Plan] = {}
    for (plan, chunk, start, base), needed in zip(asked, batch.ground.needed(questions, 1.0, fresh=False), strict=True):
        if needed >= 0:
            late = max(needed - base + 1, start)
            plan.requires[chunk] &= ~((1 << chunk) - (1 << late))
            moved[id(plan)] = plan
    for plan in moved.values():
        _give_slots(plan)


def _give_slots(plan: Plan) -> None:
    """Answered calls get the lowest slot whose last result they wait for: as many slots as calls are in flight at once."""
    results: dict[int, list[int]] = {}
    for span, told in enumerate(plan.spans):
        if told.kind in ("header", "tool_result") and told.call is not None:
            results.setdefault(told.call, []).append(span)
    busy: list[int] = []
    slot_of: dict[int, int] = {}
    for span, told in enumerate(plan.spans):
        if told.kind == "tool_call" and told.call in results:
            waits = plan.requires[plan.first[span]]
            slot = next((s for s, until in enumerate(busy) if not until & ~waits), len(busy))
            busy[slot : slot + 1] = [plan.mask(results[told.call])]
            slot_of[told.call] = slot
    others = [stream for stream in plan.streams if stream.role != "tool"]
    plan.streams = (*others, *(Stream(f"tool/{slot}", "tool", slot, "input") for slot in range(max(len(busy), 1))))
    names = {stream.name: column for column, stream in enumerate(plan.streams)}
    old = {column: stream.name for column, stream in enumerate((*others, *plan.streams[len(others) :]))}
    plan.spans = tuple(
        replace(span, stream=names[f"tool/{slot_of[span.call]}"])
        if span.call in slot_of and span.kind in ("header", "tool_result")
        else replace(span, stream=names[old[span.stream]])
        if span.stream in old
        else span
        for span in plan.spans
    )
