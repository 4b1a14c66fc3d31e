"""The plans that policies work on: chunks, and for each the set of chunks it waits for.

A plan starts as ``turns``: everything of an earlier span is waited for. A policy takes waits away, each for its own
reason; policies compose, since each only removes waits between the kinds of chunks it answers for. What is left is reduced
to the fewest edges and the fewest chunks that say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipeline.conversation import Conversation
from pipeline.text import ChunkUnit
from pipeline.timeline import Draft, Span, Stream, Timeline

if TYPE_CHECKING:
    from pipeline.alignment.grounding import Ground
    from pipeline.scoring.prefixes import PrefixQuery, PrefixScores

#: Into what a span is cut: a unit, or end offsets in characters (the end of the text may be left out).
Cut = ChunkUnit | Literal["token"] | tuple[int, ...]


class Scores(Protocol):
    """What the ``information`` policy asks of a scorer: the scores of queries, None where one exceeds its window."""

    def __call__(self, queries: Sequence[PrefixQuery]) -> Sequence[PrefixScores | None]: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What a policy may need beside the conversation.

    ``token_ends``: text → end offsets (characters) of its tokens, for chunks that are tokens. ``scores``: see ``Scores``.
    """

    token_ends: Callable[[str], Sequence[int]] | None = None
    scores: Scores | None = None


@dataclass(slots=True)
class Plan:
    """Chunks of one record in source order.

    ``first[s]`` is the first chunk of span ``s`` (``first[-1]`` the number of chunks); ``requires[c]`` is a bit mask over
    chunks: bit ``d`` set means that ``c`` may not start before ``d`` has ended. ``delay[c]``: rows between the end of all
    that ``c`` waits for and its start. ``kept``: chunks that are not merged with the one before them. ``labels``: those
    of the draft, for what a policy has to say of its waits.
    """

    conversation: Conversation
    streams: tuple[Stream, ...]
    spans: tuple[Span, ...]
    first: list[int]
    chunk_end: list[int]
    requires: list[int]
    delay: dict[int, int] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    labels: dict[str, Any] = field(default_factory=dict)

    def chunks(self, span: int) -> range:
        """The chunk indices of a span."""
        return range(self.first[span], self.first[span + 1])

    def text(self, span: int, chunk: int) -> str:
        """The text of one chunk of ``span``."""
        start = self.chunk_end[chunk - 1] if chunk > self.first[span] else 0
        return self.spans[span].text[start : self.chunk_end[chunk]]

    def mask(self, spans: Iterable[int]) -> int:
        """The bit mask of all chunks of the given spans."""
        bits = 0
        for span in spans:
            bits |= (1 << self.first[span + 1]) - (1 << self.first[span])
        return bits

    def is_output(self, span: int) -> bool:
        """Whether the model speaks this span."""
        return self.streams[self.spans[span].stream].direction == "output"

    def messages(self) -> Iterator[list[int]]:
        """The spans of each message, in source order. The tool definitions count as a message of their own."""
        for _, spans in groupby(range(len(self.spans)), key=lambda s: self.spans[s].message):
            yield list(spans)

    def drop(self, chunks: Iterable[int], bits: int) -> None:
        """Lets ``chunks`` no longer wait for the chunks in ``bits``."""
        for chunk in chunks:
            self.requires[chunk] &= ~bits


@dataclass
class Batch:
    """Plans that are aligned together under ``policies``, so that their words are looked at together."""

    plans: list[Plan]
    resources: Resources
    policies: tuple[str, ...] = ()

    @cached_property
    def ground(self) -> Ground:
        """The words of every chunk of every plan, for policies that look at words."""
        from pipeline.alignment.grounding import Ground

        return Ground(self.plans)


def start_plan(
    draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], cuts: Mapping[int, list[int]]
) -> Plan:
    """The ``turns`` plan. ``cuts[s]``: end offsets of the chunks of span ``s``; spans not named are one chunk."""
    first, ends, requires = [0], [], []
    for index, span in enumerate(spans):
        span_ends = cuts.get(index) or [len(span.text)]
        requires.extend([(1 << first[-1]) - 1] * len(span_ends))
        ends.extend(span_ends)
        first.append(len(ends))
    return Plan(draft.conversation, streams, spans, first, ends, requires, labels=draft.labels)


def to_timeline(plan: Plan) -> Timeline:
    """Edges reduced to those that say something new; chunks merged where the cut between them carries no edge."""
    span_of = np.repeat(np.arange(len(plan.spans)), np.diff(plan.first)).tolist()
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
    referenced = {edge for edges in after for edge in edges} | {chunk - 1 for chunk in plan.kept}
    new_index: list[int] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    new_after: list[tuple[int, ...]] = []
    delay: list[int] = []
    for chunk, span in enumerate(span_of):
        late = plan.delay.get(chunk, 0)
        continues = chunk > plan.first[span] and not after[chunk] and not late and chunk - 1 not in referenced
        if continues:
            chunk_end[-1] = plan.chunk_end[chunk]
        else:
            chunk_span.append(span)
            chunk_end.append(plan.chunk_end[chunk])
            new_after.append(tuple(sorted({new_index[edge] for edge in after[chunk]})))
            delay.append(late)
        new_index.append(len(chunk_end) - 1)
    return Timeline(plan.streams, plan.spans, chunk_span, chunk_end, new_after, delay=delay if any(delay) else None)
