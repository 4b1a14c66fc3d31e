"""One writer per directory: a lock that the operating system gives back when its holder ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import lock_descriptor

from pipeline.errors import PipelineError

#: The directories (device, inode) that the running call holds: it may claim them again.
_HELD: ContextVar[frozenset[tuple[int, int]]] = ContextVar("held directories", default=frozenset())


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Holds ``directory``, made if it is not there, until the block ends. Leaves no file behind.

    The lock is on the directory itself, so it needs a file system that can lock one (local ones can; on NFS see your
    server's ``local_lock``).

    Raises:
        PipelineError: another run writes there, or nothing can be written or locked there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise PipelineError(f"cannot write to {directory}: {error.strerror or error}") from error
    try:
        status = os.fstat(descriptor)
        place = status.st_dev, status.st_ino
        if place not in _HELD.get():
            _lock(descriptor, directory)
        token = _HELD.set(_HELD.get() | {place})
        try:
            yield
        finally:
            _HELD.reset(token)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        free = lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        raise PipelineError(f"cannot lock {directory}: {error.strerror or error}") from error
    if not free:
        raise PipelineError(f"another run is writing to {directory}: wait for it, or choose another folder")
