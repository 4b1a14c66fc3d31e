"""Validation of what is on disk: schema, invariants, leaks, tokens against records, and the books of a build."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import folders, leaks
from pipeline.checks import record_violations, token_violations
from pipeline.conservation import recount_convert, recount_dataset, recount_ingest
from pipeline.errors import ConservationError, InputError
from pipeline.leftout import record_shards, recount
from pipeline.manifest import Result, damaged, read_manifest
from pipeline.records import to_json
from pipeline.tables import RECORDS
from pipeline.tokenization import TextTokenizer, TokenizerError, load_tokenizer

#: How many offenders of each kind are kept for printing.
FIRST = 5


@dataclass
class Report:
    """Counts by kind, and the first offenders of each: (where, what is wrong)."""

    records: int = 0
    tokens: int = 0
    checked: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    offenders: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fail(self, kind: str, where: str, message: str) -> None:
        """Counts one failure."""
        self.failures[kind] += 1
        kept = self.offenders.setdefault(kind, [])
        if len(kept) < FIRST:
            kept.append((where, message))

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures.total()

    def to_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "ok": self.ok,
            "records": self.records,
            "tokens": self.tokens,
            "checked": dict(self.checked),
            "failures": dict(self.failures),
            "offenders": {
                kind: [{"where": w, "message": m} for w, m in found] for kind, found in self.offenders.items()
            },
            "notes": self.notes,
        }


def validate(
    path: Path, progress: Callable[[int], None] | None = None, tokenizer: TextTokenizer | None = None
) -> Report:
    """Validates a build, a stage, a data set or one shard. Raises InputError where there is nothing to validate.

    ``tokenizer``: the one that the tokens are of, to encode the texts again; the packaged one is found by itself.
    """
    report = Report()
    if path.is_dir():
        _books(path, report)
    files = folders.find_records(path)
    tokenizers: dict[str, TextTokenizer | None] = {tokenizer.sha256: tokenizer} if tokenizer else {}
    for place in files.records:
        tokens = [
            p for p in files.tokens if p.parent == place.parent and p.name.endswith(place.name.removeprefix("records"))
        ]
        try:
            _shard(place, tokens, report, tokenizers, progress)
        except InputError as error:
            if path == place:
                raise
            report.fail("files", str(place), str(error))
    if not files.tokens:
        report.notes.append("no token shards were there to compare with")
    return report


def _books(path: Path, report: Report) -> None:
    for stage in (path, *(path / name for name in folders.STAGES)):
        manifest = read_manifest(stage)
        if manifest is not None:
            report.checked["files"] += len(manifest.outputs)
            for problem in damaged(stage, manifest.outputs):
                report.fail("files", str(stage), problem)
    ingest, convert, dataset = path / folders.INGEST, path / folders.CONVERT, path / folders.DATASET
    read = read_manifest(ingest)
    with _recounted(path, report):
        if read is not None:
            recount_ingest(read.paths(ingest, "units-"), read.paths(ingest, "rejects-"), read.counters)
    with _recounted(path, report):
        if read is not None and read_manifest(convert):
            report.checked["books"] += recount_convert(ingest, convert)["in"]
        if read_manifest(dataset) and read_manifest(convert):
            inputs = [
                (s, sorted((path / s).glob("records-*.parquet")))
                for s in (folders.CONVERT, folders.SYNTH)
                if (path / s).is_dir()
            ]
            recount_dataset(inputs, dataset, sorted(convert.glob("input-only-*.parquet")))
    with _recounted(path, report):
        for left_out in folders.LEAVING_OUT:
            for shard in _judged(path) if read_manifest(path / left_out) else ():
                report.checked["books"] += recount(shard, path / left_out)["in"]


def _judged(path: Path) -> list[Path]:
    """The shards of records that stages which leave records out have read."""
    directories = [path / name for name in (folders.CONVERT, folders.SYNTH)]
    return record_shards([Result(d, m, skipped=True) for d in directories if (m := read_manifest(d)) is not None])


@contextmanager
def _recounted(path: Path, report: Report) -> Iterator[None]:
    try:
        yield
    except ConservationError as error:
        report.fail("conservation", str(path), str(error))


def _shard(
    path: Path,
    tokens: list[Path],
    report: Report,
    tokenizers: dict[str, TextTokenizer | None],
    progress: Callable[[int], None] | None,
) -> None:
    from schemas import violations

    file = _parquet(path)
    if not file.schema_arrow.equals(RECORDS):
        report.fail("columns", path.name, "the columns are not those of stream-record/1")
        return
    grids = [_batches(p) for p in tokens]
    for batch in _batches(path):
        table = pa.Table.from_batches([batch])
        report.records += table.num_rows
        report.checked["schema"] += table.num_rows
        ids = table.column("id").to_pylist()
        for index, message in violations("stream_record", to_json(table)):
            report.fail("schema", ids[index], message)
        report.checked["invariants"] += table.num_rows
        broken = record_violations(table)
        for violation in broken:
            report.fail("invariants", violation.record, f"{violation.code}: {violation.message}")
        if not broken:
            _leaks(table, ids, report)
        for grid in grids:
            _tokens(table, next(grid, None), report, tokenizers)
        if progress:
            progress(table.num_rows)
    for grid, place in zip(grids, tokens, strict=True):
        if next(grid, None) is not None:
            report.fail("tokens", place.name, "more token rows than records")


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from error


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    file = _parquet(path)
    try:
        yield from file.iter_batches(512)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from error


def _leaks(table: pa.Table, ids: list[str], report: Report) -> None:
    report.checked["leaks"] += table.num_rows
    for finding in leaks.lexical(table):
        report.checked["overlapping events"] += 1
        if finding.verdict == "leak":
            said = ", ".join(f"{key!r} (event {at})" for key, at in finding.evidence[:3])
            report.fail("leaks", ids[finding.record], f"event {finding.event} says before it was read: {said}")


def _tokens(
    table: pa.Table, batch: pa.RecordBatch | None, report: Report, tokenizers: dict[str, TextTokenizer | None]
) -> None:
    if batch is None or batch.num_rows != table.num_rows:
        report.fail("tokens", str(table.column("id")[0]), "fewer token rows than records")
        return
    clock = table.column("clock")[0].as_py()
    grid = pa.Table.from_batches([batch])
    report.checked["tokens"] += table.num_rows
    report.tokens += pa.compute.sum(pa.compute.list_value_length(grid.column("token_ids"))).as_py()
    for violation in token_violations(table, grid, _tokenizer(clock, tokenizers, report)):
        report.fail("tokens", violation.record, f"{violation.code}: {violation.message}")


def _tokenizer(
    clock: dict[str, Any], tokenizers: dict[str, TextTokenizer | None], report: Report
) -> TextTokenizer | None:
    """The clock's tokenizer, if the packaged one is it; text can then be encoded again."""
    digest = clock["tokenizer_sha256"]
    if digest not in tokenizers:
        tokenizers[digest] = None
        try:
            loaded = load_tokenizer("smollm2") if clock["tokenizer"] == "smollm2" else None
        except TokenizerError as error:
            report.notes.append(str(error))
            loaded = None
        if loaded is not None and loaded.sha256 == digest:
            tokenizers[digest] = loaded
        else:
            report.notes.append(
                f"tokens were not encoded again: name the tokenizer {clock['tokenizer']!r} with --tokenizer"
            )
    return tokenizers[digest]
