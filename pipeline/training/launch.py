"""Several training processes on this machine: torchrun as a child, whose processes tell this one what they do.

Every process connects to a port on loopback, with a key that is made for the run, and says what it has to say in lines of
JSON: process 0 its steps and warnings, any of them the error that ends it. The connection also tells a process that its parent
is gone: it ends then, and torchrun's own process, which loses its workers, after it. So nothing outlives the parent, however
that ends.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from pipeline.training.grid import TrainingError
from pipeline.training.metrics import StepLog

#: Where the parent listens, the key, and what there is to do (JSON), in the processes' environment.
ADDRESS, KEY, TASK = "MULTISTREAM_TRAIN_ADDRESS", "MULTISTREAM_TRAIN_KEY", "MULTISTREAM_TRAIN_TASK"

_LOOK_SECONDS = 0.5
#: Seconds that the other processes may take to end when one of them has failed.
_END_SECONDS = 5.0
_READ_BYTES = 1 << 16
_SIGNAL = re.compile(rb"Signal (\d+) \(\w+\) received by PID")
_ERROR = re.compile(rb"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception): .+)$", re.MULTILINE)

log = logging.getLogger(__name__)


def launch(module: str, processes: int, task: Mapping[str, Any], progress: Callable[[StepLog], None] | None) -> None:
    """Runs ``python -m module`` in so many processes, as torchrun starts them, and waits for their end.

    ``task``: JSON values, which ``given_task`` gives them. ``progress`` is called, here, for every step of process 0.

    Raises:
        TrainingError: one of them failed, with what it said.
    """
    key = secrets.token_hex(16)
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        environment = {ADDRESS: str(server.getsockname()[1]), KEY: key, TASK: json.dumps(task)}
        child = stack.enter_context(_torchrun(module, processes, environment, output))
        voices = stack.enter_context(_Voices(server, key))
        error = _follow(child, voices, progress)
        if error is None and child.returncode:
            error = _last_words(output, child.returncode)
    if error is not None:
        raise TrainingError(error)


def given_task() -> Any:
    """What the parent gave ``launch`` to do."""
    return json.loads(os.environ[TASK])


@contextmanager
def telling(failures: tuple[type[Exception], ...]) -> Iterator[Callable[[StepLog], None]]:
    """In a process that ``launch`` started: what takes its steps. One of ``failures`` is told and ends the process; so does the
    end of the parent."""
    try:
        connection = socket.create_connection(("127.0.0.1", int(os.environ[ADDRESS])))
        connection.sendall(os.environ[KEY].encode() + b"\n")
    except OSError:
        sys.exit(1)  # the parent is gone already
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()

    def tell(what: str, value: Any) -> None:
        connection.sendall(json.dumps({what: value}).encode() + b"\n")

    if os.environ["RANK"] == "0":
        logging.getLogger("pipeline").addHandler(_Warnings(tell))
    try:
        yield lambda step: tell("step", asdict(step))
    except failures as error:
        tell("error", " ".join(str(error).split()) or type(error).__name__)
        sys.exit(1)


class _Warnings(logging.Handler):
    """Tells warnings to the parent."""

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("warning", record.getMessage())


def _end_with_parent(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)  # the parent says nothing: what comes is its end
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class _Voices:
    """The parent's ends of the connections. Closing them ends the processes."""

    def __init__(self, server: socket.socket, key: str) -> None:
        self._key = key.encode()
        self._selector = selectors.DefaultSelector()
        self._server = server
        self._selector.register(server, selectors.EVENT_READ)
        self._heard: dict[socket.socket, bytes] = {}
        self._known: set[socket.socket] = set()

    def __enter__(self) -> _Voices:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._heard:
            connection.close()
        self._server.close()
        self._selector.close()

    def listen(self, seconds: float) -> list[tuple[str, Any]] | None:
        """What is said in the next seconds, or has been; None where nothing comes at all."""
        said: list[tuple[str, Any]] = []
        chosen_ones = self._selector.select(seconds)
        for chosen, _ in chosen_ones:
            source = cast(socket.socket, chosen.fileobj)
            if source is self._server:
                connection, _ = self._server.accept()
                self._heard[connection] = b""
                self._selector.register(connection, selectors.EVENT_READ)
            else:
                said += self._hear(source)
        return said if chosen_ones else None

    def _hear(self, connection: socket.socket) -> Iterator[tuple[str, Any]]:
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        *lines, rest = (self._heard[connection] + data).split(b"\n")
        self._heard[connection] = rest
        if lines and connection not in self._known:
            if lines.pop(0) == self._key:
                self._known.add(connection)
            else:
                data = b""
        if not data:
            self._selector.unregister(connection)
            del self._heard[connection]
            connection.close()
        if connection in self._known:
            for line in lines:
                yield from json.loads(line).items()


@contextmanager
def _torchrun(
    module: str, processes: int, environment: Mapping[str, str], output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun's process, in a session of its own; it is over at the end of the block."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "--log-dir", os.devnull, "-m", module,
    ]  # fmt: skip
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    given = {"OMP_NUM_THREADS": threads, **os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.Popen(
        command, env=given, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _follow(child: subprocess.Popen[bytes], voices: _Voices, progress: Callable[[StepLog], None] | None) -> str | None:
    """Hears the processes until all are over, or one has failed: the first error that was told."""
    error: str | None = None
    until = float("inf")
    while time.monotonic() < until:
        over = child.poll() is not None  # what was said before that is heard below
        said = voices.listen(0.0 if over else _LOOK_SECONDS)
        if over and said is None:
            break
        for what, value in said or ():
            if what == "step" and progress is not None:
                progress(StepLog(**value))
            elif what == "warning":
                log.warning("%s", value)
            elif what == "error" and error is None:
                error, until = str(value), time.monotonic() + _END_SECONDS
    return error


def _last_words(output: IO[bytes], code: int) -> str:
    """Why torchrun ended, where no process said why."""
    output.seek(0)
    text = output.read()
    if killed := [int(number) for number in _SIGNAL.findall(text)]:
        first = next((one for one in killed if one != signal.SIGTERM), killed[0])  # torchrun ends the others itself
        return (
            f"a training process was killed by signal {first}, if not by hand then most likely for want of memory; "
            "saved states are kept, run again to go on"
        )
    errors = _ERROR.findall(text)
    words = b" ".join(errors[-1].split()).decode(errors="replace") if errors else "it said nothing"
    return f"torchrun ended with code {code}: {words[:300]}"
