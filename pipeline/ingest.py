"""Ingest: files of any container become shards of source units, verbatim, with their pointers.

Containers are told by content, not by name: JSON Lines, a JSON array, one JSON object (or an object of records), Parquet;
each plain or gzip/bz2/xz/zstd. A unit that is too large becomes a reject row; a file that is cut short is an error.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec
import orjson

from pipeline.errors import InputError

#: Bytes of a rejected unit that its reject row keeps.
RAW_LIMIT = 65_536

_CHUNK = 1 << 20
_SCAN = 8
_MAGIC: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_ZSTD = b"\x28\xb5\x2f\xfd"
_CUT_SHORT = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


Buffered: TypeAlias = "io.BufferedReader[Any]"


@dataclass(frozen=True, slots=True)
class Unit:
    """One source unit of a file: its index, its bytes, its key where the file is an object of records.

    ``too_large`` is the full size in bytes of a unit over the limit; ``raw`` then holds only its beginning.
    """

    index: int
    raw: bytes
    sha256: str
    key: str | None = None
    too_large: int = 0


def read_units(path: Path, max_unit_bytes: int) -> Iterator[Unit]:
    """The units of a file, in order; those over ``max_unit_bytes`` cut and marked. Raises InputError.

    Memory is bounded by the limit, but for a JSON value in an array or object, which is read up to ``_SCAN`` times that.
    """
    for unit in _all_units(path, max_unit_bytes):
        if not unit.too_large and len(unit.raw) > max_unit_bytes:
            yield replace(unit, raw=unit.raw[:RAW_LIMIT], too_large=len(unit.raw))
        else:
            yield unit


def _all_units(path: Path, max_unit_bytes: int) -> Iterator[Unit]:
    try:
        with path.open("rb", buffering=_CHUNK) as raw:
            head = raw.read(8)
            if not head:
                raise InputError(f"{path} is empty")
            raw.seek(0)
            if head.startswith(b"PAR1"):
                yield from _parquet_units(path)
                return
            yield from _text_units(path, _decompressed(raw, head), max_unit_bytes)
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name its files") from None
    except _CUT_SHORT as error:
        raise InputError(f"{path} is cut short or damaged: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _decompressed(raw: IO[bytes], head: bytes) -> IO[bytes]:
    for magic, opener in _MAGIC.items():
        if head.startswith(magic):
            return io.BufferedReader(opener(raw, "rb"), _CHUNK)
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), _CHUNK)
    return raw


def _text_units(path: Path, stream: IO[bytes], limit: int) -> Iterator[Unit]:
    buffered: Buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, _CHUNK)
    start = buffered.peek(_CHUNK)[:_CHUNK].removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        while data := buffered.read(_CHUNK).removeprefix(codecs.BOM_UTF8):
            if data.strip():
                raise InputError(f"{path} starts with more than {_CHUNK} bytes of white space")
        raise InputError(f"{path} is empty")
    lines_by_name = any(suffix in (".jsonl", ".ndjson") for suffix in path.suffixes)
    if lines_by_name or (start[:1] != b"[" and _looks_like_lines(start)):
        yield from _lines(buffered, limit)
    elif start[:1] == b"[":
        yield from _elements(path, buffered, limit, keyed=False)
    elif start[:1] == b"{":
        yield from _object_units(path, buffered, limit)
    else:
        raise InputError(f"{path} is no JSON: it starts with {start[:20]!r}; known: JSON Lines, JSON, Parquet")


def _looks_like_lines(start: bytes) -> bool:
    first, newline, rest = start.partition(b"\n")
    if not newline or not rest.strip():
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return True


def _unit(index: int, raw: bytes, key: str | None = None) -> Unit:
    return Unit(index, raw, hashlib.sha256(raw).hexdigest(), key)


def _lines(stream: Buffered, limit: int) -> Iterator[Unit]:
    index = 0
    while line := stream.readline(limit + 1):
        if index == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > limit and not line.endswith(b"\n"):
            digest, size = hashlib.sha256(line), len(line)
            while rest := stream.readline(_CHUNK):
                digest.update(rest)
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield Unit(index, line[:RAW_LIMIT], digest.hexdigest(), too_large=size)
        elif line.strip():
            yield _unit(index, line.rstrip(b"\r\n"))
        else:
            continue
        index += 1


class _Scanner:
    """Decodes one JSON value after the other out of a stream, holding little more than one value at a time."""

    def __init__(self, path: Path, stream: Buffered, limit: int) -> None:
        self._path, self._stream, self._limit = path, stream, limit
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        # Values are only measured here; numbers of any length stay the text they are.
        self._decoder = json.JSONDecoder(parse_int=str, parse_float=str)
        self._text, self._at, self._step = "", 0, _CHUNK
        self._ended = False

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._stream.read(self._step)
        self._ended = not data
        try:
            self._text = self._text[self._at :] + self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path} is not UTF-8: {error.reason}") from error
        self._at = 0
        return True

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self) -> str:
        character = self.peek()
        self._at += 1
        return character

    def value(self, what: str) -> tuple[Any, str]:
        """The next value and its own text."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > _SCAN * self._limit:
                    raise InputError(
                        f"{self._path}: {what} is larger than {_SCAN * self._limit} bytes or no JSON ({error.msg})"
                    ) from error
                self._step = max(_CHUNK, 2 * (len(self._text) - self._at))
                if not self._more():
                    raise InputError(f"{self._path} is cut short or no JSON: {what}: {error.msg}") from error
                continue
            except RecursionError as error:
                raise InputError(f"{self._path}: {what} is nested too deeply") from error
            if end == len(self._text) and self._more():
                continue
            text = self._text[self._at : end]
            self._at, self._step = end, _CHUNK
            return value, text

    def fail(self, what: str) -> InputError:
        return InputError(f"{self._path} is cut short or no JSON: {what}")


