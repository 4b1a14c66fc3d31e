"""Parquet, and Arrow IPC (files and streams, also those of ``datasets``): every row is a JSON object."""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.containers.places import Place, RemoteFile
from pipeline.containers.rows import NOT_JSON_LIKE, row_unit
from pipeline.containers.units import CHUNK, WHOLE, Unit, in_one_line, unusable
from pipeline.errors import InputError
from pipeline.storage import StoreError

PARQUET = b"PAR1"
ARROW_FILE = b"ARROW1\x00\x00"
FEATHER_1 = b"FEA1"

#: The first bytes of an Arrow stream, and its last ones.
ARROW_STREAM = b"\xff\xff\xff\xff"
_END = ARROW_STREAM + struct.pack("<i", 0)

#: Rows are made into Python values at a time: so many, or fewer that together hold about so many bytes.
_ROWS, _BYTES = 256, 8 << 20

_CANNOT = (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, ArithmeticError)


def read_parquet(place: Place, stream: io.BufferedReader[Any], limit: int) -> Iterator[Unit]:
    """The rows of a Parquet file, a few at a time. What is not on a disk or at a URL is first read into memory, if small."""
    import pyarrow.parquet as pq

    try:
        with (
            _seekable(place, stream, WHOLE * limit) as source,
            pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            _refuse_twins(place, file.schema_arrow)
            footer = file.metadata
            groups = map(footer.row_group, range(footer.num_row_groups))
            each = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
            yield from _units(file.iter_batches(_rows_of(each)))
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{place} is no readable Parquet file: {in_one_line(error)}") from error


def _seekable(place: Place, stream: io.BufferedReader[Any], most: int) -> IO[bytes]:
    if isinstance(place, Path) and stream.seekable() and isinstance(stream.raw, io.FileIO):
        return place.open("rb", buffering=CHUNK)
    if isinstance(place, RemoteFile):
        return place.open_seekable()
    data = stream.read(most + 1)
    if len(data) > most:
        raise InputError(f"{place} is Parquet of more than {most} bytes within another container: unpack it first")
    return io.BytesIO(data)


def read_arrow(place: Place, stream: io.BufferedReader[Any], limit: int) -> Iterator[Unit]:
    """The rows of an Arrow IPC stream, or file, whose body is a stream; one record batch in memory at a time."""
    reader = _ArrowBytes(place, stream, WHOLE * limit)
    is_file = stream.peek(len(ARROW_FILE)).startswith(ARROW_FILE)
    if is_file:
        stream.read(len(ARROW_FILE))
    try:
        with pa.ipc.open_stream(pa.PythonFile(reader, mode="r")) as batches:
            _refuse_twins(place, batches.schema)
            yield from _units(_checked(batches))
    except StoreError:
        raise
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:
        raise InputError(f"{place} is cut short or no readable Arrow data: {in_one_line(error)}") from error
    ended = reader.tail == _END
    while after := reader.read(min(CHUNK, WHOLE * limit)):
        if not is_file and after.strip(b"\x00"):
            raise InputError(f"{place} goes on after the end of its Arrow data: is it two streams in one file?")
    if not ended or (is_file and not reader.tail.endswith(ARROW_FILE.rstrip(b"\x00"))):
        raise InputError(f"{place} is cut short: the mark at the end of Arrow data is missing")


def _checked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)
        rows = _rows_of(batch.nbytes / max(1, batch.num_rows))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


class _ArrowBytes(io.RawIOBase):
    """Bounds what one record batch may take, and remembers the last bytes that were read."""

    def __init__(self, place: Place, stream: IO[bytes], most: int) -> None:
        self._place, self._stream, self._most = place, stream, most
        self.tail = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self._most:
            raise InputError(
                f"{self._place} has a record batch of {size} bytes, the most is {self._most}: write it in smaller ones"
            )
        data = self._stream.read(size)
        self.tail = (self.tail + data[-8:])[-8:]
        return data


def _rows_of(each: float) -> int:
    return max(1, min(_ROWS, int(_BYTES / max(1.0, each))))


def _refuse_twins(place: Place, schema: pa.Schema) -> None:
    twins = [name for name, count in Counter(schema.names).items() if count > 1]
    if twins:
        raise InputError(f"{place} has two columns of one name: {twins[0]!r}")


def _units(batches: Iterable[pa.RecordBatch]) -> Iterator[Unit]:
    index = 0
    for batch in batches:
        for row in _rows(batch):
            yield unusable(index, b"", NOT_JSON_LIKE, row) if isinstance(row, str) else row_unit(index, row)
            index += 1


def _rows(batch: pa.RecordBatch) -> Iterable[dict[str, Any] | str]:
    """The rows; of one that Python has no values for, the reason."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
        return rows
    except _CANNOT:
        return (_row(batch.slice(i, 1)) for i in range(batch.num_rows))


def _row(batch: pa.RecordBatch) -> dict[str, Any] | str:
    values: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[0].as_py(maps_as_pydicts="strict")
        except _CANNOT as error:
            return f"{name} ({column.type}) has no form in JSON: {in_one_line(error)}"
    return values
