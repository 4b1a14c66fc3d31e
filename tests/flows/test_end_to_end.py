"""A real server, a real worker and the commands of docs/orchestration.md, all on the loopback interface."""

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
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FULL_NAME = "build-multistream-dataset/local"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, which does not outlive the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=CHECKOUT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for_server(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    pytest.fail(f"the server did not start in {seconds} s:\n{log.read_text()}")


@pytest.mark.slow
def test_deploy_worker_and_run_build_a_data_set(write_config: Callable[..., Path], tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        "DO_NOT_TRACK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }

    def call(*command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def deployed(delete: bool = False) -> dict[str, Any]:
        """What the server knows of the deployment, less ids, times and the worker's doings; it may be deleted then."""
        with urllib.request.urlopen(f"{url}/deployments/name/{FULL_NAME}", timeout=10) as answer:
            value = json.load(answer)
        if delete:
            request = urllib.request.Request(f"{url}/deployments/{value['id']}", method="DELETE")
            urllib.request.urlopen(request, timeout=10).close()
        changing = {"id", "created", "updated", "status", "last_polled", "version_id", "updated_by", "created_by"}
        return {key: found for key, found in value.items() if key not in changing}

    server_log, worker_log, out = tmp_path / "server.log", tmp_path / "worker.log", tmp_path / "out"
    serve = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with running([str(BIN / serve[0]), *serve[1:]], env, server_log) as server:
        wait_for_server(url, server, server_log)

        done = call("multistream", "deploy")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"made work pool multistream (type process) on {url}",
            f"registered {FULL_NAME}, working directory {CHECKOUT}",
            "start a worker:  prefect worker start --pool multistream",
            f"run it:          prefect deployment run {FULL_NAME} --watch",
        ]
        ours = deployed(delete=True)
        work = [str(BIN / "prefect"), "worker", "start", "--pool", "multistream"]
        with running(work, env, worker_log):
            done = call("prefect", "--no-prompt", "deploy", "--name", "local")
            assert done.returncode == 0, done.stdout + done.stderr
            assert deployed() == ours

            done = call("prefect", "deployment", "run", "build-multistream-dataset")
            assert done.returncode != 0
            assert "Expected format: <FLOW_NAME>/<DEPLOYMENT_NAME>" in done.stdout + done.stderr

            watch = ("prefect", "deployment", "run", FULL_NAME, "--watch")
            config = f"config={write_config()}"
            done = call(*watch, "-p", config, "-p", f"out={out}", timeout=90)
            assert done.returncode == 0, done.stdout + done.stderr + worker_log.read_text()
            assert "Flow run finished successfully in 'Completed'" in done.stdout
            assert "convert: 72 in, 72 out, 0 rejected" in done.stdout

            done = call(*watch, "-p", config, "-p", f"out={out}", "-p", 'overrides=["sed=1"]')
            assert done.returncode == 1
            assert "Flow run finished in state 'Failed'" in done.stdout + done.stderr
            assert "unknown key 'sed' (did you mean 'seed'?)" in done.stdout
    for stage in ("ingest", "convert", "dataset"):
        assert (out / stage / "manifest.json").is_file()
    assert (out / "dataset" / "README.md").is_file()
    assert list((out / "dataset" / "train").glob("records-*.parquet"))
