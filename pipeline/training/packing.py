"""Several records in one sequence behind a document mask, rows counted afresh in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.training.grid import GridMetadata, TokenGrid
from pipeline.training.masks import (
    IGNORE,
    NEVER,
    NO_DOCUMENT,
    NO_STREAM,
    BoolArray,
    Cells,
    Int32Array,
    Int64Array,
    MaskKind,
    OverBudgetError,
    first_visible_row,
    record_cells,
)

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Pack:
    """One sequence of S cells from one or more records.

    ``token`` int64[S]; ``row`` int32[S] from −1 in each record (position = row + 1); ``role`` and ``slot`` int64[S]
    index the stream embeddings, 0 for BOS and padding, else 1 + index; ``document`` int32[S], −1 for padding;
    ``visible_from`` int32[S] as of ``masks.first_visible_row``; ``is_key`` bool[S]; ``target`` int64[S]; ``weight``
    float32[S]; ``silence_count``: trained silence targets before sampling; ``records``: the record id of each document,
    where it was given.
    """

    token: Int64Array
    row: Int32Array
    role: Int64Array
    slot: Int64Array
    document: Int32Array
    visible_from: Int32Array
    is_key: BoolArray
    target: Int64Array
    weight: npt.NDArray[np.float32]
    silence_count: int
    records: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.token)

    @property
    def spoken_count(self) -> int:
        """Spoken cells, BOS included."""
        return int(np.count_nonzero(self.is_key))

    def text_count(self, silence_id: int) -> int:
        """Trained targets that are tokens."""
        return int(np.count_nonzero((self.target != IGNORE) & (self.target != silence_id)))


@dataclass
class PackCounters:
    """What went into the packs: nothing is dropped without being counted here.

    ``over_budget`` counts records left out because their spoken cells or rows exceed the budget, each time they are read;
    the first ten ids are kept, each once.
    """

    records: int = 0
    over_budget: int = 0
    over_budget_ids: list[str] = field(default_factory=list)

    def leave_out(self, record: str) -> None:
        self.over_budget += 1
        if len(self.over_budget_ids) < 10 and record not in self.over_budget_ids:
            self.over_budget_ids.append(record)


def make_pack(
    documents: Sequence[Cells],
    roles: Mapping[str, int],
    mask: MaskKind,
    pad_to: int | None = None,
    records: Sequence[str] = (),
) -> Pack:
    """Concatenate sequences; ``roles`` maps each role to its embedding index (from 1), others get 0.

    ``pad_to`` appends cells without document, target or visibility up to that length. ``records``: the record id of each
    document, kept in the pack.
    """
    token = np.concatenate([cells.token for cells in documents])
    padding = max(0, (pad_to or 0) - len(token))

    def joined(arrays: list[npt.NDArray[Scalar]], fill: float) -> npt.NDArray[Scalar]:
        whole = np.concatenate(arrays)
        return np.concatenate([whole, np.full(padding, fill, whole.dtype)])

    stream_tables = [_stream_table(cells, roles) for cells in documents]
    return Pack(
        token=joined([token], 0),
        row=joined([cells.row for cells in documents], -1),
        role=joined([table[cells.stream, 0] for cells, table in zip(documents, stream_tables, strict=True)], 0),
        slot=joined([table[cells.stream, 1] for cells, table in zip(documents, stream_tables, strict=True)], 0),
        document=joined([np.full(len(cells), i, np.int32) for i, cells in enumerate(documents)], NO_DOCUMENT),
        visible_from=joined([first_visible_row(cells.row, cells.is_key, mask) for cells in documents], NEVER),
        is_key=joined([cells.is_key for cells in documents], 0),
        target=joined([cells.target for cells in documents], IGNORE),
        weight=joined([cells.weight for cells in documents], 0),
        silence_count=sum(cells.silence_count for cells in documents),
        records=tuple(records),
    )


def pack_grids(
    grids: Iterable[TokenGrid],
    metadata: GridMetadata,
    roles: Mapping[str, int],
    *,
    mask: MaskKind,
    max_cells: int,
    max_rows: int | None = None,
    silence_rate: float = 1.0,
    rng: np.random.Generator | None = None,
    pad: bool = False,
    open_packs: int = 8,
    counters: PackCounters | None = None,
) -> Iterator[Pack]:
    """Pack records into sequences of at most ``max_cells`` cells, first fit into ``open_packs`` open packs.

    Records whose spoken cells exceed the budget, or that have more than ``max_rows`` rows, are left out and counted in
    ``counters``. ``pad`` fills every pack up to ``max_cells``, so that a compiled attention kernel meets one shape.
    Holds ``open_packs`` packs in memory.
    """
    counters = counters if counters is not None else PackCounters()
    bins: list[list[tuple[str, Cells]]] = []

    def packed(documents: list[tuple[str, Cells]]) -> Pack:
        cells = [cells for _, cells in documents]
        return make_pack(cells, roles, mask, max_cells if pad else None, [record for record, _ in documents])

    for grid in grids:
        counters.records += 1
        if max_rows is not None and grid.rows > max_rows:
            counters.leave_out(grid.id)
            continue
        try:
            pieces = record_cells(grid, metadata, silence_rate=silence_rate, rng=rng, max_cells=max_cells)
        except OverBudgetError:
            counters.leave_out(grid.id)
            continue
        for cells in pieces:
            chosen = next((bin for bin in bins if _size(bin) + len(cells) <= max_cells), None)
            if chosen is not None:
                chosen.append((grid.id, cells))
                continue
            if len(bins) == open_packs:
                fullest = max(range(len(bins)), key=lambda i: _size(bins[i]))
                yield packed(bins.pop(fullest))
            bins.append([(grid.id, cells)])
    yield from map(packed, bins)


def _size(documents: list[tuple[str, Cells]]) -> int:
    return sum(len(cells) for _, cells in documents)


def _stream_table(cells: Cells, roles: Mapping[str, int]) -> Int64Array:
    """[streams + 1, 2]: role and slot index of each stream; the last row, reached as ``NO_STREAM``, is zero."""
    assert NO_STREAM == -1
    table = [(roles.get(stream.role, 0), stream.slot + 1) for stream in cells.streams]
    return np.array([*table, (0, 0)], np.int64)
