"""Parquet shards as the viewer opens them: damage is told in one line, and so is a shard that another build has replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.storage import shown
from pipeline.viewer import remote

#: What tells a file from one that was written in its place.
Stamp = tuple[int | str, ...]


def stamp_of(path: Path) -> Stamp | None:
    """What a shard is now: other bytes have another stamp, as far as its disk or store tells. None where it is not there."""
    if remote.is_stand_in(path):
        return remote.stamp_of(path)
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def check_unchanged(path: Path, stamp: Stamp | None) -> None:
    """Raises InputError where a shard is not what it was when its stamp was taken."""
    if stamp is not None and stamp_of(path) != stamp:
        raise InputError(
            f"{shown(path)} was replaced or removed since it was opened, as by another build: leave, and open it again"
        )


def opened(path: Path, needed: Collection[str]) -> pq.ParquetFile:
    """A Parquet file with the columns that are needed; only its footer is read. Raises InputError."""
    try:
        with reading(path):
            is_remote = remote.is_stand_in(path)
            # From a store a row group is fetched in few large requests; from a disk only the pages that are come to.
            file = pq.ParquetFile(remote.open_file(path) if is_remote else path, pre_buffer=is_remote)
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)} is not there") from error
    if missing := sorted(set(needed) - set(file.schema_arrow.names)):
        file.close(force=True)
        raise InputError(f"{shown(path)} is no table of ours: it has no column {missing[0]!r}")
    return file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with the bytes of a shard as InputError; that it is not there as FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{shown(path)} cannot be read: {said:.200}; if it is damaged, build it again") from error
