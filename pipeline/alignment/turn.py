"""The turns of a plan: which spans belong to one message, and what an output message answers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pipeline.alignment.plan import Plan


def messages_of(plan: Plan) -> Iterator[list[int]]:
    """The spans of each message, in source order. The tool definitions count as a message of their own."""
    for _, spans in groupby(range(len(plan.spans)), key=lambda s: plan.spans[s].message):
        yield list(spans)
