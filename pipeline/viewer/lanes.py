"""What is drawn of a record, whoever draws it: lanes, entries with rows and waits, leaks with their evidence, harmless text."""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.leaks import lexical
from pipeline.tables import RECORDS

#: Marks that tell what an event is without colour.
INPUT_MARK, OUTPUT_MARK = "◂", "▸"
FINAL_MARK, CUT_MARK = "■", "✂"
OVERLAP_MARK = "> "
LEAK_MARKS = {"leak": "‼ ", "weak": "⁇ "}
KIND_MARKS = {"header": "‹ ", "tool_call": "⚒ ", "tool_result": "", "note": "§ ", "message": ""}

Direction = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Lane:
    """A stream of the record, as a column."""

    index: int
    name: str
    role: str
    direction: Direction

    @property
    def label(self) -> str:
        """The name, and whether the stream is read or written."""
        return f"{self.name} {INPUT_MARK if self.direction == 'input' else OUTPUT_MARK}"


@dataclass(frozen=True, slots=True)
class Leak:
    """``verdict``: leak or weak. ``evidence``: what was said too early, and the event in which it was to be read.

    The evidence is empty where the detector of this version finds none.
    """

    verdict: str
    evidence: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it is drawn. ``text`` is harmless and may have line breaks; ``after``, ``awaited_by``: indices of entries.

    ``overlaps``: an output that shares a row with an event of another stream. ``trained``: its words are targets.
    """

    index: int
    lane: int
    start: int
    end: int
    kind: str
    text: str
    final: bool
    interrupted: bool
    overlaps: bool
    trained: bool
    after: tuple[int, ...]
    awaited_by: tuple[int, ...]
    leak: Leak | None
    message: int | None
    part: int | None
    call: int | None
    weight: float
    time_ms: int | None
    lexical: str | None
    gain: float | None
    judged: str | None

    @property
    def tokens(self) -> int:
        """Rows that it takes, its end of message included."""
        return self.end - self.start

    @property
    def marks(self) -> str:
        """What stands before its text: a leak, an overlap, what kind it is."""
        leak = LEAK_MARKS.get(self.leak.verdict, "") if self.leak else ""
        return leak + (OVERLAP_MARK if self.overlaps else "") + KIND_MARKS.get(self.kind, "")

    @property
    def ending(self) -> str:
        """What stands behind its text: the end of a message, or that it was cut off."""
        return FINAL_MARK if self.final else CUT_MARK if self.interrupted else ""


@dataclass(frozen=True, slots=True)
class View:
    """A record as it is drawn. ``about``: what it is, as names and harmless values. ``entries`` are in stored order."""

    id: str
    lanes: tuple[Lane, ...]
    entries: tuple[Entry, ...]
    rows: int
    cells: int
    ms_per_row: float | None
    about: tuple[tuple[str, str], ...]

    @property
    def leaks(self) -> tuple[Entry, ...]:
        """The entries that leak, or may."""
        return tuple(entry for entry in self.entries if entry.leak)


_SHORT = {"\t": "⇥", "\x7f": "␡", **{chr(c): chr(0x2400 + c) for c in range(32) if c not in (9, 10)}}
_JOINERS = "\u200c\u200d"
_PLAIN = re.compile(r"[\n\x20-\x7e]*")


def shown(text: str) -> str:
    """The text with nothing left in it that a terminal or a browser would obey; line breaks stay.

    Control characters show as their pictures (``␛``), other invisible ones (direction marks, U+2028, unassigned) as ``⟨202E⟩``.
    Joiners inside words and emoji stay, as scripts need them; a mark without a letter before it stands on ``◌``.
    """
    if _PLAIN.fullmatch(text):
        return text
    if unicodedata.combining(text[0]):
        text = "\u25cc" + text
    if text.isprintable():
        return text
    joined = _inside_emoji(text)
    made: list[str] = []
    before = ""
    for at, character in enumerate(text):
        category = unicodedata.category(character)
        stays = character.isprintable() or category == "Zs" or character == "\n"
        if stays or (character in _JOINERS and before in ("L", "M")) or at in joined:
            made.append(character)
        else:
            made.append(_SHORT.get(character) or f"⟨{ord(character):04X}⟩")
        before = category[0]
    return "".join(made)


def _inside_emoji(text: str) -> set[int]:
    """Where a joiner makes one emoji of two: the rule that keeps them one grapheme (GB11 of UAX 29)."""
    if "\u200d" not in text:
        return set()
    import regex

    pattern = r"\p{Extended_Pictographic}\p{Grapheme_Cluster_Break=Extend}*\K\u200d(?=\p{Extended_Pictographic})"
    return {found.start() for found in regex.finditer(pattern, text)}


def one_line(text: str, most: int = 200) -> str:
    """Harmless text on one line, cut after ``most`` characters."""
    cut = text[:most]
    line = shown(cut).replace("\n", "⏎")
    return line + "…" if len(text) > most else line


def parsed(text: str | None) -> Any:
    """The value of JSON text (None: of no text); text that is no JSON as it is."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def view_of(record: Mapping[str, Any]) -> View:
    """The view of a record in its JSON form. Raises InputError where its events point to nothing."""
    lanes = tuple(
        Lane(index, one_line(s["name"], 40), one_line(s["role"], 40), s["direction"])
        for index, s in enumerate(record["streams"])
    )
    for lane in lanes:
        if lane.direction not in ("input", "output"):
            raise InputError(f"record {record['id']}: stream {lane.name} is neither input nor output")
    events: Sequence[Mapping[str, Any]] = record["events"]
    for index, event in enumerate(events):
        if not 0 <= event["stream"] < len(lanes) or any(not 0 <= a < len(events) for a in event["after"]):
            raise InputError(
                f"record {record['id']}: event {index} points to nothing; `multistream validate` tells more"
            )
    awaited: list[list[int]] = [[] for _ in events]
    for index, event in enumerate(events):
        for other in event["after"]:
            awaited[other].append(index)
    overlaps = _overlaps(lanes, events)
    leaks = _leaks(record)
    entries = tuple(
        Entry(
            index, e["stream"], e["start"], e["end"], one_line(e["kind"], 40), shown(e["text"]), e["final"],
            bool(e.get("interrupted")), overlaps[index],
            lanes[e["stream"]].direction == "output" and e.get("weight", 1.0) > 0,
            tuple(e["after"]), tuple(awaited[index]), leaks.get(index), e.get("message"), e.get("part"), e.get("call"),
            e.get("weight", 1.0), e.get("time_ms"), e.get("lexical"), e.get("gain"), e.get("judged"),
        )
        for index, e in enumerate(events)
    )  # fmt: skip
    cells = sum(e["end"] - e["start"] for e in events)
    return View(
        one_line(record["id"]),
        lanes,
        entries,
        record["rows"],
        cells,
        record["clock"]["ms_per_row"],
        tuple(_about(record)),
    )


