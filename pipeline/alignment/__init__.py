"""Alignment: which output may overlap with which input. A policy is one file here and one line in ``POLICIES``.

A policy module has ``NAME``, ``Params`` (a frozen dataclass), ``cuts(streams, spans, params)`` (which spans it wants cut,
and into what) and ``relax(plan, params)`` (which waits of the ``turns`` plan are not necessary, see ``plan``).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pipeline.alignment import evidence, thinking, tools_async, turns
from pipeline.alignment.plan import start_plan, to_timeline
from pipeline.conversation import Conversation
from pipeline.text import ChunkUnit, cut
from pipeline.timeline import QuestionOrder, Timeline, spans_of

POLICIES: Mapping[str, ModuleType] = {module.NAME: module for module in (turns, thinking, evidence, tools_async)}

#: Raise when any policy gives another timeline for the same conversation and parameters.
VERSION = 2


#: A conversation of more chunks is not cut: a plan's memory is quadratic in them. A window of 8192 tokens never holds as
#: many, so what is longer is cut into segments first, and each is aligned by itself.
MAX_CHUNKS = 20_000


class AlignmentError(ValueError):
    """An align spec that cannot be read; the message says what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class AlignSpec:
    """Policies with their parameters, in canonical order, and whether a question precedes its context."""

    policies: tuple[tuple[str, Any], ...]
    question: QuestionOrder = "first"

    @property
    def policy(self) -> str:
        """The name written into records: policies joined by ``+``."""
        return "+".join(name for name, _ in self.policies)

    @property
    def params(self) -> str:
        """Every parameter as canonical JSON, defaults included."""
        return _params_json(self)


@functools.lru_cache(maxsize=64)
def _params_json(spec: AlignSpec) -> str:
    values = {name: dataclasses.asdict(params) for name, params in spec.policies}
    return json.dumps({"question": spec.question, **values}, sort_keys=True, separators=(",", ":"))


def parse_align_spec(text: str, question: QuestionOrder = "first") -> AlignSpec:
    """Reads ``thinking+evidence:min_coverage=0.8,chunk=sentence``. Raises AlignmentError."""
    chosen: dict[str, Any] = {}
    for item in text.split("+"):
        name, _, arguments = item.strip().partition(":")
        if name not in POLICIES:
            raise AlignmentError(
                f"unknown alignment policy {name!r}{_nearest(name, POLICIES)}; known: {', '.join(POLICIES)}"
            )
        if name in chosen:
            raise AlignmentError(f"alignment policy {name!r} is named twice in {text!r}")
        chosen[name] = _parse_params(name, arguments)
    if question not in typing.get_args(QuestionOrder):
        raise AlignmentError(f"question must be first or last, not {question!r}")
    return AlignSpec(tuple((name, chosen[name]) for name in POLICIES if name in chosen), question)


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parse_params(policy: str, text: str) -> Any:
    params = POLICIES[policy].Params
    types = typing.get_type_hints(params)
    values: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in types or not equals:
            raise AlignmentError(
                f"policy {policy!r} has no parameter {key!r}{_nearest(key, types)}; it has: {', '.join(types) or 'none'}"
            )
        values[key] = _parse_value(policy, key, value, types[key])
    return params(**values)


def _parse_value(policy: str, key: str, value: str, type_: Any) -> Any:
    if allowed := typing.get_args(type_):
        if value not in allowed:
            raise AlignmentError(f"{policy}:{key} must be one of {', '.join(allowed)}, not {value!r}")
        return value
    try:
        number = float(value)
    except ValueError:
        raise AlignmentError(f"{policy}:{key} must be a number, not {value!r}") from None
    if not 0 <= number <= 1:
        raise AlignmentError(f"{policy}:{key} must lie between 0 and 1, not {value}")
    return number


def align(conversation: Conversation, spec: AlignSpec) -> tuple[Timeline, list[int]]:
    """The timeline of a conversation under the policies of ``spec``, and the indices of messages that say nothing."""
    streams, spans, silent = spans_of(conversation, spec.question)
    units: dict[int, ChunkUnit] = {}
    for name, params in spec.policies:
        units.update(POLICIES[name].cuts(streams, spans, params))
    cuts = {span: cut(spans[span].text, unit) for span, unit in units.items()}
    if sum(len(ends) for ends in cuts.values()) > MAX_CHUNKS:
        cuts = {}
    plan = start_plan(streams, spans, cuts)
    for name, params in spec.policies:
        POLICIES[name].relax(plan, params)
    return to_timeline(plan), silent
