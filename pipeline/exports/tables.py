"""Tables of text: a column per stream, a row per moment, ``-`` where a stream is silent; the form of stream-data.

Where all streams of a data set are among the ten of the paper (arXiv 2605.12460), a record has its ten columns; else it has
``columns`` and ``rows``. Both are what ``converters.stream_table`` reads back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from converters.shared.joining import join_pieces
from converters.stream_table import SILENCE, TEN
from pipeline.conversation import RecordError
from pipeline.exports.channels import TEN_NAMES
from pipeline.exports.targets import Books, Facts, Job, Target, count_lines

_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/(?:[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?")
_INPUTS = frozenset({"system", "user", "tool"})

_COLUMN = dict(zip(TEN_NAMES, TEN, strict=True))


@dataclass(slots=True)
class _Said:
    """An event as words; piece ``i`` begins with word ``first[i]`` and stands in row ``rows[i]`` of the table, one after the
    other."""

    event: dict[str, Any]
    words: list[str]
    starts: list[int]
    first: list[int] = field(default_factory=lambda: [0])
    rows: list[int] = field(default_factory=list)

    def extend(self, to: int, at: int) -> bool:
        """Goes on in table row ``to`` with what is said from row ``at`` of the record on; False if there is too little left."""
        more = to - self.rows[-1]
        least, most = self.first[-1] + more, len(self.words) - 1
        if least > most:
            return False
        cut = next((i for i in range(least, most) if self.starts[i] >= at), most)
        self.first.extend(range(cut - more + 1, cut + 1))
        self.rows.extend(range(self.rows[-1] + 1, to + 1))
        return True

    def pieces(self) -> list[tuple[int, str]]:
        """Table row and text of each piece."""
        ends = [*self.first[1:], len(self.words)]
        return [(row, "".join(self.words[a:b])) for row, a, b in zip(self.rows, self.first, ends, strict=True)]


def write(job: Job) -> None:
    """Writes ``tables-IIIII-of-NNNNN.jsonl``, a line per record, a file per shard."""
    make = partial(table_of, ten=_is_ten(job.facts))
    for number, records in job.parts("records"):
        with job.file(f"tables-{number:05d}-of-{len(job.shards):05d}.jsonl") as file:
            for record in records:
                table = job.made(lambda r, books: make(r, books), record)
                if table is not None:
                    file.write(orjson.dumps(table) + b"\n")


def table_of(record: dict[str, Any], books: Books, *, ten: bool) -> dict[str, Any]:
    """The table of a record. A row waits for all rows before it, as in the record every event waits for what had ended.

    Raises RecordError ``bad_stream`` (a name that is no column's), ``empty``.
    """
    names = [stream["name"] for stream in record["streams"]]
    for stream in record["streams"]:
        if not _NAME.fullmatch(stream["name"]):
            raise RecordError("bad_stream", f"{stream['name']!r:.80} is no name for a column")
    said = _placed(record, books)
    if not said:
        raise RecordError("empty", "no event has text")
    rows = max(one.rows[-1] for one in said) + 1
    columns = [[SILENCE] * rows for _ in names]
    before: dict[int, tuple[int, str]] = {}
    for one in said:
        on = one.event["stream"]
        for row, text in one.pieces():
            last = before.get(on)
            columns[on][row] = _cell(text, last[1] if last is not None and last[0] + 1 == row else None, books)
            before[on] = row, text
    _count_lost(record, books)
    if not ten:
        return {"id": record["id"], "columns": names, "rows": [list(row) for row in zip(*columns, strict=True)]}
    books.lose("silent_columns", len(TEN) - len(names))
    user = names.index("user") if "user" in names else None
    asked = next((o.event["text"] for o in said if o.event["stream"] == user), "")
    table: dict[str, Any] = {"id": record["id"], "input_prompt": asked, "num_rows": rows}
    return table | {_COLUMN[n]: columns[names.index(n)] if n in names else [SILENCE] * rows for n in TEN_NAMES}


def _placed(record: dict[str, Any], books: Books) -> list[_Said]:
    """Every event that says something, with the rows of the table that it stands in."""
    said: list[_Said] = []
    last: dict[int, _Said] = {}
    for event in record["events"]:
        if not event["text"]:
            books.lose("empty_events")
            continue
        one = _words(event)
        row = max((o.rows[-1] + 1 for o in last.values() if o.event["end"] <= event["start"]), default=0)
        row = max(row, max((o.rows[0] for o in last.values()), default=0))
        previous = last.get(event["stream"])
        if previous is not None:
            same = (previous.event["message"], previous.event["part"]) == (event["message"], event["part"])
            same = same and previous.event["kind"] == event["kind"]
            row = max(row, previous.rows[-1] + (1 if same else 2))
            books.lose("pauses", same and row > previous.rows[-1] + 1)
        for other in last.values():
            running = other.event["stream"] != event["stream"] and other.event["end"] > event["start"]
            if running and other.rows[-1] < row and not other.extend(row, event["start"]):
                books.lose("overlaps")
        one.rows.append(row)
        said.append(one)
        last[event["stream"]] = one
    return said


def _words(event: dict[str, Any]) -> _Said:
    """Words with the white space before them, and about the row in which each starts: tokens are taken to be of one length."""
    words = _WORD.findall(event["text"])
    rows, size = event["end"] - event["start"] - event["final"], len(event["text"])
    starts, at = [], 0
    for word in words:
        starts.append(event["start"] + at * rows // size)
        at += len(word)
    return _Said(event, words, starts)


def _cell(text: str, before: str | None, books: Books) -> str:
    """A piece as a cell: without the space that joining puts back. ``before``: the piece in the row above."""
    if before is not None:
        bare = text[1:] if text[:1] == " " else text
        if bare and bare != SILENCE and join_pieces([before, bare])[0] == before + text:
            return bare
        books.lose("spaces", join_pieces([before, text])[0] != before + text)
    if text == SILENCE:
        books.lose("hyphens")
        return f" {text}"
    return text


def _count_lost(record: dict[str, Any], books: Books) -> None:
    events = record["events"]
    books.lose("kinds", sum(event["kind"] != "message" for event in events))
    books.lose("interrupted", sum(event["interrupted"] for event in events))
    books.lose("weights", sum(event["weight"] != 1.0 and event["kind"] != "header" for event in events))
    books.lose("times", sum(event["time_ms"] is not None for event in events))
    books.lose("verdicts", sum(event["lexical"] in ("leak", "weak") for event in events))
    for stream in record["streams"]:
        reads = "input" if stream["name"].partition("/")[0] in _INPUTS else "output"
        books.lose("directions", reads != stream["direction"])


def _is_ten(facts: Facts) -> bool:
    return all(name in TEN_NAMES for name, _ in facts.streams)


def _notes(facts: Facts) -> list[str]:
    form = "the ten columns of stream-data" if _is_ten(facts) else "columns and rows"
    return [
        f"{form}; a row of the table is a moment, and has no length in tokens",
        "a row waits for all rows before it: edges that say less, ids, sources, licences and groups are not in this form",
    ]


TARGET = Target(
    "tables",
    "text tables, a column per stream: the form of the paper's stream-data",
    "records",
    write,
    count_lines,
    {
        "overlaps": "pairs of events that overlapped and now follow each other, since a word cannot be cut",
        "pauses": "pauses within a message, which read like its end",
        "spaces": "pieces that a space is put before when the table is read, since they were cut inside a word",
        "hyphens": "texts that are a lone hyphen, which means silence here: a space was put before them",
        "empty_events": "events without text (an empty result), which a table cannot tell from silence",
        "kinds": "events that are calls, results, headers or definitions: only their text is kept",
        "interrupted": "events that were cut off, which now end like any other",
        "weights": "events with a weight of their own",
        "times": "events with a real time",
        "verdicts": "events with a leak verdict",
        "directions": "streams that are read back with the other direction",
        "silent_columns": "columns of the ten that a record has no stream for: they are silent",
    },
    _notes,
)