def _about(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    alignment, clock, segment = record["alignment"], record["clock"], record["segment"]
    told = [("record", record["id"]), ("conversation", record["conversation_id"])]
    for s in record["sources"]:
        where = f"{s['corpus']}/{s['path']} #{s['index']}"
        told.append(("source", f"{where}  format {s['format'] or 'unknown'}  licence {s['license'] or 'unknown'}"))
    told.append(("policy", alignment["policy"]))
    ms = "" if clock["ms_per_row"] is None else f", {clock['ms_per_row']:g} ms per row"
    told.append(("clock", f"{clock['tokenizer']} tokens, lag {clock['lag']}{ms}"))
    if segment["n"] > 1:
        told.append(("segment", f"{segment['k']} of {segment['n']}"))
    told += [(name, record[name]) for name in ("labels", "extra") if parsed(record.get(name))]
    told += [("group", record["group"]), ("params", f"{alignment['params']} (version {alignment['version']})")]
    return [(name, one_line(value, 2000)) for name, value in told]


def _overlaps(lanes: Sequence[Lane], events: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each event is an output that shares a row with an event of another stream."""
    starts: list[list[int]] = [[] for _ in lanes]
    ends: list[list[int]] = [[] for _ in lanes]
    for event in events:
        if event["end"] > event["start"]:
            starts[event["stream"]].append(event["start"])
            ends[event["stream"]].append(event["end"])
    for column in (*starts, *ends):
        column.sort()
    return [
        lanes[event["stream"]].direction == "output"
        and event["end"] > event["start"]
        and any(
            bisect_left(starts[lane.index], event["end"]) > bisect_right(ends[lane.index], event["start"])
            for lane in lanes
            if lane.index != event["stream"]
        )
        for event in events
    ]


def _leaks(record: Mapping[str, Any]) -> dict[int, Leak]:
    """The leaks by event: those that the record says, and those that the detector finds where nothing is said."""
    events = record["events"]
    stored = {i: e["lexical"] for i, e in enumerate(events) if e.get("lexical") in LEAK_MARKS}
    unsaid = {i for i, e in enumerate(events) if e.get("lexical") is None}
    found: dict[int, Leak] = {}
    for finding in lexical(pa.Table.from_pylist([dict(record)], schema=RECORDS)):
        if finding.verdict != "clear" and (finding.event in stored or finding.event in unsaid):
            verdict = stored.get(finding.event, finding.verdict)
            text = events[finding.event]["text"].casefold()
            # In the order in which it is said: the detector's own depends on what it has read before.
            evidence = sorted(
                finding.evidence, key=lambda told: (text.find(told[0].casefold()) % (len(text) + 1), told)
            )
            found[finding.event] = Leak(verdict, tuple((one_line(said), at) for said, at in evidence))
    return {**{i: Leak(verdict, ()) for i, verdict in stored.items()}, **found}
