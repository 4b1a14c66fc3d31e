"""Parquet shards: writers that publish whole files, and the global shuffle and split, out of core."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.manifest import balance, publish
from pipeline.notes import Notes
from pipeline.selection import Rule, Selection

#: A row group is written once it holds so many bytes in memory.
ROW_GROUP_BYTES = 16 << 20

#: The shuffle sorts so many bytes in memory; more are dealt to ``2**FAN_BITS`` buckets, each an open file, so many bytes
#: at a time.
BUCKET_BYTES, FAN_BITS, DEAL_BYTES = 32 << 20, 6, 8 << 20

#: Columns of few values: only these are written with a dictionary. A dictionary of the others changes with every record
#: that comes or goes, and all pages with it; without one, zstd makes tokens smaller and texts hardly larger.
REPEATING = [
    "schema", "streams.list.element.name", "streams.list.element.role", "streams.list.element.slot",
    "streams.list.element.direction", "clock.unit", "clock.tokenizer", "clock.tokenizer_sha256", "clock.lag",
    "segment.k", "segment.n", "events.list.element.kind", "events.list.element.weight", "events.list.element.lexical",
    "events.list.element.judged", "alignment.policy", "alignment.version", "alignment.params",
    "sources.list.element.corpus", "sources.list.element.path", "sources.list.element.format",
    "sources.list.element.license", "extra", "labels", "corpus", "path", "format", "license", "stage", "code", "outcome",
]  # fmt: skip

#: Rows that are read and written at a time.
CHUNK_ROWS = 1024

#: Every record.
ALL = Selection()

IntArray = npt.NDArray[np.int64]


class TableWriter:
    """Writes tables of one schema to a Parquet file, in row groups of about ``ROW_GROUP_BYTES``."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=REPEATING,
            use_content_defined_chunking=True,  # so that a store that knows chunks takes only those that changed
        )
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        if table.num_rows:
            table = table.combine_chunks().replace_schema_metadata(self._schema.metadata)
            self._waiting.append(table)
            # Unlike nbytes this depends on the values alone, not on how the table came to be.
            self._bytes += sum(map(pa.ipc.get_record_batch_size, table.to_batches()))
            if self._bytes >= ROW_GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=1 << 30)
            self._waiting, self._bytes = [], 0

    def close(self) -> None:
        """Writes what is waiting, and the footer."""
        self._flush()
        self._writer.close()

    @staticmethod
    @contextmanager
    def several(
        schemas: dict[Path, pa.Schema], optional: set[Path] | None = None
    ) -> Iterator[Callable[[Path, pa.Table], None]]:
        """Several files at once, published together at the end; an ``optional`` one only if it got rows."""
        optional = optional or set()
        for path in optional:
            path.unlink(missing_ok=True)
        with ExitStack() as publications, ExitStack() as open_files:
            writers: dict[Path, TableWriter] = {}

            def writer(path: Path) -> TableWriter:
                if path not in writers:
                    temporary = publications.enter_context(publish(path))
                    writers[path] = TableWriter(temporary, schemas[path])
                    open_files.callback(writers[path].close)
                return writers[path]

            def write(path: Path, table: pa.Table) -> None:
                if table.num_rows:
                    writer(path).write(table)

            for path in schemas:
                if path not in optional:
                    writer(path)
            yield write


@dataclass(frozen=True, slots=True)
class ShuffleConfig:
    """How records are split and shuffled. ``test_fraction`` is of the groups; ``shard_rows`` is about how many records a
    shard holds; ``marks``: what people's marks do."""

    seed: int = 0
    test_fraction: float = 0.1
    shard_rows: int = 10_000
    marks: Rule = "ignore"


def group_hashes(groups: Sequence[str], config: ShuffleConfig) -> npt.NDArray[np.uint64]:
    """A seeded hash of every group: which side of the split it is on depends on nothing else."""
    return np.fromiter(
        (xxhash.xxh3_64_intdigest(g.encode(), seed=config.seed) for g in groups), dtype=np.uint64, count=len(groups)
    )


def shuffle_keys(ids: Sequence[str], config: ShuffleConfig) -> npt.NDArray[np.uint64]:
    """The place of every record in the global order: a seeded hash of its id, whatever shard it came from."""
    return np.fromiter(
        (xxhash.xxh3_64_intdigest(i.encode(), seed=config.seed + 1) for i in ids), dtype=np.uint64, count=len(ids)
    )


