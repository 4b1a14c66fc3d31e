"""Where the bytes of a file are: on a disk (a ``pathlib.Path``), at a URL, or nowhere. Archive members are in ``archives``."""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol
from urllib.parse import quote, urljoin, urlsplit

from pipeline.containers.units import CHUNK, in_one_line
from pipeline.errors import InputError
from pipeline.faults import may_pass, told
from pipeline.storage import StoreError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

#: What ``fsspec`` says of a server that sends a file only from its start.
_ONLY_WHOLE_SAID = ("range requests", "Cannot seek streaming")

_ONLY_WHOLE = "its server sends files only as a whole, but this one must be read in parts: download it first"

#: What file systems call the version of a file, in ``fsspec``'s ``info``.
_VERSIONS = (
    "ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Digest", "Last-Modified", "LastModified", "last_modified",
    "updated", "mtime", "created",
)  # fmt: skip


class Place(Protocol):
    """A file that can be opened; ``str()`` of it is what messages call it. A ``Path`` is one."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its bytes from the start, to be read in order."""


class Filled(io.RawIOBase):
    """A stream whose reads are as long as asked for, except at the end: what ``BufferedReader`` needs to peek far."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        filled = 0
        while filled < len(view) and not self._ended:
            data = self.pull(len(view) - filled)
            self._ended = not data
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def pull(self, size: int) -> bytes:
        """At most ``size`` bytes; b"" at the end."""
        data: bytes = self._stream.read(size)
        return data

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_place(place: Place) -> io.BufferedReader[Any]:
    """Opens a place to be read in order, with room to peek."""
    if isinstance(place, Path):
        return io.BufferedReader(io.FileIO(place), CHUNK)
    stream = place.open("rb")
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(Filled(stream), CHUNK)


@dataclass(frozen=True, slots=True)
class Broken:
    """A file of which it is known already that it cannot be read."""

    title: str
    reason: str

    @property
    def name(self) -> str:
        return posixpath.basename(self.title)

    def __str__(self) -> str:
        return self.title

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        raise InputError(self.reason)


@dataclass(frozen=True)
class RemoteFile:
    """A file behind an ``fsspec`` file system. ``read`` gets the ``sha256`` of what was read from its start to its end."""

    url: str
    system: Any = field(compare=False, repr=False)
    path: str
    read: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return _name(self.system, self.path)

    def __str__(self) -> str:
        return self.url

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        options = {"block_size": 0} if _is_http(self.system) else {}
        return io.BufferedReader(_Remote(self, self._handle(options), hashing=True), CHUNK)

    def open_seekable(self) -> IO[bytes]:
        """The file to be read at any place; raises InputError where its server sends it only as a whole."""
        handle = self._handle({})
        if not handle.seekable():
            raise InputError(f"{self.url}: {_ONLY_WHOLE}")
        return io.BufferedReader(_Remote(self, handle, hashing=False), CHUNK)

    def _handle(self, options: dict[str, Any]) -> Any:
        with _one_line(self.url):
            return self.system.open(self.path, "rb", **options)

    def identity(self) -> str:
        """What its server says its version is, with its size; else the sha256 of its bytes, which are read for it."""
        with _one_line(self.url):
            info = self.system.info(self.path)
        if named := {key: str(info[key]) for key in _VERSIONS if info.get(key) is not None}:
            return " ".join([f"size={info.get('size')}", *(f"{k}={v}" for k, v in named.items())])
        with open_place(self) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def beside(self, relative: str) -> RemoteFile | None:
        """The file at a path relative to this one's folder, where there is one."""
        if _is_http(self.system):
            path = urljoin(self.path, quote(relative))
        else:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), relative))
        return self.at(path) if self._exists(path) else None

    def at(self, path: str) -> RemoteFile:
        """Another file of the same file system."""
        return RemoteFile(self.system.unstrip_protocol(path), self.system, path)

    def siblings(self, folder: str) -> list[RemoteFile]:
        """The files of a folder, as far as its server lists them: over HTTP none are looked for."""
        if _is_http(self.system):
            return []
        with _one_line(self.url):
            found = self.system.ls(folder, detail=True)
        return [self.at(entry["name"]) for entry in found if entry.get("type") == "file"]

    def _exists(self, path: str) -> bool:
        if not _is_http(self.system):
            with _one_line(self.url):
                return bool(self.system.exists(path))
        try:  # ``exists`` takes a connection that was lost for a file that is not there
            with _one_line(self.url):
                self.system.info(path)
        except InputError:
            return False
        return True


