"""Random conversations with every kind of odd text, and small readers of the tables that they become."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st

from pipeline.alignment import align, parse_align_spec
from pipeline.conversation import Conversation, Message, Part, Source
from pipeline.packaged import UNENCODABLE_BYTES
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.tokenization import TextTokenizer

#: The same examples on every machine and run.
QUICK = settings(max_examples=30, deadline=None, derandomize=True)

ODD = (
    "👩‍👩‍👧‍👦",
    "🇫🇷🇩🇪🇯🇵🇰🇪🇫🇷🇩🇪🇯🇵🇰🇪🇫🇷",
    "e\u0301",
    "n\u0308\u0323\u0302",
    "👍🏽",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    "\n",
    "\t",
    "    ",
    "\u0600 7",
    "مرحبا بالعالم.",
    "你好，世界。",
    "我們在台北見面！",
    "สวัสดีครับ ",
    "각각",
    "क्षि ",
    "\x00\x07\x1b\x7f",
    "\ufeff",
    "\u200d",
    "\u2028",
    "\u3000",
    "\U0010ffff",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    " -",
    "-",
    "- ",
    " - - -",
    "def f(x):\n    return x + 1\n",
    "|a|b|",
    "\\n",
    '{"d": "2024-05-20"}',
    "’s",
)
SENTENCES = (
    "HAT001 costs 51. ",
    "HAT002 costs 1,250.50 dollars. ",
    "Paris is the capital of France. ",
    "It is not raining in Berlin. ",
    "The flight leaves on 2024-05-20. ",
    "So the cheapest flight is HAT001. ",
    "I need the price first. ",
    "Then 51 + 42 = 93.\n",
    'Dr. Smith said "see you at noon". ',
    "The answer is 93. ",
    "get_user(id=7) failed. ",
    "No flights were found. ",
)

ALIGN = (
    "turns", "thinking", "thinking:min_coverage=0,chunk=paragraph", "evidence", "evidence:over=data,min_coverage=0.5",
    "evidence:over=all,min_coverage=0", "evidence:chunk=paragraph", "tools_async", "thinking+evidence+tools_async",
    "thinking:min_coverage=0+evidence:min_coverage=0,over=all+tools_async",
)  # fmt: skip

#: Characters that both tokenizers have tokens for.
characters = st.characters(exclude_categories=["Cs"]).filter(lambda c: UNENCODABLE_BYTES.isdisjoint(c.encode()))
odd_texts = st.lists(st.sampled_from(ODD) | st.text(characters, max_size=6), max_size=12).map("".join)
prose = st.lists(st.sampled_from(SENTENCES) | st.sampled_from(ODD), min_size=1, max_size=8).map("".join)
texts = prose | odd_texts
_call_ids = st.sampled_from([None, "a", "b", "a"])


@st.composite
def _parts(draw: st.DrawFn, role: str) -> Part:
    kind = draw(st.sampled_from(_KINDS[role]))
    text = draw(texts)
    if kind == "tool_call":
        return Part(
            "tool_call", text, name=draw(st.sampled_from(["search", "get_user", "日本", ""])), call_id=draw(_call_ids)
        )
    if kind == "tool_result":
        name = draw(st.sampled_from([None, "search"]))
        return Part("tool_result", text, name=name, call_id=draw(_call_ids), error=draw(st.booleans()))
    return Part(kind, text, interrupted=draw(st.integers(0, 9)) == 0)


_KINDS: dict[str, tuple[Any, ...]] = {
    "system": ("text",),
    "user": ("text", "text", "context", "media"),
    "assistant": ("text", "text", "thinking", "tool_call", "tool_call"),
    "tool": ("tool_result",),
}


@st.composite
def _messages(draw: st.DrawFn) -> Message:
    role = draw(st.sampled_from(["user", "user", "assistant", "assistant", "assistant", "tool", "system"]))
    parts = draw(st.lists(_parts(role), max_size=3))
    weight = draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]))
    return Message(role, tuple(parts), started_ms=draw(st.none() | st.integers(0, 2**40)), weight=weight)  # type: ignore[arg-type]


@st.composite
def _scenes(draw: st.DrawFn) -> list[Message]:
    """Turns in which answers repeat sentences of what was read or thought, so that policies find room to overlap."""
    facts = draw(
        st.lists(
            st.tuples(st.sampled_from(SENTENCES), st.sampled_from(ODD)),
            min_size=3,
            max_size=6,
            unique_by=lambda f: f[0],
        )
    )
    odd_first = draw(st.booleans())
    lines = [
        odd + sentence if odd_first else sentence.rstrip() + draw(st.sampled_from(["\n", "\r\n", " "]))
        for sentence, odd in facts
    ]

    def some() -> str:
        return "".join(line for line in lines if draw(st.booleans())) or lines[0]

    # Where the facts are met first: what stands there grounds the answer.
    place = draw(st.sampled_from(["user", "thought", "tool"]))
    asked = [call("search", "{}", str(i)) for i in range(draw(st.integers(1, 3)) if place == "tool" else 0)]
    read = [Part(draw(st.sampled_from(["context", "text"])), "".join(lines))] if place == "user" else []
    thinking = [thought("".join(lines))] if place == "thought" else []
    said = (
        [Part("text", some(), interrupted=draw(st.integers(0, 5)) == 0)]
        if draw(st.booleans()) and place != "tool"
        else []
    )
    messages = [message("user", "What is known?", *read), message("assistant", *thinking, *said, *asked)]
    for i in draw(st.permutations(range(len(asked)))):
        messages.append(message("tool", result("".join(lines), str(i))))
    messages.append(
        message(
            "assistant",
            *([thought(some())] if draw(st.booleans()) else []),
            some(),
            weight=draw(st.sampled_from([1.0, 0.0])),
        )
    )
    return messages


conversations = st.builds(
    Conversation,
    messages=(
        st.lists(_messages(), min_size=1, max_size=6)
        | _scenes()
        | st.tuples(_scenes(), _scenes()).map(lambda two: two[0] + two[1])
    ).map(tuple),
    tools=st.sampled_from(["", "", '[{"name": "search"}]']),
    extra=st.just({}),
    group=st.none(),
    sources=st.just((Source("corpus", "file.jsonl", 0, "openai_messages", None, "0" * 64),)),
).filter(lambda c: bool(c.tools) or any(_says(p) for m in c.messages for p in m.parts))


def _says(part: Part) -> bool:
    return part.kind in ("tool_call", "tool_result") or bool(part.text)


@dataclass(frozen=True)
class Case:
    """A conversation and how it is to be told."""

    conversation: Conversation
    align: str
    question: str
    lag: int


cases = st.builds(
    Case, conversations, st.sampled_from(ALIGN), st.sampled_from(["first", "first", "last"]), st.sampled_from([0, 0, 1])
)


def told(case: Case, tokenizer: TextTokenizer) -> tuple[Tables, dict[str, Any], Cells]:
    """The case's tables, its record as JSON, and its cells."""
    tables = tables_of([case.conversation], case.align, tokenizer, case.lag, case.question)
    return tables, next(to_json(tables.records)), Cells(tables.tokens, 0)


