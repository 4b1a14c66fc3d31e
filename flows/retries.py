"""What is tried again, and when: errors that may pass. What a person must mend is never tried again."""

from __future__ import annotations

import errno
import random
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import httpx
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from pipeline.errors import PipelineError
from pipeline.faults import verdict

#: New tries after the first one.
RETRIES = 4

#: Seconds before the first new try, and up to which share of itself each wait is longer, by chance.
FIRST_WAIT, JITTER = 1.0, 0.5

#: Errors of the file system that a new try does not mend.
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP)

#: What the runners raise where a worker was lost, by module: none of them is imported unless it runs.
_LOST = {
    "ray.exceptions": (
        "WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "RayActorError", "ObjectLostError",
        "OutOfMemoryError",
    ),
    "distributed.scheduler": ("KilledWorker",),
}  # fmt: skip


def waits() -> list[float]:
    """Seconds before each new try: twice as many each time, and by chance more, so that not all come back at once.

    Prefect 3.7 takes ``retry_jitter_factor`` and does not use it, so the chance is ours.
    """
    return [wait * random.uniform(1.0, 1.0 + JITTER) for wait in exponential_backoff(FIRST_WAIT)(RETRIES)]


def lost_worker() -> tuple[type[Exception], ...]:
    """What Ray or Dask raise where a worker was preempted, killed or lost with its node."""
    return tuple(
        getattr(sys.modules[module], name) for module, names in _LOST.items() if module in sys.modules for name in names
    )


def may_pass(error: BaseException) -> bool:
    """Whether a new try may do better: a disk, a network or a worker that is gone; never true of a PipelineError."""
    if isinstance(error, (PipelineError, *_LASTING)):
        return False
    if isinstance(error, OSError):
        known = verdict(error)  # the Hub's 404 is an OSError too
        return error.errno not in _LASTING_CODES if known is None else known
    return isinstance(error, (BrokenProcessPool, httpx.TransportError, *lost_worker()))


def is_worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """``may_pass`` of a failed task's error, as Prefect asks."""
    return isinstance(state.data, BaseException) and may_pass(state.data)
