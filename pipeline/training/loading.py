"""Records from shards to packs: epoch after epoch, in an order that only the seed decides, from any place on.

An epoch is a list of *windows*: row groups in an order drawn anew for each epoch, put together until a window has
``shuffle_buffer`` records. A window is read whole, its records are permuted, packed first-fit decreasing by their true
cell counts, and the packs are permuted. The silent queries of a record are drawn by (seed, epoch, record), so that
neither the order nor the number of workers or processes changes them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.training.control import shuffled_inputs
from pipeline.training.grid import GridMetadata, TokenGrid, TrainingError, _batch_grids, check_grid
from pipeline.training.masks import Cells, MaskKind, OverBudgetError, record_cells
from pipeline.training.packing import Pack, PackCounters, make_pack

#: What a random draw is for: the last number of its seed.
_ORDER, _RECORDS, _PACKS, _SILENCE = range(4)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RowGroup:
    """``records`` records of a shard, the first of which is number ``first`` of the data set."""

    shard: Path
    index: int
    first: int
    records: int


@dataclass(frozen=True)
class Place:
    """The next pack to train: number ``pack`` of a window of an epoch, all from 0."""

    epoch: int = 0
    window: int = 0
    pack: int = 0


@dataclass(frozen=True, eq=False)
class Window:
    """The packs of one window, and what became of its records. ``fault``: why it could not be read."""

    place: Place
    packs: tuple[Pack, ...] = ()
    records: int = 0
    over_budget: tuple[str, ...] = ()
    fault: str | None = None


class WindowDataset(Dataset[Window]):
    """Windows of training records, by (epoch, window). ``records``: how many the shards hold.

    ``roles`` maps roles to embedding indices. Records whose spoken cells exceed ``max_cells``, or that have more than
    ``max_rows`` rows, are left out and named in ``Window.over_budget``. ``pad`` fills packs up to ``max_cells``.
    ``shuffle_inputs``: the control. Raises TrainingError for a shard that cannot be read.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        metadata: GridMetadata,
        roles: Mapping[str, int],
        *,
        mask: MaskKind,
        max_cells: int,
        max_rows: int | None = None,
        silence_rate: float = 1.0,
        shuffle_buffer: int = 256,
        shuffle_inputs: bool = False,
        seed: int = 0,
        pad: bool = False,
    ) -> None:
        self.groups = row_groups(shards)
        self.records = sum(group.records for group in self.groups)
        self.metadata = metadata
        self.roles = dict(roles)
        self.mask = mask
        self.max_cells = max_cells
        self.max_rows = max_rows
        self.silence_rate = silence_rate
        self.shuffle_buffer = shuffle_buffer
        self.shuffle_inputs = shuffle_inputs
        self.seed = seed
        self.pad = pad
        self._epoch: tuple[int, list[list[RowGroup]]] = -1, []

    def windows(self, epoch: int) -> list[list[RowGroup]]:
        """The windows of an epoch in order: every row group once."""
        if self._epoch[0] != epoch:
            windows: list[list[RowGroup]] = [[]]
            for index in self._rng(_ORDER, epoch).permutation(len(self.groups)):
                if sum(group.records for group in windows[-1]) >= self.shuffle_buffer:
                    windows.append([])
                windows[-1].append(self.groups[index])
            self._epoch = epoch, windows
        return self._epoch[1]

    def __getitem__(self, key: tuple[int, int]) -> Window:
        """A window read, packed and permuted. A fault is a value: an exception of a worker has many lines."""
        epoch, number = key
        place = Place(epoch, number)
        try:
            return self._window(place, self.windows(epoch)[number])
        except TrainingError as error:
            return Window(place, fault=str(error))

    def _window(self, place: Place, groups: list[RowGroup]) -> Window:
        grids = [grid for group in groups for grid in read_row_group(group, self.metadata)]
        numbers = [group.first + i for group in groups for i in range(group.records)]
        if self.shuffle_inputs:
            grids = list(shuffled_inputs(grids, eom_id=self.metadata.eom_id))
        documents: list[tuple[str, Cells]] = []
        over_budget = []
        for index in self._rng(_RECORDS, place.epoch, place.window).permutation(len(grids)):
            try:
                pieces = self._cells(grids[index], self._rng(_SILENCE, place.epoch, numbers[index]))
            except OverBudgetError:
                over_budget.append(grids[index].id)
                continue
            documents.extend((grids[index].id, cells) for cells in pieces)
        bins = first_fit_decreasing([len(cells) for _, cells in documents], self.max_cells)
        packs = [
            make_pack(
                [documents[i][1] for i in bins[index]],
                self.roles,
                self.mask,
                self.max_cells if self.pad else None,
                [documents[i][0] for i in bins[index]],
            )
            for index in self._rng(_PACKS, place.epoch, place.window).permutation(len(bins))
        ]
        return Window(place, tuple(packs), len(grids), tuple(over_budget))

    def _cells(self, grid: TokenGrid, rng: np.random.Generator) -> list[Cells]:
        if self.max_rows is not None and grid.rows > self.max_rows:
            raise OverBudgetError(f"record {grid.id}: {grid.rows} rows, the model has positions for {self.max_rows}")
        return record_cells(grid, self.metadata, silence_rate=self.silence_rate, rng=rng, max_cells=self.max_cells)

    def _rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, *map(int, numbers)])


