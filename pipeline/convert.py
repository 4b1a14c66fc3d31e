"""Conversion of one shard of source units: parsed, converted, aligned, laid out, checked and written, in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import leaks
from pipeline.alignment import Aligned, AlignSpec, align_all, parse_align_spec, prepared, speaks
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, RecordError, Source, conversation_id
from pipeline.errors import ConservationError
from pipeline.ingest import RAW_LIMIT
from pipeline.lanes import start_process
from pipeline.manifest import Output, fetch_file, keep, output_of
from pipeline.memory import give_back
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json, token_grid_metadata
from pipeline.relayout import Relayed
from pipeline.script import Script, ScriptPolicy, perform
from pipeline.segments import cut_script, cut_segments, leading, rows_of, segment_of, split_results
from pipeline.storage import Mount
from pipeline.tables import LEDGER, RECORDS, REJECTS, TOKENS
from pipeline.text import cut_tokens
from pipeline.timeline import Timeline
from pipeline.tokenization import Encoded, TextTokenizer, load_tokenizer, token_ends

if TYPE_CHECKING:
    from pipeline.scoring import PrefixQuery, PrefixScores, Scorer

#: Source units that are converted at a time: so many, or fewer that together hold so many bytes (one may hold more).
BATCH_UNITS, BATCH_BYTES = 256, 1 << 20

#: Characters of a reject row's message; some quote a key or a value of the source.
MESSAGE_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ConvertConfig:
    """What conversion depends on. ``max_cells`` is the window in tokens; ``exclude_ids`` are conversation or record ids.

    ``media``: whether what is no text (an image) leaves a placeholder in the record, or the unit is rejected.
    """

    align: str = "auto"
    question: str = "first"
    tokenizer: str = "smollm2"
    lag: int = 0
    max_cells: int = 8192
    exclude_ids: tuple[str, ...] = ()
    media: Literal["placeholder", "reject"] = "placeholder"


@dataclass(frozen=True, slots=True)
class Told:
    """One conversation of a unit: where it stands, and, if its source is streams already, its script."""

    position: int
    ordinal: int
    conversation: Conversation
    script: Script | None = None
    timeline: Timeline | None = None


@dataclass(slots=True)
class _Book:
    """What became of one unit."""

    outcome: str = "converted"
    conversations: int = 0
    records: int = 0
    input_only: int = 0
    tokens: int = 0


@dataclass(slots=True)
class ShardCounts:
    """Counters of one shard. ``realigned``: records that fell back to ``turns`` because a leak was found."""

    units: int = 0
    converted: int = 0
    rejected: int = 0
    input_only: int = 0
    excluded: int = 0
    conversations: int = 0
    records: int = 0
    segments: int = 0
    events: int = 0
    tokens: int = 0
    output_tokens: int = 0
    rows: int = 0
    overlapped: int = 0
    leaks: int = 0
    realigned: int = 0
    empty_messages: int = 0
    reject_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: ShardCounts) -> None:
        """Adds another shard's counters to these."""
        for name in self.__slots__:
            if name == "reject_reasons":
                self.reject_reasons.update(other.reject_reasons)
            else:
                setattr(self, name, getattr(self, name) + getattr(other, name))


