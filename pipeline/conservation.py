"""Conservation: what went into a stage is what came out of it, recounted from the files on disk.

Nothing here is computed as a difference: every side is counted, and the counts must agree, unit by unit.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConservationError
from pipeline.folders import INPUT_ONLY
from pipeline.manifest import need_manifest

Pointer = tuple[str, str, int]

#: The format whose units are records already.
STREAM_RECORD = "stream_record"

#: What may become of a source unit.
OUTCOMES = ("converted", "input_only", "excluded", "rejected")


_T = TypeVar("_T")
_P = ParamSpec("_P")


def _reads(function: Callable[Concatenate[Path, _P], _T]) -> Callable[Concatenate[Path, _P], _T]:
    """A function of a Parquet file that raises ConservationError where the file is not there or cannot be read."""

    @functools.wraps(function)
    def read(path: Path, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(path, *args, **kwargs)
        except (pa.ArrowException, OSError, msgspec.DecodeError) as error:
            raise ConservationError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from error
        except KeyError as error:
            raise ConservationError(f"{path} is not one of ours: it has no {error}") from error

    return read


@_reads
def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


@_reads
def _ledger(path: Path) -> dict[Pointer, dict[str, Any]]:
    return {(r["corpus"], r["path"], r["index"]): r for r in pq.read_table(path).to_pylist()}


@_reads
def _pointers(path: Path) -> Counter[Pointer]:
    found: Counter[Pointer] = Counter()
    if path.exists():
        for batch in pq.ParquetFile(path).iter_batches(8192, columns=["corpus", "path", "index"]):
            found.update((r["corpus"], r["path"], r["index"]) for r in batch.to_pylist())
    return found


@_reads
def _records_again(path: Path) -> frozenset[Pointer]:
    """The units of a shard that are records already."""
    found: set[Pointer] = set()
    for batch in pq.ParquetFile(path).iter_batches(8192, columns=["corpus", "path", "index", "format"]):
        if STREAM_RECORD in batch.column("format").unique().to_pylist():
            found.update(
                (r["corpus"], r["path"], r["index"]) for r in batch.to_pylist() if r["format"] == STREAM_RECORD
            )
    return frozenset(found)


@_reads
def _record_pointers(path: Path) -> Counter[Pointer]:
    found: Counter[Pointer] = Counter()
    if path.exists():
        for batch in pq.ParquetFile(path).iter_batches(8192, columns=["sources"]):
            found.update(
                (s["corpus"], s["path"], s["index"]) for row in batch.column("sources").to_pylist() for s in row
            )
    return found


class _Joined(msgspec.Struct):
    unit: msgspec.Raw
    joined: msgspec.Raw


def recount_ingest(units: Sequence[Path], rejects: Sequence[Path], counters: Mapping[str, Any]) -> dict[str, int]:
    """Recounts the units of an ingestion, the values that they are made of, and its rejects, against its counters.

    A unit holds one value; that of a whole file as many as its list has; that of a join one more where one was joined.
    Raises ConservationError.
    """
    found: Counter[str] = Counter(out=0, rejected=0, values=0, joined=0)
    for path in units:
        found.update(_values_of(path))
    found["rejected"] = sum(map(_rows, rejects))
    expected = {
        "out": counters["out"],
        "rejected": counters["rejected"],
        "joined": counters["joined"],
        "values": counters["values"] + counters["joined_again"] - counters["joined"] - counters["rejected_values"],
    }
    for name, count in expected.items():
        if found[name] != count:
            raise ConservationError(f"ingest: {count} {name} by the counters, {found[name]} on disk")
    return dict(found)


@_reads
def _values_of(path: Path) -> Counter[str]:
    """How many units a shard holds, the values in them, and those of companions that were joined."""
    from converters import CONVERTERS

    counts: Counter[str] = Counter()
    file = pq.ParquetFile(path)
    formats = {f for batch in file.iter_batches(columns=["format"]) for f in batch.column(0).unique().to_pylist()}
    kinds = {f: CONVERTERS[f.partition(":")[0]].UNIT for f in formats}
    rows = file.metadata.num_rows
    counts["out"] = rows
    if set(kinds.values()) == {"record"}:
        counts["values"] = rows
        return counts
    lists, pairs = msgspec.json.Decoder(list[msgspec.Raw]), msgspec.json.Decoder(_Joined)
    for batch in file.iter_batches(16, columns=["format", "raw"]):
        for format_, raw in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            kind = kinds[format_]
            counts["values"] += len(lists.decode(raw)) if kind == "file" else 1
            counts["joined"] += kind == "join" and bytes(pairs.decode(raw).joined) != b"null"
    return counts


def recount_convert(ingest: Path, convert: Path) -> dict[str, int]:
    """Recounts every shard of a conversion against its source units. Raises ConservationError at the first difference.

    Returns units in, units by outcome, and records out.
    """
    units = need_manifest(ingest).paths(ingest, "units-")
    total: Counter[str] = Counter()
    for number, path in enumerate(units):
        total.update(recount_shard(path, convert, number))
    shards = len(list(convert.glob("ledger-*.parquet")))
    if shards != len(units):
        raise ConservationError(f"convert: {len(units)} shards in, {shards} ledgers out")
    if total["in"] != sum(total[o] for o in OUTCOMES):
        raise ConservationError(f"convert: {total['in']} units in, {sum(total[o] for o in OUTCOMES)} accounted for")
    return dict(total)


def recount_shard(units: Path, convert: Path, number: int) -> dict[str, int]:
    """Recounts one shard of a conversion against its source units, as ``recount_convert``. Raises ConservationError."""
    what = f"convert, shard {number}"
    ledger_path = convert / f"ledger-{number:05d}.parquet"
    if not ledger_path.exists():
        raise ConservationError(f"{what}: the ledger is missing")
    given = _pointers(units)
    _same(what, "units", given, _pointers(ledger_path), "ledger")
    ledger = _ledger(ledger_path)
    for row in ledger.values():
        _fits(what, row)
    again = _records_again(units)
    promised = {
        "records": Counter({p: r["records"] for p, r in ledger.items() if r["records"]}),
        "input-only": Counter({p: r["input_only"] for p, r in ledger.items() if r["input_only"]}),
        "rejects": Counter({p: 1 for p, r in ledger.items() if r["outcome"] == "rejected"}),
    }
    for name, expected in promised.items():
        path = convert / f"{name}-{number:05d}.parquet"
        if name == "rejects":
            _same(what, "ledger", expected, _pointers(path), path.name)
        elif again:
            _enough(what, expected, again, path)
        else:
            _same(what, "ledger", expected, _record_pointers(path), path.name)
    tokens = sorted(convert.glob(f"tokens-*-{number:05d}.parquet"))
    records = _rows(convert / f"records-{number:05d}.parquet")
    for path in tokens:
        if (rows := _rows(path)) != records:
            raise ConservationError(f"{what}: {records} records, but {rows} rows in {path.name}")
    counts = Counter(str(r["outcome"]) for r in ledger.values())
    counts["in"] = given.total()
    counts["records"] = records
    return dict(counts)


def _enough(what: str, expected: Counter[Pointer], again: frozenset[Pointer], path: Path) -> None:
    """The same where units are records laid out again: those point to what they were once made of, not to their units.

    So they are counted together, and every other unit has at least the records that it is booked with.
    """
    found, rows = _record_pointers(path), _rows(path) if path.exists() else 0
    others = Counter({pointer: count for pointer, count in expected.items() if pointer not in again})
    fewer = Counter({pointer: found[pointer] for pointer, count in others.items() if found[pointer] < count})
    _same(what, "ledger", Counter({p: others[p] for p in fewer}), fewer, path.name)
    if rows != expected.total():
        raise ConservationError(f"{what}: {expected.total()} records in the ledger, {rows} in {path.name}")


def _fits(what: str, row: dict[str, Any]) -> None:
    """Raises ConservationError where a unit's outcome is not what became of it: nothing may vanish under any name."""
    outcome, records, input_only = row["outcome"], row["records"], row["input_only"]
    fits = {
        "converted": records > 0,
        "input_only": records == 0 and input_only > 0,
        "excluded": records == input_only == 0,
        "rejected": records == input_only == 0,
    }
    if not fits.get(outcome, False):
        raise ConservationError(
            f"{what}: unit {row['index']} of {row['corpus']}/{row['path']} is booked as {outcome}, "
            f"with {records} records and {input_only} input-only ones"
        )


