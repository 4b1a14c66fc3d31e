"""Zip and tar archives: their members are files of their own, read as streams and never written to a disk."""

from __future__ import annotations

import io
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from pipeline.containers.packing import DAMAGED, is_packed, unpacked
from pipeline.containers.places import Broken, Filled, Place, RemoteFile, open_place
from pipeline.containers.units import CHUNK, in_one_line
from pipeline.errors import InputError
from pipeline.faults import passing_in
from pipeline.storage import StoreError

SUFFIXES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")

#: What lists the members is held in memory: so many of them, and so many bytes of a zip's directory.
MOST_MEMBERS, MOST_DIRECTORY = 200_000, 64 << 20

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_BLOCK = 512


class ArchiveError(InputError):
    """An archive that is damaged, encrypted or too large to be listed."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. ``where`` is its entry in a zip, or its first byte and its size in a tar."""

    archive: Archive = field(repr=False)
    path: str
    where: Any = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def __str__(self) -> str:
        return f"{self.archive.place}/{self.path}"

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        return io.BufferedReader(_MemberStream(self, self.archive.stream(self.where)), CHUNK)


class Archive(ABC):
    """What both kinds have in common: where they are, what was found in them, and errors of one line."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.members: list[Member | Broken] = []
        #: Names that are no files, or none that can hold data: links, devices.
        self.skipped: list[str] = []
        self._paths: set[str] = set()
        try:
            self._list()
        except StoreError:
            raise
        except (*DAMAGED, zipfile.BadZipFile, tarfile.TarError, NotImplementedError, struct.error, ValueError) as error:
            _refuse_passing(error)
            raise ArchiveError(f"{place} is damaged or no archive that can be read: {in_one_line(error)}") from error
        except OSError as error:
            raise ArchiveError(f"{place} cannot be read: {in_one_line(error)}") from error

    @abstractmethod
    def _list(self) -> None:
        """Finds the members."""

    @abstractmethod
    def stream(self, where: Any) -> Any:
        """A member's plain bytes."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the open file; it is opened again when a member is."""

    def _add(self, name: str, where: Any) -> None:
        if len(self.members) + len(self.skipped) >= MOST_MEMBERS:
            raise ArchiveError(f"{self.place} has more than {MOST_MEMBERS} members: unpack it first")
        path = posixpath.normpath(name).lstrip("/")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ArchiveError(f"{self.place} has a member whose name is not UTF-8: {path!a}") from None
        if path in self._paths:
            raise ArchiveError(f"{self.place} has two members of one name, {path}: unpack it first")
        self._paths.add(path)
        self.members.append(Member(self, path, where))


class _MemberStream(Filled):
    """A member's bytes; what is wrong with them is an error of its archive."""

    def __init__(self, member: Member, stream: Any) -> None:
        super().__init__(stream)
        self._member = member

    def pull(self, size: int) -> bytes:
        try:
            return super().pull(size)
        except (*DAMAGED, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{self._member} is cut short or damaged: {in_one_line(error)}") from error


class ZipArchive(Archive):
    """A zip. Its directory is held in memory."""

    _zip: zipfile.ZipFile | None = None

    def _list(self) -> None:
        self._refuse_large_directory()
        infos = self._opened().infolist()
        if (before := min((info.header_offset for info in infos), default=0)) > 0:
            raise ArchiveError(
                f"{self.place} has {before} bytes before its first member: is it two archives in one file? unpack it first"
            )
        for info in infos:
            if info.filename.endswith("/"):
                continue
            if not info.filename or stat.S_ISLNK(info.external_attr >> 16):
                self.skipped.append(info.filename)
            elif info.flag_bits & 1:
                raise ArchiveError(f"{self.place} is encrypted: decrypt it first")
            else:
                self._add(info.filename, info)
        self.close()

    def _refuse_large_directory(self) -> None:
        with self._file() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (1 << 16) - 98))
            end = file.read()
        at = end.rfind(b"PK\x05\x06")
        if at < 0:
            raise zipfile.BadZipFile("its directory is missing")
        (count,) = struct.unpack_from("<I", end, at + 12)
        if count == 0xFFFFFFFF and (at := end.rfind(b"PK\x06\x06")) >= 0:
            (count,) = struct.unpack_from("<Q", end, at + 40)
        if count > MOST_DIRECTORY:
            raise ArchiveError(f"{self.place} has a directory of {count} bytes: unpack it first")

    def _file(self) -> IO[bytes]:
        if isinstance(self.place, RemoteFile):
            return self.place.open_seekable()
        return open_place(self.place)

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:
            self._zip = zipfile.ZipFile(self._file())
        return self._zip

    def stream(self, where: Any) -> Any:
        try:
            return self._opened().open(where)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            _refuse_passing(error)
            raise ArchiveError(f"{self.place}/{where.filename} cannot be read: {in_one_line(error)}") from error

    def close(self) -> None:
        if self._zip is not None:
            if self._zip.fp is not None:
                self._zip.fp.close()
            self._zip.close()
            self._zip = None


