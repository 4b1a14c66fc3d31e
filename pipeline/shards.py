"""Parquet shards: writers that publish whole files, and the global shuffle and split, out of core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.manifest import publish

#: A row group is written once it holds so many bytes in memory.
ROW_GROUP_BYTES = 16 << 20


class TableWriter:
    """Writes tables of one schema to a Parquet file, in row groups of about ``ROW_GROUP_BYTES``."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        if table.num_rows:
            self._waiting.append(table.replace_schema_metadata(self._schema.metadata))
            self._bytes += table.nbytes
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
    shard holds."""

    seed: int = 0
    test_fraction: float = 0.1
    shard_rows: int = 10_000


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
) -> list[tuple[Path, int]]:
    """Shuffles aligned tables (the same records in the same order) over ``out/{train,test}/NAME-i-of-n.parquet``.

    ``train``: the folder of what is not in the test split.

    Rows are dealt to buckets by ranges of their key, then each bucket is sorted: memory is bounded by one shard, and the
    result depends on the records and the seed alone. Returns the files with their rows.
    """
    limit, totals = _plan_split(next(iter(tables.values())), config)
    shards = {split: max(1, -(-total // config.shard_rows)) for split, total in totals.items() if total}
    written: list[tuple[Path, int]] = []
    for name, paths in tables.items():
        buckets = _deal(name, paths, schemas[name], scratch, shards, limit, config)
        for split, count in shards.items():
            for i in range(count):
                path = out / (train if split == "train" else split) / f"{name}-{i:05d}-of-{count:05d}.parquet"
                table = _sorted_bucket(buckets[split][i], schemas[name], config)
                with publish(path) as temporary:
                    writer = TableWriter(temporary, schemas[name])
                    for start in range(0, table.num_rows, 1024):
                        writer.write(table.slice(start, 1024))
                    writer.close()
                written.append((path, table.num_rows))
    return written


def _plan_split(paths: list[Path], config: ShuffleConfig) -> tuple[np.uint64, dict[str, int]]:
    """Groups whose hash is below the limit are the test split; how many records each split gets.

    Where no group of a small data set falls below it, the group with the lowest hash is the test split, if there is
    another one to train on; where all of them do, the group with the highest is the train split.
    """
    limit = np.uint64(min(int(config.test_fraction * 2**64), 2**64 - 1))
    lowest: dict[int, int] = {}
    highest = (-1, 0)
    test = total = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(8192, columns=["group"]):
            hashes = group_hashes(batch.column("group").to_pylist(), config)
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


def _deal(
    name: str,
    paths: list[Path],
    schema: pa.Schema,
    scratch: Path,
    shards: dict[str, int],
    limit: np.uint64,
    config: ShuffleConfig,
) -> dict[str, list[Path]]:
    buckets = {split: [scratch / f"{name}-{split}-{i}.arrow" for i in range(count)] for split, count in shards.items()}
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {
            path: stack.enter_context(pa.ipc.new_file(stack.enter_context(pa.OSFile(str(path), "wb")), schema))
            for paths_of_split in buckets.values()
            for path in paths_of_split
        }
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(1024):
                table = pa.Table.from_batches([batch]).cast(schema)
                test = group_hashes(table.column("group").to_pylist(), config) < limit
                keys = shuffle_keys(table.column("id").to_pylist(), config)
                for split, count in shards.items():
                    mine = np.flatnonzero(test == (split == "test"))
                    bucket = (keys[mine] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
                    for i in np.unique(bucket).tolist():
                        writers[buckets[split][i]].write_table(table.take(pa.array(mine[bucket == i])))
    return buckets


def _sorted_bucket(path: Path, schema: pa.Schema, config: ShuffleConfig) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    path.unlink()
    ids = table.column("id").to_pylist()
    keys = shuffle_keys(ids, config)
    order = sorted(range(len(ids)), key=lambda i: (int(keys[i]), ids[i]))
    return table.take(pa.array(order, pa.int64())).combine_chunks()
