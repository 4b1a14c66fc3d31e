"""ReAct transcripts in text (Yao et al., 2023): thoughts, actions, and the observations that the environment wrote.

``Thought: …``, ``Action: search[x]`` and ``Observation: …`` at line starts, also numbered (``Thought 1:``); ``Action: name``
with ``Action Input: …`` behind it, and ``Final Answer: …`` (LangChain, ToolBench).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from converters.markup.delimiters import part_between, surround
from converters.markup.json_calls import json_action
from converters.markup.thinking import split_thinking, text_parts
from pipeline.conversation import Part, PartKind

_LABEL = re.compile(r"^[ \t]*(Thought|Action Input|Action|Observation|Final Answer)(?:[ \t](\d+))?:", re.MULTILINE)
#: Also as OpenHands writes it for models that call in text.
_OBSERVATION = re.compile(r"\s*(?:Observation(?:[ \t]\d+)?|OBSERVATION|EXECUTION RESULT of \[[\w.-]+\]):\s*")
_BRACKETED = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*(?:\[(.*)\]|\((.*)\))", re.DOTALL)
_KINDS: dict[str, PartKind] = {"Thought": "thinking", "Observation": "tool_result", "Final Answer": "text"}
_NAME = re.compile(r"[\w./:-]+")
_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Step:
    """A label and what is written behind it: ``text[start:end]``; what it says begins at ``said``."""

    label: str
    start: int
    said: int
    end: int


def react_parts(text: str) -> tuple[Part, ...] | None:
    """A transcript as thinking, tool_call, tool_result and text parts that rebuild it; None for any other text.

    A transcript has an Observation with an Action as the last label before it. Time is linear in the text.
    """
    if "Observation" not in text or "Action" not in text:
        return None
    steps = _steps(text)
    acted = any(a.label.startswith("Action") and b.label == "Observation" for a, b in pairwise(steps))
    return _parts(text, steps) if acted else None


def step_parts(text: str) -> tuple[Part, ...] | None:
    """``react_parts`` of a text that is one step of a dialogue, whose observation is in another message.

    None where neither a Thought nor an Action nor a Final Answer opens the text, and no Action ends it.
    """
    steps = _steps(text)
    if not steps or (text[: steps[0].start].strip() and not steps[-1].label.startswith("Action")):
        return None
    return _parts(text, steps)


def ends_with_action(text: str) -> bool:
    """Whether the last label of the text is an Action's, so that an observation is to follow."""
    if "Action" not in text:
        return False
    steps = _steps(text)
    return bool(steps) and steps[-1].label.startswith("Action")


def observation_parts(text: str) -> tuple[Part, ...] | None:
    """The result that a message which opens with ``Observation:`` consists of; None for any other."""
    if not (match := _OBSERVATION.match(text)):
        return None
    said = text[match.end() :].rstrip()
    return (Part("tool_result", said, before=match[0], after=text[match.end() + len(said) :]),)


def _steps(text: str) -> list[_Step]:
    """The labels that count, each with its stretch of the text.

    All are numbered or none is. Behind an observation only a thought or a final answer goes on, or an action that has
    an observation of its own or none of whose kind has a thought: other lines that look like labels are the tool's.
    """
    found = list(_LABEL.finditer(text))
    numbered = next((match[2] is not None for match in found if match[1] != "Final Answer"), False)
    found = [match for match in found if (match[2] is not None) == numbered or match[1] == "Final Answer"]
    thinks = any(match[1] == "Thought" for match in found)
    kept: list[re.Match[str]] = []
    for index, match in enumerate(found):
        label, previous = match[1], kept[-1][1] if kept else ""
        if label == "Action Input" and previous != "Action":
            continue
        if label == "Action" and previous == "Observation" and thinks and not _observed(found, index):
            continue
        kept.append(match)
    starts = [*(match.start() for match in kept), len(text)]
    return [_Step(match[1], match.start(), match.end(), starts[i + 1]) for i, match in enumerate(kept)]


def _observed(found: list[re.Match[str]], index: int) -> bool:
    """Whether the action at ``index`` is followed, but for its input, by an observation."""
    after = index + 2 if index + 1 < len(found) and found[index + 1][1] == "Action Input" else index + 1
    return after < len(found) and found[after][1] == "Observation"


def _parts(text: str, steps: list[_Step]) -> tuple[Part, ...]:
    parts = _lead(text[: steps[0].start], steps[0])
    index = 0
    while index < len(steps):
        step = steps[index]
        index += 1
        if step.label == "Action" and index < len(steps) and steps[index].label == "Action Input":
            name = text[step.said : step.end].strip()
            given = steps[index]
            parts.append(
                part_between(text, step.start, given.said, given.end, given.end, "tool_call", name or step.label)
            )
            index += 1
        elif step.label == "Action":
            parts.append(_action(text, step))
        else:
            parts.append(part_between(text, step.start, step.said, step.end, step.end, _KINDS[step.label]))
    if parts[-1].kind == "tool_result" and not parts[-1].text and len(parts) > 1:
        parts[-2:] = surround((parts[-2],), "", parts[-1].rebuild())
    lead = text[: steps[0].start]
    return surround(tuple(parts), "" if lead.strip() else lead, "")


def _lead(text: str, first: _Step) -> list[Part]:
    """What stands before the first label: the thought, where an action is the first, for the prompt named it."""
    said = text.rstrip()
    if not said:
        return []
    parts = split_thinking(said)
    if first.label == "Action" and parts == text_parts(said):
        parts = (Part("thinking", said),)
    return list(surround(parts, "", text[len(said) :]))


def _action(text: str, step: _Step) -> Part:
    """``name[arguments]``, ``name(arguments)``, JSON with ``action``, a bare name; else the arguments of "Action"."""
    whole = part_between(text, step.start, step.said, step.end, step.end, "tool_call")
    said = whole.text
    if match := _BRACKETED.fullmatch(said):
        group = 2 if match[2] is not None else 3
        start, end = match.span(group)
        return replace(
            whole,
            text=said[start:end],
            name=match[1],
            before=whole.before + said[:start],
            after=said[end:] + whole.after,
        )
    if (match := _FENCED.fullmatch(said)) or said.startswith("{"):
        try:
            call = json_action(match[1] if match else said)
        except ValueError:
            return replace(whole, name=step.label)
        return replace(call, source=whole.rebuild())
    if _NAME.fullmatch(said):
        return replace(whole, text="", name=said, before=whole.before + said)
    return replace(whole, name=step.label)
