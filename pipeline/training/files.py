"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.training.grid import TrainingError


@contextmanager
def published_directory(out_dir: Path, marker: str) -> Iterator[Path]:
    """A temporary directory beside ``out_dir`` that takes its place on leaving, after fsync; removed on an exception.

    An existing ``out_dir`` is replaced only if it is empty or holds ``marker``, the file that every such directory has;
    else TrainingError. A process killed in between leaves the old directory, or a ``.NAME.*`` beside it.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise TrainingError(f"{out_dir} is not a directory; choose another --out")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / marker).is_file():
        raise TrainingError(f"{out_dir} exists and holds no {marker}; choose another --out")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    fresh = work / "new"
    fresh.mkdir()
    try:
        yield fresh
        _sync(fresh)
        if out_dir.exists():
            out_dir.rename(work / "old")
        fresh.rename(out_dir)
        _sync_path(out_dir.parent)
    finally:
        shutil.rmtree(work)


def _sync(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
