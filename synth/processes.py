"""Shards in processes of this machine, each with an engine of its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from pipeline.errors import PipelineError
from synth.config import SynthConfig, VllmOptions
from synth.errors import SynthError
from synth.making import has_own_judge, judge_engine
from synth.run import Usage
from synth.shards import Asked, Shard, Tell, Work, synthesize_shard

GPUS = "CUDA_VISIBLE_DEVICES"
#: Seconds between two looks whether the processes live, and between two words of one of them.
_LOOK, _WORD = 0.5, 0.2
#: Seconds that a process may take to end when it is done.
_LEAVE = 10.0


@dataclass(frozen=True, slots=True)
class _Running:
    process: SpawnProcess
    shard: Shard
    place: str | None


def run_in_processes(todo: Sequence[Shard], directory: Path, work: Work, tell: Tell) -> Iterator[Asked]:
    """The default ``RunShards``: one process per shard, as many at a time as ``places`` says.

    A process ends with this one, however this one ends. Raises what a shard raises, and PipelineError where a process dies.
    """
    waiting, free = deque(todo), deque(places(work.config, len(todo)))
    running: dict[Connection, _Running] = {}
    try:
        while waiting or running:
            while waiting and free:
                connection, started = _start(waiting.popleft(), directory, work, free.popleft())
                running[connection] = started
            ready = wait(list(running), _LOOK)
            for connection in [one for one in running if one in ready or not running[one].process.is_alive()]:
                asked = _listen(connection, running[connection], tell)
                if asked is not None:
                    ended = running.pop(connection)
                    ended.process.join(_LEAVE)
                    _end(ended.process, connection)
                    free.append(ended.place)
                    yield asked
    finally:
        for connection, one in running.items():
            _end(one.process, connection)


def places(config: SynthConfig, shards: int) -> list[str | None]:
    """The GPUs that each of the processes sees that run at the same time (None: all): one group of
    ``tensor_parallel_size`` after the other. An endpoint is asked by all shards at once, unless ``at_once`` says otherwise."""
    asked = [config.engine, *([judge_engine(config)[1]] if has_own_judge(config) else [])]
    options = next((one for one in asked if isinstance(one, VllmOptions)), config.engine)
    if not isinstance(options, VllmOptions):
        return [None] * min(options.at_once or shards, shards)
    gpus, size = visible_gpus(), options.tensor_parallel_size
    groups = [",".join(gpus[at : at + size]) for at in range(0, len(gpus) - size + 1, size)]
    count = min(options.at_once or max(len(groups), 1), shards)
    return [groups[number % len(groups)] if groups else None for number in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would show to a process of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get(GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    if util.find_spec("torch") is None:
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _start(shard: Shard, directory: Path, work: Work, place: str | None) -> tuple[Connection, _Running]:
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_ask, args=(there, shard, directory, work, place), name=f"synthesis shard {shard.number}"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C ends it by its parent alone
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return here, _Running(process, shard, place)


def _listen(connection: Connection, one: _Running, tell: Tell) -> Asked | None:
    """Hears all that a process has to say by now; what its shard came to, if that was the last. Raises its error."""
    alive = one.process.is_alive()
    while connection.poll():
        try:
            said = connection.recv()
        except (EOFError, OSError):
            break
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Asked):
            return said
        tell(one.shard.number, said)
    else:
        if alive:
            return None
    one.process.join(_LOOK)
    code = one.process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    raise PipelineError(
        f"the process of synthesis shard {one.shard.number} {how}, if not by hand then most likely for want of memory; what "
        "it had stored is kept, run again to go on"
    )


def _end(process: SpawnProcess, connection: Connection) -> None:
    """Ends a process and all that it has started: every answer that it had is stored."""
    connection.close()
    assert process.pid is not None
    with suppress(ProcessLookupError):  # nobody is left of its group, or it has not made it yet
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join()


def _ask(connection: Connection, shard: Shard, directory: Path, work: Work, place: str | None) -> None:
    """The work of a process."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if place is not None:
        os.environ[GPUS] = place
    told = 0.0

    def tell(_: int, usage: Usage) -> None:
        nonlocal told
        if time.monotonic() - told >= _WORD:
            told = time.monotonic()
            connection.send(usage)

    try:
        connection.send(synthesize_shard(shard, directory, work, tell))
    except (SynthError, PipelineError, OSError) as error:
        connection.send(error)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
