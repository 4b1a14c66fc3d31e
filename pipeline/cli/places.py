"""Folders as users name them: paths, or URLs of object stores."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import storage

if TYPE_CHECKING:
    from pipeline.manifest import Output


def to_write(place: str) -> Path:
    """A folder to write to. Raises PipelineError."""
    return storage.open_folder(place)


def to_read(place: str) -> Path:
    """A folder, or a file in one, to read; of a URL all that its manifests name is fetched first. Raises PipelineError.

    A build that runs on this machine works in another folder: nothing that it writes is touched.
    """
    path = storage.open_folder(place, reading=True)
    if not storage.is_url(place) or storage.url_of(path) is None:
        return path
    from pipeline import folders
    from pipeline.errors import InputError
    from pipeline.manifest import MANIFEST, fetch, read_manifest, tidy

    if storage.is_kept_file(path):
        return _one_file(place)
    found = storage.files_below(path) or {}
    if not found:
        raise InputError(f"{place} is not there, or holds nothing")
    named: set[str] = set()
    for stage in (path, *(path / name for name in folders.STAGES)):
        manifest = read_manifest(stage)
        outputs: tuple[Output, ...] = manifest.outputs if manifest is not None else ()
        if stage != path or manifest is not None:
            tidy(stage, manifest)
        fetch(stage, outputs)
        named |= {(stage / o.path).relative_to(path).as_posix() for o in outputs}
    for name in found:
        beside = name.count("/") == 0 or name == f"{folders.DATASET}/README.md"
        if beside and name not in named and posixpath.basename(name) != MANIFEST and not name.startswith("."):
            storage.download(path / name)
    return path


def _one_file(url: str) -> Path:
    """A file in a store, with the token shards beside it."""
    folder, name = url.rstrip("/").rsplit("/", 1)
    path = storage.open_folder(folder, reading=True) / name
    tokens = name.replace("records-", "tokens-", 1).split("-", 1)[-1]
    for found in storage.files_below(path.parent) or {}:
        if found == name or (found.startswith("tokens-") and found.endswith(f"-{tokens}")):
            storage.download(path.parent / found)
    return path


def on_disk(place: str) -> Path:
    """A path that must not be a URL. Raises ConfigError."""
    if storage.is_url(place):
        from pipeline.errors import ConfigError

        raise ConfigError(f"{place}: this is written on a disk, name a path")
    return Path(place)


#: What options and arguments of folders to write and to read are made with.
WRITTEN: dict[str, Any] = {"parser": to_write}
READ: dict[str, Any] = {"parser": to_read}
LOCAL: dict[str, Any] = {"parser": on_disk}
