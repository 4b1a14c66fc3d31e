"""The records of a data set of any size, by number, by id and by what they hold; read as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.folders import find_records
from pipeline.records import to_json
from pipeline.storage import shown
from pipeline.tables import RECORDS
from pipeline.viewer.filters import Filter, columns_of, matches
from pipeline.viewer.marks import Mark, marks_file, read_marks
from pipeline.viewer.rows import Rows
from pipeline.viewer.shards import reading

#: Numbers are shorter than this, starts of ids are not.
_NUMBER_DIGITS = 8


class Samples:
    """Records numbered from 0 over all shards, in stored order."""

    def __init__(self, path: Path, shards: tuple[Path, ...]) -> None:
        self.path = path
        self.rows = Rows(shards, RECORDS.names)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The shards, in order."""
        return self.rows.paths

    @property
    def marks_path(self) -> Path:
        """Where the marks of these records are kept."""
        return marks_file(self.path)

    def marks(self) -> dict[str, Mark]:
        """The marks that were given so far, by record id. Raises InputError."""
        return read_marks(self.marks_path)

    def where(self, index: int) -> tuple[Path, int]:
        """The shard that holds a record, and the record's row there. Raises IndexError."""
        return self.rows.where(index)

    def record(self, index: int) -> dict[str, Any]:
        """A record as JSON values (``schemas/stream_record.schema.json``). Raises IndexError, InputError."""
        row = self.rows.row(index)
        with reading(self.where(index)[0]):
            return next(to_json(row))

    def find(self, id_prefix: str) -> int | None:
        """The number of the first record whose id starts so; only ids are read. Raises InputError."""
        for first, _, batch in self.rows.batches(["id"], 1 << 16):
            hits = np.flatnonzero(pc.starts_with(batch.column("id"), id_prefix).to_numpy(zero_copy_only=False))
            if len(hits):
                return first + int(hits[0])
        return None

    def number(self, wanted: str) -> int:
        """What a user calls a record: its number, its id or the start of one. Raises InputError."""
        total = len(self)
        if wanted.isascii() and wanted.isdigit() and len(wanted) < _NUMBER_DIGITS:
            if int(wanted) >= total:
                raise InputError(f"{shown(self.path)} holds {total:,} records, numbered from 0: there is no {wanted}")
            return int(wanted)
        found = self.find(wanted) if wanted else None
        if found is None:
            raise InputError(f"{shown(self.path)} holds no record {wanted!r} among {total:,}")
        return found

    def matching(self, filter_: Filter, progress: Callable[[int], None] | None = None) -> Iterator[int]:
        """The numbers of the records that a filter finds, in order, as they are found; only the columns needed are read.

        ``progress`` is told after every batch how many records have been looked at. Raises InputError, also for what a
        filter asks that records do not have.
        """
        self.check(filter_)
        marks: Mapping[str, str] = {}
        if filter_.mark:
            marks = {id_: mark.mark for id_, mark in self.marks().items()}
        for first, shard, batch in self.rows.batches(columns_of(filter_)):
            with reading(shard):
                found = matches(filter_, batch, shard, marks)
            for row in np.flatnonzero(found).tolist():
                yield first + row
            if progress is not None:
                progress(first + batch.num_rows)

    @staticmethod
    def check(filter_: Filter) -> None:
        """Raises InputError where a filter asks for what records do not have."""
        if filter_.reason:
            raise InputError("filter: records have no reason; it finds rejects")


def open_samples(path: Path) -> Samples:
    """The records of a build, a data set, a stage's folder or a shard; no data is read yet. Raises InputError."""
    return Samples(path, find_records(path).records)


def has_records(path: Path) -> bool:
    """Whether there are records where a path leads, a shard of rejects not taken for one."""
    if path.name.startswith("rejects-"):
        return False
    try:
        return bool(find_records(path).records)
    except InputError:
        return False
