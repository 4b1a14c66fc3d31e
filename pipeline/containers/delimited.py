"""CSV and TSV (RFC 4180 quoting): the first row names the columns, every other one is an object of texts."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.containers.places import Place
from pipeline.containers.units import WHOLE, Unit, unit_of, unusable
from pipeline.errors import InputError

#: By suffix of the file's name: nothing in such a file says what it is.
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_delimited(place: Place, stream: io.BufferedReader[Any], delimiter: str, limit: int) -> Iterator[Unit]:
    """The rows as JSON objects. One with more or fewer values than there are columns, or badly quoted, cannot be used."""
    csv.field_size_limit(max(csv.field_size_limit(), WHOLE * limit))
    lines = _Lines(place, stream, WHOLE * limit)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    index = 0
    while True:
        lines.taken.clear()
        lines.size = 0
        first = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.ended:
                raise InputError(f"{place} is cut short: the quote opened at line {first} is never closed") from error
            if not columns:
                raise InputError(f"{place}, line {first}: {error}") from error
            yield unusable(index, lines.raw(), "bad_row", f"line {first}: {error}")
            index += 1
            continue
        if not row:
            continue
        if not columns:
            columns = row
            if twins := [name for name, count in Counter(columns).items() if count > 1]:
                raise InputError(f"{place} has two columns of one name: {twins[0]!r}")
            continue
        if len(row) == len(columns):
            yield unit_of(index, orjson.dumps(dict(zip(columns, row, strict=True))))
        else:
            message = f"line {first}: {len(row)} values for {len(columns)} columns"
            yield unusable(index, lines.raw(), "ragged_row", message)
        index += 1


class _Lines:
    """The lines of a stream as text, with those that the row at hand was made of."""

    def __init__(self, place: Place, stream: io.BufferedReader[Any], most: int) -> None:
        self._place, self._stream, self._most = place, stream, most
        self.taken: list[bytes] = []
        self.size = 0
        self.number = 0
        self.ended = False

    def raw(self) -> bytes:
        return b"".join(self.taken).rstrip(b"\r\n")

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._most - self.size + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.size += len(line)
        if self.size > self._most:
            raise InputError(
                f"{self._place}: the row at line {self.number + 1} is larger than {self._most} bytes, "
                "or a quote in it is never closed"
            )
        if self.number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        self.number += 1
        self.taken.append(line)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self._place} is not UTF-8: line {self.number}: {error.reason}") from error
