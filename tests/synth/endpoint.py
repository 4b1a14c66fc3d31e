"""A server on loopback that speaks chat completions, deterministically, and can be told to fail.

In a test: ``with Endpoint() as endpoint: … endpoint.url``. In a process of its own: ``python endpoint.py --port N --log FILE``
prints its URL, and answers until its standard input ends.

Control: ``endpoint.fail(...)``. Log: ``endpoint.answered``, a count by :func:`fingerprint` of the body, and one line per
answer in the file ``log``, written before the answer is sent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Reply = Callable[[dict[str, Any]], str]


def fingerprint(body: dict[str, Any]) -> str:
    """What makes two requests the same."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def by_hash(body: dict[str, Any]) -> str:
    """A text that is a function of messages and seed."""
    asked = json.dumps([body["messages"], body.get("seed")], sort_keys=True)
    return f"said {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


@dataclass
class Fault:
    """What to do instead of answering: send ``status`` (with ``headers`` and ``body``), ``cut`` the connection (before
    or amid the answer), or ``hang``. ``times`` requests, or None for all; of them every ``every``-th.
    ``after``: how many are spared first. ``seed``: of the requests that it is for, None for all."""

    status: int = 0
    body: str = '{"error": {"message": "told to fail", "type": "test", "param": null, "code": null}}'
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    hang: bool = False
    times: int | None = 1
    every: int = 1
    after: int = 0
    seed: int | None = None
    seen: int = 0

    def strikes(self, body: dict[str, Any]) -> bool:
        if self.times == 0 or self.seed not in (None, body.get("seed")):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.seen - self.after) % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Endpoint:
    """The server. ``seen`` counts every request, ``most`` is how many were in it at once, ``dropped`` how many clients
    went away while it hung or thought. ``delay``: seconds to think."""

    def __init__(self, reply: Reply = by_hash, log: Path | None = None, delay: float = 0.0, port: int = 0) -> None:
        self.reply, self.delay = reply, delay
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.seen = self.now = self.most = self.dropped = 0
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self._log = log.open("a", encoding="utf-8") if log else None
        endpoint = self

        class Handler(_Handler):
            server_endpoint = endpoint

        self._server = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def fail(self, **fault: Any) -> Fault:
        """Adds a fault; the first that strikes counts."""
        self.faults.append(Fault(**fault))
        return self.faults[-1]

    def book(self, body: dict[str, Any]) -> None:
        with self.lock:
            name = fingerprint(body)
            self.answered[name] += 1
            if self._log:
                self._log.write(name + "\n")
                self._log.flush()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        if self._log:
            self._log.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our errors."""


class _Handler(BaseHTTPRequestHandler):
    server_endpoint: Endpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        endpoint = self.server_endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.seen += 1
            endpoint.now += 1
            endpoint.most = max(endpoint.most, endpoint.now)
            endpoint.bodies.append(body)
            endpoint.times.append(time.monotonic())
            endpoint.keys.append(self.headers["Authorization"])
            endpoint.paths.append(self.path)
            fault = next((f for f in endpoint.faults if f.strikes(body)), None)
        try:
            self._answer(endpoint, body, fault)
        finally:
            with endpoint.lock:
                endpoint.now -= 1

    def _answer(self, endpoint: Endpoint, body: dict[str, Any], fault: Fault | None) -> None:
        if fault is not None and fault.hang:
            self._wait(endpoint, 3600.0)
        elif fault is not None and fault.cut:
            if fault.cut == "amid":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
        elif fault is not None:
            self._send(fault.status, fault.body, fault.headers)
            return
        elif self._wait(endpoint, endpoint.delay):
            text = endpoint.reply(body)
            endpoint.book(body)
            self._send(200, json.dumps(completion(body, text)), {})
            return
        self.close_connection = True

    def _wait(self, endpoint: Endpoint, seconds: float) -> bool:
        """Thinks; False where the client goes away meanwhile, or the server ends."""
        until = time.monotonic() + seconds
        self.connection.setblocking(False)
        try:
            while (left := until - time.monotonic()) > 0:
                if endpoint.ending.wait(min(left, 0.02)):
                    return False
                try:
                    gone = not self.connection.recv(1)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    gone = True
                if gone:
                    with endpoint.lock:
                        endpoint.dropped += 1
                    return False
            return True
        finally:
            self.connection.setblocking(True)

    def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A chat completion as servers send it; a word is a token."""
    asked = sum(len(message["content"].split()) for message in body["messages"])
    said = text.split()
    cut = len(said) > body["max_tokens"]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(said[: body["max_tokens"]])},
                "finish_reason": "length" if cut else "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": min(len(said), body["max_tokens"]),
            "total_tokens": asked + min(len(said), body["max_tokens"]),
            "prompt_tokens_details": {"cached_tokens": asked // 2},
        },
    }


def main() -> None:
    """Serves until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    with Endpoint(log=options.log, delay=options.delay, port=options.port) as endpoint:
        print(endpoint.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
