"""What the real Xet client stored in a folder instead of a server: by its own files, read back by its own download."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_ENTRY = 48
_VERIFIED, _EXTENDED = 1 << 31, 1 << 30


def stored_files(cas: Path) -> dict[str, tuple[str, int]]:
    """The files that the shards of a store name: sha256 to Xet hash and size in bytes."""
    found: dict[str, tuple[str, int]] = {}
    for shard in (cas / "xet" / "xorbs" / "shards").glob("*.mdb"):
        found.update(_files(shard.read_bytes()))
    return found


def _files(shard: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """The file section of a shard: per file a header, its segments, their verification, and the sha256; 48 bytes each."""
    at = _ENTRY
    while (file_hash := shard[at : at + 32]) != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        size = sum(struct.unpack_from("<I", shard, at + i * _ENTRY + 36)[0] for i in range(segments))
        at += _ENTRY * segments * (2 if flags & _VERIFIED else 1)
        if flags & _EXTENDED:
            yield _hex(shard[at : at + 32]), (_hex(file_hash), size)
            at += _ENTRY


def _hex(digest: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def read_stored(cas: Path, digests: Iterable[str]) -> dict[str, bytes]:
    """Those of the files that shards of a store name. The store is copied first: the client that writes it locks it."""
    import hf_xet

    there = stored_files(cas)
    wanted = [digest for digest in digests if digest in there]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(cas, Path(place) / "cas")
        with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{place}/cas") as group:
            for digest in wanted:
                group.start_download_file(hf_xet.XetFileInfo(*there[digest]), f"{place}/{digest}")
        return {digest: (Path(place) / digest).read_bytes() for digest in wanted}
