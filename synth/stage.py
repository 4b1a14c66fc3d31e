"""The synthesize stage: accepted tables become records and token grids, rejected ones reject rows.

Each run of cells of one stream is one part, its cells joined by one space; the chunk of a row waits for everything that
was said in earlier rows. So an output event starts after every input that its writer saw, but for one gap of the form: a
model writes a row's cells one after the other, outputs first, and may see another output of the same row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import leaks
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Message, Part, PartKind, RecordError, Source
from pipeline.errors import ConservationError
from pipeline.manifest import Output, Result, balance, output_of, run_stage
from pipeline.records import Clock, Document, build_tables, encode_spans, token_grid_metadata
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, REJECTS, TOKENS
from pipeline.timeline import Span, Timeline
from pipeline.tokenization import load_tokenizer, metadata
from synth.config import SynthConfig
from synth.engines import Engine
from synth.generate import Progress, synthesize_tables
from synth.generators import Rejected, Table
from synth.scenarios import load_scenarios

STAGE, VERSION = "synthesize", 1
CORPUS = "synthetic"


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """How the rows of a written table were laid out: every cell waits for all earlier rows."""

    policy: str = "synth/table"
    params: str = "{}"


def table_timeline(table: Table) -> tuple[Conversation, Timeline]:
    """The conversation and the timeline that a table tells."""
    runs: list[tuple[int, list[tuple[int, str]]]] = []
    open_run: dict[int, int] = {}
    for row, cells in enumerate(table.rows):
        for stream, cell in enumerate(cells):
            if cell is None:
                open_run.pop(stream, None)
            elif stream in open_run:
                runs[open_run[stream]][1].append((row, cell))
            else:
                open_run[stream] = len(runs)
                runs.append((stream, [(row, cell)]))
    spans: list[Span] = []
    chunk_span: list[int] = []
    chunk_end: list[int] = []
    chunk_row: list[int] = []
    messages: list[Message] = []
    for number, (stream, cells_of_run) in enumerate(runs):
        text = ""
        for row, cell in cells_of_run:
            text += f" {cell}" if text else cell
            chunk_span.append(number)
            chunk_end.append(len(text))
            chunk_row.append(row)
        spans.append(Span(stream, number, 0, "message", text))
        info = table.streams[stream]
        is_output = info.direction == "output"
        kind: PartKind = "thinking" if info.role == "thought" else "text"
        messages.append(Message("assistant" if is_output else "user", (Part(kind, text),), name=info.name))
    after = [tuple(d for d, row in enumerate(chunk_row) if row < chunk_row[c]) for c in range(len(chunk_row))]
    return Conversation(tuple(messages), group=f"{CORPUS}/{table.prompt_sha256}"), Timeline(
        table.streams, tuple(spans), chunk_span, chunk_end, [_latest(waits, after) for waits in after]
    )


def _latest(waits: tuple[int, ...], after: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Only those waits that no other of them waits for already."""
    reached = {w for wait in waits for w in after[wait]}
    return tuple(wait for wait in waits if wait not in reached)


def resolve_scenarios(config: SynthConfig, base: Path | None) -> SynthConfig:
    """The configuration with scenario paths taken relative to ``base``."""
    scenarios = [str(base / s) if base is not None and isinstance(s, str) else s for s in config.scenarios]
    return config.model_copy(update={"scenarios": scenarios})