class Converter:
    """Converts batches of units with one configuration; holds the tokenizer, so that it is loaded once."""

    def __init__(self, config: ConvertConfig) -> None:
        self.config = config
        self.policy: AlignSpec = parse_align_spec(config.align, config.question)  # type: ignore[arg-type]
        self.baseline: AlignSpec = parse_align_spec("turns", config.question)  # type: ignore[arg-type]
        self.tokenizer: TextTokenizer = load_tokenizer(config.tokenizer)
        self.clock = Clock(self.tokenizer, config.lag)
        self.resources = Resources(token_ends=partial(token_ends, self.tokenizer), scores=self._scores)
        #: Where the scores of the ``information`` policy are kept; nowhere if None.
        self.scores_folder: Path | None = None
        self._excluded = frozenset(config.exclude_ids)

    def convert(self, units: Sequence[Mapping[str, Any]]) -> Batch:
        """Converts source units (rows of ``tables.UNITS``)."""
        batch = Batch(units, ShardCounts(units=len(units)))
        speaking: list[Told] = []
        listening: list[Told] = []
        for position, unit in enumerate(units):
            try:
                told = [replace(item, position=position) for item in conversations_of(unit)]
                if self.config.media == "reject":
                    _refuse_media(told)
            except RecordError as error:
                batch.reject(position, error.code, str(error))
                continue
            kept = [t for t in told if self._excluded.isdisjoint(_ids(t))] if self._excluded else told
            if not told:
                batch.reject(position, "no_conversation", "the unit holds no conversation")
            elif not kept:
                batch.books[position].outcome = "excluded"
            else:
                for item in kept:
                    (speaking if self._speaks(item.conversation, item.script) else listening).append(item)
        batch.input_only = self._documents(listening, batch, self.baseline).records
        tables = self._documents(speaking, batch, self.policy)
        batch.records, batch.tokens = tables.records, tables.tokens
        batch.close()
        return batch

    def _documents(self, items: Sequence[Told], batch: Batch, policy: AlignSpec) -> Tables:
        """Aligns, segments, encodes and lays out; documents in which a leak is found are laid out again under ``turns``.

        Scripts keep the times of their source: one with a leak is rejected.
        """
        owners: list[int] = []
        documents: list[Document] = []
        fitting = []
        for item in items:
            if longest := self._hopeless(item.conversation):
                batch.reject(item.position, "exceeds_window", longest)
            else:
                fitting.append(item)
        for item, document in zip(fitting, self._aligned(fitting, policy), strict=True):
            if not document.timeline.spans:
                batch.reject(item.position, "empty", "no message of the conversation says anything")
                continue
            owners.append(item.position)
            documents.append(document)
        encoded, first = encode_spans([d.timeline for d in documents], self.tokenizer)
        owners, documents, was_cut = self._fit(owners, documents, encoded, first, batch, policy)
        if was_cut:
            encoded, first = encode_spans([d.timeline for d in documents], self.tokenizer)
        tables = build_tables(documents, self.clock, encoded, first)
        findings = [] if tables.failed else leaks.lexical(tables.records)
        failed = tables.failed or self._too_long(tables.records) or _leaking_scripts(documents, findings)
        if failed:
            for i, error in failed:
                batch.reject(owners[i], error.code, str(error))
            refused = {owners[i] for i, _ in failed}
            return self._documents([item for item in items if item.position not in refused], batch, policy)
        leaking = {f.record for f in findings if f.verdict != "clear" and documents[f.record].kept is None}
        batch.counts.overlapped += len({f.record for f in findings} - leaking)
        if leaking:
            batch.counts.realigned += len(leaking)
            documents = [_under_turns(d, self.baseline) if i in leaking else d for i, d in enumerate(documents)]
            encoded, first = encode_spans([d.timeline for d in documents], self.tokenizer)
            tables = build_tables(documents, self.clock, encoded, first)
            findings = leaks.lexical(tables.records)
        records = leaks.with_verdicts(tables.records, findings)
        batch.counts.leaks += sum(f.verdict == "leak" for f in findings)
        excluded = (
            np.array([i in self._excluded for i in records.column("id").to_pylist()], dtype=bool)
            if self._excluded
            else None
        )
        counts = pa.compute.list_value_length(tables.tokens.column("token_ids")).to_pylist()
        for i, (owner, size) in enumerate(zip(owners, counts, strict=True)):
            book = batch.books[owner]
            if book.outcome == "rejected" or (excluded is not None and excluded[i]):
                continue
            if self._speaks(documents[i].conversation, documents[i].script):
                book.records += 1
                book.tokens += size
            else:
                book.input_only += 1
            book.conversations += documents[i].k == 1
            batch.counts.segments += documents[i].n > 1
            batch.counts.empty_messages += len(documents[i].labels.get("empty_messages", ()))
        if excluded is not None and excluded.any():
            records, tokens = records.filter(pa.array(~excluded)), tables.tokens.filter(pa.array(~excluded))
            for owner in {owners[i] for i in np.flatnonzero(excluded)}:
                if batch.books[owner].outcome == "converted":
                    batch.books[owner].outcome = "excluded"
            return Tables(records, tokens, [])
        return Tables(records, tables.tokens, [])

    def _aligned(self, items: Sequence[Told], policy: AlignSpec) -> list[Document]:
        """The document of each item. What is too long to be one record is not aligned yet: its segments will be."""
        whole = [_unaligned(item, policy, self.config.max_cells) for item in items]
        todo = [item.conversation for item, document in zip(items, whole, strict=True) if document is None]
        aligned = iter(align_all(todo, policy, self.resources))
        return [
            document or _document_of(item.conversation, next(aligned), item.ordinal)
            for item, document in zip(items, whole, strict=True)
        ]

    @cached_property
    def _scorer(self) -> Scorer:
        from pipeline.scoring import Scorer

        params = dict(self.policy.policies)["information"]
        return Scorer(params.scorer, cue=params.cue)

    def _scores(self, queries: Sequence[PrefixQuery]) -> Sequence[PrefixScores | None]:
        """What the ``information`` policy asks for; nothing is scored twice that the folder of scores holds."""
        from pipeline.scoring import ScoreStore, score_all, score_prefixes

        if self.scores_folder is None:
            return score_prefixes(self._scorer, queries)
        return score_all(self._scorer, queries, ScoreStore(self.scores_folder))

    def _fit(
        self,
        owners: list[int],
        documents: list[Document],
        encoded: Encoded,
        first: Sequence[int],
        batch: Batch,
        policy: AlignSpec,
    ) -> tuple[list[int], list[Document], bool]:
        """Cuts the documents that exceed the window into segments."""
        kept_owners: list[int] = []
        kept: list[Document] = []
        refused: set[int] = set()
        was_cut = False
        for i, (owner, document) in enumerate(zip(owners, documents, strict=True)):
            spans = document.timeline.spans
            counts = encoded.counts[first[i] : first[i] + len(spans)]
            rows_between = self.config.lag * len(document.timeline.chunk_span)
            if document.kept is not None:
                size = int(counts.sum()) + sum(span.ends for span in spans)
                if size > self.config.max_cells:
                    refused.add(owner)
                    batch.reject(owner, "exceeds_window", _too_large_again(size, self.config.max_cells))
                    continue
                kept_owners.append(owner)
                kept.append(document)
                continue
            size = int(counts.sum()) + len(spans) + rows_between + sum(document.timeline.delay or ())
            if document.script is not None:
                size = max(size, rows_of(document.script))
            if size <= self.config.max_cells:
                pieces = [document]
            else:
                was_cut = True
                try:
                    pieces = _segment(document, encoded, first[i], self.config, policy, self.resources)
                except RecordError as error:
                    refused.add(owner)
                    batch.reject(owner, error.code, str(error))
                    continue
            kept_owners.extend([owner] * len(pieces))
            kept.extend(pieces)
        if refused:
            chosen = [j for j, owner in enumerate(kept_owners) if owner not in refused]
            kept_owners, kept, was_cut = [kept_owners[j] for j in chosen], [kept[j] for j in chosen], True
        return kept_owners, kept, was_cut

    def _speaks(self, conversation: Conversation, script: Script | None) -> bool:
        """Whether there is output: of the model, or of a policy that speaks itself."""
        return conversation.has_output() if script is not None else speaks(conversation, self.policy)

    def _hopeless(self, conversation: Conversation) -> str:
        """Why a conversation cannot fit the window however it is cut, seen without the cost of encoding it; "" if it may."""
        most = self.config.max_cells * self.tokenizer.longest_token
        for i, message in enumerate(conversation.messages):
            for part in message.parts:
                if part.kind not in ("media", "tool_result") and len(part.text) > most:
                    return (
                        f"message {i} holds {len(part.text)} characters, the window is {self.config.max_cells} tokens"
                    )
        return ""

    def _too_long(self, records: pa.Table) -> list[tuple[int, RecordError]]:
        """Records with more rows than the window, which only lag can make of fewer cells."""
        rows = records.column("rows").to_pylist()
        return [
            (i, RecordError("exceeds_window", f"{count} rows with lag, the window is {self.config.max_cells}"))
            for i, count in enumerate(rows)
            if count > self.config.max_cells
        ]


