"""Calls written as a list in Python's syntax, ``[name(argument="value"), …]``, as ToolACE and Llama's pythonic calls have it.

ToolACE (Liu et al. 2024, arXiv 2409.00920); its names may hold blanks.
"""

from __future__ import annotations

import re

from pipeline.conversation import Part

_START = re.compile(r"\s*\[\s*")
_NAME = re.compile(r"[^\s()\[\]{}\"'=,][^()\[\]{}\"'=,]*(?=\()")
_NEXT = re.compile(r"\s*,\s*")
_END = re.compile(r"\s*\]\s*\Z")
#: What matters inside the parentheses: quoted strings, which may hold anything, and brackets.
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[()\[\]{}'"]""", re.DOTALL)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def bracket_calls(text: str, known: str) -> tuple[Part, ...] | None:
    """The calls that a whole text consists of, which rebuild it; None for any other text.

    ``known`` is what the model was told: every name stands there in double quotes, as definitions in JSON have it. The
    arguments are what stands between the parentheses. Time is linear in the text.
    """
    start = _START.match(text)
    if start is None:
        return None
    parts: list[Part] = []
    found: set[str] = set()
    begin, position = 0, start.end()
    while True:
        name = _NAME.match(text, position)
        if name is None or (name[0] not in found and f'"{name[0].rstrip()}"' not in known):
            return None
        found.add(name[0])
        opened = name.end() + 1
        closed = _closing_parenthesis(text, opened)
        if closed is None:
            return None
        call = Part(
            "tool_call",
            text[opened:closed],
            name=name[0].rstrip(),
            before=text[begin:opened],
            after=text[closed : closed + 1],
        )
        if end := _END.match(text, closed + 1):
            return (*parts, _ending(call, end[0]))
        comma = _NEXT.match(text, closed + 1)
        if comma is None:
            return None
        parts.append(call)
        begin, position = closed + 1, comma.end()


def _ending(call: Part, end: str) -> Part:
    return Part(call.kind, call.text, name=call.name, before=call.before, after=call.after + end)


def _closing_parenthesis(text: str, start: int) -> int | None:
    """Where the parenthesis that was opened before ``start`` is closed."""
    waiting = [")"]
    for token in _TOKEN.finditer(text, start):
        mark = token[0]
        if mark in _CLOSING:
            waiting.append(_CLOSING[mark])
        elif mark in ")]}":
            if waiting.pop() != mark:
                return None
            if not waiting:
                return token.start()
        elif len(mark) == 1:
            return None
    return None
