"""The importable facade: ``multistream.load(path)`` reads the records of a build, a data set or a shard.

>>> import multistream
>>> for record in multistream.load("build/demo", split="test"):
...     print(record["id"], record["rows"])
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

__all__ = ["load", "tokens"]

Split = Literal["train", "test"]


def load(path: str | Path, split: Split | None = None) -> Iterator[dict[str, Any]]:
    """Records as JSON values (``schemas/stream_record.schema.json``), in stored order, of one split or of all.

    Raises pipeline.errors.InputError where there are none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.records import to_json

    for place in _shards(path, split, "records"):
        for batch in pq.ParquetFile(place).iter_batches(512):
            yield from to_json(pa.Table.from_batches([batch]))


def tokens(path: str | Path, split: Split | None = None) -> Iterator[dict[str, Any]]:
    """Token grids as dictionaries (columns of ``pipeline.tables.TOKENS``; lists as numpy arrays), in the order of ``load``."""
    import pyarrow.parquet as pq

    for place in _shards(path, split, "tokens"):
        for batch in pq.ParquetFile(place).iter_batches(512):
            arrays = [name for name in batch.schema.names if name.startswith("token_")]
            columns = {name: batch.column(name) for name in batch.schema.names}
            for i in range(batch.num_rows):
                yield {
                    name: column[i].values.to_numpy(zero_copy_only=False) if name in arrays else column[i].as_py()
                    for name, column in columns.items()
                }


def _shards(path: str | Path, split: Split | None, table: Literal["records", "tokens"]) -> Iterator[Path]:
    from pipeline.errors import InputError
    from pipeline.folders import find_records

    files = find_records(Path(path))
    found = [
        p for p in (files.records if table == "records" else files.tokens) if split is None or p.parent.name == split
    ]
    if not found:
        raise InputError(f"{path} holds no {table} of the split {split!r}" if split else f"{path} holds no {table}")
    yield from found