class Batch:
    """The tables that a batch of units became, and what became of each unit."""

    def __init__(self, units: Sequence[Mapping[str, Any]], counts: ShardCounts) -> None:
        self.units = units
        self.counts = counts
        self.books = [_Book() for _ in units]
        self.rejects: list[dict[str, Any]] = []
        self.records: pa.Table = RECORDS.empty_table()
        self.input_only: pa.Table = RECORDS.empty_table()
        self.tokens: pa.Table = TOKENS.empty_table()

    def reject(self, position: int, code: str, message: str) -> None:
        """Books a unit as rejected, once, with its first reason."""
        if self.books[position].outcome == "rejected":
            return
        self.books[position] = _Book("rejected")
        self.rejects.append(reject_row(self.units[position], "convert", code, message))

    def close(self) -> None:
        """Takes out records of units that were rejected after some of their conversations had passed; sums the counters."""
        counts = self.counts
        refused = {_pointer(self.units[i]) for i, book in enumerate(self.books) if book.outcome == "rejected"}
        if refused:
            self.records, self.tokens = _without(self.records, self.tokens, refused)
            self.input_only, _ = _without(self.input_only, None, refused)
        counts.rejected = len(self.rejects)
        counts.reject_reasons.update(row["code"] for row in self.rejects)
        for book in self.books:
            if book.outcome != "rejected" and (book.records or book.input_only):
                book.outcome = "converted" if book.records else "input_only"
            counts.converted += book.outcome == "converted"
            counts.input_only += book.outcome == "input_only"
            counts.excluded += book.outcome == "excluded"
            counts.conversations += book.conversations
        counts.records = self.records.num_rows
        counts.rows = int(pa.compute.sum(self.records.column("rows")).as_py() or 0)
        counts.events = int(pa.compute.sum(pa.compute.list_value_length(self.records.column("events"))).as_py() or 0)
        flat = self.tokens.column("token_loss").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        counts.tokens = len(flat)
        counts.output_tokens = int((flat & 1).sum())

    def ledger(self) -> pa.Table:
        """One row per unit: ``tables.LEDGER``."""
        rows = [
            {
                "corpus": unit["corpus"],
                "path": unit["path"],
                "index": unit["index"],
                "outcome": book.outcome,
                "conversations": book.conversations,
                "records": book.records,
                "input_only": book.input_only,
                "tokens": book.tokens,
            }
            for unit, book in zip(self.units, self.books, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=LEDGER)


def _pointer(unit: Mapping[str, Any]) -> tuple[str, str, int]:
    return unit["corpus"], unit["path"], unit["index"]


def _without(records: pa.Table, tokens: pa.Table | None, refused: set[tuple[str, str, int]]) -> tuple[pa.Table, Any]:
    keep = pa.array(
        [
            not any((s["corpus"], s["path"], s["index"]) in refused for s in row)
            for row in records.column("sources").to_pylist()
        ],
        pa.bool_(),
    )
    return records.filter(keep), None if tokens is None else tokens.filter(keep)


def reject_row(unit: Mapping[str, Any], stage: str, code: str, message: str) -> dict[str, Any]:
    """A row of ``tables.REJECTS``."""
    raw = unit["raw"]
    return {
        "corpus": unit["corpus"],
        "path": unit["path"],
        "index": unit["index"],
        "stage": stage,
        "code": code,
        "message": message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "…",
        "license": unit["license"],
        "sha256": unit["sha256"],
        "bytes": unit.get("bytes", len(raw)),
        "raw": raw[:RAW_LIMIT],
    }


def conversations_of(unit: Mapping[str, Any]) -> Iterator[Told]:
    """What the converter of a unit's format makes of it (``position`` not set). Raises RecordError."""
    from converters import parse_format

    try:
        value = msgspec.json.decode(unit["raw"])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("not_json", f"not JSON: {error}") from error
    except RecursionError as error:
        raise RecordError("too_deep", "the JSON is nested too deeply") from error
    name, convert = parse_format(unit["format"])
    source = Source(unit["corpus"], unit["path"], unit["index"], name, unit["license"], unit["sha256"])
    for ordinal, converted in enumerate(convert(value)):
        script: Script | None = None
        timeline: Timeline | None = None
        if isinstance(converted, Relayed):
            yield Told(0, ordinal, converted)
            continue
        if isinstance(converted, Script):
            script = converted
            conversation, timeline = perform(script)
        else:
            conversation = converted
        extra = conversation.extra
        if unit["key"] is not None:
            extra = {**extra, "key_" if "key" in extra else "key": unit["key"]}
        group = f"{unit['corpus']}/{conversation.group}" if conversation.group is not None else None
        yield Told(0, ordinal, replace(conversation, sources=(source,), extra=extra, group=group), script, timeline)


def _ids(told: Told) -> set[str]:
    """The ids that a conversation may be excluded by before it is laid out."""
    if isinstance(told.conversation, Relayed) and told.conversation.kept is not None:
        return {told.conversation.kept.conversation_id, told.conversation.kept.id}
    return {conversation_id(told.conversation)}


def _too_large_again(cells: int, window: int) -> str:
    return f"{cells} cells under this tokenizer, the window is {window}: convert it from its source"


def _refuse_media(told: Sequence[Told]) -> None:
    for item in told:
        for i, message in enumerate(item.conversation.messages):
            for part in message.parts:
                if part.kind == "media":
                    raise RecordError("media", f"message {i} holds {part.text:.120}, which is no text (media: reject)")


def _unaligned(item: Told, policy: AlignSpec, max_cells: int) -> Document | None:
    """The document of a script, which its source has placed, and of a conversation that will be cut; None for others."""
    conversation = item.conversation
    if isinstance(conversation, Relayed):
        return conversation.document()
    if item.script is not None and item.timeline is not None:
        clock = ScriptPolicy(item.script)
        return Document(
            conversation, item.timeline, clock, item.ordinal, ms_per_row=item.script.ms_per_row, script=item.script
        )
    if sum(len(message.parts) for message in conversation.messages) <= max_cells // 2:
        return None
    draft = prepared(conversation, policy)
    streams, spans = draft.columns()
    if len(spans) <= max_cells:
        return None
    # It will be cut into segments, each aligned by itself: a plan of the whole would be quadratic in its spans.
    waits: list[tuple[int, ...]] = [()] * len(spans)
    timeline = Timeline(streams, spans, list(range(len(spans))), [len(s.text) for s in spans], waits)
    return Document(conversation, timeline, policy, item.ordinal, labels=_labels(conversation, draft.silent))


def _document_of(conversation: Conversation, aligned: Aligned, ordinal: int) -> Document:
    labels = _labels(conversation, aligned.silent) | aligned.labels
    return Document(conversation, aligned.timeline, aligned.spec, ordinal, labels=labels, ms_per_row=aligned.ms_per_row)


def _labels(conversation: Conversation, silent: Sequence[int], where: Sequence[int] | None = None) -> dict[str, Any]:
    """What a record says beside its events: which messages say nothing, and what its placeholders stand for.

    ``where``: the indices of the conversation's messages in the whole conversation.
    """
    labels: dict[str, Any] = {}
    at = range(len(conversation.messages)) if where is None else where
    if silent:
        labels["empty_messages"] = [at[i] for i in silent]
    media = [
        {"message": at[i], "part": p, "reference": part.text}
        for i, message in enumerate(conversation.messages)
        for p, part in enumerate(message.parts)
        if part.kind == "media"
    ]
    if media:
        labels["media"] = media
    return labels


def _leaking_scripts(documents: Sequence[Document], findings: Sequence[leaks.Finding]) -> list[tuple[int, RecordError]]:
    return [
        (
            f.record,
            RecordError("leak", f"event {f.event} says {f.evidence[0][0]!r:.60} before event {f.evidence[0][1]} has"),
        )
        for f in findings
        if f.verdict == "leak"
        and f.evidence
        and (documents[f.record].script is not None or documents[f.record].kept is not None)
    ]


def _under_turns(document: Document, baseline: AlignSpec) -> Document:
    (aligned,) = align_all([document.told or document.conversation], baseline)
    kept = {name: value for name, value in document.labels.items() if name in ("empty_messages", "media")}
    labels = {**kept, "realigned": {"from": document.policy.policy, "reason": "lexical leak"}}
    return replace(document, timeline=aligned.timeline, policy=baseline, labels=labels, ms_per_row=None)


def _segment(
    document: Document, encoded: Encoded, first: int, config: ConvertConfig, policy: AlignSpec, resources: Resources
) -> list[Document]:
    """The segments of a document that exceeds the window; its spans are the texts from ``first`` on of ``encoded``."""
    conversation = document.conversation
    counts = encoded.counts[first : first + len(document.timeline.spans)].tolist()
    cells = [0] * len(conversation.messages)
    fixed = 0
    chunks = Counter(document.timeline.chunk_span)
    late = _delays(document, policy)
    for i, (span, count) in enumerate(zip(document.timeline.spans, counts, strict=True)):
        size = count + 1 + config.lag * chunks[i] + late[i]
        if span.message is None:
            fixed += size
        else:
            cells[span.message] += size
    if document.script is not None:
        scripts = cut_script(document.script, cells, config.max_cells)
        return [
            replace(document, timeline=perform(script)[1], k=k, n=len(scripts), messages=messages)
            for k, (messages, script) in enumerate(scripts, 1)
        ]
    room = config.max_cells - fixed - sum(cells[: leading(conversation)])
    span_of = {(s.message, s.part): i for i, s in enumerate(document.timeline.spans) if s.kind == "tool_result"}

    def cut_text(message: int, part: int, size: int) -> list[tuple[int, int]]:
        span = span_of[message, part]
        low, high = encoded.offsets[first + span], encoded.offsets[first + span + 1]
        return cut_tokens(document.timeline.spans[span].text, encoded.ends[low:high], size)

    whole = split_results(conversation, cells, room, cut_text)
    segments = cut_segments(whole.conversation, whole.cells, fixed, config.max_cells, whole.origin)
    told = [segment_of(whole.conversation, chosen) for chosen in segments]
    pieces = []
    for k, (chosen, part, aligned) in enumerate(
        zip(segments, told, align_all(told, policy, resources), strict=True), 1
    ):
        messages = tuple(whole.origin[i] for i in chosen)
        labels = _labels(part, aligned.silent, messages) | {
            name: _in_whole(value, messages) for name, value in aligned.labels.items()
        }
        pieces.append(
            Document(
                conversation, aligned.timeline, aligned.spec, document.ordinal, k, len(segments), messages, labels, part,
                aligned.ms_per_row,
            )
        )  # fmt: skip
    return pieces


def _delays(document: Document, policy: AlignSpec) -> Counter[int]:
    """Rows of silence before each span; where they are not known yet, what they are at most."""
    late: Counter[int] = Counter()
    if document.timeline.delay:
        for span, rows in zip(document.timeline.chunk_span, document.timeline.delay, strict=True):
            late[span] += rows
    elif most := max((getattr(params, "most_delay", 0) for _, params in policy.policies), default=0):
        late.update(dict.fromkeys(range(len(document.timeline.spans)), most))
    return late


def _in_whole(label: Any, where: Sequence[int]) -> Any:
    """What a policy says of a segment's messages, by their indices in the whole conversation (``where``).

    Lists of indices, of pairs that begin with one, and of objects that have a ``message``.
    """
    if not isinstance(label, list):
        return label
    placed: list[Any] = []
    for item in label:
        if isinstance(item, int):
            placed.append(where[item])
        elif isinstance(item, list):
            placed.append([where[item[0]], *item[1:]])
        elif isinstance(item, dict) and "message" in item:
            placed.append({**item, "message": where[item["message"]]})
        else:
            placed.append(item)
    return placed


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The files of one converted shard, its counters, and what was counted again in the files: units in and by outcome,
    records."""

    outputs: list[Output]
    counts: ShardCounts
    recount: dict[str, int]


def convert_shard(units: Path, number: int, directory: Path, converter: Converter) -> ShardResult:
    """Converts one shard of units; every file appears whole or not at all, here and where ``directory`` is kept.

    Raises ConservationError where a unit is not accounted for, or a record breaks an invariant.
    """
    from pipeline.conservation import recount_shard
    from pipeline.shards import TableWriter

    fetch_file(units)

    counts = ShardCounts()
    converter.scores_folder = directory.parent / "scores"
    tokens_name = f"tokens-{converter.tokenizer.name}"
    metadata = token_grid_metadata(converter.clock)
    schemas = {
        "records": RECORDS,
        tokens_name: TOKENS.with_metadata(metadata),
        "input-only": RECORDS,
        "rejects": REJECTS,
        "ledger": LEDGER,
    }
    paths = {name: directory / f"{name}-{number:05d}.parquet" for name in schemas}
    optional = ("input-only", "rejects")
    with TableWriter.several({paths[n]: s for n, s in schemas.items()}, optional={paths[n] for n in optional}) as write:
        for rows in _unit_batches(units):
            batch = converter.convert(rows)
            _refuse_invalid(batch.records)
            _refuse_invalid(batch.input_only)
            write(paths["records"], batch.records)
            write(paths[tokens_name], batch.tokens)
            write(paths["input-only"], batch.input_only)
            write(paths["rejects"], pa.Table.from_pylist(batch.rejects, schema=REJECTS))
            write(paths["ledger"], batch.ledger())
            counts.add(batch.counts)
    recount = recount_shard(units, directory, number)
    if (recount["in"], recount["records"]) != (counts.units, counts.records):
        raise ConservationError(
            f"convert counted {counts.units} units and {counts.records} records of {units.name}, on disk are {recount}"
        )
    written = sorted(p for p in paths.values() if p.exists())
    outputs = [output_of(p, directory, pq.read_metadata(p).num_rows) for p in written]
    result = ShardResult(keep(directory, outputs), counts, recount)
    give_back()
    return result


def _unit_batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The units of a shard, in batches that bound memory."""
    rows: list[dict[str, Any]] = []
    size = 0
    for arrow_batch in pq.ParquetFile(path).iter_batches(16):
        for row in arrow_batch.to_pylist():
            if rows and (len(rows) >= BATCH_UNITS or size + len(row["raw"]) > BATCH_BYTES):
                yield rows
                rows, size = [], 0
            rows.append(row)
            size += len(row["raw"])
    if rows:
        yield rows


def _refuse_invalid(table: pa.Table) -> None:
    """Every record is checked before it is written: the schema, then the invariants. A failure is a bug, not bad input."""
    from schemas import violations

    for index, message in violations("stream_record", to_json(table)):
        raise ConservationError(f"record {table.column('id')[index]} does not fit its schema: {message}")
    for violation in record_violations(table):
        raise ConservationError(
            f"record {violation.record} breaks an invariant ({violation.code}): {violation.message}"
        )


_worker: Converter | None = None


def start_worker(config: ConvertConfig, mounted: Sequence[Mount] = ()) -> None:
    """Prepares a worker process: one thread for the tokenizer, loaded once; it ends when its parent is gone.

    ``mounted``: what is mounted in the process that gives the work (``storage.mounts``).
    """
    start_process(mounted)
    prepare_to_convert(config)


def prepare_to_convert(config: ConvertConfig) -> None:
    """Makes this process ready for ``convert_in_worker``."""
    global _worker
    _worker = Converter(config)


def convert_in_worker(units: Path, number: int, directory: Path) -> ShardResult:
    """``convert_shard`` with the worker's converter."""
    assert _worker is not None
    return convert_shard(units, number, directory, _worker)
