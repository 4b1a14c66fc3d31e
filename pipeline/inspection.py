"""What inputs are, and what will become of them: told from the files, by the code that will convert them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converters import CONVERTERS, UnknownFormatError, format_votes, parse_format
from pipeline import containers
from pipeline.alignment import AlignmentError, reasons
from pipeline.companions import find_candidates
from pipeline.containers.packing import DAMAGED, unpacked
from pipeline.containers.places import open_place
from pipeline.conversation import Conversation, Message, Part
from pipeline.conversation import to_json as conversation_to_json
from pipeline.convert import BATCH_BYTES, BATCH_UNITS, ConvertConfig, Converter
from pipeline.errors import ConfigError, InputError
from pipeline.ingest import Unit, sniff
from pipeline.licenses import Found, license_beside
from pipeline.listing import InputFile, InputSource, Listing, find_files
from pipeline.reading import SAMPLE, Input, Reader, input_of_file, input_of_hub
from pipeline.records import to_json
from pipeline.relayout import Relayed
from pipeline.script import Script, perform
from pipeline.storage import StoreError
from pipeline.timeline import draft_of, spans_of

#: What one value may take in bytes: the default of ingest.
MAX_UNIT_BYTES = 32 << 20

#: Records whose digests and ids are remembered; beyond it repeats are no longer counted, and the report says so.
REMEMBERED = 2_000_000

_TEXT_KEYS = frozenset(
    {
        "answer", "arguments", "completion", "content", "context", "input", "instruction", "observation", "output", "prompt",
        "question", "reasoning", "reasoning_content", "response", "text", "thinking", "thought", "value",
    }
)  # fmt: skip
_ID_KEYS = ("id", "_id", "uuid", "conversation_id", "session_id", "message_tree_id", "prompt_id", "question_id")
#: What is looked for in the text of every part.
_IN_TEXT: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("control characters", re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")),
    ("replacement characters (U+FFFD)", re.compile("\ufffd")),
    (
        "zero-width or BOM characters",
        re.compile("[\u200b\u200c\u200e\u200f\u2060\ufeff]|\u200d(?![\u2600-\u27bf\U00010000-\U0010ffff])"),
    ),
    (
        "special-token look-alikes",
        re.compile(r"<\|[A-Za-z][\w ]{0,40}\|>|</?s>|\[/?INST\]|<(?:pad|unk|bos|eos|mask)>|<(?:start|end)_of_turn>"),
    ),
)
_ANY_IN_TEXT = re.compile("|".join(pattern.pattern for _, pattern in _IN_TEXT))

Progress = Callable[[int], None]


@dataclass(slots=True)
class Noted:
    """How often something was found, and where first: the place in the input, and what was there."""

    count: int = 0
    where: str = ""
    example: str = ""

    def note(self, count: int, where: str, example: str) -> None:
        """Counts it; the first place is kept."""
        if not self.count:
            self.where, self.example = where, example
        self.count += count


_COUNTS = (
    "values", "units", "joined", "converted", "input_only", "rejected", "conversations", "records", "segments", "realigned",
)  # fmt: skip


@dataclass(slots=True)
class Contents:
    """What was found in units, to be added up. ``values``: what the inputs hold, of which a unit may take many.

    ``joined``: units with a record of a companion file. ``streams``: records that have each stream. ``policies``:
    conversations in which each alignment policy has something to do; what, of the first of them, is in its example.
    """

    values: int = 0
    units: int = 0
    joined: int = 0
    conversations: int = 0
    records: int = 0
    segments: int = 0
    realigned: int = 0
    converted: int = 0
    input_only: int = 0
    rejected: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    oddities: dict[str, Noted] = field(default_factory=dict)
    rejects: dict[str, Noted] = field(default_factory=dict)
    policies: dict[str, Noted] = field(default_factory=dict)

    def odd(self, what: str, where: str, example: str = "", count: int = 1) -> None:
        """Notes an oddity."""
        self.oddities.setdefault(what, Noted()).note(count, where, example)

    def add(self, other: Contents) -> None:
        """Adds another part's figures to these."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("roles", "parts", "streams", "extra"):
            getattr(self, name).update(getattr(other, name))
        for mine, theirs in (
            (self.oddities, other.oddities),
            (self.rejects, other.rejects),
            (self.policies, other.policies),
        ):
            for what, noted in theirs.items():
                mine.setdefault(what, Noted()).note(noted.count, noted.where, noted.example)

    def to_json(self) -> dict[str, Any]:
        """The figures, for programs."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "messages": dict(self.roles),
            "parts": dict(self.parts),
            "streams": dict(self.streams),
            "oddities": [_noted(what, n, "oddity", "example") for what, n in _by_count(self.oddities)],
            "rejects": [_noted(code, n, "code", "message") for code, n in _by_count(self.rejects)],
            "policies": [_noted(name, n, "policy", "why") for name, n in _by_count(self.policies)],
            "extra": dict(self.extra.most_common()),
        }


def _by_count(noted: Mapping[str, Noted]) -> list[tuple[str, Noted]]:
    return sorted(noted.items(), key=lambda item: -item[1].count)


def _noted(what: str, noted: Noted, name: str, example: str) -> dict[str, Any]:
    return {name: what, "count": noted.count, "where": noted.where, example: noted.example}


@dataclass(slots=True)
class FileReport:
    """One file: what it is and why, and what is in it. ``problem``: why nothing could be made of it, "" for none.

    ``votes``: how many of the ``sampled`` values look like each format. ``whole``: whether all of the file was read.
    ``companion_of``: the file to whose records those of this one are joined.
    """

    file: str
    name: str
    corpus: str = ""
    container: str = ""
    format: str | None = None
    forced: bool = False
    sampled: int = 0
    votes: dict[str, int] = field(default_factory=dict)
    license: str | None = None
    license_from: str = ""
    whole: bool = True
    companion_of: str = ""
    problem: str = ""
    contents: Contents = field(default_factory=Contents)

    @property
    def shape(self) -> str:
        """The shape of the format."""
        return CONVERTERS[self.format.partition(":")[0]].SHAPE if self.format else ""

    def to_json(self) -> dict[str, Any]:
        """The report, for programs."""
        return {
            "file": self.file,
            "corpus": self.corpus,
            "container": self.container,
            "format": self.format,
            "evidence": {"shape": self.shape, "sampled": self.sampled, "votes": self.votes, "forced": self.forced},
            "license": self.license,
            "license_from": self.license_from,
            "whole_file": self.whole,
            "companion_of": self.companion_of,
            "problem": self.problem,
            **self.contents.to_json(),
        }


@dataclass(slots=True)
class Report:
    """All files of an inspection, their sums, and the first records as they will be converted."""

    files: list[FileReport] = field(default_factory=list)
    total: Contents = field(default_factory=Contents)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report, for programs."""
        return {
            "files": [file.to_json() for file in self.files],
            "total": self.total.to_json(),
            "notes": self.notes,
            "records": self.records,
        }


