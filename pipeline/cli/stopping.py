"""SIGTERM and SIGHUP go the way of Ctrl-C: what is under way is given up in order, and the command ends with one line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(SystemExit):
    """A signal asked the command to end; ``code``: the exit code that shells know it by, 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@contextmanager
def stoppable() -> Iterator[None]:
    """The signals raise Stopped in the block, once; what is ignored (``nohup``) or handled already stays so.

    Does nothing outside of the main thread, where Python runs no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()
    terminals = [number for number in (1, 2) if os.isatty(number)]
    taken = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for one in taken:
            signal.signal(one, signal.SIG_IGN)  # a shell that ends sends SIGHUP several times
        _let_go(terminals)
        raise Stopped(number)

    for one in taken:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in taken:
            if signal.getsignal(one) is stop:
                signal.signal(one, signal.SIG_DFL)


def _let_go(terminals: list[int]) -> None:
    """Turns outputs to a terminal that has been closed to nowhere: writing to them would fail."""
    gone = [number for number in terminals if not os.isatty(number)]
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in gone:
            os.dup2(nowhere, number)
        os.close(nowhere)
