"""tools_async: calls leave on the call stream, results arrive on tool slots, and nothing waits for what it does not need.

A result waits for its own call only, so parallel calls run side by side. Within one message a call and the words around
it wait neither for each other: the words bring nothing to the call that its author had not read or thought before.
What comes after the results waits for them, as its author did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.alignment.plan import Plan
from pipeline.alignment.turn import messages_of
from pipeline.text import ChunkUnit
from pipeline.timeline import Span, Stream

NAME = "tools_async"


@dataclass(frozen=True, slots=True)
class Params:
    """tools_async has no parameters: real latencies come with the ``timestamps`` policy."""


def cuts(streams: Sequence[Stream], spans: Sequence[Span], params: Params) -> dict[int, ChunkUnit]:
    """No span is cut: a call is issued whole and a result is one answer."""
    return {}


def relax(plan: Plan, params: Params) -> None:
    """Results wait for their call; calls and words of one message do not wait for each other."""
    call_span: dict[int, int] = {}
    for message in messages_of(plan):
        words = [s for s in message if plan.is_output(s) and plan.spans[s].source_kind == "text"]
        calls = [s for s in message if plan.spans[s].kind == "tool_call"]
        if calls:
            word_bits, call_bits = plan.mask(words), plan.mask(calls)
            for span in calls:
                _drop(plan, span, word_bits | call_bits)
                call_span[plan.spans[span].call or 0] = span
            for span in words:
                _drop(plan, span, call_bits)
        for span in message:
            call = plan.spans[span].call
            if plan.spans[span].kind in ("header", "tool_result") and call in call_span:
                header = [span - 1] if plan.spans[span].kind == "tool_result" else []
                for chunk in plan.chunks(span):
                    plan.requires[chunk] &= plan.mask([call_span[call], *header])


def _drop(plan: Plan, span: int, bits: int) -> None:
    for chunk in plan.chunks(span):
        plan.requires[chunk] &= ~bits
