"""Builds in object stores, looked at without fetching them: footers, and the columns and row groups that are asked for.

A folder of *stand-ins* lies on this disk: files with the names and sizes of those in the store, and no bytes (they are holes).
So everything that goes by names and sizes works on it; ``open_file`` reads what is really there.
"""

from __future__ import annotations

import hashlib
import posixpath
from pathlib import Path
from typing import IO

from pipeline import storage
from pipeline.errors import InputError
from pipeline.folders import INPUT_ONLY, STAGES
from pipeline.manifest import read_manifest

#: Folders of a data set.
SPLITS = ("train", "test", INPUT_ONLY)

_STAND_INS: dict[Path, storage.Kept] = {}


def open_place(place: str) -> Path:
    """A path as it is; of a URL a folder of stand-ins, or one of these. Raises PipelineError.

    The whole build is mounted where a part of it is named, so that marks are kept where ``build`` looks for them.
    """
    if not storage.is_url(place):
        return Path(place)
    if storage.url_of(path := storage.open_folder(place, reading=True)) is None:
        return path
    root, below = _root_of(place.rstrip("/"))
    name = hashlib.sha256(root.encode()).hexdigest()[:12]
    local = storage.work_folder().absolute() / f"{posixpath.basename(root)}-{name}-view"
    storage.mount(storage.Mount(local, root))
    found = _shards(local)
    wanted = local / below
    if not any(path == wanted or wanted in path.parents for path in found):
        raise InputError(f"{place} is not there, or holds no Parquet shards")
    for path in local.rglob("*.parquet"):
        if path not in found:
            path.unlink()
    for path, kept in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(0)
            file.truncate(kept.bytes)
    _STAND_INS.update(found)
    return wanted


def is_stand_in(path: Path) -> bool:
    """Whether the bytes of a file are elsewhere."""
    return path in _STAND_INS


def stamp_of(path: Path) -> tuple[int | str, ...] | None:
    """Size and version of what the store has now; None where there is nothing. Raises PipelineError, StoreError."""
    with storage.kept_at(path, "reading") as (system, name):
        try:
            kept = storage.kept_of(system.info(name))
        except FileNotFoundError:
            return None
    return kept.bytes, kept.version


def open_file(path: Path) -> IO[bytes]:
    """What the store has, to be read where one seeks to; nothing is read ahead. Raises PipelineError, StoreError."""
    with storage.kept_at(path, "reading") as (system, name):
        file: IO[bytes] = system.open(name, "rb", cache_type="none")
        return file


def _root_of(place: str) -> tuple[str, str]:
    """The URL of the build that a place belongs to, as far as names tell, and the path below it."""
    kind, _, rest = place.partition("://")
    parts = rest.split("/")
    end = len(parts)
    if end > 2 and parts[end - 1].endswith(".parquet"):
        end -= 1
    if end > 2 and parts[end - 1] in SPLITS:
        end -= 1
    if end > 2 and parts[end - 1] in STAGES:
        end -= 1
    return f"{kind}://{'/'.join(parts[:end])}", "/".join(parts[end:])


def _shards(local: Path) -> dict[Path, storage.Kept]:
    """The shards that a store has below a folder, but those of stages with a manifest that does not name them."""
    listed = {name: kept for name, kept in (storage.files_below(local) or {}).items() if name.endswith(".parquet")}
    by_stage: dict[str, list[str]] = {}
    for name in listed:
        first = name.partition("/")[0]
        by_stage.setdefault(first if first in STAGES else "", []).append(name)
    found: dict[Path, storage.Kept] = {}
    for stage, names in by_stage.items():
        manifest = read_manifest(local / stage)
        named = None if manifest is None else {posixpath.join(stage, output.path) for output in manifest.outputs}
        found.update({local / name: listed[name] for name in names if named is None or name in named})
    return found