def endless_packs(
    dataset: WindowDataset,
    counters: PackCounters,
    *,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    start: Place | None = None,
) -> Generator[tuple[Pack, Place], None, None]:
    """Packs without end, each with the place that follows it, from ``start`` on.

    ``share`` (r, n) takes the windows r, r + n, … counted through all epochs; ``workers`` processes read them ahead,
    one window each. Windows are counted in ``counters`` as they come, but for one that ``start`` lies within: that one
    was counted when it was begun. Raises TrainingError for records that cannot be read, and where as many records
    as the data set has gave no trained text target.
    """
    start = start or Place()
    loader: DataLoader[Window] = DataLoader(
        dataset,
        batch_size=None,
        sampler=cast(Sampler[int], _WindowOrder(dataset, share, start)),
        num_workers=workers,
        prefetch_factor=1 if workers else None,
        worker_init_fn=_begin_worker if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,  # children that end with it
        generator=torch.Generator(),  # the global one is the model's
    )
    without_text = 0
    for window in loader:
        if window.fault is not None:
            raise TrainingError(window.fault)
        begun = start.pack if (window.place.epoch, window.place.window) == (start.epoch, start.window) else 0
        if not begun:
            counters.records += window.records
            for record in window.over_budget:
                counters.leave_out(record)
        trained = any(pack.text_count(dataset.metadata.silence_id) for pack in window.packs)
        without_text = 0 if trained else without_text + window.records
        if without_text >= dataset.records:
            raise TrainingError(
                f"no cell to train on: {counters.over_budget} of {counters.records} records exceed max_cells "
                f"{dataset.max_cells} or the model's {dataset.max_rows} rows, the others have no trained output"
            )
        for number in range(begun, len(window.packs)):
            yield window.packs[number], Place(window.place.epoch, window.place.window, number + 1)


@contextmanager
def with_workers() -> Iterator[None]:
    """Turns the death of a reading process, which torch raises wherever this one happens to be, into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"a process that reads records ended ({reason}); start again, or with fewer workers"
        ) from error


def first_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of ``sizes`` in bins of ``capacity``: the largest first, each into the first bin that has room."""
    room = np.zeros(len(sizes), np.int64)
    bins: list[list[int]] = []
    for index in np.argsort(-np.asarray(sizes, np.int64), kind="stable").tolist():
        fits: npt.NDArray[np.bool_] = room[: len(bins)] >= sizes[index]
        chosen = int(fits.argmax()) if fits.any() else len(bins)
        if chosen == len(bins):
            bins.append([])
            room[chosen] = capacity
        bins[chosen].append(index)
        room[chosen] -= sizes[index]
    return bins


def row_groups(shards: Sequence[Path]) -> list[RowGroup]:
    """The row groups of the shards that hold records, in order; reads footers only."""
    groups: list[RowGroup] = []
    first = 0
    for shard in shards:
        footer = pq.read_metadata(shard)
        for index in range(footer.num_row_groups):
            records = footer.row_group(index).num_rows
            if records:
                groups.append(RowGroup(shard, index, first, records))
            first += records
    return groups


def read_row_group(group: RowGroup, metadata: GridMetadata) -> list[TokenGrid]:
    """The records of a row group. Raises TrainingError where they cannot be read or are no token grids."""
    try:
        with pq.ParquetFile(group.shard) as file:
            table = file.read_row_group(group.index)
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{group.shard} cannot be read: {str(error).splitlines()[0]}") from error
    grids = [grid for batch in table.to_batches() for grid in _batch_grids(batch)]
    for grid in grids:
        fault = check_grid(grid, metadata)
        if fault:
            raise TrainingError(f"{group.shard}: record {grid.id}: {fault}")
    return grids


class _WindowOrder:
    """Keys (epoch, window) of one share, without end."""

    def __init__(self, dataset: WindowDataset, share: tuple[int, int], start: Place) -> None:
        self.dataset, self.share, self.start = dataset, share, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = self.share
        epoch = count = 0
        while True:
            windows = len(self.dataset.windows(epoch))
            for window in range(windows):
                if count % world == rank and (epoch, window) >= (self.start.epoch, self.start.window):
                    yield epoch, window
                count += 1
            epoch += 1


def _begin_worker(worker: int) -> None:
    """A killed run leaves no worker behind, which would hold its locks for some seconds more.

    A worker that is done ends at once: hooks at exit that it has from its parent wait for threads that a fork does not have
    (those of Prefect fail, and the worker's exit code would be that of a failure).
    """
    Finalize(None, os._exit, args=(0,), exitpriority=-1000)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
