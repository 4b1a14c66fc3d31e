"""The plan that policies work on: chunks, and for each the set of chunks it waits for.

It starts as ``turns``: everything of an earlier span is waited for. A policy takes waits away, each for its own reason;
policies compose, since each only removes waits between the kinds of chunks it answers for. What is left is reduced to
the fewest edges and the fewest chunks that say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.timeline import Span, Stream, Timeline


@dataclass(slots=True)
class Plan:
    """Chunks of one record in source order.

    ``first[s]`` is the first chunk of span ``s`` (``first[-1]`` the number of chunks); ``requires[c]`` is a bit mask over
    chunks: bit ``d`` set means that ``c`` may not start before ``d`` has ended.
    """

    streams: tuple[Stream, ...]
    spans: tuple[Span, ...]
    first: list[int]
    chunk_end: list[int]
    requires: list[int]

    def chunks(self, span: int) -> range:
        """The chunk indices of a span."""
        return range(self.first[span], self.first[span + 1])

    def text(self, span: int, chunk: int) -> str:
        """The text of one chunk of ``span``."""
        start = self.chunk_end[chunk - 1] if chunk > self.first[span] else 0
        return self.spans[span].text[start : self.chunk_end[chunk]]

    def mask(self, spans: Iterator[int] | range | list[int]) -> int:
        """The bit mask of all chunks of the given spans."""
        bits = 0
        for span in spans:
            bits |= (1 << self.first[span + 1]) - (1 << self.first[span])
        return bits

    def is_output(self, span: int) -> bool:
        """Whether the model speaks this span."""
        return self.streams[self.spans[span].stream].direction == "output"


def start_plan(streams: tuple[Stream, ...], spans: tuple[Span, ...], cuts: dict[int, list[int]]) -> Plan:
    """The ``turns`` plan. ``cuts[s]``: end offsets of the chunks of span ``s``; spans not named are one chunk."""
    first, ends, requires = [0], [], []
    for index, span in enumerate(spans):
        span_ends = cuts.get(index) or [len(span.text)]
        requires.extend([(1 << first[-1]) - 1] * len(span_ends))
        ends.extend(span_ends)
        first.append(len(ends))
    return Plan(streams, spans, first, ends, requires)


def to_timeline(plan: Plan) -> Timeline:
    """Edges reduced to those that say something new; chunks merged where the cut between them carries no edge."""
    span_of = [s for s in range(len(plan.spans)) for _ in plan.chunks(s)]
    closure: list[int] = []
    on_stream: dict[int, int] = {}
    after: list[list[int]] = []
    for chunk, span in enumerate(span_of):
        stream = plan.spans[span].stream
        reached = on_stream.get(stream, 0)
        need = plan.requires[chunk] & ~reached
        edges = []
        while need:
            latest = need.bit_length() - 1
            edges.append(latest)
            reached |= closure[latest]
            need &= ~reached
        reached |= 1 << chunk
        closure.append(reached)
        on_stream[stream] = reached
        after.append(edges)
    return _merge(plan, span_of, after)


def _merge(plan: Plan, span_of: list[int], after: list[list[int]]) -> Timeline:
    referenced = {edge for edges in after for edge in edges}
    new_index: list[int] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    new_after: list[tuple[int, ...]] = []
    for chunk, span in enumerate(span_of):
        continues = chunk > plan.first[span] and not after[chunk] and chunk - 1 not in referenced
        if continues:
            chunk_end[-1] = plan.chunk_end[chunk]
        else:
            chunk_span.append(span)
            chunk_end.append(plan.chunk_end[chunk])
            new_after.append(tuple(sorted({new_index[edge] for edge in after[chunk]})))
        new_index.append(len(chunk_end) - 1)
    return Timeline(plan.streams, plan.spans, chunk_span, chunk_end, new_after)
