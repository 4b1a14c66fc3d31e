"""Builds in object stores: a folder on a disk that is worked in, mounted on a URL where its files are kept.

``open_folder("s3://bucket/build")`` gives a folder below the work folder (``MULTISTREAM_WORK``, default
``~/.cache/multistream``), and everything that works on folders works on it. What is kept at the URL is the truth: files are
uploaded whole (an object appears when all of it has arrived; nothing is renamed), the note or manifest that names them after
them, and a file is taken from the disk only if it has the digest that its manifest names. So another machine can go on where
this one stopped. Any file system that ``fsspec`` knows serves: ``s3://``, ``gs://``, ``abfs://``.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

WORK = "MULTISTREAM_WORK"

#: What file systems call a version of a file that changes with its bytes, in ``fsspec``'s ``info``.
_VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5")


class StoreError(OSError):
    """An object store did not do what it was asked to, but may another time: no answer, a server's error, a slow-down."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder on this disk and the URL at which its files are kept.

    ``held``: the leases (folder below it, owner) under which whoever was given this mount writes: see ``pipeline.claim``.
    """

    local: Path
    url: str
    held: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in a store: bytes, and its version as the store calls it ("" where it has no name for one)."""

    bytes: int
    version: str


_MOUNTS: dict[Path, Mount] = {}

#: By folder, the owner of the lease under which this process writes to it.
HELD: dict[Path, str] = {}


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL of a store, and no path."""
    return "://" in str(place)


def work_folder() -> Path:
    """Where builds in stores are worked on."""
    named = os.environ.get(WORK)
    return Path(named) if named else Path.home() / ".cache" / "multistream"


def open_folder(place: str | Path, reading: bool = False) -> Path:
    """A path as it is; for a URL the folder that is mounted on it: another one for ``reading`` than that of a build.

    Raises PipelineError where the store cannot be used.
    """
    if not is_url(place):
        return Path(place)
    kind, _, rest = str(place).partition("://")
    if kind in ("file", "local"):
        return Path("/" + rest.lstrip("/"))
    if not rest.strip("/"):
        raise PipelineError(f"{place} names no bucket")
    if kind == "memory":
        raise PipelineError(
            f"{place}: what is written there is gone when the command ends; name a folder or another store"
        )
    url = f"{kind}://{rest.rstrip('/')}"
    named = hashlib.sha256(url.encode()).hexdigest()[:12]
    local = work_folder().absolute() / f"{posixpath.basename(url)}-{named}{'-read' if reading else ''}"
    mount(Mount(local, url))
    return local


def mount(*given: Mount) -> None:
    """Mounts folders, as another process had them (``mounts``)."""
    for one in given:
        _system(one.url)
        _MOUNTS[one.local] = Mount(one.local, one.url)
        HELD.update({one.local / below: owner for below, owner in one.held})


def mounts() -> tuple[Mount, ...]:
    """What is mounted: to be given to worker processes, on this machine or another."""
    return tuple(
        Mount(
            one.local,
            one.url,
            tuple(
                (at.relative_to(one.local).as_posix(), owner) for at, owner in HELD.items() if one.local in at.parents
            ),
        )
        for one in _MOUNTS.values()
    )


def url_of(path: Path) -> str | None:
    """The URL at which a path is kept; None if it is on a disk alone."""
    for local, one in _MOUNTS.items():
        if path == local or local in path.parents:
            below = path.relative_to(local).as_posix()
            return one.url if below == "." else f"{one.url}/{below}"
    return None


def shown(path: Path) -> str:
    """A path as messages call it: its URL, where it has one."""
    return url_of(path) or str(path)


def send(paths: Sequence[Path]) -> dict[Path, Kept]:
    """Uploads files, over what is there, and tells what is there then; nothing of paths that are on a disk alone."""
    by_url = {path: url for path in paths if (url := url_of(path)) is not None}
    if not by_url:
        return {}
    system = _system(next(iter(by_url.values())))
    found: dict[Path, Kept] = {}
    with _asking(f"writing {next(iter(by_url.values()))}"):
        names = [system._strip_protocol(url) for url in by_url.values()]
        system.put([str(path) for path in by_url], names)
        for path, name in zip(by_url, names, strict=True):
            found[path] = kept_of(system.info(name))
    for path, kept in found.items():
        if kept.bytes != path.stat().st_size:
            raise StoreError(f"{by_url[path]} has {kept.bytes} bytes, {path.stat().st_size} were sent")
    return found


def send_as(source: Path, path: Path) -> None:
    """Uploads a file to where another one is kept: a copy made so that it holds still meanwhile."""
    with kept_at(path, "writing") as (system, name):
        system.put_file(str(source), name)


def pull(path: Path) -> None:
    """Makes a small file (a manifest, a note) here what it is there; removes it where there is none."""
    if url_of(path) is None:
        return
    content = read(path)
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content)


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another, whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def download(path: Path, to: Path | None = None) -> bool:
    """Gets a file from its store, over what is here, or to another place; whether it is there."""
    if url_of(path) is None:
        return path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with kept_at(path, "reading") as (system, name):
            try:
                system.get_file(name, str(temporary))
            except FileNotFoundError:
                return False
        temporary.replace(path if to is None else to)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def remove(path: Path) -> None:
    """Removes a file, here and there."""
    if url_of(path) is not None:
        with kept_at(path, "removing") as (system, name):
            if system.exists(name):
                system.rm_file(name)
    path.unlink(missing_ok=True)


def files_below(directory: Path) -> dict[str, Kept] | None:
    """The files that a store has below a folder, by their paths relative to it; None for a folder on a disk alone."""
    if url_of(directory) is None:
        return None
    with kept_at(directory, "listing") as (system, name):
        root = name.rstrip("/")
        return {found.removeprefix(root + "/"): kept_of(info) for found, info in system.find(root, detail=True).items()}


def create(path: Path, content: bytes) -> bool:
    """Makes a file in a store unless it is there; whether it was made. Where the store cannot tell, the last one wins."""
    with kept_at(path, "writing") as (system, name):
        try:
            system.pipe_file(name, content, mode="create")
        except FileExistsError:
            return False
        except NotImplementedError:
            if system.exists(name):
                return False
            system.pipe_file(name, content)
    return True


def read(path: Path) -> bytes | None:
    """What a store's file holds now; None if it is not there."""
    with kept_at(path, "reading") as (system, name):
        try:
            content: bytes = system.cat_file(name)
        except FileNotFoundError:
            return None
    return content


