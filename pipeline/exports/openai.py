"""Single-stream chat: the messages of OpenAI's chat completions, as JSON Lines; what every fine-tuning tool reads.

Streams are put one after the other in the order of the conversation, so that a baseline can be trained on the same text.
Nothing stands before what it waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from pipeline.conversation import RecordError
from pipeline.exports.order import in_order
from pipeline.exports.targets import Books, Facts, Job, Target, count_lines

#: Roles whose streams have a place in a chat. What other streams say is left out.
_ROLES = {"system": "system", "user": "user", "tool": "tool", "assistant": "assistant", "thought": "assistant",
          "call": "assistant"}  # fmt: skip
#: The order in which a message of the assistant holds its parts.
_RANK = {"reasoning_content": 0, "content": 1, "tool_calls": 2}


def write(job: Job) -> None:
    """Writes ``messages-IIIII-of-NNNNN.jsonl``, a line per record, a file per shard."""
    for number, records in job.parts("records"):
        with job.file(f"messages-{number:05d}-of-{len(job.shards):05d}.jsonl") as file:
            for record in records:
                chat = job.made(chat_of, record)
                if chat is not None:
                    file.write(orjson.dumps(chat) + b"\n")


def chat_of(record: dict[str, Any], books: Books) -> dict[str, Any]:
    """``{"id", "messages", "tools"?}`` of a record.

    Raises RecordError ``no_answer`` where the assistant says nothing, ``entangled`` where a call cannot be put whole.
    """
    streams = record["streams"]
    lost = {s for s, on in enumerate(streams) if on["role"] not in _ROLES}
    tools, pieces = _pieces(record, lost)
    answers = {
        p[0]["message"] for p in pieces if p[0]["kind"] != "note" and streams[p[0]["stream"]]["direction"] == "output"
    }
    chat = _Chat()
    interrupted = weights = times = flattened = placeholders = 0
    latest = -1
    for events in pieces:
        first, last = events[0], events[-1]
        on = streams[first["stream"]]
        interrupted += last["interrupted"]
        weights += on["direction"] == "output" and {e["weight"] for e in events} not in ({0.0}, {1.0})
        times += first["time_ms"] is not None
        flattened += first["start"] < latest
        latest = max(latest, last["end"])
        if first["kind"] == "note" and on["direction"] == "output" and first["message"] in answers:
            placeholders += 1
            continue
        chat.add(events, on)
    messages = chat.messages
    for message in messages:
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
    if not any(message["role"] == "assistant" for message in messages):
        raise RecordError("no_answer", "the assistant says nothing in a form that a chat has")
    books.lose("overlaps", flattened)
    books.lose("cut_parts", len(pieces) - len({_where(piece[0]) for piece in pieces}))
    books.lose("streams", len(lost))
    books.lose("events", sum(e["stream"] in lost for e in record["events"]))
    books.lose("joined_parts", chat.joined)
    books.lose("interrupted", interrupted)
    books.lose("weights", weights)
    books.lose("times", times)
    books.lose("verdicts", sum(e["lexical"] in ("leak", "weak") for e in record["events"]))
    books.lose("segments", record["segment"]["n"] > 1)
    books.lose("media", sum(e["kind"] == "note" and e["message"] is not None for e in record["events"]))
    books.lose("placeholders", placeholders)
    books.lose("without_call", sum(m["role"] == "tool" and "tool_call_id" not in m for m in messages))
    late, unanswered = _late_and_unanswered(messages)
    books.lose("late_results", late)
    books.lose("unanswered_calls", unanswered)
    made = {"id": record["id"], "messages": messages}
    if tools:
        made["tools"] = tools
        books.lose("unreadable_tools", not _is_list(tools))
    return made


@dataclass(slots=True)
class _Chat:
    """Messages as they grow. ``previous``: message and role of the last piece; ``results``: where the last result of a
    message stands; ``seen``: parts of which a piece is there; ``called``: calls that are there."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    joined: int = 0
    previous: tuple[int | None, str] | None = None
    results: dict[int | None, int] = field(default_factory=dict)
    seen: set[tuple[int, int]] = field(default_factory=set)
    called: set[int] = field(default_factory=set)

    def add(self, events: list[dict[str, Any]], on: dict[str, Any]) -> None:
        """Adds a piece of a part, which stands on the stream ``on``, behind all that is there."""
        first, text = events[0], "".join(e["text"] for e in events)
        goes_on = _where(first) in self.seen
        self.seen.add(_where(first))
        if first["kind"] == "tool_result":
            self._result(first, text)
            return
        role = _ROLES[on["role"]]
        if role == "tool":
            self._beside_result(first, text)
            return
        key = "tool_calls" if first["kind"] == "tool_call" else "content"
        key = "reasoning_content" if on["role"] == "thought" else key
        where = first["message"], role
        made = _message(role, on, events)
        open_ = self.messages[-1] if self.previous == where and not goes_on else None
        if (
            open_ is None
            or open_.get("weight") != made.get("weight")
            or any(_RANK[k] > _RANK[key] for k in _RANK if k in open_ and open_[k] is not None)
        ):
            open_ = made
            self.messages.append(open_)
        self.previous = where
        if key == "tool_calls":
            open_.setdefault(key, []).append(_call(first, text))
            self.called.add(first["call"])
        else:
            self._join(open_, key, text)

    def _result(self, event: dict[str, Any], text: str) -> None:
        made = {"role": "tool", "content": ""}
        if self.messages and self.previous == (event["message"], "tool"):
            made = self.messages[-1]  # what stood beside this result came before it
        else:
            self.messages.append(made)
        if event["call"] is not None and event["call"] in self.called:
            made["tool_call_id"] = f"call_{event['call']}"
        self._join(made, "content", text)
        self.results[event["message"]] = len(self.messages) - 1
        self.previous = None

    def _beside_result(self, event: dict[str, Any], text: str) -> None:
        """What a tool's message says beside its result belongs to it, unless the assistant has spoken since."""
        at = self.results.get(event["message"])
        if at is not None and all(message["role"] == "tool" for message in self.messages[at:]):
            self._join(self.messages[at], "content", text)
        elif self.previous == (event["message"], "tool"):
            self._join(self.messages[-1], "content", text)
        else:
            self.messages.append({"role": "tool", "content": text})
            self.previous = event["message"], "tool"

    def _join(self, message: dict[str, Any], key: str, text: str) -> None:
        before = message.get(key)
        self.joined += bool(before)
        message[key] = before + _between(before, text) + text if before else text


