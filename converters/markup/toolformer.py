"""Calls written into the sentence that needs their result, as GPTeacher's Toolformer set has them.

The instruction opens with ``toolformer access: weather, news``; the response says ``It is weather('Oslo') in Oslo.``
The result is nowhere: the text goes on as if it had been put in the call's place.
"""

from __future__ import annotations

import re

from pipeline.conversation import Part

_HEADER = re.compile(r"^toolformer access:[ \t]*(\S.*)$", re.MULTILINE)
_NAMES = re.compile(r"[A-Za-z_]\w*")
_CALL = re.compile(r"""(?<![\w.])([A-Za-z_]\w*)\(('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\)""", re.DOTALL)


def inline_call_parts(instruction: str, text: str) -> tuple[Part, ...] | None:
    """Text and tool_call parts that rebuild the text; None where the instruction gives no tools, or the text has no call.

    A call has the name of a tool in the header and one quoted string between its parentheses, which is its arguments, quotes
    included. White space beside a call is the text's.
    """
    if "toolformer access:" not in instruction or (header := _HEADER.search(instruction)) is None:
        return None
    names = set(_NAMES.findall(header[1]))
    parts: list[Part] = []
    position = 0
    for match in _CALL.finditer(text):
        if match[1] not in names:
            continue
        if position < match.start():
            parts.append(Part("text", text[position : match.start()]))
        parts.append(Part("tool_call", match[2], name=match[1], before=f"{match[1]}(", after=")"))
        position = match.end()
    if not position:
        return None
    return (*parts, Part("text", text[position:])) if position < len(text) else tuple(parts)
