"""Compressed streams: gzip, bzip2, xz and zstd, told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from pipeline.containers.units import CHUNK

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

#: What the decompressors raise where a stream is cut short or damaged.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)

_GZIP = b"\x1f\x8b"
_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {b"BZh": bz2.BZ2Decompressor, b"\xfd7zXZ\x00": lzma.LZMADecompressor}
_ZSTD = b"\x28\xb5\x2f\xfd"


def is_packed(head: bytes) -> bool:
    """Whether a stream that starts so is compressed."""
    return any(map(head.startswith, (_GZIP, _ZSTD, *_DECOMPRESSORS)))


def unpacked(stream: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    """The plain bytes of a stream that is at its start; itself where it is not compressed."""
    head = stream.peek(8)[:8]
    if head.startswith(_GZIP):
        return io.BufferedReader(gzip.open(stream, "rb"), CHUNK)
    for magic, decompressor in _DECOMPRESSORS.items():
        if head.startswith(magic):
            return io.BufferedReader(_Decompressed(stream, decompressor), CHUNK)
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), CHUNK)
    return stream


class _Decompressed(io.RawIOBase):
    """The plain bytes of compressed streams that follow each other, with zeros between them or not.

    Whatever else follows is damage, which Python's own readers take for the end.
    """

    def __init__(self, stream: IO[bytes], new: Callable[[], Any]) -> None:
        self._stream, self._new, self._one = stream, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        plain = b""
        while not plain:
            packed = b""
            if self._one.eof:
                if not (packed := self._behind()):
                    return 0
                self._one = self._new()
            elif self._one.needs_input and not (packed := self._stream.read(CHUNK)):
                raise EOFError("the compressed data ends before the mark of its end")
            plain = self._one.decompress(packed, len(buffer))
        buffer[: len(plain)] = plain
        return len(plain)

    def _behind(self) -> bytes:
        packed: bytes = self._one.unused_data.lstrip(b"\x00")
        while not packed and (data := self._stream.read(CHUNK)):
            packed = data.lstrip(b"\x00")
        return packed


def plain_suffix(name: str) -> str:
    """The suffix of a file's name below those of compression, in lower case: ``.json`` of ``a.JSON.gz``; "" if none."""
    parts = [part.lower() for part in name.split(".")[1:]]
    while parts and f".{parts[-1]}" in SUFFIXES:
        parts.pop()
    return f".{parts[-1]}" if parts else ""