@dataclass(frozen=True, slots=True)
class InspectConfig:
    """How to inspect: the format ("auto": detected), the alignment, records to show, units per file to look at (0: all)."""

    format: str = "auto"
    align: str = "auto"
    records: int = 2
    sample: int = 0


def inspect_inputs(
    sources: Sequence[InputSource], config: InspectConfig, base: Path | None = None, progress: Progress | None = None
) -> Report:
    """Reads the inputs once, as ingest does, converts every unit, and counts. Memory does not grow with the inputs.

    Raises InputError where an input is not there, ConfigError where the format or the alignment is none.
    """
    try:
        if config.format != "auto":
            parse_format(config.format)
        converter = Converter(ConvertConfig(align=config.align))
    except (UnknownFormatError, AlignmentError) as error:
        raise ConfigError(str(error)) from error
    report = Report()
    state = _State(converter, config, progress or (lambda _: None))
    wanted = [replace(source, format=config.format, limit=config.sample or None) for source in sources]
    listings = [find_files(source, base or Path()) for source in wanted if source.path is not None]
    files = [file for listing in listings for file in listing.files]
    candidates, known = find_candidates(files), dict[str, Found]()
    inputs: list[tuple[Input, FileReport]] = []
    for file in files:
        found = FileReport(str(file.path), file.pointer, file.corpus)
        found.license, text = (file.source.license, None) if file.source.license else license_beside(file, known)
        found.license_from = text or ""
        companions = candidates.get((file.corpus, file.pointer), ())
        inputs.append((input_of_file(file, found.license, companions, MAX_UNIT_BYTES), found))
        try:
            found.container = container_of(file)
        except InputError as error:
            found.problem = str(error)
    for source in wanted:
        if source.dataset is not None:
            thing = input_of_hub(source)
            inputs.append((thing, FileReport(f"hub:{source.dataset}", thing.pointer, thing.corpus, "Hub data set")))
    watched = [_watched(thing, found) for thing, found in inputs]
    reader = Reader(watched, MAX_UNIT_BYTES)
    for thing, (_, found) in zip(watched, inputs, strict=True):
        report.files.append(found)
        _inspect_input(thing, found, reader, state)
        report.total.add(found.contents)
    for found in report.files:
        if owner := next((n for n, c in reader.companions.items() if c == f"{found.corpus}/{found.name}"), None):
            found.companion_of = owner
    report.records = state.chosen(config.records)
    report.notes = _notes(listings, state)
    return report