class TarArchive(Archive):
    """A tar, plain or compressed. It is read once to list it; members in their order then cost one more reading."""

    _open: io.BufferedReader[Any] | None = None
    _outer: io.BufferedReader[Any] | None = None
    _at = 0

    def _list(self) -> None:
        with open_place(self.place) as outer:
            end = self._list_members(_Remembering(unpacked(outer)))
        if end != bytes(_BLOCK):
            raise ArchiveError(f"{self.place} is cut short: the mark at the end of a tar is missing")

    def _list_members(self, stream: Any) -> bytes:
        """Lists the members of the plain tar; the block behind the last one. The stream is read to its end."""
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:
            while (info := tar.next()) is not None:
                if info.isfile() and info.issparse():
                    title = f"{self.place}/{info.name}"
                    self.members.append(Broken(title, f"{title} is a sparse file: unpack the archive first"))
                elif info.isfile():
                    self._add(info.name, (info.offset_data, info.size))
                elif not info.isdir():
                    self.skipped.append(info.name)
                tar.members = []  # type: ignore[attr-defined]
            end: bytes = stream.block(tar.offset)
        goes_on = stream.any_behind(tar.offset)
        while data := stream.read(CHUNK):
            goes_on = goes_on or bool(data.strip(b"\x00"))
        if end == bytes(_BLOCK) and goes_on:
            raise ArchiveError(f"{self.place} goes on after its end: is it two archives in one file? unpack it first")
        return end

    def _read_at(self, position: int, size: int) -> bytes:
        if self._open is None or position < self._at:
            self.close()
            self._outer = open_place(self.place)
            self._open, self._at = unpacked(self._outer), 0
            if self._open is self._outer and self._open.seekable():
                self._open.seek(position)
                self._at = position
        while self._at < position:
            data = self._open.read(min(CHUNK, position - self._at))
            if not data:
                raise EOFError("the archive ends within a member")
            self._at += len(data)
        data = self._open.read(size)
        self._at += len(data)
        return data

    def stream(self, where: Any) -> Any:
        return _Slice(self, *where)

    def close(self) -> None:
        if self._outer is not None:
            self._outer.close()
        self._open = self._outer = None


class _Remembering:
    """A stream that can say again what it said last."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last = b""
        self._read = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._last = self._last[-_BLOCK:] + data if data else self._last
        self._read += len(data)
        return data

    def block(self, position: int) -> bytes:
        at = position - (self._read - len(self._last))
        return self._last[at : at + _BLOCK] if at >= 0 else b""

    def any_behind(self, position: int) -> bool:
        """Whether anything but zeros was read behind a position."""
        return bool(self._last[max(0, position - (self._read - len(self._last))) :].strip(b"\x00"))


class _Slice:
    """So many bytes of a tar from a place on."""

    def __init__(self, archive: TarArchive, start: int, size: int) -> None:
        self._archive, self._at, self._end = archive, start, start + size

    def read(self, size: int) -> bytes:
        size = min(size, self._end - self._at)
        if size <= 0:
            return b""
        data = self._archive._read_at(self._at, size)
        if not data:
            raise EOFError("the archive ends within a member")
        self._at += len(data)
        return data

    def close(self) -> None:
        """The archive stays open for its next member."""


def _refuse_passing(error: Exception) -> None:
    """Raises the StoreError that ``zipfile`` took for damage, where it was one."""
    if (passing := passing_in(error)) is not None:
        raise passing


def open_archive(place: Place) -> Archive | None:
    """The archive at a place, told by its first bytes, a tar of the oldest form by its name; None for any other file.

    Raises ArchiveError; StoreError where it is at a URL and may be read another time.
    """
    try:
        with open_place(place) as stream:
            head = stream.peek(_BLOCK)[:_BLOCK]
            if is_packed(head):
                head = unpacked(stream).peek(_BLOCK)[:_BLOCK]
    except StoreError:
        raise
    except (*DAMAGED, OSError) as error:
        if is_archive_name(place.name):
            raise ArchiveError(f"{place} is damaged or no archive that can be read: {in_one_line(error)}") from error
        return None
    if head.startswith(_ZIP):
        return ZipArchive(place)
    if head[257:262] == b"ustar" or (_named_tar(place.name) and len(head) == _BLOCK):
        return TarArchive(place)
    return None


def _named_tar(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(SUFFIXES[1:]) or lower.rpartition(".")[0].endswith(".tar")


def is_archive_name(name: str) -> bool:
    """Whether a file's name says that it is an archive."""
    return _named_tar(name) or name.lower().endswith(".zip")


def place_of(member: Place) -> Path | Place:
    """The file on a disk or at a URL that holds a place: the archive of a member, else the place itself."""
    return member.archive.place if isinstance(member, Member) else member
