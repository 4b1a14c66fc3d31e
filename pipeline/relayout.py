"""Relayout: stream records laid out again under another tokenizer or lag, without their source.

The record's timeline is rebuilt: its spans are the runs of events of one part, its chunks the events, its edges their
``after``. Text, edges, delays, ids of the conversation, sources, parts, labels and alignment stay; rows, ends, the record's
id and verdicts are those of the new layout. See docs/alignment/relayout.md for what cannot be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Message, Part, RecordError, Role, Source
from pipeline.records import Document, Kept
from pipeline.tables import RECORD_SCHEMA_ID, RECORDS
from pipeline.timeline import Span, Stream, Timeline

#: Conversations of one unit that a record is looked for among, to learn which of them it is.
_MOST_CONVERSATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Relayed(Conversation):
    """What a stream record tells: its timeline, what is kept of it, and its messages as far as the record has them."""

    timeline: Timeline | None = None
    kept: Kept | None = None

    def has_output(self) -> bool:
        """Whether the model says anything; a segment of a longer conversation is taken to be of one where it does."""
        return Conversation.has_output(self) or (self.kept is not None and self.kept.n > 1)

    def document(self) -> Document:
        """The record to be."""
        assert self.timeline is not None
        assert self.kept is not None
        kept = self.kept
        return Document(
            self, self.timeline, kept, kept.ordinal or 0, kept.k, kept.n, labels=kept.labels, ms_per_row=kept.ms_per_row,
            kept=kept,
        )  # fmt: skip


def rebuild(record: dict[str, Any]) -> Relayed:
    """The timeline of a stream record (its JSON form, as of ``records.to_json`` or a row of Parquet).

    Raises RecordError ``bad_record`` where it does not fit the schema or breaks an invariant.
    """
    record = _filled(record)
    table = _checked(record)
    events: list[dict[str, Any]] = record["events"]
    streams = tuple(Stream(s["name"], s["role"], s["slot"], s["direction"]) for s in record["streams"])
    labels: dict[str, Any] = orjson.loads(record["labels"])
    delays: dict[int, int] = dict(labels.pop("delays", ()))
    order, spans, span_of = _spans(record, streams)
    chunk_of = {event: chunk for chunk, event in enumerate(order)}
    ends: list[int] = []
    for chunk, event in enumerate(order):
        begun = ends[-1] if chunk and span_of[event] == span_of[order[chunk - 1]] else 0
        ends.append(begun + len(events[event]["text"]))
    timeline = Timeline(
        streams,
        tuple(spans),
        [span_of[event] for event in order],
        ends,
        [tuple(sorted(chunk_of[a] for a in events[event]["after"])) for event in order],
        _earliest(record, table, order, delays),
        [delays.get(event, 0) for event in order] if delays else None,
    )
    messages, tools = _messages(streams, spans)
    return Relayed(messages, tools, timeline=timeline, kept=_kept(record, labels))


#: What the schema lets a record leave out.
_EVENT: dict[str, Any] = {
    "weight": 1.0, "interrupted": False, "time_ms": None, "lexical": None, "gain": None, "judged": None,
}  # fmt: skip


def _filled(record: Any) -> dict[str, Any]:
    """The record with every value at its default spelled out. Raises RecordError ``bad_record`` if it is none."""
    from schemas import violations

    for _, message in violations("stream_record", [record]):
        raise RecordError("bad_record", f"no {RECORD_SCHEMA_ID}: {message}")
    events = [_EVENT | event for event in record["events"]]
    return {"extra": "{}", **record, "events": events, "parts": [{"added": "", **part} for part in record["parts"]]}


def _checked(record: Mapping[str, Any]) -> pa.Table:
    """The record, which fits the schema, as a table of one row. Raises RecordError ``bad_record`` if an invariant is broken."""
    try:
        table = pa.Table.from_pylist([record], schema=RECORDS)
        values = {name: msgspec.json.decode(record[name]) for name in ("extra", "labels")}
    except (pa.ArrowException, OverflowError, msgspec.DecodeError) as error:
        raise RecordError("bad_record", f"the record cannot be read: {str(error).splitlines()[0]:.200}") from error
    for name, value in values.items():
        if not isinstance(value, dict):
            raise RecordError("bad_record", f"{name} is no JSON object")
    if not _are_delays(values["labels"].get("delays", []), len(record["events"])):
        raise RecordError("bad_record", "labels.delays are no pairs of an event and rows")
    for violation in record_violations(table):
        raise RecordError("bad_record", f"{violation.code}: {violation.message}")
    return table


def _are_delays(value: Any, events: int) -> bool:
    """Whether a value is a list of [event, rows]."""
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in pair)
        and 0 <= pair[0] < events
        and 0 <= pair[1] < 1 << 31
        for pair in value
    )


def _spans(record: Mapping[str, Any], streams: Sequence[Stream]) -> tuple[list[int], list[Span], dict[int, int]]:
    """The events in the order of the source, their spans in that order, and the span of each event.

    ``parts`` lists spans in the order of the source; a header stands before its result.
    """
    events = record["events"]
    runs: dict[tuple[Any, ...], list[int]] = {}
    for index, event in enumerate(events):
        where = (event["message"], event["part"])
        runs.setdefault((*where, event["kind"] == "header"), []).append(index)
    added = {(p["message"], p["part"]): p["added"] for p in record["parts"]}
    order: list[int] = []
    spans: list[Span] = []
    span_of: dict[int, int] = {}
    for message, part in added:
        for header in (True, False):
            run = runs.pop((message, part, header), [])
            if len({events[i]["stream"] for i in run}) > 1:
                raise RecordError("bad_record", f"part {part} of message {message} stands on two streams")
            if run:
                spans.append(_span([events[i] for i in run], "" if header else added[message, part]))
                span_of.update(dict.fromkeys(run, len(spans) - 1))
                order.extend(run)
    if runs:
        raise RecordError("bad_record", "a header announces a result that is not there")
    return order, spans, span_of


def _span(events: Sequence[Mapping[str, Any]], added: str) -> Span:
    first, last = events[0], events[-1]
    return Span(
        first["stream"], first["message"], first["part"], first["kind"], "".join(e["text"] for e in events),
        ends=last["final"], call=first["call"], interrupted=last["interrupted"], weight=first["weight"],
        time_ms=first["time_ms"], added=added,
    )  # fmt: skip


def _earliest(
    record: Mapping[str, Any], table: pa.Table, order: Sequence[int], delays: Mapping[int, int]
) -> list[int] | None:
    """On a clock of real time, the first row of each event that had one: by its time, or since it was late.

    What waited for others longer than for its time, and has no time of its own, keeps its place among them.
    """
    ms = record["clock"]["ms_per_row"]
    if ms is None:
        return None
    events, lag = record["events"], record["clock"]["lag"]
    origin = min((e["time_ms"] for e in events if e["time_ms"] is not None), default=0)
    told: set[tuple[Any, ...]] = set()
    free: dict[int, int] = {}
    earliest: dict[int, int] = {}
    for index, event in enumerate(events):
        on = event["stream"]
        due = free.get(on, 0)
        for other in event["after"]:
            due = max(due, events[other]["end"] + (lag if events[other]["stream"] != on else 0))
        free[on] = event["end"]
        where = (on, event["message"], event["part"])
        if event["start"] > due + delays.get(index, 0):
            earliest[index] = event["start"]
        elif record["alignment"]["policy"] == "source" and event["time_ms"] is not None and where not in told:
            earliest[index] = int((event["time_ms"] - origin) / ms)
        told.add(where)
    return [earliest.get(event, 0) for event in order] if any(earliest.values()) else None


_ROLES: dict[str, Role] = {"system": "system", "tool": "tool"}


def _messages(streams: Sequence[Stream], spans: Sequence[Span]) -> tuple[tuple[Message, ...], str]:
    """What the record tells as messages, and the tool definitions."""
    parts: dict[tuple[int, Role], list[Part]] = {}
    tools = ""
    for span in spans:
        on = streams[span.stream]
        role: Role = "assistant" if on.direction == "output" else _ROLES.get(on.role, "user")
        if span.kind == "note" and span.message is None:
            tools = span.text
        elif span.kind != "header":
            parts.setdefault((-1 if span.message is None else span.message, role), []).append(_part(span, on))
    return tuple(Message(role, tuple(told)) for (_, role), told in parts.items()), tools


def _part(span: Span, on: Stream) -> Part:
    if span.kind == "tool_call":
        name, _, arguments = span.text.partition("\n")
        return Part("tool_call", arguments, name=name)
    if span.kind == "note":
        return Part("media", span.text)
    if span.kind == "tool_result":
        return Part("tool_result", span.text, interrupted=span.interrupted)
    return Part("thinking" if on.role == "thought" else "text", span.text, interrupted=span.interrupted)


def _kept(record: Mapping[str, Any], labels: dict[str, Any]) -> Kept:
    clock, alignment, segment = record["clock"], record["alignment"], record["segment"]
    sources = tuple(Source(**source) for source in record["sources"])

    def kept(ordinal: int | None) -> Kept:
        return Kept(
            record["id"], (clock["tokenizer_sha256"], clock["lag"]), record["conversation_id"], record["group"], ordinal,
            sources, record["extra"], labels, alignment["policy"], alignment["version"], alignment["params"],
            clock["ms_per_row"], segment["k"], segment["n"],
        )  # fmt: skip

    for ordinal in range(_MOST_CONVERSATIONS):
        if kept(ordinal).record_id(*kept(ordinal).clock) == record["id"]:
            return kept(ordinal)
    return kept(None)
