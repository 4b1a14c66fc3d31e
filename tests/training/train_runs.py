"""Training in processes of its own, for tests that kill it or run several at once.

A fork server imports this once, so that a run starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from pipeline.training.grid import TrainingError
from pipeline.training.loop import TrainConfig, train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.train_runs"])
REFUSED = 3


@dataclass(frozen=True)
class Moment:
    """When a run kills itself: before an audited event (``os.rename``, ``step`` for the end of a step) on a matching path."""

    event: str
    matching: str

    def arm(self) -> None:
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == self.event and arguments and self.matching in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)


def run_train(data: Path, model: Path, out: Path, config: TrainConfig, moment: Moment | None, message: Path) -> None:
    torch.set_num_threads(1)
    if moment is not None:
        moment.arm()
    try:
        train(data, model, out, config, lambda log: sys.audit("step", f"{log.step}."))
    except TrainingError as error:
        message.write_text(str(error))
        sys.exit(REFUSED)


def in_process(data: Path, model: Path, out: Path, config: TrainConfig, moment: Moment | None = None) -> int:
    """Trains in a process; returns its exit code, −9 if it was killed."""
    (code,) = in_processes(1, run_train, data, model, out, config, moment, out.parent / "message")
    return code


def in_processes(count: int, target: Callable[..., None], *arguments: Any, timeout: float = 120) -> list[int]:
    """Calls ``target`` in processes that find each other as those of torchrun do; returns their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes: list[BaseProcess] = [
        CONTEXT.Process(target=_as_rank, args=(rank, count, port, target, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [int(process.exitcode or 0) for process in processes]


def _as_rank(rank: int, count: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    if count > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
    target(*arguments)