def _notes(listings: Sequence[Listing], state: _State) -> list[str]:
    notes = []
    if ignored := [name for listing in listings for name in listing.ignored]:
        shown = ", ".join(ignored[:5]) + (", …" if len(ignored) > 5 else "")
        notes.append(f"left out, since their names are not those of data: {shown}")
    if state.forgot:
        notes.append(f"repeats were looked for among the first {REMEMBERED:,} records only")
    return notes


def _watched(thing: Input, found: FileReport) -> Input:
    """The input, whose first values are looked at as they are read: what each format says of them."""

    def units() -> Iterator[Unit]:
        head: list[Unit] = []
        for unit in thing.units():
            if len(head) < SAMPLE:
                head.append(unit)
                if len(head) == SAMPLE:
                    _vote(head, found)
            yield unit
        if len(head) < SAMPLE:
            _vote(head, found)

    return replace(thing, units=units)


def _vote(head: Sequence[Unit], found: FileReport) -> None:
    values = sniff(head)
    found.sampled = len(values)
    found.votes = dict(sorted(format_votes(values).items(), key=lambda item: -item[1]))
    if head and head[0].key is not None and found.container.startswith("JSON object"):
        found.container = found.container.replace("JSON object", "JSON object of records", 1)


#: The readers of ``pipeline.containers``, by name, and what people call what they read.
_CONTAINERS = {
    "read_lines": "JSON Lines",
    "read_elements": "JSON array",
    "read_object": "JSON object",
    "read_delimited": "CSV",
    "read_yaml": "YAML",
    "read_parquet": "Parquet",
    "read_arrow": "Arrow",
}
_PACKED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


def container_of(file: InputFile) -> str:
    """What a file is, told by its first bytes as ``read_container`` does: ``JSON Lines, gzip``. Raises InputError."""
    try:
        with open_place(file.path) as outer:
            head = outer.peek(8)[:8]
            packed = next((name for magic, name in _PACKED if head.startswith(magic)), None)
            reader = containers._read(file.path, unpacked(outer), MAX_UNIT_BYTES) if head else None
            kind = _CONTAINERS.get(getattr(reader, "__name__", ""), "empty" if reader is None else "?")
    except StoreError:
        raise
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{file.path} cannot be read: {error}") from error
    archive = type(file.archive).__name__.removesuffix("Archive").lower() if file.archive else None
    return ", ".join([kind, *([packed] if packed else []), *([f"in a {archive}"] if archive else [])])


class _State:
    """What goes on from file to file: the converter, the digests and ids seen, records to show."""

    def __init__(self, converter: Converter, config: InspectConfig, progress: Progress) -> None:
        self.converter, self.config, self.progress = converter, config, progress
        self.forgot = False
        self._digests: dict[int, str] = {}
        self._ids: dict[int, str] = {}
        self._shown: dict[str, list[dict[str, Any]]] = {}

    def seen_before(self, kind: str, value: str, where: str) -> str | None:
        """Where this digest or id was first seen, None if it is new."""
        known = self._digests if kind == "digest" else self._ids
        key = hash(value)
        if key in known:
            return known[key]
        if len(known) < REMEMBERED:
            known[key] = where
        else:
            self.forgot = True
        return None

    def show(self, format_: str, records: Any) -> None:
        """Keeps the first records of every format."""
        kept = self._shown.setdefault(format_, [])
        if (missing := self.config.records - len(kept)) > 0:
            kept.extend(itertools.islice(to_json(records.slice(0, missing)), missing))

    def chosen(self, count: int) -> list[dict[str, Any]]:
        """The first of every format, then the second, until there are ``count``."""
        rounds = itertools.zip_longest(*self._shown.values())
        return [record for one in rounds for record in one if record is not None][:count]


def _inspect_input(thing: Input, found: FileReport, reader: Reader, state: _State) -> None:
    try:
        for batch in _batches(_units(thing, found, reader)):
            _inspect_batch(batch, found, state)
            state.progress(len(batch))
    except InputError as error:
        found.problem = str(error)
    if found.format is None and found.contents.rejects and not found.problem:
        found.problem = next(iter(found.contents.rejects.values())).example
    found.forced = state.config.format != "auto"
    found.whole = not state.config.sample or found.contents.values < state.config.sample


