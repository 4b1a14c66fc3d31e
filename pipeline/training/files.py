"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pipeline.training.grid import TrainingError

#: What a stage of a build leaves beside its files (``pipeline.manifest``).
_MANIFEST = "manifest.json"


def check_target(out_dir: Path, marker: str) -> None:
    """Raises TrainingError where ``published_directory`` would not take the place of what is at ``out_dir``."""
    if out_dir.exists() and not out_dir.is_dir():
        raise TrainingError(f"{out_dir} is not a directory; choose another --out")
    found = [path.name for path in out_dir.iterdir()] if out_dir.is_dir() else []
    if marker not in found and any(name != _MANIFEST for name in found):
        raise TrainingError(f"{out_dir} exists and holds no {marker}; choose another --out")


@contextmanager
def published_directory(out_dir: Path, marker: str) -> Iterator[Path]:
    """A temporary directory beside ``out_dir`` that takes its place on leaving, after fsync; removed on an exception.

    An existing ``out_dir`` is replaced only if it is empty or holds ``marker``, the file that every such directory has;
    else TrainingError, and so where nothing can be written, or where somebody took the temporary directory away. A process
    killed in between leaves the old directory, or a ``.NAME.*`` beside it (see ``clear_remains``).
    """
    check_target(out_dir, marker)
    with writing(out_dir):
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
        fresh = work / "new"
        fresh.mkdir()
        descriptor = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)  # while it is open no other has its number
    try:
        yield fresh
        if not fresh.is_dir() or not os.path.samestat(fresh.stat(), os.fstat(descriptor)):
            raise TrainingError(f"cannot publish {out_dir}: {fresh} was removed before it was finished; run again")
        with writing(out_dir):
            sync_tree(fresh)
            if out_dir.exists():
                out_dir.rename(work / "old")
            fresh.rename(out_dir)
            sync_path(out_dir.parent)
    finally:
        os.close(descriptor)
        _put_back(work, out_dir)
        shutil.rmtree(work, ignore_errors=True)


def clear_remains(out_dir: Path) -> None:
    """Removes what killed runs of ``published_directory`` left beside ``out_dir``; the caller knows that none is alive.

    Where one was killed between its two renames, the old directory is put back first.
    """
    of_mkdtemp = re.compile(rf"\.{re.escape(out_dir.name)}\.[a-z0-9_]{{8}}")
    for work in sorted(path for path in out_dir.parent.iterdir() if of_mkdtemp.fullmatch(path.name)):
        if (work / "new").is_dir() or (work / "old").is_dir():
            _put_back(work, out_dir)
            shutil.rmtree(work)
        elif work.is_dir() and not any(work.iterdir()):
            work.rmdir()


def _put_back(work: Path, out_dir: Path) -> None:
    """The old directory takes its place again, if nothing else has."""
    there = out_dir.is_dir() and any(out_dir.iterdir())
    if (work / "old").is_dir() and not there:
        (work / "old").rename(out_dir)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failed write in the block (a full disk, no permission) into a TrainingError that names ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise TrainingError(f"cannot write {path}: {reason}") from error


def sync_tree(directory: Path) -> None:
    """fsync of a directory and all that is in it."""
    for path in [*directory.rglob("*"), directory]:
        sync_path(path)


def sync_path(path: Path) -> None:
    """fsync of a file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