def synthesize_stage(
    config: SynthConfig,
    directory: Path,
    tokenizer: str = "smollm2",
    lag: int = 0,
    base: Path | None = None,
    fresh: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
    on_load: Callable[[str], None] | None = None,
) -> Result:
    """Writes ``records-00000``, ``tokens-*-00000`` and ``rejects-00000.parquet``. Requested = accepted + rejected.

    ``base``: what relative scenario paths are relative to. Raises synth.errors.SynthError where no engine can run.
    """
    resolved = resolve_scenarios(config, base)
    loaded = load_scenarios(resolved.scenarios)
    loaded_tokenizer = load_tokenizer(tokenizer)
    settings = {
        **config.model_dump(mode="json", exclude={"scenarios", "batch_size", "engine"}),
        "scenarios": [s.model_dump(mode="json") for s in loaded],
        "tokenizer": metadata(loaded_tokenizer),
        "lag": lag,
    }
    clock = Clock(loaded_tokenizer, lag)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        if engine is not None:
            return _write(resolved, directory, clock, engine, progress)
        from synth.engines.vllm_engine import VllmEngine

        if on_load:
            on_load(f"loading {config.model} into vLLM")
        with VllmEngine(config.model, config.engine, batch_size=config.batch_size, seed=config.seed) as own:
            return _write(resolved, directory, clock, own, progress)

    return run_stage(directory, STAGE, VERSION, settings, {}, work, fresh)


def _write(
    config: SynthConfig, directory: Path, clock: Clock, engine: Engine, progress: Progress | None
) -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
    tables, rejected, counters = synthesize_tables(config, engine, progress)
    documents = []
    for table in tables:
        conversation, timeline = table_timeline(table)
        raw = json.dumps(asdict(table), sort_keys=True, ensure_ascii=False)
        source = Source(CORPUS, table.scenario, table.index, "table", None, hashlib.sha256(raw.encode()).hexdigest())
        extra = {
            "scenario": table.scenario,
            "model": config.model,
            "seed": table.seed,
            "prompt_sha256": table.prompt_sha256,
        }
        told = Conversation(conversation.messages, extra=extra, group=conversation.group, sources=(source,))
        documents.append(Document(told, timeline, TablePolicy()))
    records, tokens = RECORDS.empty_table(), TOKENS.empty_table()
    if documents:
        encoded, first = encode_spans([d.timeline for d in documents], clock.tokenizer)
        built = build_tables(documents, clock, encoded, first)
        if built.failed:
            raise RecordError(built.failed[0][1].code, f"an accepted table cannot be laid out: {built.failed[0][1]}")
        findings = leaks.lexical(built.records)
        records, tokens = leaks.with_verdicts(built.records, findings), built.tokens
        if violations := record_violations(records):
            raise ConservationError(f"a synthesized record breaks an invariant: {violations[0].message}")
    name = f"tokens-{clock.tokenizer.name}"
    schemas = {
        directory / "records-00000.parquet": RECORDS,
        directory / f"{name}-00000.parquet": TOKENS.with_metadata(token_grid_metadata(clock)),
        directory / "rejects-00000.parquet": REJECTS,
    }
    contents = dict(zip(schemas, (records, tokens, _reject_table(rejected)), strict=True))
    with TableWriter.several(schemas) as write:
        for path, table_ in contents.items():
            write(path, table_)
    outputs = [output_of(path, directory, pq.read_metadata(path).num_rows) for path in schemas]
    books = counters.as_dict()
    balance(STAGE, total=counters.requested, accepted=outputs[0].rows or 0, rejected=outputs[2].rows or 0)
    totals = {
        "in": counters.requested,
        "out": counters.accepted,
        "rejected": sum(counters.rejected.values()),
        "reject_reasons": counters.rejected,
    }
    return (
        outputs,
        {**totals, **{k: v for k, v in books.items() if k not in ("rejected", "engine")}},
        {"engine": books["engine"]},
    )


def _reject_table(rejected: list[Rejected]) -> pa.Table:
    rows = []
    for item in rejected:
        raw = item.raw.encode(errors="replace")
        rows.append(
            {
                "corpus": CORPUS,
                "path": item.scenario,
                "index": item.index,
                "stage": STAGE,
                "code": item.code,
                "message": item.message,
                "license": None,
                "sha256": hashlib.sha256(raw).hexdigest(),
                "bytes": len(raw),
                "raw": raw,
            }
        )
    return pa.Table.from_pylist(rows, schema=REJECTS)
