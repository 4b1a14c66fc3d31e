"""What counts as reading: the input that speech may overlap with, for the policies that let it."""

from __future__ import annotations

from typing import Literal

from pipeline.timeline import Span

#: ``results`` of tools; ``data``: also context passages; ``all``: also the user's own words.
Over = Literal["results", "data", "all"]

_KINDS = {
    "results": ("tool_result",),
    "data": ("tool_result", "context"),
    "all": ("tool_result", "context", "text"),
}


def is_reading(span: Span, over: Over, role: str) -> bool:
    """Whether a span on a stream of ``role`` is such input. The system's words and the tool definitions never are."""
    return role != "system" and span.message is not None and span.source_kind in _KINDS[over]
