"""The importable facade: ``multistream.load(path)`` is the data set of a build, a folder of shards or one shard.

>>> import multistream
>>> data = multistream.load("build/demo", split="train")
>>> loader = torch.utils.data.DataLoader(data, batch_size=8, collate_fn=multistream.collate)

A data set is also a sequence and can be looped over: its items are records, ``tokens(path)`` has token grids for items.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.training.grid import GridMetadata, TokenGrid

__all__ = ["Dataset", "Packs", "Record", "collate", "load", "packs", "tokens"]

Split = Literal["train", "test", "input_only"]
Item = TypeVar("Item")

#: Row groups of each table that a data set keeps in memory (about 16 MiB each).
CACHED = 4


def load(path: str | Path, split: Split | None = None, tokenizer: str | None = None) -> Dataset[Record]:
    """The records of one split or of all, in stored order. ``path``: a build, a data set, a stage's folder, a shard, or a URL.

    An item is a record as JSON values (``schemas/stream_record.schema.json``); its ``tokens`` are its cells. ``tokenizer``
    chooses among the token shards, where there are those of several. No data is read before it is asked for. Raises
    pipeline.errors.InputError where there are no records.
    """
    records, cells = _shards(path, split, tokenizer)
    return Dataset(records, cells, "records")


def tokens(path: str | Path, split: Split | None = None, tokenizer: str | None = None) -> Dataset[dict[str, Any]]:
    """Token grids as dictionaries (columns of ``pipeline.tables.TOKENS``; lists as numpy arrays), in the order of ``load``.

    Quicker than ``load`` where the texts are not needed. Raises pipeline.errors.InputError where there are none.
    """
    from pipeline.errors import InputError

    records, cells = _shards(path, split, tokenizer)
    found = tuple(shard for shard in cells if shard is not None)
    if not found:
        where = f"{path}{f', split {split!r},' if split else ''}"
        raise InputError(
            f"{where} holds no tokens, or those of several tokenizers: name one"
            if tokenizer is None
            else f"{where} holds no tokens of the tokenizer {tokenizer!r}"
        )
    return Dataset(tuple(r for r, c in zip(records, cells, strict=True) if c is not None), found, "tokens")


class Record(dict[str, Any]):
    """A record as JSON values. ``tokens``: its cells, as an item of ``multistream.tokens``; read when asked for."""

    def __init__(self, values: Mapping[str, Any], data: Dataset[Record], index: int) -> None:
        super().__init__(values)
        self._data, self._index = data, index

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (dict(self), self._data, self._index)

    @property
    def tokens(self) -> dict[str, Any]:
        """The token grid. Raises pipeline.errors.InputError where the shards beside the records do not hold it."""
        return self._data.grid(self._index, self["id"])


class Dataset(Generic[Item]):
    """A map-style data set over Parquet shards: ``len``, ``[i]`` (from 0, in stored order), loops; it pickles for workers.

    Row groups are read when one of their records is asked for, and the last ``CACHED`` are kept: go through it in order, or
    in that of ``shuffled``. (A build's shards are shuffled already.) ``shards``: the record shards.
    """

    def __init__(
        self, records: Sequence[Path], cells: Sequence[Path | None], items: Literal["records", "tokens"]
    ) -> None:
        self.shards, self.cells, self.items = tuple(records), tuple(cells), items
        self._records = _Groups(self.shards)

    def __len__(self) -> int:
        return self._main.rows

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Raises IndexError."""
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several at once, in the order asked for: what PyTorch's loader calls for a batch."""
        size = len(self)
        if any(not -size <= i < size for i in indices):
            raise IndexError(f"an index is outside the {size} items of the data set")
        where = [i % size for i in indices]
        return self._made(self._main.take(where), where)

    def __iter__(self) -> Iterator[Item]:
        first = 0
        for table in self._main.batches(512):
            yield from self._made(table, range(first, first + table.num_rows))
            first += table.num_rows

    def shuffled(self, seed: int, epoch: int = 0) -> list[int]:
        """An order for one epoch, to be given as ``sampler``: row groups in random order, and the items of each.

        Every item once; each row group is read once. ``numpy.random.default_rng([seed, epoch])`` decides.
        """
        import numpy as np

        rng = np.random.default_rng([seed, epoch])
        starts = self._main.starts
        order: list[int] = []
        for group in rng.permutation(len(starts) - 1).tolist():
            order.extend((starts[group] + rng.permutation(starts[group + 1] - starts[group])).tolist())
        return order

    def grid(self, index: int, record: str) -> dict[str, Any]:
        """The token grid of item ``index``, whose id is ``record``. Raises pipeline.errors.InputError."""
        from pipeline.errors import InputError

        starts = self._records.shard_starts
        shard = bisect.bisect_right(starts, index) - 1
        cells = self.cells[shard]
        if cells is None:
            raise InputError(
                f"there is no token shard beside {self.shards[shard]}, or one of each of several tokenizers: load a split "
                "that is trained on, or name the tokenizer"
            )
        place = self._tokens.shard_starts[self._tokens.paths.index(cells)] + index - starts[shard]
        found = _grids(self._tokens.take([place]))[0] if place < self._tokens.rows else None
        if found is None or found["id"] != record:
            raise InputError(f"{cells} does not hold the records of {self.shards[shard]} in their order: build again")
        return found

    @property
    def metadata(self) -> GridMetadata:
        """The tokenizer and its ids, as the token shards name them. Raises pipeline.errors.InputError."""
        from pipeline.errors import InputError
        from pipeline.training.grid import TrainingError, read_metadata

        try:
            return read_metadata(self._tokens.paths)
        except TrainingError as error:
            raise InputError(str(error)) from error

    @property
    def _main(self) -> _Groups:
        return self._records if self.items == "records" else self._tokens

    @cached_property
    def _tokens(self) -> _Groups:
        return _Groups([shard for shard in self.cells if shard is not None])

    def _made(self, table: pa.Table, indices: Sequence[int]) -> list[Item]:
        if self.items == "tokens":
            return _grids(table)  # type: ignore[return-value]
        values = zip(map(_as_json, table.to_pylist()), indices, strict=True)
        return [Record(value, self, index) for value, index in values]  # type: ignore[arg-type,misc]


class _Groups:
    """The row groups of Parquet files, the last ``CACHED`` of them in memory. Footers are read at the first question."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}

    @cached_property
    def _places(self) -> list[tuple[Path, int, int]]:
        import pyarrow.parquet as pq

        footers = [(path, pq.read_metadata(path)) for path in self.paths]
        return [(path, g, f.row_group(g).num_rows) for path, f in footers for g in range(f.num_row_groups)]

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each row group, and the number of all rows."""
        starts = [0]
        for _, _, rows in self._places:
            starts.append(starts[-1] + rows)
        return starts

    @cached_property
    def shard_starts(self) -> list[int]:
        """The first row of each file, and the number of all rows."""
        counts = dict.fromkeys(self.paths, 0)
        for path, _, rows in self._places:
            counts[path] += rows
        starts = [0]
        for path in self.paths:
            starts.append(starts[-1] + counts[path])
        return starts

    @property
    def rows(self) -> int:
        """All rows."""
        return self.starts[-1]

    def take(self, rows: Sequence[int]) -> pa.Table:
        """Rows by their numbers, in that order."""
        import pyarrow as pa

        tables = []
        for row in rows:
            number = bisect.bisect_right(self.starts, row) - 1
            tables.append(self._group(number).slice(row - self.starts[number], 1))
        return pa.concat_tables(tables) if tables else self._group(0).slice(0, 0)

    def batches(self, size: int) -> Iterator[pa.Table]:
        """All rows in order, ``size`` at a time, without the cache."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(size):
                    yield pa.Table.from_batches([batch])

    def _group(self, number: int) -> pa.Table:
        import pyarrow.parquet as pq

        if number in self._cache:
            self._cache.move_to_end(number)
        else:
            path, group, _ = self._places[number]
            with pq.ParquetFile(path) as file:
                self._cache[number] = file.read_row_group(group, use_threads=False)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return self._cache[number]


def collate(items: Sequence[Record | Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of B items of ``load`` or ``tokens`` as PyTorch tensors, padded to the most cells N.

    ``ids``, ``rows``, ``streams`` int64[B, N]: token, row and index of the stream of each spoken cell, by row, then stream;
    padding is 0, −1 and −1. ``loss`` bool[B, N]: the cell is a target. ``lengths`` int64[B]: cells that are no padding.
    ``names`` and ``streams_of``: id and streams of each record. Silence is the absence of a cell; for training sequences
    with targets, silent queries and a document mask see ``packs``. Raises pipeline.errors.InputError without token shards.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from pipeline.tables import LOSS_TARGET

    grids = [_cells(item) for item in items]

    def padded(column: str, fill: int) -> torch.Tensor:
        arrays = [torch.from_numpy(grid[column].astype("int64")) for grid in grids]
        return pad_sequence(arrays, batch_first=True, padding_value=fill)

    return {
        "ids": padded("token_ids", 0),
        "rows": padded("token_rows", -1),
        "streams": padded("token_streams", -1),
        "loss": (padded("token_loss", 0) & LOSS_TARGET) != 0,
        "lengths": torch.tensor([len(grid["token_ids"]) for grid in grids]),
        "names": [grid["id"] for grid in grids],
        "streams_of": [grid["streams"] for grid in grids],
    }


@dataclass(frozen=True)
class Packs:
    """A ``collate_fn`` that makes training sequences: see ``packs``."""

    metadata: GridMetadata
    roles: Mapping[str, int]
    max_cells: int
    mask: Literal["same_row", "strict"]
    silence_rate: float
    seed: int

    def __call__(self, items: Sequence[Record | Mapping[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch
        import xxhash

        from pipeline.training.packing import PackCounters, pack_grids

        grids = [_token_grid(_cells(item)) for item in items]
        drawn = xxhash.xxh3_64_intdigest("\n".join(grid.id for grid in grids).encode(), seed=self.seed)
        counters = PackCounters()
        made = list(
            pack_grids(
                grids, self.metadata, self.roles, mask=self.mask, max_cells=self.max_cells, pad=True, counters=counters,
                silence_rate=self.silence_rate, rng=np.random.default_rng(drawn),
            )
        )  # fmt: skip
        names = ("token", "row", "role", "slot", "document", "visible_from", "is_key", "target", "weight")
        stacked = {n: np.array([getattr(pack, n) for pack in made]).reshape(-1, self.max_cells) for n in names}
        kept = {record for pack in made for record in pack.records}
        return {
            **{name: torch.from_numpy(array) for name, array in stacked.items()},
            "silence_count": torch.tensor([pack.silence_count for pack in made]),
            "names": [pack.records for pack in made],
            "left_out": [grid.id for grid in grids if grid.id not in kept],
        }


def packs(
    data: Dataset[Any],
    max_cells: int = 2048,
    mask: Literal["same_row", "strict"] = "same_row",
    silence_rate: float = 1.0,
    seed: int = 0,
) -> Packs:
    """A ``collate_fn`` for ``data`` that packs each batch into P training sequences of ``max_cells`` cells.

    The batch has the fields of ``pipeline.training.packing.Pack`` as tensors [P, max_cells], ``silence_count`` int64[P],
    ``names`` (the records of each pack) and ``left_out`` (records that do not fit). A query sees a key where
    ``pipeline.training.masks.dense_mask`` says so. ``roles`` of the result maps each role to its embedding, from 1. Raises
    pipeline.errors.InputError without token shards, or where the mask does not fit how the data is laid out.
    """
    from pipeline.errors import InputError
    from pipeline.training.grid import TrainingError, find_roles
    from pipeline.training.masks import check_mask

    metadata = data.metadata
    try:
        check_mask(mask, metadata.lag)
    except TrainingError as error:
        raise InputError(str(error)) from error
    shards = [shard for shard in data.cells if shard is not None]
    roles = {role: number for number, role in enumerate(find_roles(shards), start=1)}
    return Packs(metadata, roles, max_cells, mask, silence_rate, seed)


def _as_json(record: dict[str, Any]) -> dict[str, Any]:
    """As ``pipeline.records.to_json`` gives it, but without polars, whose threads do not survive a fork: the float32 columns
    get the shortest number that names them."""
    for event in record["events"]:
        for name in ("weight", "gain"):
            value = event[name]
            if value is not None and not value.is_integer():
                event[name] = _shortest(value)
    return record


def _shortest(value: float) -> float:
    import numpy as np

    return float(str(np.float32(value)))


def _cells(item: Record | Mapping[str, Any]) -> Mapping[str, Any]:
    return item.tokens if isinstance(item, Record) else item


def _token_grid(cells: Mapping[str, Any]) -> TokenGrid:
    from pipeline.training.grid import Stream, TokenGrid

    return TokenGrid(**{**cells, "streams": tuple(Stream(**stream) for stream in cells["streams"])})


def _grids(table: pa.Table) -> list[dict[str, Any]]:
    arrays = [name for name in table.schema.names if name.startswith("token_")]
    columns = {name: table.column(name) for name in table.schema.names}
    return [
        {
            name: column[i].values.to_numpy(zero_copy_only=False).copy() if name in arrays else column[i].as_py()
            for name, column in columns.items()
        }
        for i in range(table.num_rows)
    ]


def _shards(
    path: str | Path, split: Split | None, tokenizer: str | None
) -> tuple[tuple[Path, ...], tuple[Path | None, ...]]:
    """The record shards of a split, and the token shard beside each."""
    from pipeline.errors import InputError
    from pipeline.folders import find_records

    if "://" in str(path):
        from pipeline.cli.places import to_read

        path = to_read(str(path))
    files = find_records(Path(path))
    records = tuple(p for p in files.records if split is None or p.parent.name == split)
    if not records:
        raise InputError(f"{path} holds no records of the split {split!r}")
    named = {p: p.name.removeprefix("tokens-") for p in files.tokens}
    beside: dict[Path, list[Path]] = {}
    for record in records:
        end = "-" + record.name.removeprefix("records-")
        beside[record] = [
            p for p, name in named.items()
            if p.parent == record.parent and name.endswith(end) and tokenizer in (None, name.removesuffix(end))
        ]  # fmt: skip
    return records, tuple(found[0] if len(found) == 1 else None for found in beside.values())
