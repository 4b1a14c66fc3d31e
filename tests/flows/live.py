"""A Prefect server, a worker and commands, as people start them, on the loopback interface."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FULL_NAME = "build-multistream-dataset/local"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, found: Callable[[], Any], seconds: float) -> Any:
    """What ``found`` gives as soon as it is true; the test fails if that takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s for {what}")


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started, and they."""
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def kill(processes: list[psutil.Process]) -> None:
    """Kills processes at once, by their ids."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, which does not outlive the block, nor does what it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=CHECKOUT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        started = family(process.pid)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        kill(started)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@dataclass
class Live:
    """A running server with a worker of the work pool ``multistream``. ``deployed``: what ``multistream deploy`` said."""

    url: str
    env: dict[str, str]
    folder: Path
    deployed: list[str] = field(default_factory=list)

    def call(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(
        self, name: str, *options: str, timeout: float = 120, **parameters: Any
    ) -> subprocess.CompletedProcess[str]:
        """``prefect deployment run``."""
        given = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
        return self.call("prefect", "deployment", "run", name, *options, *given, timeout=timeout)

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """The server's answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def artifact(self, key: str) -> Any:
        return self.ask(f"/artifacts/{key}/latest")

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()


@contextmanager
def serving(folder: Path) -> Iterator[Live]:
    """Starts all of it. Takes some 30 s."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    live = Live(url, env, folder)
    serve = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with running(serve, env, folder / "server.log") as server:

        def answers() -> bool:
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        wait_for("the server", answers, 90)
        done = live.call("multistream", "deploy")
        assert done.returncode == 0, done.stderr
        live.deployed = done.stdout.splitlines()
        work = [str(BIN / "prefect"), "worker", "start", "--pool", "multistream"]
        with running(work, env, folder / "worker.log"):
            yield live