def _units(thing: Input, found: FileReport, reader: Reader) -> Iterator[dict[str, Any]]:
    """The units of an input as rows; what cannot be used of it is booked as rejected."""
    for item in reader.read(thing):
        unit, contents = item.unit, found.contents
        contents.values += item.values
        if item.code:
            contents.units += 1
            contents.rejected += 1
            where = f"{found.name} #{unit.index}"
            contents.rejects.setdefault(item.code, Noted()).note(1, where, item.message)
            continue
        found.format = item.format
        contents.joined += item.joined
        yield {
            "corpus": item.input.corpus, "path": item.input.pointer, "index": unit.index, "format": item.format,
            "license": item.input.license, "key": unit.key, "sha256": unit.sha256, "raw": unit.raw,
        }  # fmt: skip


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if batch and (len(batch) >= BATCH_UNITS or size + len(row["raw"]) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row["raw"])
    if batch:
        yield batch


def _inspect_batch(rows: Sequence[dict[str, Any]], found: FileReport, state: _State) -> None:
    contents = found.contents
    batch = state.converter.convert(rows)
    for row in batch.rejects:
        where = f"{found.name} #{row['index']}"
        contents.rejects.setdefault(row["code"], Noted()).note(1, where, row["message"])
    counts = batch.counts
    for name in ("units", "converted", "input_only", "rejected", "records", "segments", "realigned"):
        setattr(contents, name, getattr(contents, name) + getattr(counts, name))
    for table in (batch.records, batch.input_only):
        for streams in table.column("streams").to_pylist():
            contents.streams.update(stream["name"] for stream in streams)
    assert found.format is not None
    state.show(found.format, batch.records if batch.records.num_rows else batch.input_only)
    convert = parse_format(found.format)[1]
    for row, book in zip(rows, batch.books, strict=True):
        where = f"{found.name} #{row['index']}"
        _look_at_unit(row, where, contents, state)
        if book.outcome == "rejected":
            continue
        (value,) = sniff([Unit(row["index"], row["raw"], row["sha256"])])
        for item in convert(value):
            if isinstance(item, Script | Relayed):
                contents.policies.setdefault("source", Noted()).note(
                    1, where, "the source says when everything was said"
                )
            else:
                _look_at_alignment(item, where, contents, state)
            _look_at_conversation(perform(item)[0] if isinstance(item, Script) else item, where, contents)


def _look_at_alignment(conversation: Conversation, where: str, contents: Contents, state: _State) -> None:
    """Counts the policies that have something to do in a conversation, with the reason of the first."""
    if not conversation.has_output():
        return
    policy = state.converter.policy
    told = reasons(draft_of(conversation, policy.question), policy)
    for name, why in (told or {"turns": "nothing that another policy answers for"}).items():
        contents.policies.setdefault(name, Noted()).note(1, where, why)


def _look_at_unit(row: Mapping[str, Any], where: str, contents: Contents, state: _State) -> None:
    """What is odd about a unit as it stands in its file: repeats, nulls, empty texts."""
    if first := state.seen_before("digest", row["sha256"], where):
        contents.odd("repeated records", where, f"the same bytes as {first}")
    for value in sniff([Unit(row["index"], row["raw"], row["sha256"])]):
        if isinstance(value, dict):
            key = next((key for key in _ID_KEYS if isinstance(value.get(key), str | int)), None)
            if key and (first := state.seen_before("id", f"{row['corpus']}/{key}={value[key]}", where)):
                contents.odd("repeated ids", where, f"{key} {value[key]!r:.40} as in {first}")
        for path, inner in _texts(value):
            if inner is None:
                contents.odd("null contents", where, path)
            elif not inner:
                contents.odd("empty texts", where, path)


