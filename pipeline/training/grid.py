"""Token shards, read lazily: Parquet tables of ``pipeline.tables.TOKENS``, one ``TokenGrid`` per record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import TOKENS, TOKENS_SCHEMA_ID

METADATA_KEY = b"token_grid"

IntArray = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]


class TrainingError(ValueError):
    """Data, model or configuration that cannot be trained or evaluated on; the message says in one line what to do."""


@dataclass(frozen=True)
class Stream:
    """One stream of a record: ``direction`` is "input" (read by the model) or "output" (written by it)."""

    name: str
    role: str
    slot: int
    direction: str


@dataclass(frozen=True)
class GridMetadata:
    """What all shards of a data set share: the tokenizer, its structural ids and the layout's ``lag`` in rows."""

    schema: str
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    eom_id: int
    silence_id: int
    lag: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GridMetadata:
        """Read ``token_grid`` metadata. Raises TrainingError on a missing key or a schema this code does not read."""
        missing = [field.name for field in fields(cls) if field.name not in value]
        if missing:
            raise TrainingError(f"token_grid metadata lacks {', '.join(missing)}")
        if value["schema"] != TOKENS_SCHEMA_ID:
            raise TrainingError(f"token_grid schema is {value['schema']!r}, this reader knows {TOKENS_SCHEMA_ID!r}")
        return cls(**{field.name: value[field.name] for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The spoken cells of one record, N of them, row-major (by row, then stream); a silent cell is absent.

    ``token_ids`` int32[N], ``token_rows`` int32[N] in [0, rows), ``token_streams`` uint8[N] (index into ``streams``),
    ``token_loss`` uint8[N] (bits ``tables.LOSS_TARGET`` and ``tables.LOSS_END_UNTRAINED``).
    """

    id: str
    conversation_id: str
    group: str
    rows: int
    streams: tuple[Stream, ...]
    token_ids: IntArray
    token_rows: IntArray
    token_streams: ByteArray
    token_loss: ByteArray


def dataset_root(dataset_dir: Path) -> Path:
    """The folder that holds the splits: ``DIR/dataset`` where it exists, else DIR itself."""
    return dataset_dir / "dataset" if (dataset_dir / "dataset").is_dir() else dataset_dir


def find_shards(dataset_dir: Path, split: str) -> list[Path]:
    """Token shards of a split, ordered by name. Raises TrainingError where there is none."""
    folder = dataset_root(dataset_dir) / split
    shards = sorted(folder.glob("tokens-*.parquet"))
    if not shards:
        raise TrainingError(f"no token shards tokens-*.parquet in {folder}; tokenize the data set first")
    return shards


def read_metadata(shards: Sequence[Path]) -> GridMetadata:
    """The ``token_grid`` metadata that every shard carries; reads footers only.

    Raises TrainingError for a file that is no token shard, shards that differ, and shards without a single record.
    """
    first: GridMetadata | None = None
    for shard in shards:
        metadata = _shard_metadata(shard)
        first = first or metadata
        if metadata != first:
            raise TrainingError(
                f"{shard}: {_difference(first, metadata)}, unlike {shards[0]}; build one data set at a time"
            )
    if first is None or not count_records(shards):
        raise TrainingError(f"the token shards hold no records: {', '.join(map(str, shards)) or 'none given'}")
    return first


def count_records(shards: Sequence[Path]) -> int:
    """Records in the shards, from their footers."""
    return sum(pq.read_metadata(shard).num_rows for shard in shards)


def find_directions(shards: Sequence[Path], batch_size: int = 4096) -> dict[str, str]:
    """All stream roles of the shards, sorted, with their direction; reads only the ``streams`` column.

    A role that is an output in any record is an output.
    """
    found: set[tuple[str, str]] = set()
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size, columns=["streams"]):
            streams = batch.column(0).flatten()
            table = pa.table({"role": streams.field("role"), "direction": streams.field("direction")})
            unique = table.group_by(["role", "direction"]).aggregate([])
            found.update(zip(unique["role"].to_pylist(), unique["direction"].to_pylist(), strict=True))
    return dict(sorted(found))  # "output" comes after "input"


def find_roles(shards: Sequence[Path]) -> tuple[str, ...]:
    """All stream roles of the shards, sorted."""
    return tuple(find_directions(shards))


def iter_grids(shards: Sequence[Path], batch_size: int = 64) -> Iterator[TokenGrid]:
    """Records of the shards in order, holding one batch at a time.

    Raises TrainingError for a record whose cells are no token grid (see ``check_grid``).
    """
    for shard in shards:
        metadata = _shard_metadata(shard)
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size):
                for grid in _batch_grids(batch):
                    fault = check_grid(grid, metadata)
                    if fault:
                        raise TrainingError(f"{shard}: record {grid.id}: {fault}")
                    yield grid


def check_grid(grid: TokenGrid, metadata: GridMetadata) -> str | None:
    """What is wrong with a record's cells, or None: lengths, ranges, row-major order, reserved ids."""
    ids, rows, streams = grid.token_ids, grid.token_rows, grid.token_streams
    if not len(ids) == len(rows) == len(streams) == len(grid.token_loss):
        return "token columns differ in length"
    if any(stream.direction not in ("input", "output") for stream in grid.streams):
        return "a stream's direction is neither input nor output"
    if not len(ids):
        return None
    if rows.min() < 0 or rows.max() >= grid.rows:
        return f"token_rows outside [0, {grid.rows})"
    if streams.max() >= len(grid.streams):
        return f"token_streams outside [0, {len(grid.streams)})"
    if ids.min() < 0 or ids.max() >= metadata.vocab_size:
        return f"token_ids outside the vocabulary of {metadata.vocab_size}"
    if (np.diff(rows.astype(np.int64) * 256 + streams) <= 0).any():
        return "cells are not in row-major order, one per row and stream"
    if (ids == metadata.silence_id).any() or (ids == metadata.bos_id).any():
        return "a spoken cell holds the silence or BOS id"
    return None


def _shard_metadata(shard: Path) -> GridMetadata:
    try:
        schema = pq.read_schema(shard)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingError(f"{shard} is not a readable Parquet file: {error}") from error
    if not schema.equals(TOKENS):
        raise TrainingError(f"{shard} is not a token shard: its columns differ from {TOKENS_SCHEMA_ID}")
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise TrainingError(f"{shard} has no token_grid metadata; write it with `multistream build`")
    try:
        return GridMetadata.from_json(json.loads(raw))
    except (TrainingError, json.JSONDecodeError) as error:
        raise TrainingError(f"{shard}: {error}") from error


def _difference(first: GridMetadata, other: GridMetadata) -> str:
    differing = [field.name for field in fields(first) if getattr(first, field.name) != getattr(other, field.name)]
    return ", ".join(f"{name} is {getattr(other, name)!r} not {getattr(first, name)!r}" for name in differing)


def _batch_grids(batch: pa.RecordBatch) -> Iterator[TokenGrid]:
    scalars = {name: batch.column(name).to_pylist() for name in ("id", "conversation_id", "group", "rows", "streams")}
    lists = {
        name: _split_lists(batch.column(name)) for name in ("token_ids", "token_rows", "token_streams", "token_loss")
    }
    for index in range(batch.num_rows):
        yield TokenGrid(
            id=scalars["id"][index],
            conversation_id=scalars["conversation_id"][index],
            group=scalars["group"][index],
            rows=scalars["rows"][index],
            streams=tuple(Stream(**stream) for stream in scalars["streams"][index]),
            token_ids=lists["token_ids"][index],
            token_rows=lists["token_rows"][index],
            token_streams=lists["token_streams"][index],
            token_loss=lists["token_loss"][index],
        )


def _split_lists(column: pa.ListArray) -> list[npt.NDArray[Any]]:
    offsets = column.offsets.to_numpy()
    return np.split(column.flatten().to_numpy(), (offsets[1:-1] - offsets[0]).tolist())
