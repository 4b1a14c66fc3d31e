"""Work on shards in processes of this machine, a shard at a time each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from operator import itemgetter
from typing import Any, Generic, TypeVar

import pyarrow as pa

from pipeline import storage
from pipeline.storage import Mount

#: After so many shards another process takes over: starting one costs about as much as half a shard.
SHARDS_OF_A_PROCESS = 32

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    todo: Sequence[T], work: Callable[[T], R], prepare: Callable[..., None], given: tuple[Any, ...], workers: int = 0
) -> Iterator[tuple[T, R]]:
    """What ``work`` makes of each item, as it is done. ``work`` and ``prepare`` are functions of modules.

    ``prepare(*given)`` is called once in each process. ``workers`` 0: a process per core. Where one process is enough, it is
    this one. Raises what ``work`` raises, and BrokenProcessPool where a process dies.
    """
    processes = min(workers or os.cpu_count() or 1, len(todo))
    if processes <= 1:
        if todo:
            prepare(*given)
        for item in todo:
            yield item, work(item)
        return
    waiting = deque(enumerate(todo))
    lanes: list[_Lane[T, R]] = [_Lane(work, prepare, given) for _ in range(processes)]
    under_way: dict[Future[R], tuple[_Lane[T, R], int, T]] = {}
    try:
        idle = list(lanes)
        while waiting or under_way:
            for lane in idle[: len(waiting)]:
                number, item = waiting.popleft()
                under_way[lane.submit(item)] = (lane, number, item)
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            ended = [(future, *under_way.pop(future)) for future in finished]
            idle = [lane for _, lane, _, _ in ended]
            for future, _, _, item in sorted(ended, key=itemgetter(2)):
                yield item, future.result()
    finally:
        for lane in lanes:
            lane.close()


class _Lane(Generic[T, R]):
    """A process that works on one shard after the other, and is replaced by a new one after so many: what a process keeps of
    its past (caches, memory in pieces) is bounded."""

    def __init__(self, work: Callable[[T], R], prepare: Callable[..., None], given: tuple[Any, ...]) -> None:
        self._work, self._prepare, self._given = work, prepare, given
        self._pool: ProcessPoolExecutor | None = None
        self._left = 0

    def submit(self, item: T) -> Future[R]:
        """Begins a shard."""
        if self._left == 0:
            self.close()
            given = (storage.mounts(), self._prepare, self._given)
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), _start, given)
            self._left = SHARDS_OF_A_PROCESS
        assert self._pool is not None
        self._left -= 1
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for the process that starts here
        try:
            return self._pool.submit(self._work, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Waits for the shard under way, and ends the process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start(mounted: Sequence[Mount], prepare: Callable[..., None], given: tuple[Any, ...]) -> None:
    """Prepares a process that Ctrl-C, which a terminal sends to all of a group, ends without a word; of a terminal that is
    closed its parent hears, which ends it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    start_process(mounted)
    prepare(*given)


def start_process(mounted: Sequence[Mount] = ()) -> None:
    """A process of one thread that ends when its parent is gone. ``mounted``: what is mounted in the process that gives the
    work (``storage.mounts``)."""
    storage.mount(*mounted)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pa.set_cpu_count(1)


def _end_with_parent() -> None:
    """A killed build must leave no process behind that goes on writing shards."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
