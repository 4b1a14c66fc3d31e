"""Compressed streams: gzip, bzip2, xz and zstd, told by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from pipeline.containers.units import CHUNK

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

#: What the decompressors raise where a stream is cut short or damaged.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)

_MAGIC: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_ZSTD = b"\x28\xb5\x2f\xfd"


def is_packed(head: bytes) -> bool:
    """Whether a stream that starts so is compressed."""
    return head.startswith(_ZSTD) or any(map(head.startswith, _MAGIC))


def unpacked(stream: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    """The plain bytes of a stream that is at its start; itself where it is not compressed."""
    head = stream.peek(8)[:8]
    for magic, opener in _MAGIC.items():
        if head.startswith(magic):
            return io.BufferedReader(opener(stream, "rb"), CHUNK)
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), CHUNK)
    return stream


def plain_suffix(name: str) -> str:
    """The suffix of a file's name below those of compression, in lower case: ``.json`` of ``a.JSON.gz``; "" if none."""
    parts = [part.lower() for part in name.split(".")[1:]]
    while parts and f".{parts[-1]}" in SUFFIXES:
        parts.pop()
    return f".{parts[-1]}" if parts else ""