class _Remote(Filled):
    """A remote file as a raw stream whose errors are InputErrors and StoreErrors of one line."""

    def __init__(self, place: RemoteFile, handle: Any, hashing: bool) -> None:
        super().__init__(handle)
        self._place, self._digest = place, hashlib.sha256() if hashing else None

    def pull(self, size: int) -> bytes:
        with _one_line(self._place.url):
            data: bytes = self._stream.read(size)
        if self._digest is not None:
            self._digest.update(data)
            if not data:
                self._place.read["sha256"] = self._digest.hexdigest()
        return data

    def seekable(self) -> bool:
        return self._digest is None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._ended = False
        with _one_line(self._place.url):
            self._stream.seek(offset, whence)
            return int(self._stream.tell())

    def tell(self) -> int:
        return int(self._stream.tell())


class _one_line:
    """Whatever a file system raises becomes an error of one line that names the URL.

    InputError; StoreError where it may pass: then nothing is known of the input, and the run must not go on without it.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, InputError | StoreError):
            return
        if isinstance(error, FileNotFoundError):
            status = getattr(error.__cause__, "status", None)
            if status in (404, 410) or (not may_pass(error) and not isinstance(status, int)):
                raise InputError(f"{self._url} is not there") from error
            # Over HTTP ``fsspec`` calls whatever went wrong so.
            error = error.__cause__ or error
        said = in_one_line(error)
        if isinstance(error, ValueError) and any(known in said for known in _ONLY_WHOLE_SAID):
            raise InputError(f"{self._url}: {_ONLY_WHOLE}") from error
        raise told(error, f"{self._url} cannot be read: {said}", InputError) from error


def _find(system: Any, path: str) -> list[str]:
    """The files below a folder. Folders that are linked over HTTP and are not there are left out."""
    if not _is_http(system):
        found: list[str] = system.find(path)
        return found

    def refuse(error: OSError) -> None:
        if may_pass(error):
            raise error

    listed: list[str] = system.find(path, on_error=refuse)
    return listed


def _name(system: Any, path: str) -> str:
    """The last part of a path; over HTTP, where paths are URLs, without its query."""
    return posixpath.basename((urlsplit(path).path if _is_http(system) else path).rstrip("/"))


def is_url(path: str) -> bool:
    """Whether a path is a URL for ``fsspec``."""
    return _URL.match(path) is not None


def _is_http(system: Any) -> bool:
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return "http" in protocols or "https" in protocols


@dataclass(frozen=True, slots=True)
class Found:
    """What a URL names: its files, with their paths below ``root``; ``alone`` where it names one file."""

    root: str
    files: tuple[tuple[str, RemoteFile | Path], ...]
    alone: bool


def find_remote(url: str) -> Found:
    """The files that a URL names: a file, those below a folder, or those that a glob matches.

    Raises InputError; StoreError where its server may say more another time.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    try:
        with _one_line(url):
            system, path = url_to_fs(url)
    except InputError as error:
        if isinstance(error.__cause__, ImportError):
            raise InputError(f"{url}: its file system needs a package that is not here: {error.__cause__}") from error
        raise

    def place(found: str) -> RemoteFile | Path:
        if isinstance(system, LocalFileSystem):
            return Path(found)
        return RemoteFile(url if found == path else system.unstrip_protocol(found), system, found)

    def below(root: str, found: list[str]) -> Iterator[tuple[str, RemoteFile | Path]]:
        for name in sorted(found):
            yield name.removeprefix(root.rstrip("/") + "/"), place(name)

    http = _is_http(system)
    with _one_line(url):
        marks = "*[" if http else "*?["
        if any(mark in path for mark in marks) and not (not http and system.isfile(path)):
            matched = system.glob(path, detail=True)
            names = [name for name, info in matched.items() if http or info.get("type") == "file"]
            if not names:
                raise InputError(f"no file matches {url}")
            root = path
            while any(mark in root for mark in marks):
                root = posixpath.dirname(root)
            return Found(root, tuple(below(root, names)), alone=False)
        if path.endswith("/") or (not http and system.isdir(path)):
            return Found(path.rstrip("/"), tuple(below(path, _find(system, path))), alone=False)
        system.info(path)
    return Found(posixpath.dirname(path), ((_name(system, path), place(path)),), alone=True)