def _elements(path: Path, stream: Buffered, limit: int, keyed: bool, scanner: _Scanner | None = None) -> Iterator[Unit]:
    scanner = scanner or _Scanner(path, stream, limit)
    close = "}" if keyed else "]"
    scanner.take()
    index = 0
    while scanner.peek() != close:
        key = None
        if keyed:
            key, _ = scanner.value(f"key of element {index}")
            if not isinstance(key, str) or scanner.take() != ":":
                raise scanner.fail(f"element {index} has no key")
            if not _is_text(key):
                raise InputError(f"{path}: the key of element {index} holds half a surrogate pair")
        _, text = scanner.value(f"element {index}")
        try:
            yield _unit(index, text.encode(), key)
        except UnicodeEncodeError as error:
            raise scanner.fail(f"element {index} holds half a surrogate pair") from error
        index += 1
        mark = scanner.peek()
        if mark == ",":
            scanner.take()
            if scanner.peek() == close:
                raise scanner.fail(f"a comma follows the last element, {index - 1}")
        elif mark != close:
            raise scanner.fail(f"after element {index - 1} a comma or {close} is due, not {mark!r}")
    scanner.take()
    if trailing := scanner.peek():
        raise scanner.fail(f"{trailing!r} follows after the end of the value")
    if index == 0:
        raise InputError(f"{path} holds no records")


def _object_units(path: Path, stream: Buffered, limit: int) -> Iterator[Unit]:
    """One object: a unit, or an object of records if only its values are of a known format. Or lines, the first long."""
    from converters import detect_format

    data = stream.read(limit + 1)
    if _looks_like_lines(data.removeprefix(codecs.BOM_UTF8)):
        yield from _lines(io.BufferedReader(_Chained(data, stream), _CHUNK), limit)
        return
    if len(data) > limit:
        whole: Buffered = io.BufferedReader(_Chained(data, stream), _CHUNK)
        yield from _elements(path, whole, limit, keyed=True)
        return
    try:
        value = json.loads(data, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is cut short or no JSON: {error.msg} at line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply") from error
    values = list(value.values())
    of_records = values and all(isinstance(v, dict) for v in values) and detect_format(values[:64]) is not None
    if detect_format([value]) is None and of_records:
        yield from _elements(path, io.BufferedReader(io.BytesIO(data)), limit, keyed=True)
    else:
        yield _unit(0, data.removeprefix(codecs.BOM_UTF8).strip())


def _integer(digits: str) -> float:
    """An integer, or infinity where Python refuses to parse one so long: only formats are told from it."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else math.inf


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Chained(io.RawIOBase):
    """Bytes that were read already, then the rest of their stream."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = memoryview(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        if self._first:
            piece = self._first[:size]
            self._first = self._first[size:]
        else:
            piece = memoryview(self._rest.read(size))
        buffer[: len(piece)] = piece
        return len(piece)


def _parquet_units(path: Path) -> Iterator[Unit]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        index = 0
        for batch in file.iter_batches(256):
            for row in batch.to_pylist():
                yield _unit(index, orjson.dumps(row))
                index += 1
    except (pa.ArrowInvalid, orjson.JSONEncodeError) as error:
        raise InputError(f"{path} is no readable Parquet file of JSON-like rows: {error}") from error
    if index == 0:
        raise InputError(f"{path} holds no records")


def hub_units(dataset: str, config: str | None, split: str, revision: str | None) -> Iterator[Unit]:
    """The rows of a Hub data set, streamed. Raises InputError."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows: Iterable[dict[str, Any]] = load_dataset(dataset, config, split=split, revision=revision, streaming=True)
        for index, row in enumerate(rows):
            yield _unit(index, orjson.dumps(row))
    except (DatasetNotFoundError, ConnectionError, ValueError, orjson.JSONEncodeError) as error:
        raise InputError(f"Hub data set {dataset!r} ({split}) cannot be read: {str(error).splitlines()[0]}") from error


def sniff(units: Sequence[Unit]) -> list[Any]:
    """The parsed values of those units that are JSON, for format detection."""
    values = []
    for unit in units:
        try:
            values.append(msgspec.json.decode(unit.raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return values
