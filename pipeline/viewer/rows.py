"""Rows of Parquet shards by their number, whatever their size: footers first, then one row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.manifest import read_manifest
from pipeline.storage import shown
from pipeline.viewer.remote import is_stand_in
from pipeline.viewer.shards import Stamp, check_unchanged, opened, reading, stamp_of

#: A row group is read in slices of this many rows, from its start on: the first is there at once, and no group is too large.
_SLICE = 256
_KEPT_SLICES = 16
_OPEN_FILES = 8


class Rows:
    """The rows of shards, one after the other, numbered from 0. Nothing is read before it is asked for.

    ``paths`` are tables that have the columns ``needed`` (InputError when one is opened that has not). Any thread may ask.
    A shard that is replaced meanwhile is not read: rows are those of one build (InputError).
    """

    def __init__(self, paths: Sequence[Path], needed: Collection[str]) -> None:
        self.paths = tuple(paths)
        self._needed = needed
        self._stamps: dict[Path, Stamp | None] = {path: stamp_of(path) for path in self.paths}
        self._lock = Lock()
        self._ends: list[int] | None = None
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._tables: OrderedDict[tuple[int, int, int], pa.Table] = OrderedDict()
        self._slices: tuple[tuple[int, int], int, Iterator[pa.RecordBatch]] | None = None

    @property
    def ends(self) -> list[int]:
        """The number of rows up to the end of each shard: from manifests that describe the files, else from footers."""
        if self._ends is None:
            known = _counts_of_manifests(self.paths)
            counts = (
                known[path] if path in known else self._file(shard).metadata.num_rows
                for shard, path in enumerate(self.paths)
            )
            self._ends = list(accumulate(counts))
        return self._ends

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def where(self, index: int) -> tuple[Path, int]:
        """The shard of a row, and its number there. Raises IndexError."""
        shard, row = self._place(index)
        return self.paths[shard], row

    def row(self, index: int) -> pa.Table:
        """One row, as a table. Raises IndexError; InputError where its shard is damaged or was replaced."""
        shard, row = self._place(index)
        with self._lock:
            if not is_stand_in(self.paths[shard]):
                self.check(shard)
            return self._row(shard, row)

    def check(self, shard: int) -> None:
        """Raises InputError where a shard is no longer what it was when it was first looked at."""
        check_unchanged(self.paths[shard], self._stamps[self.paths[shard]])

    def _row(self, shard: int, row: int) -> pa.Table:
        footer = self._file(shard).metadata
        for group in range(footer.num_row_groups):
            about = footer.row_group(group)
            if row < about.num_rows:
                return self._slice(shard, group, row // _SLICE * _SLICE).slice(row % _SLICE, 1)
            row -= about.num_rows
        raise InputError(f"{shown(self.paths[shard])} has fewer rows than its manifest says: build it again")

    def batches(
        self, columns: Sequence[str] | None = None, size: int = 1024
    ) -> Iterator[tuple[int, Path, pa.RecordBatch]]:
        """All rows in order, in batches: number of the first, shard, rows. ``columns``: paths of the columns that are read."""
        first = 0
        for shard, path in enumerate(self.paths):
            with opened(path, self._needed) as file:
                self.check(shard)  # of what is open: what comes in its place now is not read
                with reading(path):
                    for batch in file.iter_batches(size, columns=_leaves(file, columns)):
                        yield first, path, batch
                        first += batch.num_rows

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self.ends, index)
        return shard, index - (self.ends[shard - 1] if shard else 0)

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            file = opened(self.paths[shard], self._needed)
            self.check(shard)
            self._files[shard] = file
            if len(self._files) > _OPEN_FILES:
                closed, file = self._files.popitem(last=False)
                file.close(force=True)  # of a store, too
                if self._slices is not None and self._slices[0][0] == closed:
                    self._slices = None
        self._files.move_to_end(shard)
        return self._files[shard]

    def _slice(self, shard: int, group: int, wanted: int) -> pa.Table:
        """The slice of a row group from row ``wanted`` on. Going on is cheap, going back reads from the group's start."""
        key = (shard, group, wanted)
        if key not in self._tables:
            if self._slices is None or self._slices[0] != (shard, group) or self._slices[1] > wanted:
                self._slices = ((shard, group), 0, self._file(shard).iter_batches(_SLICE, row_groups=[group]))
            _, at, batches = self._slices
            self._slices = None  # what fails on the way is begun again
            with reading(self.paths[shard]):
                for first in range(at, wanted + 1, _SLICE):
                    batch = next(batches, None)
                    if batch is None:
                        raise InputError(
                            f"{shown(self.paths[shard])} has fewer rows than its footer says: build it again"
                        )
                    self._keep((shard, group, first), pa.Table.from_batches([batch]))
            self._slices = ((shard, group), wanted + _SLICE, batches)
        self._tables.move_to_end(key)
        return self._tables[key]

    def _keep(self, key: tuple[int, int, int], table: pa.Table) -> None:
        self._tables[key] = table
        while len(self._tables) > _KEPT_SLICES:
            self._tables.popitem(last=False)


def _leaves(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str] | None:
    """Leaf columns by their paths without the steps that lists add: ``events.text`` is ``events.list.element.text``."""
    if columns is None:
        return None
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [path for path in paths if any((_short(path) + ".").startswith(f"{c}.") for c in columns)]


def _short(path: str) -> str:
    return path.replace(".list.element", "").replace(".list.item", "")


def _counts_of_manifests(paths: Sequence[Path]) -> dict[Path, int]:
    """The rows of those shards that a manifest beside or above them describes as they are."""
    found: dict[Path, int] = {}
    for folder in sorted({folder for path in paths for folder in (path.parent, path.parent.parent)}):
        manifest = read_manifest(folder)
        for output in manifest.outputs if manifest is not None else ():
            path = folder / output.path
            if output.rows is not None and path.is_file() and path.stat().st_size == output.bytes:
                found[path] = output.rows
    return found