def _texts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every null and every empty string under a key that holds text: its path, and it."""
    stack = [("", value)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, dict | list):
                    stack.append((f"{path}.{key}" if path else key, inner))
                elif (inner is None or inner == "") and key in _TEXT_KEYS:
                    yield f"{path}.{key}" if path else key, inner
        elif isinstance(value, list):
            stack.extend((f"{path}[{i}]", inner) for i, inner in enumerate(value) if isinstance(inner, dict | list))


def _look_at_conversation(conversation: Conversation, where: str, contents: Contents) -> None:
    """Counts roles and parts, and what is odd about messages and calls."""
    contents.conversations += 1
    for key, value in conversation.extra.items():
        if key == "messages" and isinstance(value, dict):
            contents.extra.update(
                f"messages[].{k}" for k in {k for v in value.values() if isinstance(v, dict) for k in v}
            )
        else:
            contents.extra[key] += 1
    said = ""
    for number, message in enumerate(conversation.messages):
        place = f"{where} message {number}"
        contents.roles[message.role] += 1
        if message.role == said:
            contents.odd(f"two {said} messages in a row", place)
        said = message.role
        if not any(part.text or part.kind in ("tool_call", "tool_result") for part in message.parts):
            contents.odd("messages that say nothing", place, message.role)
        if message.weight == 0 and message.role == "assistant":
            contents.odd("assistant messages kept out of the loss", place)
        for part in message.parts:
            _look_at_part(part, message, place, contents)
    if said != "assistant":
        contents.odd(f"conversations that end on the {said}", where)
    _look_at_calls(conversation, where, contents)


def _look_at_part(part: Part, message: Message, place: str, contents: Contents) -> None:
    contents.parts[part.kind] += 1
    if part.kind == "media":
        contents.odd("media, kept as references", place, part.text[:60])
    elif part.kind == "tool_result" and not part.text:
        contents.odd("empty tool results", place, part.name or "")
    if part.error:
        contents.odd("tool results that are errors", place, part.text[:60])
    if part.interrupted:
        contents.odd(f"cut-off {part.kind} parts", place, part.text[-60:])
    if _ANY_IN_TEXT.search(part.text):
        for what, pattern in _IN_TEXT:
            if found := pattern.findall(part.text):
                at = part.text.index(found[0])
                contents.odd(what, place, part.text[max(0, at - 20) : at + 20], len(found))


def _look_at_calls(conversation: Conversation, where: str, contents: Contents) -> None:
    ids = [
        part.call_id
        for message in conversation.messages
        for part in message.parts
        if part.kind == "tool_call" and part.call_id is not None
    ]
    if len(set(ids)) < len(ids):
        example = next(id_ for id_, count in Counter(ids).items() if count > 1)
        contents.odd("call ids used again", where, example[:40], len(ids) - len(set(ids)))
    if not any(part.kind in ("tool_call", "tool_result") for m in conversation.messages for part in m.parts):
        return
    spans = spans_of(conversation)[1]
    calls = {span.call: span for span in spans if span.kind == "tool_call"}
    results = [span for span in spans if span.kind == "tool_result"]
    for number in sorted(set(calls) - {span.call for span in results}, key=str):
        contents.odd("calls without a result", f"{where} message {calls[number].message}", calls[number].text[:60])
    for span in results:
        if span.call is None:
            contents.odd("results without a call", f"{where} message {span.message}", span.text[:60])


def list_formats() -> list[dict[str, Any]]:
    """Name, unit, shape and the first line of the description of every format, in the order of the registry."""
    return [
        {"format": name, "unit": module.UNIT, "shape": module.SHAPE, "about": _description(module).partition("\n")[0]}
        for name, module in CONVERTERS.items()
    ]


def describe_format(name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """All about one format, named as for ``parse_format``, and the record that its example becomes.

    Raises ConfigError for an unknown one.
    """
    try:
        plain, convert = parse_format(name)
    except UnknownFormatError as error:
        raise ConfigError(str(error)) from error
    module: Any = CONVERTERS[plain]
    options = typing.get_type_hints(module.Options) if hasattr(module, "Options") else {}
    defaults = module.Options() if options else None
    items = list(convert(module.EXAMPLE))
    conversations = [perform(item)[0] if isinstance(item, Script) else item for item in items]
    about = {
        "format": name,
        "unit": module.UNIT,
        "shape": module.SHAPE,
        "description": _description(module),
        "options": {
            key: sorted(typing.get_args(values), key=lambda value: value != getattr(defaults, key))
            for key, values in options.items()
        },
        "example": module.EXAMPLE,
        "conversations": [_shown(conversation) for conversation in conversations],
    }
    raw = json.dumps(module.EXAMPLE).encode()
    row = {
        "corpus": "example", "path": name, "index": 0, "format": name, "license": None, "key": None,
        "sha256": hashlib.sha256(raw).hexdigest(), "raw": raw,
    }  # fmt: skip
    batch = _example_converter().convert([row])
    return about, next(to_json(batch.records if batch.records.num_rows else batch.input_only), None)


@functools.cache
def _example_converter() -> Converter:
    return Converter(ConvertConfig())


def _description(module: Any) -> str:
    return (module.__doc__ or "").strip().replace("``", "`")


def _shown(conversation: Conversation) -> dict[str, Any]:
    """A conversation as JSON, without what only a build knows."""
    shown = conversation_to_json(conversation)
    return {key: shown[key] for key in ("messages", "tools", "extra") if shown[key]} | (
        {"group": conversation.group} if conversation.group else {}
    )
