"""Calls and results marked by tags in assistant text: where they stand, and what they say.

The marks: ``<tool_call>`` and ``<tool_response>`` (Hermes, Qwen, WebDancer), with JSON, ``<function=name>`` (Qwen3-Coder)
or GLM's keys and values inside; ``<function=name>`` alone (Llama 3); ``<search>`` with ``<information>`` (Search-R1) or
``<result>`` (ReSearch); ``<code>`` and ``<interpreter>`` (ReTool); ``<llm-code>`` and
``<llm-code-output>`` (OpenMathInstruct); ``<|begin_of_query|>`` and ``<|begin_of_documents|>``
(R1-Searcher); ``<|begin_search_query|>`` and ``<|begin_search_result|>`` (Search-o1); fenced ``python`` with ``output``
behind it (ToRA).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from converters.markup.delimiters import part_between, surround
from converters.markup.json_calls import json_calls, python_call
from pipeline.conversation import Part


@dataclass(frozen=True, slots=True)
class Block:
    """A call or a result: ``text[start:end]``, marks included, and its parts, which rebuild it."""

    start: int
    end: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """Marks of calls and of their results. ``name`` is that of a call which says none.

    ``told``: what a call holds tells it. ``special``: tokens of a model's own, which no text holds otherwise. The marks of
    others are common words, and count where one of their calls has its result right behind it.
    """

    call: tuple[str, str]
    results: tuple[tuple[str, str], ...]
    name: str
    told: bool = False
    special: bool = False


_FAMILIES = (
    _Family(("<tool_call>", "</tool_call>"), (("<tool_response>", "</tool_response>"),), "tool_call", told=True),
    _Family(("<search>", "</search>"), (("<information>", "</information>"), ("<result>", "</result>")), "search"),
    _Family(("<code>", "</code>"), (("<interpreter>", "</interpreter>"),), "code"),
    _Family(("<llm-code>", "</llm-code>"), (("<llm-code-output>", "</llm-code-output>"),), "llm-code"),
    _Family(
        ("<|begin_of_query|>", "<|end_of_query|>"),
        (("<|begin_of_documents|>", "<|end_of_documents|>"),),
        "query",
        special=True,
    ),
    _Family(
        ("<|begin_search_query|>", "<|end_search_query|>"),
        (("<|begin_search_result|>", "<|end_search_result|>"),),
        "search_query",
        special=True,
    ),
)
_FUNCTION = _Family(("<function=", "</function>"), (), "function", told=True)
_CALLS: Mapping[str, _Family] = {family.call[0]: family for family in (*_FAMILIES, _FUNCTION)}
_RESULTS: Mapping[str, _Family] = {opening: family for family in _FAMILIES for opening, _ in family.results}
_CLOSING: Mapping[str, str] = {
    opening: closing for family in (*_FAMILIES, _FUNCTION) for opening, closing in (family.call, *family.results)
}
#: Where this is not found, nothing is marked. It begins with one character, so that the search is fast.
_OPENING = re.compile(
    "<(?:" + "|".join(re.escape(tag[1:]) for tag in (*_CALLS, *(tag for tag, f in _RESULTS.items() if f.special))) + ")"
)
_MARK = re.compile("|".join(map(re.escape, (*_CLOSING, *_CLOSING.values()))))
_RESULT_AT_START = re.compile(r"\s*(" + "|".join(map(re.escape, _RESULTS)) + ")")
_FENCE = re.compile(r"^```([\w+-]*)[ \t]*(?:\r?\n|\Z)", re.MULTILINE)
_FUNCTION_CALL = re.compile(r"\s*<function=([\w.:-]+)>")
_TAG_AT_END = re.compile(r"<[/|][\w|-]+>\Z|<think(?:ing)?>\Z")
_KEYED_CALL = re.compile(r"\s*([\w.:-]+)[ \t]*(?:\r?\n\s*(?=<arg_key>)|\s*\Z)")


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    text: str


def marked_blocks(text: str, answered: bool = False) -> list[Block]:
    """The calls and results in assistant text, in order; they do not overlap. Time is linear in the text.

    A call stands on a line of its own or right behind a tag, or a result follows it; ``answered``: the next message is
    known to hold the results of the calls that end the text. A result follows a call or another result. What is written
    inside is not searched for further marks; a result that is never closed reaches to the end of the text and is
    ``interrupted``.
    """
    blocks = _tagged_blocks(text, answered) if _OPENING.search(text) else []
    return blocks or (_fenced_blocks(text) if "```output" in text else [])


def result_parts(text: str) -> tuple[Part, ...] | None:
    """The results that a whole message consists of, which then rebuild it; None where it holds anything else."""
    if not _RESULT_AT_START.match(text):
        return None
    parts: list[Part] = []
    position = 0
    while match := _RESULT_AT_START.match(text, position):
        closing = _CLOSING[match[1]]
        end = text.find(closing, match.end())
        if end < 0:
            return None
        after = _skip_space(text, end + len(closing))
        parts.append(part_between(text, position, match.end(), end, after, "tool_result"))
        position = after
    return tuple(parts) if position == len(text) else None


def _tagged_blocks(text: str, answered: bool) -> list[Block]:
    marks = [_Mark(match.start(), match.end(), match[0]) for match in _MARK.finditer(text)]
    places: dict[str, list[int]] = {}
    for index, mark in enumerate(marks):
        places.setdefault(mark.text, []).append(index)
    paired = _paired_families(text, marks)
    blocks: list[Block] = []
    called: set[str] = set()
    index = 0
    while index < len(marks):
        mark, closing = marks[index], _closing(places, marks, index)
        block: Block | None = None
        if (family := _CALLS.get(mark.text)) is not None and closing is not None:
            followed = _followed(text, marks, closing, family, answered)
            if followed or (
                (family.told or family.special or family.name in paired) and _stands_alone(text, marks, index)
            ):
                block = _call(text, mark, marks[closing], family, followed)
            if block is not None:
                called.add(family.name)
        elif (family := _RESULTS.get(mark.text)) is not None:
            ends = blocks[-1].end if blocks else -1
            behind = index > 0 and marks[index - 1].end == ends and not text[ends : mark.start].strip()
            behind = behind and family.name in called
            later = family.name in called and family.told and _stands_alone(text, marks, index)
            if behind or (closing is not None and (later or family.special)):
                block = _result(text, mark, None if closing is None else marks[closing])
        if block is None:
            index += 1
            continue
        blocks.append(block)
        index = len(marks) if closing is None else closing + 1
    return blocks


def _closing(places: Mapping[str, list[int]], marks: list[_Mark], index: int) -> int | None:
    """The index of the mark that closes the one at ``index``."""
    candidates = places.get(_CLOSING.get(marks[index].text, ""), [])
    at = bisect_left(candidates, index)
    return candidates[at] if at < len(candidates) else None


def _paired_families(text: str, marks: list[_Mark]) -> set[str]:
    """The families of which some call's closing mark has a result's opening mark right behind it."""
    closings = {family.call[1]: family for family in _FAMILIES}
    return {
        closings[mark.text].name
        for index, mark in enumerate(marks)
        if mark.text in closings and _followed(text, marks, index, closings[mark.text], False)
    }


def _followed(text: str, marks: list[_Mark], closing: int, family: _Family, answered: bool) -> bool:
    """Whether the result of a call follows its closing mark: in the text, or in the next message."""
    if closing + 1 == len(marks):
        return answered and not text[marks[closing].end :].strip()
    following = marks[closing + 1]
    opens = _RESULTS.get(following.text) is family or (answered and _CALLS.get(following.text) is family)
    return opens and not text[marks[closing].end : following.start].strip()


def _stands_alone(text: str, marks: list[_Mark], index: int) -> bool:
    """Whether a mark opens its line or stands right behind a tag."""
    start = marks[index - 1].end if index else 0
    end = start + len(text[start : marks[index].start].rstrip(" \t"))
    return end == 0 or text[end - 1] in "\r\n" or _TAG_AT_END.search(text[max(0, end - 40) : end]) is not None


def _call(text: str, mark: _Mark, closing: _Mark, family: _Family, followed: bool) -> Block | None:
    """The block of a call; None where what it holds is no call, unless a result follows."""
    parts: tuple[Part, ...] | None = None
    if family is _FUNCTION:
        if match := _FUNCTION_CALL.match(text, mark.start):
            part = part_between(text, mark.start, match.end(), closing.start, closing.end, "tool_call", match[1])
            return Block(mark.start, closing.end, (part,))
        return None
    if family.told:
        parts = _tool_call(text, mark, closing, followed)
    if parts is None and (followed or not family.told):
        parts = (part_between(text, mark.start, mark.end, closing.start, closing.end, "tool_call", family.name),)
    return None if parts is None else Block(mark.start, closing.end, parts)


def _tool_call(text: str, mark: _Mark, closing: _Mark, followed: bool) -> tuple[Part, ...] | None:
    """The calls between two tags: JSON, a function with its parameters, or a name with keys and values."""
    inside = text[mark.end : closing.start]
    if match := _FUNCTION_CALL.match(inside):
        end = inside.rfind("</function>")
        if end < 0 or inside.count("<function=") != 1 or inside[end + len("</function>") :].strip():
            return None
        name_end, body_end = mark.end + match.end(), mark.end + end
        return (part_between(text, mark.start, name_end, body_end, closing.end, "tool_call", match[1]),)
    if (match := _KEYED_CALL.match(inside)) and (followed or match.end() < len(inside)):
        return (
            part_between(text, mark.start, mark.end + match.end(), closing.start, closing.end, "tool_call", match[1]),
        )
    try:
        parts = json_calls(inside)
    except ValueError:
        try:
            parts = (python_call(inside),)
        except ValueError:
            return None
    return surround(parts, mark.text, closing.text) if parts else None


def _result(text: str, mark: _Mark, closing: _Mark | None) -> Block:
    if closing is not None:
        part = part_between(text, mark.start, mark.end, closing.start, closing.end, "tool_result")
        return Block(mark.start, closing.end, (part,))
    start = _skip_space(text, mark.end)
    part = Part("tool_result", text[start:], before=text[mark.start : start], interrupted=True)
    return Block(mark.start, len(text), (part,))


def _fenced_blocks(text: str) -> list[Block]:
    """Fenced Python whose output is fenced right behind it: a call of ``python`` and its result."""
    fences = list(_FENCE.finditer(text))
    blocks: list[Block] = []
    index = 0
    while index + 2 < len(fences):
        opening, closing, output = fences[index : index + 3]
        code_end = _fence_end(closing)
        if not (
            opening[1] in ("python", "py")
            and not closing[1]
            and output[1] == "output"
            and not text[code_end : output.start()].strip()
        ):
            index += 1 if closing[1] else 2
            continue
        code = part_between(text, opening.start(), opening.end(), closing.start(), code_end, "tool_call", "python")
        blocks.append(Block(opening.start(), code_end, (code,)))
        if index + 3 < len(fences):
            end = fences[index + 3]
            part = part_between(text, output.start(), output.end(), end.start(), _fence_end(end), "tool_result")
            blocks.append(Block(output.start(), _fence_end(end), (part,)))
        else:
            before = text[output.start() : output.end()]
            part = Part("tool_result", text[output.end() :], before=before, interrupted=True)
            blocks.append(Block(output.start(), len(text), (part,)))
        index += 4
    return blocks


def _fence_end(fence: re.Match[str]) -> int:
    return fence.start() + len(fence[0].rstrip())


_SPACE = re.compile(r"\s*")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
