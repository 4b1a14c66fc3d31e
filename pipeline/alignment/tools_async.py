"""tools_async: calls leave on the call stream, results arrive on tool slots, and nothing waits for what it does not need.

A result waits for its own call only, so parallel calls run side by side. Within one message a call and the words around
it wait neither for each other: the words bring nothing to the call that its author had not read or thought before (under
``information``, where it was scored behind those words, they keep their order).
What comes after the results waits for them, as its author did.

*Early calls*: a call that only reads, and that follows other such calls in the same turn, leaves as soon as its arguments and
the decision to make it were knowable: no argument may stand only in a result that it then does not wait for, and (``early:
same``) only calls of the same tool are overtaken, since going through a list is decided once, while another tool is chosen by
what the last one said. Nothing overtakes a call that may change something or computes, a result that is empty or an error,
or the user.

*Latency*: results come so many rows after their call: drawn once per call from a lognormal distribution (``latency``:
``tool:median:sigma`` in rows, joined by ``;``, ``*`` for all others), or as long as it took in the log (``latency=log``,
``ms_per_row``). Results then arrive out of order where the tools do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.alignment.calls import give_slots, reading_runs
from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.timeline import Draft, Span, Stream

NAME = "tools_async"
CLAIM = "results arrive while others speak; a call that only reads leaves once its arguments are known"


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


def why(draft: Draft) -> str:
    """Calls that are answered."""
    calls = sum(span.kind == "tool_call" for _, _, span in draft.items)
    results = sum(span.kind == "tool_result" for _, _, span in draft.items)
    return f"{calls} calls, {results} results" if calls and results else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """No span is cut: a call is issued whole and a result is one answer."""
    return {}


def relax(batch: Batch, params: Params) -> None:
    """Results wait for their call; calls and words of one message do not wait for each other; reading calls leave early."""
    # Where a model has measured what calls need to know, names and arguments have no say; and what it measured was a call
    # behind the words of its message.
    measured = "information" in batch.policies
    for plan in batch.plans:
        if any(span.kind == "tool_call" for span in plan.spans):
            _relax_plan(plan, params, beside_words=not measured)
    if params.early != "off" and not measured:
        _leave_early(batch, params)
    for plan in batch.plans:
        if any(len(run) > 1 for run in reading_runs(plan, params.reads, same_tool=False)):
            give_slots(plan)


def _relax_plan(plan: Plan, params: Params, beside_words: bool) -> None:
    call_span: dict[int, int] = {}
    for message in plan.messages():
        words = [s for s in message if plan.is_output(s) and plan.spans[s].source_kind == "text"]
        calls = [s for s in message if plan.spans[s].kind == "tool_call"]
        if calls:
            word_bits, call_bits = plan.mask(words), plan.mask(calls)
            for span in calls:
                plan.drop(plan.chunks(span), word_bits | call_bits if beside_words else call_bits)
                call_span[plan.spans[span].call or 0] = span
            for span in words if beside_words else ():
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
        runs = [run for run in reading_runs(plan, params.reads, params.early == "same") if len(run) > 1]
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
    for (plan, chunk, start, base), needed in zip(asked, batch.ground.needed(questions, 1.0, fresh=False), strict=True):
        if needed >= 0:
            late = max(needed - base + 1, start)
            plan.requires[chunk] &= ~((1 << chunk) - (1 << late))
