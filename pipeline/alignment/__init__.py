"""Alignment: which output may overlap with which input. A policy is one file here and one line in ``POLICIES``.

A policy module has

* ``NAME``; ``CLAIM``, why what it lets overlap is honest; ``Params``, a frozen pydantic dataclass;
* ``why(draft) -> str``: what of a conversation it answers for, for people; "" if it has nothing to do there;
* ``prepare(draft, params)``: adds spans, if it speaks itself (``audit``, ``monitor``);
* ``cuts(draft, streams, spans, params)``: which spans it wants cut, and into what;
* ``relax(batch, params)``: which waits of the ``turns`` plans are not necessary (see ``plan``).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipeline.alignment import audit, evidence, information, monitor, thinking, timestamps, tools_async, turns, wait_k
from pipeline.alignment.plan import Batch, Cut, Plan, Resources, start_plan, to_timeline
from pipeline.conversation import Conversation
from pipeline.text import cut
from pipeline.timeline import Draft, QuestionOrder, Timeline, draft_of

POLICIES: Mapping[str, ModuleType] = {
    module.NAME: module
    for module in (turns, thinking, evidence, information, tools_async, wait_k, timestamps, audit, monitor)
}

#: The spec that chooses by what the conversation contains, from these, in this order.
AUTO = "auto"
CHOSEN_FROM = ("thinking", "evidence", "tools_async")

#: Raise when any policy gives another timeline for the same conversation and parameters.
VERSION = 8


#: A conversation of more chunks is not cut: a plan's memory is quadratic in them. A window of 8192 tokens never holds as
#: many, so what is longer is cut into segments first, and each is aligned by itself.
MAX_CHUNKS = 20_000

NO_RESOURCES = Resources()


class AlignmentError(ValueError):
    """An align spec that cannot be read; the message says what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class AlignSpec:
    """Policies with their parameters, in canonical order, and whether a question precedes its context.

    ``auto``: each conversation gets those of ``policies`` that have something to do in it, ``turns`` if none has.
    """

    policies: tuple[tuple[str, Any], ...]
    question: QuestionOrder = "first"
    auto: bool = False

    @property
    def policy(self) -> str:
        """The name written into records: policies joined by ``+``."""
        return "+".join(name for name, _ in self.policies)

    @property
    def params(self) -> str:
        """Every parameter as canonical JSON, defaults included."""
        return _params_json(self)

    @property
    def ms_per_row(self) -> float | None:
        """What a row lasts, where a policy makes rows of time (its parameters have ``clock_ms``)."""
        return next((params.clock_ms for _, params in self.policies if hasattr(params, "clock_ms")), None)


@functools.lru_cache(maxsize=64)
def _params_json(spec: AlignSpec) -> str:
    values = {name: dataclasses.asdict(params) for name, params in spec.policies}
    return json.dumps({"question": spec.question, **values}, sort_keys=True, separators=(",", ":"))