def write(path: Path, content: bytes) -> None:
    """Writes a store's file, over what is there."""
    with kept_at(path, "writing") as (system, name):
        system.pipe_file(name, content)


def is_kept(path: Path) -> bool:
    """Whether a file's store has it; false for a file on a disk alone."""
    if url_of(path) is None:
        return False
    with kept_at(path, "reading") as (system, name):
        return bool(system.exists(name))


def is_kept_file(path: Path) -> bool:
    """Whether what a store has under a path is one file, no folder; false on a disk alone."""
    if url_of(path) is None:
        return False
    with kept_at(path, "reading") as (system, name):
        return bool(system.isfile(name))


@contextmanager
def kept_at(path: Path, doing: str) -> Iterator[tuple[Any, str]]:
    """The file system that keeps a path, and what it calls it. ``doing`` begins the errors that come of it."""
    url = url_of(path)
    if url is None:
        raise ValueError(f"{path} is mounted on no store")
    system = _system(url)
    with _asking(f"{doing} {url}"):
        yield system, system._strip_protocol(url)


def kept_of(info: Mapping[str, Any]) -> Kept:
    """What a file system says of a file that it keeps."""
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return Kept(int(info.get("size") or 0), version)


def _system(url: str) -> Any:
    """The file system of a URL. What it lists is never remembered: others write there too."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        with _asking(url):
            return url_to_fs(url, use_listings_cache=False)[0]
    except ImportError as error:
        raise PipelineError(f"{url}: its file system needs a package that is not here: {error}") from error
    except ValueError as error:
        raise PipelineError(f"{url}: {' '.join(str(error).split())}") from error


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Errors of a store as errors of one line: StoreError for what may pass, PipelineError for what does not."""
    try:
        yield
    except StoreError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise PipelineError(f"{what}: {_line(error)}") from error
    except OSError as error:
        raise StoreError(f"{what}: {_line(error)}") from error
    except _client_errors() as error:
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            raise PipelineError(
                f"{what}: {_line(error)}: see docs/operations.md for how to name credentials"
            ) from error
        raise StoreError(f"{what}: {_line(error)}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """What the clients of stores raise beside OSError; none of them is imported unless a store needed it."""
    named = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"))
    return tuple(getattr(sys.modules[module], name) for module, name in named if module in sys.modules)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