def _same(what: str, left_name: str, left: Counter[Pointer], right: Counter[Pointer], right_name: str) -> None:
    if left == right:
        return
    pointer = min(p for p in left.keys() | right.keys() if left[p] != right[p])
    corpus, path, index = pointer
    raise ConservationError(
        f"{what}: unit {index} of {corpus}/{path} counts {left[pointer]} in the {left_name}, {right[pointer]} in {right_name}"
    )


def id_sum(paths: list[Path], rows: pc.Expression | None = None) -> tuple[int, int]:
    """How many records the files hold, and the sum of their ids: equal for two sets of files with the same records.

    ``rows``: count only these.
    """
    sums = [_id_sum(path, rows) for path in paths]
    return sum(count for count, _ in sums), sum(total for _, total in sums)


@_reads
def _id_sum(path: Path, rows: pc.Expression | None) -> tuple[int, int]:
    count = total = 0
    columns = ["id"] if rows is None else ["id", "stage"]
    for batch in pq.ParquetFile(path).iter_batches(8192, columns=columns):
        table = pa.Table.from_batches([batch])
        ids = (table if rows is None else table.filter(rows)).column("id").to_pylist()
        count += len(ids)
        total += sum(int(i, 16) for i in ids)
    return count, total


def recount_dataset(
    inputs: list[tuple[str, list[Path]]], dataset: Path, unanswered: Sequence[Path] = ()
) -> dict[str, int]:
    """Recounts the shuffled and split data set against the shards it was made of, records and tokens alike.

    ``inputs``: name of each input stage and its record shards; ``unanswered``: the shards of conversations without an
    answer. What ``filtered-*.parquet`` names is not in it. Raises ConservationError.
    """
    came = [(name, *id_sum(paths)) for name, paths in inputs]
    filtered = sorted(dataset.glob("filtered-*.parquet"))
    left_out = id_sum(filtered, pc.field("stage") != INPUT_ONLY)
    expected = (sum(count for _, count, _ in came) - left_out[0], sum(total for _, _, total in came) - left_out[1])
    came_in, booked = sum(count for _, count, _ in came), f", {left_out[0]} filtered" if filtered else ""
    counts = {f"in_{name}": count for name, count, _ in came}
    for split in ("train", "test"):
        counts[split] = id_sum(sorted((dataset / split).glob("records-*.parquet")))[0]
    for prefix in ("records-", "tokens-"):
        found = id_sum(sorted(p for split in ("train", "test") for p in (dataset / split).glob(f"{prefix}*.parquet")))
        if found[0] != expected[0]:
            raise ConservationError(f"dataset: {came_in} records in{booked}, {found[0]} in {prefix}*.parquet")
        if found != expected:
            raise ConservationError(f"dataset: the records in {prefix}*.parquet are not those that came in")
    kept = id_sum(sorted((dataset / INPUT_ONLY).glob("records-*.parquet")))
    counts[INPUT_ONLY] = kept[0]
    silent, silent_left_out = id_sum(list(unanswered)), id_sum(filtered, pc.field("stage") == INPUT_ONLY)
    if kept != (silent[0] - silent_left_out[0], silent[1] - silent_left_out[1]):
        raise ConservationError(
            f"dataset: {silent[0]} conversations without an answer in, {silent_left_out[0]} filtered, {kept[0]} out"
        )
    if counts["train"] + counts["test"] != expected[0]:
        raise ConservationError(f"dataset: {expected[0]} records in, {counts['train']} + {counts['test']} out")
    return counts
