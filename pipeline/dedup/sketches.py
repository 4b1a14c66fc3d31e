"""Sketches: what is known of each conversation of a shard without its text, in a scratch file that is mapped into memory.

Conversations of all shards are numbered in their order: a conversation's number is its ``place``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import band_keys, bands_of, signatures
from pipeline.dedup.order import licenses_rank
from pipeline.dedup.words import U32, compared, distinct, normalized, shingles_of
from pipeline.filters.talks import Talks, read_talks
from pipeline.manifest import publish
from pipeline.word_hashes import I64, U64

#: What is written of a conversation beside ``band-N``: a hash of each band.
COLUMNS = pa.schema(
    [
        pa.field("ids", pa.list_(pa.string())),  # of its records
        pa.field("conversation_id", pa.string()),
        pa.field("group", pa.string()),
        pa.field("corpus", pa.string()),
        pa.field("path", pa.string()),
        pa.field("index", pa.int64()),
        pa.field("license", pa.string()),  # of all its sources, one after the other
        pa.field("license_rank", pa.uint8()),  # pipeline.dedup.order
        pa.field("id_hash", pa.uint64()),  # of the first record's id
        pa.field("exact", pa.binary(16)),  # hash of the text that is compared; null where nothing is said
        pa.field("size", pa.uint32()),  # different shingles
        pa.field("part_hashes", pa.large_list(pa.uint64())),
        pa.field("part_outputs", pa.large_list(pa.uint8())),  # 1: the model says it
        pa.field("part_sizes", pa.large_list(pa.uint32())),
        pa.field("shingles", pa.large_list(pa.uint32())),  # of one part after the other, ascending in each
        pa.field("signature", pa.large_list(pa.uint32())),
    ]
)

#: Shards that are open at a time.
OPEN = 128


def sketch_shard(shard: Path, left_out: pa.Array, path: Path, config: DedupConfig) -> int:
    """Writes the sketches of a shard of records, without those whose ids are ``left_out``; how many there are."""
    bands, _ = bands_of(config.threshold, config.permutations)
    schema = COLUMNS
    for band in range(bands):
        schema = schema.append(pa.field(f"band-{band}", pa.uint64()))
    tables = [schema.empty_table()]
    gone = set(left_out.to_pylist())
    for talks in read_talks(shard):
        rest = talks
        if gone:
            ids = talks.conversations["ids"].to_list()
            rest = talks.without({talk for talk, own in enumerate(ids) if own[0] in gone})
        if len(rest):
            tables.append(_sketch(rest, config, schema))
    # One batch: so that every column is one array in the mapped file.
    table = pa.concat_tables(tables).combine_chunks()
    with publish(path) as temporary, pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_table(table)
    return int(table.num_rows)


def _sketch(talks: Talks, config: DedupConfig, schema: pa.Schema) -> pa.Table:
    number = len(talks)
    parts = compared(talks, config).with_columns(
        exact=pl.col("text").map_batches(lambda t: normalized(t, config.normalize))
    )
    talk = parts["talk"].to_numpy().astype(np.int64)
    told = parts.select(pl.concat_str("role", pl.lit("\x1f"), "exact"))["role"]
    part_hashes = _hashed(told.to_list())
    flat, sizes = shingles_of(parts["text"], config.shingle)
    of_talk = np.repeat(talk.astype(np.uint64), sizes)
    whole = distinct((of_talk << np.uint64(32)) | flat)
    counts = np.bincount((whole >> np.uint64(32)).astype(np.int64), minlength=number)
    signed = signatures((whole & np.uint64(0xFFFFFFFF)).astype(np.uint32), counts, config.permutations)
    keys = band_keys(signed, *bands_of(config.threshold, config.permutations))
    per_talk = np.bincount(talk, minlength=number)
    flat_per_talk = np.bincount(talk, weights=sizes, minlength=number).astype(np.int64)
    about = _about(talks)
    columns: dict[str, Any] = {
        **{name: about[name].to_arrow() for name in COLUMNS.names[:6]},
        "license": about["licenses"].list.join(", ", ignore_nulls=True).to_arrow(),
        "license_rank": pa.array([licenses_rank(names or ()) for names in about["licenses"].to_list()], pa.uint8()),
        "id_hash": pa.array(_hashed(about["ids"].list.first().to_list())),
        "exact": _exact(part_hashes, per_talk),
        "size": pa.array(counts.astype(np.uint32)),
        "part_hashes": _lists(part_hashes, per_talk),
        "part_outputs": _lists(parts["output"].to_numpy().astype(np.uint8), per_talk),
        "part_sizes": _lists(sizes.astype(np.uint32), per_talk),
        "shingles": _lists(flat, flat_per_talk),
        "signature": _lists(signed.reshape(-1), np.full(number, config.permutations)),
    }
    for band in range(keys.shape[1]):
        columns[f"band-{band}"] = pa.array(np.ascontiguousarray(keys[:, band]))
    return pa.table(columns).cast(schema)


def _about(talks: Talks) -> pl.DataFrame:
    """Who a conversation is, with the pointer to its first source."""
    records = pl.from_arrow(talks.records.select(["id", "sources"]))
    assert isinstance(records, pl.DataFrame)
    source = pl.col("sources").list.first().struct
    licenses = pl.col("sources").list.eval(pl.element().struct.field("license"))
    pointers = records.select("id", path=source.field("path"), index=source.field("index"), licenses=licenses).unique(
        "id", keep="first"
    )
    told = talks.conversations.select(
        "ids", "conversation_id", "group", pl.col("corpus").fill_null(""), id=pl.col("ids").list.first()
    )
    joined = told.join(pointers, on="id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("path").fill_null(""), pl.col("index").fill_null(0))


def _hashed(texts: Sequence[str]) -> U64:
    return np.fromiter((xxhash.xxh3_64_intdigest(t.encode()) for t in texts), dtype=np.uint64, count=len(texts))


def _exact(part_hashes: U64, counts: I64) -> pa.Array:
    """One hash of the parts of each conversation, in their order; null where there are none."""
    ends = np.cumsum(counts)
    digests = [
        xxhash.xxh3_128_digest(part_hashes[end - count : end].tobytes()) if count else None
        for end, count in zip(ends.tolist(), counts.tolist(), strict=True)
    ]
    return pa.array(digests, pa.binary(16))


def _lists(values: npt.NDArray[Any], counts: I64) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


@dataclass(frozen=True, slots=True)
class Sketch:
    """What pairs are compared by: hashes of the parts, whether the model says them, and the shingles of each."""

    part_hashes: U64
    is_output: npt.NDArray[np.bool_]
    parts: tuple[U32, ...]

    def shingles(self, of: npt.NDArray[np.bool_] | None = None) -> U32:
        """The different shingles of all parts, or of some, ascending."""
        chosen = [p for i, p in enumerate(self.parts) if of is None or of[i]]
        return distinct(np.concatenate(chosen)) if chosen else np.empty(0, np.uint32)


class _Shard:
    """One mapped file."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self.table: pa.Table = pa.ipc.open_file(file).read_all()
        self._lists: dict[str, tuple[I64, npt.NDArray[Any]]] = {}

    def values(self, name: str) -> npt.NDArray[Any]:
        chunks = self.table.column(name).chunks
        return chunks[0].to_numpy() if chunks else np.empty(0, self.table.schema.field(name).type.to_pandas_dtype())

    def item(self, name: str, row: int) -> npt.NDArray[Any]:
        if name not in self._lists:
            chunk = self.table.column(name).chunks[0]
            self._lists[name] = (chunk.offsets.to_numpy(), chunk.values.to_numpy())
        offsets, values = self._lists[name]
        return values[offsets[row] : offsets[row + 1]]