def tables_of(
    conversations: Sequence[Conversation], spec: str, tokenizer: TextTokenizer, lag: int = 0, question: str = "first"
) -> Tables:
    """Both tables of conversations under an align spec."""
    parsed = parse_align_spec(spec, question)  # type: ignore[arg-type]
    timelines = [align(conversation, parsed)[0] for conversation in conversations]
    documents = [Document(c, t, parsed) for c, t in zip(conversations, timelines, strict=True)]
    encoded, first = encode_spans(timelines, tokenizer)
    tables = build_tables(documents, Clock(tokenizer, lag), encoded, first)
    assert not tables.failed
    return tables


class Cells:
    """The cells of one token grid, by stream and row."""

    def __init__(self, tokens: pa.Table, record: int) -> None:
        row = tokens.slice(record, 1).to_pylist()[0]
        self.ids, self.rows, self.streams = row["token_ids"], row["token_rows"], row["token_streams"]
        self.loss = row["token_loss"]
        self.places = list(zip(self.rows, self.streams, strict=True))
        self._at = {(s, r): i for s, r, i in zip(self.streams, self.rows, self.ids, strict=True)}

    def of(self, event: dict[str, Any]) -> list[int]:
        """The ids in the rows of an event."""
        return [self._at[event["stream"], row] for row in range(event["start"], event["end"])]

    def text_ids(self, event: dict[str, Any]) -> list[int]:
        """The ids of an event's text: all but the end-of-message cell."""
        ids = self.of(event)
        return ids[:-1] if event["final"] else ids


