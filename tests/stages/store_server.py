"""An object store on loopback: moto's application behind a server, and a door in front of it that can be told to fail."""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "bucket"

_BODY = "<?xml version='1.0'?><Error><Code>{name}</Code><Message>{name}</Message></Error>"


class Door:
    """Lets requests through to moto, but those that are to fail. ``asked``: how many there were, by method."""

    def __init__(self, behind: Callable[..., Iterable[bytes]]) -> None:
        self.asked: Counter[str] = Counter()
        self.url = ""
        self._behind = behind
        self._faults: list[tuple[str, int, str]] = []
        self._lock = threading.Lock()

    def fail(self, method: str, code: int, name: str, times: int) -> None:
        """The next ``times`` requests of a method get this status and error code of S3."""
        with self._lock:
            self._faults += [(method, code, name)] * times

    def heal(self) -> int:
        """No request fails any more. How many had still been to."""
        with self._lock:
            left, self._faults = len(self._faults), []
        return left

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        with self._lock:
            self.asked[method] += 1
            fault = next((f for f in self._faults if f[0] == method), None)
            if fault is not None:
                self._faults.remove(fault)
        if fault is None:
            return self._behind(environ, start_response)
        body = b"" if method == "HEAD" else _BODY.format(name=fault[2]).encode()
        start_response(
            f"{fault[1]} {fault[2]}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        )
        return [body]


@contextmanager
def store() -> Iterator[Door]:
    """A store with one bucket, until the block ends."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from moto.server import DomainDispatcherApplication, create_backend_app
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=MotoRequestHandler)
    door.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{door.url}/{BUCKET}", method="PUT")):
            yield door
    finally:
        server.shutdown()
        server.server_close()
        S3FileSystem.clear_instance_cache()  # they remember where this server was


def environment(door: Door) -> dict[str, str]:
    """What the clients of S3 read."""
    return {
        "AWS_ENDPOINT_URL": door.url,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
