"""One writer per directory: a lock that the operating system gives back when its holder ends, however it ends.

In an object store there is no such lock: there it is a lease, an object that its holder writes anew every few seconds. Nobody's
clock is trusted: whoever finds one looks whether it still changes, and takes over what does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import lock_descriptor

from pipeline import storage
from pipeline.errors import PipelineError

#: The directories (device, inode) that the running call holds: it may claim them again.
_HELD: ContextVar[frozenset[tuple[int, int]]] = ContextVar("held directories", default=frozenset())

LEASE = ".lease"

#: Seconds between two signs of life of a lease, and without one until it counts as left behind.
BEAT, PATIENCE = 5.0, 30.0


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Holds ``directory``, made if it is not there, until the block ends. Leaves no file behind.

    The lock is on the directory itself, so it needs a file system that can lock one (local ones can; on NFS see your
    server's ``local_lock``). Where the directory is mounted on an object store, it is held there too.

    Raises:
        PipelineError: another run writes there, or nothing can be written or locked there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise PipelineError(f"cannot write to {directory}: {error.strerror or error}") from error
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        place = status.st_dev, status.st_ino
        if place not in _HELD.get():
            _lock(descriptor, directory)
            if storage.url_of(directory) is not None:
                stack.enter_context(_leased(directory))
        token = _HELD.set(_HELD.get() | {place})
        stack.callback(_HELD.reset, token)
        yield


def _lock(descriptor: int, directory: Path) -> None:
    free = False
    for _ in range(3):  # who only looks whether it is held (``is_held``) holds it for a moment
        try:
            free = lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            raise PipelineError(f"cannot lock {directory}: {error.strerror or error}") from error
        if free:
            break
        time.sleep(0.02)
    if not free:
        raise PipelineError(
            f"another run is writing to {storage.shown(directory)}: wait for it, or choose another folder"
        )


@contextmanager
def _leased(directory: Path) -> Iterator[None]:
    lease = _Lease(directory)
    lease.acquire()
    storage.HELD[directory] = lease.owner
    try:
        yield
    finally:
        del storage.HELD[directory]
        lease.release()


def is_held(directory: Path) -> bool:
    """Whether a run writes to ``directory`` now. Nothing is made or changed; to look into a store may take some seconds."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        descriptor = None
    if descriptor is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    if storage.url_of(directory) is None or (found := storage.read(directory / LEASE)) is None:
        return False
    time.sleep(BEAT * 1.5)
    return storage.read(directory / LEASE) not in (None, found)


def check_held(directory: Path) -> None:
    """Raises PipelineError where another run has taken a directory over: the one that this process works for was away too
    long. Asked before anything is put into a store."""
    owner = storage.HELD.get(directory)
    if owner is not None and not _is_of(directory / LEASE, owner):
        raise PipelineError(
            f"another run has taken over {storage.shown(directory)}, since this one gave no sign of life for a while"
        )


class _Lease:
    """A lease on a directory in a store."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEASE
        self.owner = uuid.uuid4().hex
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")

    def _content(self) -> bytes:
        holder = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "beat": self._beats}
        return json.dumps(holder).encode()

    def acquire(self) -> None:
        if not storage.create(self._path, self._content()):
            self._take_over()
        self._thread.start()

    def _take_over(self) -> None:
        found = storage.read(self._path)
        waited_from = time.monotonic()
        while found is not None and time.monotonic() - waited_from < PATIENCE:
            time.sleep(min(1.0, BEAT / 2))
            now = storage.read(self._path)
            if now is not None and now != found:
                raise PipelineError(
                    f"another run{_holder(now)} is writing to {storage.shown(self._path.parent)}: wait for it, or choose "
                    "another place"
                )
            found = now
        storage.write(self._path, self._content())
        time.sleep(min(1.0, BEAT / 2))
        if not self.is_mine():
            raise PipelineError(f"another run has begun to write to {storage.shown(self._path.parent)}: wait for it")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self.is_mine():
                    return
                self._beats += 1
                storage.write(self._path, self._content())
            except (OSError, PipelineError):
                continue  # the store may answer next time; whether the lease is still ours is asked before publishing

    def is_mine(self) -> bool:
        """Whether the lease in the store is this one."""
        return _is_of(self._path, self.owner)

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        try:
            if self.is_mine():
                storage.remove(self._path)
        except (OSError, PipelineError):
            return  # it is not renewed any more, so the next run takes it over


def _is_of(lease: Path, owner: str) -> bool:
    found = storage.read(lease)
    return found is not None and _owner(found) == owner


def _owner(content: bytes) -> str:
    try:
        return str(json.loads(content)["owner"])
    except (ValueError, KeyError, TypeError):
        return ""


def _holder(content: bytes) -> str:
    try:
        found = json.loads(content)
        return f" (process {found['pid']} on {found['host']})"
    except (ValueError, KeyError, TypeError):
        return ""
