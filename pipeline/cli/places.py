"""Folders as users name them: paths, or URLs of object stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import storage


def to_write(place: str) -> Path:
    """A folder to write to. Raises PipelineError."""
    return storage.open_folder(place)


def to_read(place: str) -> Path:
    """A folder to read; of a URL all that its manifests name is fetched first. Raises PipelineError."""
    if not storage.is_url(place):
        return Path(place)
    from pipeline.errors import InputError
    from pipeline.manifest import MANIFEST, fetch, read_manifest

    path = storage.open_folder(place)
    found = storage.files_below(path) or {}
    if not found:
        raise InputError(f"{place} is not there, or holds nothing")
    for name in sorted(found):
        stage = (path / name).parent
        if name in (MANIFEST, f"{stage.name}/{MANIFEST}") and (manifest := read_manifest(stage)) is not None:
            fetch(stage, manifest.outputs)
        elif "/" not in name and name != MANIFEST:
            storage.pull(path / name)
    return path


#: What options and arguments of folders to write and to read are made with.
WRITTEN: dict[str, Any] = {"parser": to_write, "metavar": "PATH"}
READ: dict[str, Any] = {"parser": to_read, "metavar": "PATH"}