def parse_align_spec(text: str, question: QuestionOrder = "first") -> AlignSpec:
    """Reads ``thinking+evidence:min_coverage=0.8,chunk=sentence``, or ``auto``. Raises AlignmentError."""
    if question not in typing.get_args(QuestionOrder):
        raise AlignmentError(f"question must be first or last, not {question!r}")
    if text.strip() == AUTO:
        return AlignSpec(tuple((name, POLICIES[name].Params()) for name in CHOSEN_FROM), question, auto=True)
    chosen: dict[str, Any] = {}
    for item in text.split("+"):
        name, _, arguments = item.strip().partition(":")
        if name == AUTO:
            raise AlignmentError(f"{AUTO} stands alone: it chooses from {', '.join(CHOSEN_FROM)}")
        if name not in POLICIES:
            raise AlignmentError(
                f"unknown alignment policy {name!r}{_nearest(name, (*POLICIES, AUTO))}; known: {AUTO}, {', '.join(POLICIES)}"
            )
        if name in chosen:
            raise AlignmentError(f"alignment policy {name!r} is named twice in {text!r}")
        chosen[name] = _parse_params(name, arguments)
    if len(chosen) > 1 and any(getattr(params, "chunk", None) == "token" for params in chosen.values()):
        raise AlignmentError(
            f"{text!r}: chunks that are tokens go with no other policy, since the others look at words"
        )
    return AlignSpec(tuple((name, chosen[name]) for name in POLICIES if name in chosen), question)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parse_params(policy: str, text: str) -> Any:
    model = POLICIES[policy].Params
    known = [field.name for field in dataclasses.fields(model)]
    values: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key in known and not equals:
            raise AlignmentError(f"policy {policy!r}: parameter {key!r} needs a value, {key}=…")
        if key not in known:
            raise AlignmentError(
                f"policy {policy!r} has no parameter {key!r}{_nearest(key, known)}; it has: {', '.join(known) or 'none'}"
            )
        values[key] = value
    try:
        return model(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = str(wrong["loc"][0])
        raise AlignmentError(
            f"{policy}:{key}={values[key]}: {wrong['msg'].removeprefix('Value error, ')[:1].lower()}"
            f"{wrong['msg'].removeprefix('Value error, ')[1:]}"
        ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Aligned:
    """A timeline, what placed it, the indices of messages that say nothing, and what the policies have to say of it."""

    timeline: Timeline
    spec: AlignSpec
    silent: list[int]
    labels: dict[str, Any]

    @property
    def ms_per_row(self) -> float | None:
        """What a row lasts, if its rows are time: a policy makes them so, and a time of the source is known."""
        return self.spec.ms_per_row if any(span.time_ms is not None for span in self.timeline.spans) else None


def align(
    conversation: Conversation, spec: AlignSpec, resources: Resources = NO_RESOURCES
) -> tuple[Timeline, list[int]]:
    """The timeline of a conversation under the policies of ``spec``, and the indices of messages that say nothing."""
    (aligned,) = align_all([conversation], spec, resources)
    return aligned.timeline, aligned.silent


def align_all(
    conversations: Sequence[Conversation], spec: AlignSpec, resources: Resources = NO_RESOURCES
) -> list[Aligned]:
    """Aligns conversations together: what policies look up is looked up for all of them at once."""
    drafts = [draft_of(conversation, spec.question) for conversation in conversations]
    groups: dict[AlignSpec, list[int]] = {}
    for i, draft in enumerate(drafts):
        groups.setdefault(choose(draft, spec), []).append(i)
    found: list[Aligned | None] = [None] * len(drafts)
    for chosen, members in groups.items():
        plans = [_plan(drafts[i], chosen, resources) for i in members]
        batch = Batch(plans, resources, tuple(name for name, _ in chosen.policies))
        for name, params in chosen.policies:
            POLICIES[name].relax(batch, params)
        for i, plan in zip(members, plans, strict=True):
            found[i] = Aligned(to_timeline(plan), chosen, drafts[i].silent, drafts[i].labels)
    return [aligned for aligned in found if aligned is not None]


def speaks(conversation: Conversation, spec: AlignSpec) -> bool:
    """Whether there is output: the model says something, or a policy does (``monitor``)."""
    return conversation.has_output() or any(
        POLICIES[name].speaks(conversation, params)
        for name, params in spec.policies
        if hasattr(POLICIES[name], "speaks")
    )


def prepared(conversation: Conversation, spec: AlignSpec) -> Draft:
    """The spans of a conversation, with those that the policies of ``spec`` add."""
    draft = draft_of(conversation, spec.question)
    for name, params in spec.policies:
        POLICIES[name].prepare(draft, params)
    return draft


def choose(draft: Draft, spec: AlignSpec) -> AlignSpec:
    """The policies that a conversation is aligned under."""
    if not spec.auto:
        return spec
    chosen = tuple((name, params) for name, params in spec.policies if POLICIES[name].why(draft))
    return AlignSpec(chosen or (("turns", turns.Params()),), spec.question)


def reasons(draft: Draft, spec: AlignSpec) -> dict[str, str]:
    """What each policy of ``spec`` has to do in a conversation, for people; those that have nothing to do are left out."""
    told = {name: POLICIES[name].why(draft) for name, _ in spec.policies}
    return {name: text for name, text in told.items() if text}


def _plan(draft: Draft, spec: AlignSpec, resources: Resources) -> Plan:
    for name, params in spec.policies:
        POLICIES[name].prepare(draft, params)
    streams, spans = draft.columns()
    wanted: dict[int, set[Cut]] = {}
    for name, params in spec.policies:
        for span, how in POLICIES[name].cuts(draft, streams, spans, params).items():
            wanted.setdefault(span, set()).add(how)
    cuts = {span: _ends(spans[span].text, hows, resources) for span, hows in wanted.items()}
    if sum(len(ends) for ends in cuts.values()) > MAX_CHUNKS:
        cuts = {}
    return start_plan(draft, streams, spans, cuts)


def _ends(text: str, hows: set[Cut], resources: Resources) -> list[int]:
    ends: set[int] = set()
    for how in hows:
        if how == "token":
            if resources.token_ends is None:
                raise AlignmentError("chunks that are tokens need a tokenizer")
            ends.update(resources.token_ends(text))
        elif isinstance(how, tuple):
            ends.update(end for end in how if 0 < end < len(text))
        else:
            if len(hows) == 1:
                return cut(text, how)
            ends.update(cut(text, how))
    return sorted(ends - {0} | {len(text)})