def part_text(part: Part) -> str:
    """What a part says in a record."""
    if part.kind == "media":
        return "[media]"
    return f"{part.name}\n{part.text}" if part.kind == "tool_call" else part.text


def said_parts(conversation: Conversation) -> dict[tuple[int | None, int | None], str]:
    """Every part that says something, by message and part, and the tool definitions."""
    found: dict[tuple[int | None, int | None], str] = {
        (m, p): part_text(part)
        for m, message in enumerate(conversation.messages)
        for p, part in enumerate(message.parts)
        if _says(part)
    }
    return found | ({(None, None): conversation.tools} if conversation.tools else {})


def by_part(record: dict[str, Any]) -> dict[tuple[int | None, int | None], list[dict[str, Any]]]:
    """The events of every part, headers left out, in stored order."""
    found: dict[tuple[int | None, int | None], list[dict[str, Any]]] = {}
    for event in record["events"]:
        if event["kind"] != "header":
            found.setdefault((event["message"], event["part"]), []).append(event)
    return found


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def starts_by_the_rule(record: dict[str, Any]) -> list[int]:
    """The layout rule of the design, read off ``after`` and the events' lengths, one event at a time."""
    events, lag = record["events"], record["clock"]["lag"]
    previous: dict[int, int | None] = {}
    last: dict[int, int] = {}
    for i, event in enumerate(events):
        previous[i] = last.get(event["stream"])
        last[event["stream"]] = i
    ends: dict[int, int] = {}

    def end(i: int) -> int:
        if i not in ends:
            ends[i] = start(i) + events[i]["end"] - events[i]["start"]
        return ends[i]

    def start(i: int) -> int:
        before = previous[i]
        ready = [0] if before is None else [end(before)]
        for other in events[i]["after"]:
            ready.append(end(other) + (0 if events[other]["stream"] == events[i]["stream"] else lag))
        return max(ready)

    return [start(i) for i in range(len(events))]


def message(role: str, *parts: Part | str, **more: Any) -> Message:
    """A message; plain strings are text parts."""
    return Message(role, tuple(Part("text", p) if isinstance(p, str) else p for p in parts), **more)  # type: ignore[arg-type]


def talk(*messages: Message, **more: Any) -> Conversation:
    """A conversation of the messages."""
    return Conversation(messages, **more)


def call(name: str, arguments: str, call_id: str | None = None) -> Part:
    """A tool call."""
    return Part("tool_call", arguments, name=name, call_id=call_id)


def result(text: str, call_id: str | None = None) -> Part:
    """A tool result."""
    return Part("tool_result", text, call_id=call_id)


def thought(text: str) -> Part:
    """A thinking part."""
    return Part("thinking", text)


def events_on(record: dict[str, Any], stream: str) -> list[dict[str, Any]]:
    """The events of the stream of that name, in order."""
    names = [s["name"] for s in record["streams"]]
    return [e for e in record["events"] if names[e["stream"]] == stream]


def replace_events(table: pa.Table, record: int, change: Any) -> pa.Table:
    """The table with the events of one record changed: ``change`` gets them as dictionaries and may return others."""
    rows = table.to_pylist()
    events = rows[record]["events"]
    rows[record]["events"] = change(events) or events
    return pa.Table.from_pylist(rows, schema=table.schema)


def replace_value(table: pa.Table, record: int, column: str, value: Any) -> pa.Table:
    """The table with one value changed."""
    rows = table.to_pylist()
    rows[record][column] = value
    return pa.Table.from_pylist(rows, schema=table.schema)
