"""Calls of tools: which of them only read, which may leave before others, and the slots that their results arrive on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pipeline.alignment.plan import Plan
from pipeline.timeline import Span, Stream

#: Names of tools that only read begin with one of these words, unless one of the others is in them.
_READ_WORDS = """
get list search find read lookup query fetch check show view describe retrieve browse visit open grep glob ls cat web
weather
"""
_READS = frozenset(_READ_WORDS.split())
_WRITE_WORDS = "update delete remove create send cancel write edit modify reset execute submit insert replace"
_WRITES = frozenset(_WRITE_WORDS.split())
#: A result that found nothing decides what is asked next.
_NOTHING = ("", "[]", "{}", "null", "None")
_DENIAL = re.compile(r"\b(?:no|not|none|nothing|never|unable|cannot|error|failed|invalid)\b", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_NAME_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def _found_nothing(text: str) -> bool:
    return text.strip() in _NOTHING or (
        len(text) < 120 and len(text.split()) <= 12 and _DENIAL.search(text) is not None
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One message with reading calls: its number among the messages, its calls (ordinals), and the tools' names."""

    message: int
    calls: tuple[int, ...]
    names: frozenset[str]


def only_reads(name: str, reads: str = "") -> bool:
    """Whether a call of this tool changes nothing: by ``reads`` (names joined by ``;``, ``*`` for all), or by its own words."""
    if reads:
        return reads == "*" or name in reads.split(";")
    return _reads_by_name(name)


@lru_cache(maxsize=4096)
def _reads_by_name(name: str) -> bool:
    words = [w.lower() for w in _NAME_WORDS.findall(name)]
    return bool(words) and words[0] in _READS and not any(word in _WRITES for word in words)


def reading_runs(plan: Plan, reads: str, same_tool: bool) -> list[list[Step]]:
    """Steps of reading calls that follow one another with nothing but their results in between, none an error or empty.

    ``same_tool``: all of a run call the same tools.
    """
    if sum(span.kind == "tool_call" for span in plan.spans) < 2:
        return []
    failed: set[int | None] = set()
    answered: set[int | None] = set()
    by_message: dict[int | None, list[Span]] = {}
    for span in plan.spans:
        by_message.setdefault(span.message, []).append(span)
        if span.kind == "tool_result" and span.message is not None and span.part is not None:
            answered.add(span.call)
            part = plan.conversation.messages[span.message].parts[span.part]
            if part.error or _found_nothing(part.text):
                failed.add(span.call)
    runs: list[list[Step]] = [[]]
    seen: set[str] = set()
    for message, said in by_message.items():
        calls = [s for s in said if s.kind == "tool_call" and s.call is not None]
        if calls and message is not None:
            names = frozenset(s.text.partition("\n")[0] for s in calls)
            numbers = tuple(s.call for s in calls if s.call is not None)
            if all(only_reads(n, reads) for n in names) and all(c in answered for c in numbers):
                # The same call once more, or the next page, is decided by what the one before has said.
                forms = {_DIGITS.sub("0", s.text) for s in calls}
                if forms & seen:
                    runs.append([])
                if not runs[-1]:
                    seen = set()
                seen |= forms
                if same_tool and runs[-1] and runs[-1][-1].names != names:
                    runs.append([])
                runs[-1].append(Step(message, numbers, names))
                if any(c in failed for c in numbers):
                    runs.append([])
                continue
        if any(s.kind not in ("header", "tool_result") for s in said):
            runs.append([])
    return [run for run in runs if run]


def give_slots(plan: Plan) -> None:
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
        span.on(names[f"tool/{slot_of[span.call]}"])
        if span.call in slot_of and span.kind in ("header", "tool_result")
        else span.on(names[old[span.stream]])
        if span.stream in old
        else span
        for span in plan.spans
    )
