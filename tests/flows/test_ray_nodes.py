"""Two Ray nodes on the loopback interface and one Prefect server: the bytes of a local build, also where a node is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from pipeline import folders, storage
from pipeline.build import build
from pipeline.cli.board import Board
from pipeline.config import load_config
from pipeline.manifest import sha256_file
from tests.flows.live import BIN, CHECKOUT, Live, family, free_port, kill, running, wait_for
from tests.stages.store_server import BUCKET, environment, store
from tests.synth.endpoint import Endpoint
from tests.synth.scripted import speak

pytest.importorskip("prefect_ray")
pytestmark = pytest.mark.slow

WriteConfig = Callable[..., Path]


def parquet_digests(out: Path) -> dict[str, str]:
    return {p.relative_to(out).as_posix(): sha256_file(p) for p in sorted(out.rglob("*.parquet"))}


@dataclass
class Cluster:
    """Two nodes of one core each, the second with what Ray takes for a GPU.

    ``temporary``: what Ray writes, below a path that is short enough for its sockets.
    """

    address: str
    temporary: Path
    second: Popen[bytes]


@contextmanager
def two_nodes(env: dict[str, str], apart: Path | None = None) -> Iterator[Cluster]:
    """``apart``: a folder that the second node has a disk of its own for, where the system lets us mount one."""
    temporary = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    port = free_port()
    address = f"127.0.0.1:{port}"
    env = {**env, "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    start = [str(BIN / "ray"), "start", "--block", "--num-cpus", "1", "--object-store-memory", "100000000"]
    start += [
        "--node-ip-address",
        "127.0.0.1",
        "--disable-usage-stats",
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
    ]
    first = [*start, "--head", "--port", str(port), "--temp-dir", str(temporary), "--include-dashboard=false"]
    first += ["--ray-client-server-port", str(free_port())]
    try:
        with running(first, env, temporary / "first.log") as head:
            wait_for("the head", lambda: "--block" in said(temporary / "first.log", head), 60)
            joining = [*start, "--address", address, "--num-gpus", "1"]
            with running([*with_own_disk(apart), *joining], env, temporary / "second.log") as second:
                wait_for("the second node", lambda: "--block" in said(temporary / "second.log", second), 60)
                yield Cluster(address, temporary, second)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def with_own_disk(folder: Path | None) -> list[str]:
    """What runs a command with another file system at a folder; nothing where mounting is refused."""
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(folder)]
    refused = subprocess.run([*mount, "true"], capture_output=True, check=False).returncode
    return [] if refused else mount


def said(log: Path, process: Popen[bytes]) -> str:
    text = log.read_text()
    assert process.poll() is None, text
    return text


def pid_of(temporary: Path) -> int:
    """Whose temporary file it is: publish puts the process into its name."""
    return int(temporary.name.rsplit(".", 2)[1].split("-")[0])


def test_two_nodes_write_the_bytes_of_one_machine_and_a_lost_node_loses_nothing(
    live: Live, write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out, whole = write_config(shard_units=90, copies=20), tmp_path / "out", tmp_path / "whole"
    build(load_config(config), config.parent, whole, Board(), workers=2)
    with two_nodes(live.env) as cluster:
        done = live.call(
            *("multistream", "deploy", "--runner", "ray", "--address", cluster.address, "--config", str(config)),
        )
        assert done.returncode == 0, done.stderr
        assert f"registered build-multistream-dataset/ray, working directory {CHECKOUT}" in done.stdout

        done = live.run("build-multistream-dataset/ray", "--watch", out=out)
        assert done.returncode == 0, done.stdout + done.stderr + live.log()
        assert parquet_digests(out) == parquet_digests(whole)
        assert_synthesis_runs_on_the_node_with_a_gpu(live, cluster, config, out)
        shutil.rmtree(out)

        done = live.run("build-multistream-dataset/ray", out=out)
        assert done.returncode == 0, done.stdout + done.stderr
        [run] = [word for word in done.stdout.split() if word.count("-") == 4 and len(word) == 36]

        def at_work() -> bool:
            """Whether the second node is in the middle of a shard, and some are finished."""
            node = {process.pid for process in family(cluster.second.pid)}
            begun = {pid_of(path) for path in (out / folders.CONVERT).glob(".*.tmp")}
            return bool(begun & node) and len(list((out / folders.CONVERT / "shards").glob("*.json"))) >= 2

        wait_for("the second node's work", at_work, 60)
        kill(family(cluster.second.pid))
        assert not (out / folders.CONVERT / "manifest.json").exists(), (
            "the conversion was over before the node was killed"
        )
        state = wait_for("the run", lambda: ended(live, run), 120)
        assert state["type"] == "COMPLETED", state
    assert parquet_digests(out) == parquet_digests(whole)
    assert not list(out.rglob("*.tmp"))
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(cluster.temporary) in " ".join(p.info["cmdline"] or ())
    ]


#: The flow in a process whose environment names the store, which the worker's does not.
FLOW = """
import sys
from flows.build import build_multistream_dataset
state = build_multistream_dataset(
    config=sys.argv[1], out=sys.argv[2], runner="ray", address=sys.argv[3], return_state=True
)
sys.exit(0 if state.is_completed() else state.message)
"""


def test_two_nodes_that_share_only_an_object_store_write_the_bytes_of_one_machine(
    live: Live, write_config: WriteConfig, tmp_path: Path
) -> None:
    config, whole, work = write_config(shard_units=30), tmp_path / "whole", tmp_path / "work"
    build(load_config(config), config.parent, whole, Board(), workers=2)
    with store() as door:
        env = {**live.env, **environment(door), storage.WORK: str(work)}
        with two_nodes(env, apart=work) as cluster:
            url = f"s3://{BUCKET}/ray"
            done = subprocess.run(
                [sys.executable, "-c", FLOW, str(config), url, cluster.address],
                env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=180, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        fetched = subprocess.run(
            [str(BIN / "multistream"), "validate", url, "--json"],
            env={**env, storage.WORK: str(tmp_path / "third")}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert fetched.returncode == 0, fetched.stderr
        kept = stored_digests(env, url)
    assert kept == parquet_digests(whole)


def stored_digests(env: dict[str, str], url: str) -> dict[str, str]:
    """sha256 of every table that the store has below a URL."""
    import s3fs

    system = s3fs.S3FileSystem(
        key=env["AWS_ACCESS_KEY_ID"], secret=env["AWS_SECRET_ACCESS_KEY"], endpoint_url=env["AWS_ENDPOINT_URL"]
    )
    root = url.removeprefix("s3://")
    names = [name for name in system.find(root) if name.endswith(".parquet")]
    return {name.removeprefix(f"{root}/"): hashlib.sha256(system.cat_file(name)).hexdigest() for name in names}


def ended(live: Live, run: str) -> dict[str, str] | None:
    state: dict[str, str] = live.ask(f"/flow_runs/{run}")["state"]
    return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def assert_synthesis_runs_on_the_node_with_a_gpu(live: Live, cluster: Cluster, config: Path, out: Path) -> None:
    there: list[bool] = []

    def reply(body: dict[str, Any]) -> Any:
        there.append(any("ray::synth" in " ".join(process.cmdline()) for process in family(cluster.second.pid)))
        return speak(body)

    with Endpoint(reply=reply) as endpoint:
        engine = {"kind": "openai", "url": endpoint.url}
        scenarios = [str(CHECKOUT / "examples" / "scenarios" / "*.yaml")]
        synth = {"scenarios": scenarios, "samples": 2, "model": "scripted", "generator": "concurrent", "engine": engine}
        overrides = json.dumps([f"synth={json.dumps(synth)}"])
        done = live.call("multistream", "deploy", "--stage", "synth", "--runner", "ray", "--gpus", "1", "--name", "gpu")
        assert done.returncode == 0, done.stderr
        done = live.run(
            *("multistream-synth/gpu", "--watch"), config=config, out=out, overrides=overrides, address=cluster.address
        )
        assert done.returncode == 0, done.stdout + done.stderr + live.log()
    assert there
    assert all(there)