def shuffle_and_split(
    tables: dict[str, list[Path]],
    schemas: dict[str, pa.Schema],
    scratch: Path,
    out: Path,
    config: ShuffleConfig,
    train: str = "train",
    notes: Notes | None = None,
    selection: Selection = ALL,
) -> list[tuple[Path, int]]:
    """Shuffles aligned tables (the same records in the same order) over ``out/{train,test}/NAME-i-of-n.parquet``.

    ``train``: the folder of what is not in the test split. ``scratch``: a folder on a local disk. ``notes``: of files that
    an earlier run has finished, which are kept, and those of this run are noted. ``selection``: of the records.

    Rows are dealt to buckets by ranges of their key until a bucket fits in memory, where it is sorted: memory and the
    number of open files are bounded whatever the number and the size of the records, and the result depends on the
    records and the seed alone. Returns the files with their rows.
    """
    limit, totals = _plan_split(next(iter(tables.values())), config, selection)
    scratch.mkdir(parents=True, exist_ok=True)
    counts = {split: max(1, -(-total // config.shard_rows)) for split, total in totals.items() if total}
    written: list[tuple[Path, int]] = []
    for name, paths in tables.items():
        files = {
            split: [
                out / (train if split == "train" else split) / f"{name}-{i:05d}-of-{count:05d}.parquet"
                for i in range(count)
            ]
            for split, count in counts.items()
        }
        finished = {
            path: output.rows or 0
            for path in itertools.chain(*files.values())
            if notes is not None and (output := notes.finished(path)) is not None
        }
        todo = {split for split, places in files.items() if not finished.keys() >= set(places)}
        dealt = (
            _deal_splits(paths, schemas[name], scratch, limit, config, selection) if len(counts) > 1 and todo else None
        )
        for split, places in files.items():
            if split in todo:
                mine = _read_shards(paths, schemas[name], selection) if dealt is None else _stored(dealt[split])
                ordered = _in_order(mine, schemas[name], scratch / split, config)
                written += _write_shards(ordered, schemas[name], places, finished, notes)
            else:
                written += [(path, finished[path]) for path in places]
    return written


def _plan_split(paths: list[Path], config: ShuffleConfig, selection: Selection) -> tuple[np.uint64, dict[str, int]]:
    """Groups whose hash is below the limit are the test split; how many records each split gets.

    Where no group of a small data set falls below it, the group with the lowest hash is the test split, if there is
    another one to train on; where all of them do, the group with the highest is the train split.
    """
    limit = np.uint64(min(int(config.test_fraction * 2**64), 2**64 - 1))
    lowest: dict[int, int] = {}
    highest = (-1, 0)
    test = total = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(8192, columns=["id", "group"]):
            groups = selection.groups(selection.keep(pa.Table.from_batches([batch]), path))
            if not groups:
                continue
            hashes = group_hashes(groups, config)
            test += int((hashes < limit).sum())
            total += len(hashes)
            values, counts = np.unique(hashes, return_counts=True)
            for value, count in zip(values[:2].tolist(), counts[:2].tolist(), strict=True):
                lowest[value] = lowest.get(value, 0) + count
            lowest = dict(sorted(lowest.items())[:2])
            last = (int(values[-1]), int(counts[-1]))
            highest = (last[0], last[1] + highest[1]) if last[0] == highest[0] else max(highest, last)
    if test == 0 and limit and len(lowest) == 2:
        first = min(lowest)
        limit, test = np.uint64(first + 1), lowest[first]
    elif test == total and len(lowest) == 2:
        limit, test = np.uint64(highest[0]), total - highest[1]
    return limit, {"train": total - test, "test": test}


#: Rows and their keys.
Keyed = tuple[pa.Table, npt.NDArray[np.uint64]]


def _read_shards(paths: Sequence[Path], schema: pa.Schema, selection: Selection) -> Iterator[pa.Table]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(CHUNK_ROWS):
            yield selection.keep(pa.Table.from_batches([batch]).cast(schema), path)


def _stored(path: Path) -> Iterator[pa.Table]:
    """The tables of a bucket, which is gone then."""
    if path.exists():
        with pa.OSFile(str(path), "rb") as file:
            reader = pa.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(i)])
        path.unlink()


def _gathered(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of about ``size`` bytes or more."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        waiting.append(table)
        held += table.nbytes
        if held >= size:
            yield pa.concat_tables(waiting)
            waiting, held = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _deal(
    tables: Iterable[pa.Table], schema: pa.Schema, paths: Sequence[Path], bucket: Callable[[pa.Table], IntArray]
) -> None:
    """Writes every row to the bucket that ``bucket`` says, in the order in which rows come."""
    with ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for table in _gathered(tables, DEAL_BYTES):
            number = bucket(table)
            order = np.argsort(number, kind="stable")
            found, starts = np.unique(number[order], return_index=True)
            rows = table.take(pa.array(order)).combine_chunks()
            for i, start, end in zip(found.tolist(), starts, [*starts[1:], len(order)], strict=True):
                if i not in writers:
                    file = stack.enter_context(pa.OSFile(str(paths[i]), "wb"))
                    writers[i] = stack.enter_context(pa.ipc.new_file(file, schema))
                writers[i].write_table(rows.slice(start, end - start))


def _deal_splits(
    paths: Sequence[Path],
    schema: pa.Schema,
    scratch: Path,
    limit: np.uint64,
    config: ShuffleConfig,
    selection: Selection,
) -> dict[str, Path]:
    def is_test(table: pa.Table) -> IntArray:
        return (group_hashes(selection.groups(table), config) < limit).astype(np.int64)

    buckets = {split: scratch / f"all-{split}" for split in ("train", "test")}
    _deal(_read_shards(paths, schema, selection), schema, list(buckets.values()), is_test)
    return buckets


def _in_order(
    tables: Iterable[pa.Table], schema: pa.Schema, name: Path, config: ShuffleConfig, depth: int = 0
) -> Iterator[Keyed]:
    """The rows in the order of their keys. What does not fit in memory is dealt to ``2**FAN_BITS`` buckets first, by the
    next bits of the key, and each of them is put in order by itself. ``name``: what the buckets' names begin with."""
    tables = iter(tables)
    held: list[pa.Table] = []
    size = 0
    last = FAN_BITS * (depth + 1) > 64
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size > BUCKET_BYTES and not last:
            break
    else:
        if held:
            whole = pa.concat_tables(held)
            held.clear()
            yield _sorted(whole, config)
        return

    def bits(table: pa.Table) -> IntArray:
        keys = shuffle_keys(table.column("id").to_pylist(), config)
        return (keys >> np.uint64(64 - FAN_BITS * (depth + 1)) & np.uint64(2**FAN_BITS - 1)).astype(np.int64)

    def rest() -> Iterator[pa.Table]:
        while held:
            yield held.pop(0)
        yield from tables

    buckets = [name.with_name(f"{name.name}-{i:02d}") for i in range(2**FAN_BITS)]
    _deal(rest(), schema, buckets, bits)
    for path in buckets:
        yield from _in_order(_stored(path), schema, path, config, depth + 1)


def _sorted(table: pa.Table, config: ShuffleConfig) -> Keyed:
    ids = table.column("id").to_pylist()
    keys = shuffle_keys(ids, config)
    order = np.array(
        sorted(range(len(ids)), key=list(zip(keys.tolist(), ids, strict=True)).__getitem__), dtype=np.int64
    )
    return table.take(pa.array(order)), keys[order]


def _write_shards(
    ordered: Iterable[Keyed],
    schema: pa.Schema,
    places: Sequence[Path],
    finished: Mapping[Path, int],
    notes: Notes | None,
) -> list[tuple[Path, int]]:
    """Cuts the order into shards, by ranges of the key; every shard is written, also one that gets no row, unless it is
    finished. ``finished``: rows of those that are."""
    groups = itertools.groupby(_by_shard(ordered, len(places)), key=itemgetter(0))
    ready = next(groups, None)
    written = []
    for i, path in enumerate(places):
        rows = 0
        mine: Iterator[pa.Table] = map(itemgetter(1), ready[1]) if ready is not None and ready[0] == i else iter(())
        if path in finished:
            rows = sum(table.num_rows for table in mine)
            balance("dataset", total=finished[path], rows=rows)
        else:
            with publish(path) as temporary:
                writer = TableWriter(temporary, schema)
                for chunk in _chunks(mine):
                    writer.write(chunk)
                    rows += chunk.num_rows
                writer.close()
            if notes is not None:
                notes.remember(path, rows)
        if ready is not None and ready[0] == i:
            ready = next(groups, None)
        written.append((path, rows))
    return written


def _chunks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ``CHUNK_ROWS``, the last one shorter."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= CHUNK_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, CHUNK_ROWS)
            waiting, rows = [whole.slice(CHUNK_ROWS)], rows - CHUNK_ROWS
    if rows:
        yield pa.concat_tables(waiting)


def _by_shard(ordered: Iterable[Keyed], count: int) -> Iterator[tuple[int, pa.Table]]:
    for table, keys in ordered:
        shard = (keys >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
        found, starts = np.unique(shard, return_index=True)
        for i, start, end in zip(found.tolist(), starts, [*starts[1:], len(keys)], strict=True):
            yield i, table.slice(start, end - start)
