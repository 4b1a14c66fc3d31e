"""What stages between conversion and the data set leave out, by record, and where they say so.

Such a stage (filters, deduplication) writes two tables for every shard of records that it reads, ``tables.FILTERED`` both, in a
folder of the name of the stage whose records they are: ``filtered-N`` names the records that are left out, ``flagged-N`` those
that stay although something was found. The records themselves stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConservationError
from pipeline.folders import INPUT_ONLY
from pipeline.manifest import Result

#: The shards of a stage that hold records, by the beginning of their names.
RECORD_SHARDS = ("records-", "input-only-")

FILTERED, FLAGGED = "filtered", "flagged"


def record_shards(results: Sequence[Result]) -> list[Path]:
    """The shards of records of stages, those without any answer too, in order."""
    return [p for r in results for prefix in RECORD_SHARDS for p in r.manifest.paths(r.directory, prefix)]


def book_of(directory: Path, shard: Path, name: str = FILTERED) -> Path:
    """The table in a stage's ``directory`` that says what is left out of a shard of records, tokens or input-only records."""
    number = shard.name.rsplit("-", 1)[1]
    middle = "-input-only" if shard.name.startswith("input-only-") else ""
    return directory / shard.parent.name / f"{name}{middle}-{number}"


def part_of(shard: Path) -> str:
    """The value of the column ``stage``: the folder of the stage whose records they are, or ``input_only``."""
    return INPUT_ONLY if shard.name.startswith("input-only-") else shard.parent.name


def ids_in(book: Path) -> pa.ChunkedArray:
    """The record ids that a table names; none where it is not there."""
    return pq.read_table(book, columns=["id"]).column("id") if book.exists() else pa.chunked_array([], pa.string())


def kept_ids(shard: Path, directories: Sequence[Path]) -> Iterator[pa.Array]:
    """The ids of a shard's records that none of the stages leaves out, in batches."""
    left = pa.concat_arrays(
        [c for d in directories for c in ids_in(book_of(d, shard)).chunks] or [pa.array([], pa.string())]
    )
    for batch in pq.ParquetFile(shard).iter_batches(8192, columns=["id"]):
        ids = batch.column("id")
        yield ids.filter(pc.invert(pc.is_in(ids, value_set=left)))


def recount(shard: Path, directory: Path) -> Counter[str]:
    """The books of one shard, counted again: records ``in``, ``out``, and those named by each table, as ``filtered`` and
    ``flagged``. Raises ConservationError where a table names a record that is not there, or one twice."""
    counts = Counter({"in": pq.read_metadata(shard).num_rows, "out": 0})
    for ids in kept_ids(shard, [directory]):
        counts["out"] += len(ids)
    there = pq.read_table(shard, columns=["id"]).column("id")
    for name in (FILTERED, FLAGGED):
        named = ids_in(book_of(directory, shard, name))
        counts[name] = len(named)
        strangers = len(named) - pc.sum(pc.is_in(named, value_set=there)).as_py() if len(named) else 0
        if strangers:
            book = book_of(directory, shard, name)
            raise ConservationError(f"{book} names {strangers} records that {shard.name} does not hold")
    if counts["in"] != counts["out"] + counts[FILTERED]:
        raise ConservationError(
            f"{shard}: {counts['in']} records in, {counts['out']} kept and {counts[FILTERED]} filtered by {directory.name}"
        )
    return counts


def reasons_in(books: Sequence[Path]) -> dict[str, Counter[str]]:
    """How many records each filter names in the tables, by reason."""
    found: dict[str, Counter[str]] = {}
    for book in books:
        table = pq.read_table(book, columns=["filter", "reason"])
        for row in table.group_by(["filter", "reason"]).aggregate([([], "count_all")]).to_pylist():
            found.setdefault(row["filter"], Counter())[row["reason"]] += row["count_all"]
    return {name: Counter(dict(sorted(found[name].items(), key=lambda i: (-i[1], i[0])))) for name in sorted(found)}
