"""Patience with the Hub: what may go well another time is asked again, and nothing is waited for without end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.errors import ConfigError

T = TypeVar("T")

#: Seconds to wait before asking again; a server that names a time is obeyed up to the longest.
WAITS, _LONGEST_WAIT = (1.0, 2.0, 4.0, 8.0), 120.0

#: The variable that says after how many seconds without a byte a connection is given up, and what it is without that.
STALL, _STALL = "MULTISTREAM_HUB_TIMEOUT", 120.0

#: Seconds: to open a connection; without any answer until a dry run does without the Hub, and the same for a push in stalls.
_CONNECT, _BRIEF, _STALLS = 20.0, 10.0, 5

_PASSING = frozenset({408, 429, 500, 502, 503, 504})

_LOG = logging.getLogger("huggingface_hub.multistream")


@contextmanager
def limits(brief: bool) -> Iterator[None]:
    """Inside, every request of ``huggingface_hub`` has an end: its own client waits for ever by default.

    A connection over which no byte comes or goes is given up, and asked for anew by whoever asks again. TimeoutError is
    raised instead of another request if nothing has been answered for long; with ``brief`` after seconds, for a dry run.
    Uploads are not counted in that: a large one may take its time. Raises ConfigError for a variable that is no time.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    stall = _stall()
    patience = min(stall, _BRIEF) if brief else stall * _STALLS
    stall = min(stall, _BRIEF) if brief else stall
    unanswered: float | None = None

    def before(request: Any) -> None:
        nonlocal unanswered
        if request.method != "PUT":
            now = time.monotonic()
            unanswered = now if unanswered is None else unanswered
            if now - unanswered >= patience:
                raise TimeoutError(f"the Hub has not answered for {now - unanswered:.0f} s")
        given = request.extensions.get("timeout", {})
        ends = {"connect": min(stall, _CONNECT), "read": stall, "write": stall}
        request.extensions["timeout"] = {**given, **{k: v for k, v in ends.items() if given.get(k) is None}}

    def after(response: Any) -> None:
        nonlocal unanswered
        if "json" in response.headers.get("Content-Type", ""):
            response.read()  # an answer of which only the beginning comes is none
        unanswered = None

    def client() -> Any:
        made = default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {
            "request": [*hooks.get("request", ()), before],
            "response": [*hooks.get("response", ()), after],
        }
        return made

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def _stall() -> float:
    text = os.environ.get(STALL, "")
    try:
        seconds = float(text) if text else _STALL
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{STALL}={text!r} is no number of seconds")
    return seconds


def passes(error: BaseException) -> bool:
    """Whether what went wrong may go well another time: no answer, a slow-down, a server's error."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, network_error()) or (
        isinstance(error, ConnectionError) and not isinstance(error, OfflineModeIsEnabled)
    )


def patiently(ask: Callable[[], T]) -> T:
    """Asks, and asks again after a while what may go well another time, and says so. For what may be done twice."""
    for wait in WAITS:
        try:
            return ask()
        except (OSError, network_error()) as error:
            if not passes(error) or _is_unreachable(error):
                raise
            pause(error, wait)
    return ask()


def pause(error: BaseException, otherwise: float) -> None:
    """Waits after an error as long as the server asked for, else ``otherwise`` seconds, and says why."""
    from huggingface_hub.errors import HfHubHTTPError

    named = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    seconds = min(float(named), _LONGEST_WAIT) if named.isdecimal() else otherwise
    _LOG.warning("%s: asking the Hub again in %g s", error, seconds)
    time.sleep(seconds)


def _is_unreachable(error: BaseException) -> bool:
    return type(error).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")


def network_error() -> type[Exception]:
    """The root of what the HTTP client of ``huggingface_hub`` raises, whichever that is."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]
