"""Timeline: chunks on named streams, each with the chunks that must have ended before it starts.

A conversation becomes *spans* (one per part: the unit of encoding) on streams; an alignment policy cuts spans into chunks
and says, per chunk, what it waits for. No rows yet: those are the layout's.
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.conversation import Conversation, Message

Direction = Literal["input", "output"]
Kind = Literal["header", "message", "tool_call", "tool_result", "note"]
QuestionOrder = Literal["first", "last"]

#: Streams of a converted conversation, in the order of their columns; tool slots come last.
STREAM_ORDER: tuple[tuple[str, Direction], ...] = (
    ("system", "input"),
    ("user", "input"),
    ("thought", "output"),
    ("assistant", "output"),
    ("call", "output"),
    ("audit", "output"),
    ("monitor", "output"),
    ("tool", "input"),
)
_DIRECTION: dict[str, Direction] = dict(STREAM_ORDER)
_RANK = {role: rank for rank, (role, _) in enumerate(STREAM_ORDER)}


@dataclass(frozen=True, slots=True)
class Stream:
    """One column of the record. ``name`` is the role, with the slot where a role has several (``tool/1``)."""

    name: str
    role: str
    slot: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Span:
    """One unit of encoding on one stream: a part, a tool result's header, or the tool definitions.

    ``message`` and ``part`` point into the conversation (None for the tool definitions), ``call`` is the ordinal of the
    call within the record. ``ends``: an end-of-message cell follows. ``source_kind`` is the kind of the part it came from.
    """

    stream: int
    message: int | None
    part: int | None
    kind: Kind
    text: str
    ends: bool = True
    call: int | None = None
    interrupted: bool = False
    weight: float = 1.0
    time_ms: int | None = None
    added: str = ""
    source_kind: str = "text"

    def on(self, stream: int) -> Span:
        """The span on another stream."""
        return Span(
            stream, self.message, self.part, self.kind, self.text, self.ends, self.call, self.interrupted, self.weight,
            self.time_ms, self.added, self.source_kind,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timeline:
    """Chunks in source order. Chunk ``c`` is ``spans[chunk_span[c]].text[previous end : chunk_end[c]]``.

    ``after[c]``: indices of the chunks that must have ended before chunk ``c`` starts, ascending. Chunks of one span are
    consecutive and in order; an earlier chunk of the same stream is always waited for and need not be named.
    ``earliest[c]``: the first row it may start at. ``delay[c]``: rows that pass between the end of all that chunk ``c`` waits
    for (its stream's previous chunk too) and its start.
    """

    streams: tuple[Stream, ...]
    spans: tuple[Span, ...]
    chunk_span: list[int]
    chunk_end: list[int]
    after: list[tuple[int, ...]]
    earliest: list[int] | None = None
    delay: list[int] | None = None


@dataclass(slots=True)
class Draft:
    """The spans of a conversation before they are cut: what a policy may add to, or move to another slot.

    ``items``: (role, slot, span) in source order; a span's ``stream`` is not set yet. ``silent``: indices of the messages
    that say nothing. ``labels`` go into the record's.
    """

    conversation: Conversation
    items: list[tuple[str, int, Span]]
    silent: list[int]
    labels: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> tuple[tuple[Stream, ...], tuple[Span, ...]]:
        """The streams in the order of their columns, and the spans, each on its own."""
        streams = tuple(
            Stream(f"{role}/{slot}" if role == "tool" else role, role, slot, _DIRECTION[role])
            for role, slot in sorted(
                {(role, slot) for role, slot, _ in self.items}, key=lambda rs: (_RANK[rs[0]], rs[1])
            )
        )
        column = {(stream.role, stream.slot): i for i, stream in enumerate(streams)}
        return streams, tuple(span.on(column[role, slot]) for role, slot, span in self.items)


def spans_of(
    conversation: Conversation, question: QuestionOrder = "first"
) -> tuple[tuple[Stream, ...], tuple[Span, ...], list[int]]:
    """The streams and spans of a conversation, in source order, and the indices of the messages that say nothing.

    ``question``: whether the text of an input message with context parts is laid out before or after the context.
    """
    draft = draft_of(conversation, question)
    return *draft.columns(), draft.silent


def draft_of(conversation: Conversation, question: QuestionOrder = "first") -> Draft:
    """The spans of a conversation (see ``spans_of``), to be added to."""
    calls = _CallBook(conversation.messages)
    spans: list[tuple[str, int, Span]] = []
    silent: list[int] = []
    leading_system = next(
        (i for i, m in enumerate(conversation.messages) if m.role != "system"), len(conversation.messages)
    )
    for index, message in enumerate(conversation.messages):
        if index == leading_system and conversation.tools:
            spans.append(("system", 0, _tools_span(conversation.tools)))
        before = len(spans)
        for part_index in _part_order(message, question):
            spans.extend(_part_spans(message, index, part_index, calls))
        if len(spans) == before:
            silent.append(index)
    if conversation.tools and leading_system == len(conversation.messages):
        spans.append(("system", 0, _tools_span(conversation.tools)))
    return Draft(conversation, spans, silent)


def _tools_span(tools: str) -> Span:
    return Span(stream=0, message=None, part=None, kind="note", text=tools, source_kind="tools")


def _part_order(message: Message, question: QuestionOrder) -> Sequence[int]:
    indices = range(len(message.parts))
    if question == "last" and message.role != "assistant" and any(p.kind == "context" for p in message.parts):
        return sorted(indices, key=lambda i: message.parts[i].kind != "context")
    return indices


def _part_spans(message: Message, index: int, part_index: int, calls: _CallBook) -> list[tuple[str, int, Span]]:
    part = message.parts[part_index]

    def span(kind: Kind, text: str, **more: object) -> Span:
        return Span(
            0, index, part_index, kind, text, ends=not part.interrupted, interrupted=part.interrupted, weight=message.weight,
            time_ms=message.started_ms, source_kind=part.kind, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    if part.kind == "tool_call":
        text = f"{part.name}\n{part.text}"
        return [("call", 0, span("tool_call", text, call=calls.ordinal[index, part_index], added="\n"))]
    if part.kind == "tool_result":
        call, slot, name = calls.result(index, part_index)
        title = f"{name}#{call}" if call is not None else name
        header = Span(0, index, part_index, "header", title, ends=False, call=call, weight=0.0, source_kind="header")
        return [("tool", slot, header), ("tool", slot, span("tool_result", part.text, call=call))]
    if not part.text:
        return []
    role = {"assistant": "thought" if part.kind == "thinking" else "assistant", "tool": "tool"}.get(
        message.role, message.role
    )
    if part.kind == "media":
        shown = placeholder(part.text)
        return [(role, 0, replace(span("note", shown, added=shown), weight=0.0))]
    return [(role, 0, span("message", part.text))]


_MEDIA_TYPE = re.compile(r'"(?:type|mimeType|mime_type)":"(?:input_)?(image|video|audio|file|document)')


def placeholder(reference: str) -> str:
    """What stands on the stream for a media part: ``[image]``, or ``[media]`` where its reference does not say what it is."""
    kind = _MEDIA_TYPE.search(reference)
    return f"[{kind[1] if kind else 'media'}]"


class _CallBook:
    """Pairs results with calls and gives every answered call a slot, as many as are in flight at once.

    A result belongs to the nearest earlier open call with its id (ids are reused inside conversations), or, without an
    id, to the first open call of the latest message that has one. Calls are numbered from 0 in order.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.ordinal: dict[tuple[int, int], int] = {}
        self._results: dict[tuple[int, int], tuple[int | None, str]] = {}
        names: list[str] = []
        opened = _OpenCalls()
        answered: dict[int, tuple[int, int]] = {}
        for m, message in enumerate(messages):
            for p, part in enumerate(message.parts):
                if part.kind == "tool_call":
                    self.ordinal[m, p] = len(names)
                    opened.add(len(names), part.call_id, m)
                    names.append(part.name or "")
                elif part.kind == "tool_result":
                    call = opened.take(part.call_id)
                    self._results[m, p] = (
                        call,
                        part.name or message.name or (names[call] if call is not None else "tool"),
                    )
                    if call is not None:
                        answered[call] = (m, p)
        self._slot = _slots(messages, self.ordinal, answered)

    def result(self, message: int, part: int) -> tuple[int | None, int, str]:
        """Ordinal of the call that a result answers (None for none), its slot, and the tool's name."""
        call, name = self._results[message, part]
        return call, self._slot.get(call, 0) if call is not None else 0, name


class _OpenCalls:
    """The calls that no result has answered yet; every call is looked at a bounded number of times."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._by_id: dict[str, list[int]] = {}
        #: Calls by the message they are in, the latest last; of all, and of those without an id.
        self._all: list[tuple[int, deque[int]]] = []
        self._nameless: list[tuple[int, deque[int]]] = []

    def add(self, ordinal: int, call_id: str | None, message: int) -> None:
        self._open.add(ordinal)
        if call_id is not None:
            self._by_id.setdefault(call_id, []).append(ordinal)
        for calls in (self._all,) if call_id is not None else (self._all, self._nameless):
            if not calls or calls[-1][0] != message:
                calls.append((message, deque()))
            calls[-1][1].append(ordinal)

    def take(self, call_id: str | None) -> int | None:
        """The call that a result with this id answers, which is then no longer open; None if there is none."""
        if call_id is None:
            call = self._first_of_latest(self._all)
        else:
            same = self._by_id.get(call_id, [])
            while same and same[-1] not in self._open:
                same.pop()
            call = same[-1] if same else self._first_of_latest(self._nameless)
        if call is not None:
            self._open.discard(call)
        return call

    def _first_of_latest(self, calls: list[tuple[int, deque[int]]]) -> int | None:
        while calls:
            latest = calls[-1][1]
            while latest and latest[0] not in self._open:
                latest.popleft()
            if latest:
                return latest[0]
            calls.pop()
        return None


def _slots(
    messages: Sequence[Message], ordinal: dict[tuple[int, int], int], answered: dict[int, tuple[int, int]]
) -> dict[int, int]:
    slot: dict[int, int] = {}
    free: list[int] = []
    made = 0
    ends = {where: call for call, where in answered.items()}
    for m, message in enumerate(messages):
        for p in range(len(message.parts)):
            if (call := ordinal.get((m, p))) is not None and call in answered:
                if not free:
                    heapq.heappush(free, made)
                    made += 1
                slot[call] = heapq.heappop(free)
            elif (m, p) in ends:
                heapq.heappush(free, slot[ends[m, p]])
    return slot
