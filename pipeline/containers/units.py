"""One value of a container, as its bytes: what ingest hands on."""

from __future__ import annotations

import hashlib

import msgspec

#: Bytes of a rejected unit that its reject row keeps.
RAW_LIMIT = 65_536

#: Bytes that are read from a stream at a time.
CHUNK = 1 << 20

#: What must be held in memory whole may be this many times the limit of a unit.
WHOLE = 8


class Unit(msgspec.Struct, frozen=True, gc=False):
    """One value of a file: its index, its bytes, its digest, its key where the file is an object of records.

    ``too_large`` is the full size in bytes of a value over the limit; ``raw`` then holds only its beginning. ``code`` and
    ``message`` say why a value cannot be used, "" where it can.
    """

    index: int
    raw: bytes
    sha256: str
    key: str | None = None
    too_large: int = 0
    code: str = ""
    message: str = ""


def in_one_line(error: BaseException) -> str:
    """What an error of a library says, in one line of bounded length."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (" ".join(said.split()) or type(error).__name__)[:300]


def unit_of(index: int, raw: bytes, key: str | None = None) -> Unit:
    """The unit of a value that is there whole."""
    return Unit(index, raw, hashlib.sha256(raw).hexdigest(), key)


def unusable(index: int, raw: bytes, code: str, message: str) -> Unit:
    """The unit of a value that cannot be used."""
    return Unit(index, raw, hashlib.sha256(raw).hexdigest(), None, 0, code, message)