class Sketches:
    """The sketches of all shards. ``rows``: how many each file holds."""

    def __init__(self, paths: Sequence[Path], rows: Sequence[int]) -> None:
        self.paths = tuple(paths)
        self.starts: I64 = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _shard(self, number: int) -> _Shard:
        if number not in self._open:
            if len(self._open) >= OPEN:
                self._open.popitem(last=False)
            self._open[number] = _Shard(self.paths[number])
        self._open.move_to_end(number)
        return self._open[number]

    def table(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one shard."""
        return self._shard(number).table.select(list(columns))

    def column(self, number: int, name: str) -> npt.NDArray[Any]:
        """A column of numbers of one shard."""
        return self._shard(number).values(name)

    def sketch(self, place: int) -> Sketch:
        """What a conversation is compared by."""
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        shard, row = self._shard(number), place - int(self.starts[number])
        ends = np.cumsum(shard.item("part_sizes", row).astype(np.int64))
        parts = np.split(shard.item("shingles", row), ends[:-1]) if len(ends) else []
        return Sketch(shard.item("part_hashes", row), shard.item("part_outputs", row) == 1, tuple(parts))

    def signatures(self, places: I64, permutations: int) -> U32:
        """The signatures of conversations: places x permutations."""
        result = np.empty((len(places), permutations), np.uint32)

        def fill(shard: _Shard, rows: I64, at: I64) -> None:
            values = shard.table.column("signature").chunks[0].values.to_numpy()
            result[at] = values.reshape(-1, permutations)[rows]

        self._by_shard(places, fill)
        return result

    def rows(self, places: I64, columns: Sequence[str]) -> pa.Table:
        """Columns of conversations, in the order of ``places``."""
        tables: list[pa.Table] = []
        taken: list[I64] = []

        def fill(shard: _Shard, rows: I64, at: I64) -> None:
            tables.append(shard.table.select(list(columns)).take(pa.array(rows)))
            taken.append(at)

        self._by_shard(places, fill)
        if not tables:
            return pa.schema([COLUMNS.field(name) for name in columns]).empty_table()
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(taken), kind="stable")))

    def _by_shard(self, places: I64, fill: Callable[[_Shard, I64, I64], None]) -> None:
        """Calls ``fill`` with each shard, the rows of it and where they stand in ``places``."""
        numbers = np.searchsorted(self.starts, places, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        found, begins = np.unique(numbers[order], return_index=True)
        for number, low, high in zip(found.tolist(), begins, [*begins[1:], len(order)], strict=True):
            at = order[low:high]
            fill(self._shard(number), places[at] - self.starts[number], at)