def _pieces(record: dict[str, Any], lost: set[int]) -> tuple[str, list[list[dict[str, Any]]]]:
    """The tool definitions, and the events of each piece of a part, each behind all that it waited for.

    Headers are ours: left out, as are ``lost`` streams. A piece is all of its part where nothing else has to stand inside.
    """
    tools = ""
    pieces: list[list[dict[str, Any]]] = []
    for index in in_order(record["events"], [on["direction"] == "output" for on in record["streams"]]):
        event = record["events"][index]
        if event["message"] is None:
            tools += event["text"] if event["kind"] == "note" else ""
        elif event["kind"] != "header" and event["stream"] not in lost:
            last = pieces[-1][-1] if pieces else None
            if last is not None and _where(last) == _where(event) and _of_one_weight(last, event):
                pieces[-1].append(event)
            else:
                pieces.append([event])
    return tools, pieces


def _where(event: dict[str, Any]) -> tuple[int, int]:
    return event["message"], event["part"] or 0


def _of_one_weight(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are trained, or neither; the events of a call stay together, whatever they weigh."""
    return bool(one["kind"] == "tool_call" or (one["weight"] == 0) == (other["weight"] == 0))


def _message(role: str, on: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": None if role == "assistant" else ""}
    if "/" in on["name"]:
        message["name"] = on["name"].replace("/", "_")
    if role == "assistant" and all(event["weight"] == 0 for event in events):
        message["weight"] = 0
    return message


def _call(event: dict[str, Any], text: str) -> dict[str, Any]:
    name, _, arguments = text.partition("\n")
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{event['call']}", "type": "function", "function": function}


def _late_and_unanswered(messages: list[dict[str, Any]]) -> tuple[int, int]:
    """How many tool messages stand elsewhere than behind the message of their call, and how many calls have no result."""
    late, open_, waiting = 0, set[str](), set[str]()
    for message in messages:
        if message["role"] != "tool":
            open_ = {call["id"] for call in message.get("tool_calls", ())}
            waiting |= open_
        elif (id_ := message.get("tool_call_id")) is not None:
            late += id_ not in open_
            waiting.discard(id_)
    return late, len(waiting)


def _between(before: str, after: str) -> str:
    """What stands between two parts of one text: nothing beside white space, else an empty line, which is ours."""
    return "" if before[-1].isspace() or after[:1].isspace() else "\n\n"


def _is_list(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), list)
    except orjson.JSONDecodeError:
        return False


def _notes(facts: Facts) -> list[str]:
    notes = [
        "one stream: rows, edges, verdicts, sources, licences and groups are not in this form; the ids lead back to them",
        "tool definitions and arguments are JSON text, so that no table of them puts nulls into other calls",
    ]
    dropped = sorted({name for name, _ in facts.streams if name.partition("/")[0] not in _ROLES})
    if dropped:
        notes.append(f"streams without a place in a chat, left out: {', '.join(dropped)}")
    return notes


TARGET = Target(
    "openai",
    "chat messages with tools and reasoning, one stream: a baseline for any fine-tuning tool",
    "records",
    write,
    count_lines,
    {
        "overlaps": "parts that began before an earlier one had ended: they now follow it",
        "cut_parts": "pieces of parts that go on in a later message, behind what they waited for, or with another weight",
        "streams": "streams without a place in a chat, in all records",
        "events": "events on those streams",
        "joined_parts": "parts of one message put into one text; between them stands an empty line that is ours",
        "interrupted": "parts that were cut off, which now end like any other",
        "weights": "pieces of parts that do not weigh 0 or 1 throughout (0 is kept as the weight of a message of its own)",
        "times": "parts with a real time",
        "verdicts": "events with a leak verdict",
        "segments": "records that are one segment of a longer conversation",
        "media": "placeholders of what is no text",
        "placeholders": "such placeholders in what the assistant says: left out, since nobody trains them",
        "without_call": "tool messages that name no call, since none is known: some tools refuse them",
        "late_results": "tool messages that do not follow the message of their call at once: some tools refuse them",
        "unanswered_calls": "calls whose result is not in the record: some tools refuse them",
        "unreadable_tools": "records whose tool definitions are no JSON list: kept as the text that they are",
    },
    _notes,
    version=3,
)
