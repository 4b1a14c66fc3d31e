"""Throughput of conversion on two workers against one.

    .venv/bin/python benchmarks/scale.py [--runner local|ray] [--shards N] [--repeats N] [--corpora NAME…] [--save FILE]

Every shard is the same records with other ids, so all are equal work. Tokenizer threads are off for all runs
(``TOKENIZERS_PARALLELISM=false``). Each run is a process of its own that converts the same ingested shards into an empty
folder; runs with one worker and with two alternate, and the medians are compared.

Start-up is left out. A run's clock is that of its shard notes, which are written as shards are done. It starts when as
many shards are done as there are workers, so when every worker is up and warm, and ends with the last shard; the rate is
that of the shards between. What the driving process does beside its workers is in it, on the same cores.

``--runner local`` is the command line's own pool of processes. ``--runner ray`` is the flow ``convert`` of ``flows/``
with one Prefect server and as many Ray nodes of one core as there are workers, all started here, on loopback, with as
many shards out at once as the flow asks for by itself; beside it stands one worker without Ray and Prefect. The shards
of all runs must have the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import ROOT, machine
from benchmarks.memory import SMALL, originals, write_copies
from pipeline.folders import CONVERT, INGEST
from pipeline.manifest import need_manifest

BIN = Path(sys.executable).parent

#: Seconds that a server or a node may take to come up.
PATIENCE = 180.0

#: A way to convert: which runner, how many workers.
Arm = tuple[str, int]


class Quiet:
    """A watcher of builds that says nothing."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def progress(self, done: int, what: str) -> None:
        """So many more units are done."""

    def finished(self, result: Any) -> None:
        """A stage is done."""


def prepare(found: dict[str, list[dict[str, Any]]], shards: int, scratch: Path) -> Path:
    """Writes the corpus, ingests it into ``scratch/ingest``, a shard per copy, and gives the configuration."""
    from pipeline.build import run_ingest
    from pipeline.config import load_config

    copy = sum(map(len, found.values()))
    write_copies(found, scratch / "corpus", copy * shards)
    config = scratch / "config.yaml"
    config.write_text(
        f"name: scale\nsources: [{{path: corpus}}]\ningest: {{shard_units: {copy}, shard_bytes: {1 << 30}}}\n"
        "convert: {max_rejected_fraction: 1.0}\n"
    )
    ingested = run_ingest(load_config(config), scratch, scratch, False, Quiet())
    if len(ingested.manifest.paths(ingested.directory, "units-")) != shards:
        sys.exit("the copies did not become a shard each")
    return config


def child(config: Path, out: Path, runner: str, workers: int, address: str | None) -> None:
    """One conversion of what lies ingested in ``out``."""
    if runner == "local":
        from pipeline.build import run_convert
        from pipeline.config import load_config
        from pipeline.manifest import Result

        ingested = Result(out / INGEST, need_manifest(out / INGEST), skipped=True)
        run_convert(load_config(config), out, ingested, workers, False, Quiet())
        return
    from flows.stages import convert

    convert(config=str(config), out=str(out), runner=runner, address=address)


def measure(arm: Arm, config: Path, scratch: Path, env: dict[str, str]) -> dict[str, Any]:
    """One run: shards, units and tokens per second of what came after the first shard of each worker."""
    runner, workers = arm
    out = scratch / "out"
    shutil.copytree(scratch / INGEST, out / INGEST)
    with ExitStack() as stack:
        address = stack.enter_context(ray_nodes(workers, scratch)) if runner == "ray" else None
        command = [sys.executable, str(Path(__file__)), "--child", str(config), str(out), runner, str(workers)]
        started = time.perf_counter()
        with (scratch / "child.log").open("wb") as log:
            running = subprocess.Popen([*command, *filter(None, [address])], cwd=ROOT, env=env, stdout=log, stderr=log)
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - started
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            sys.exit((scratch / "child.log").read_text())
    done = sorted(note.stat().st_mtime for note in (out / CONVERT / "shards").glob("*.json"))
    manifest = need_manifest(out / CONVERT)
    share = (len(done) - workers) / len(done)
    window = done[-1] - done[workers - 1]
    result = {
        "runner": runner,
        "workers": workers,
        "window_seconds": round(window, 3),
        "units_per_second": round(manifest.counters["units"] * share / window, 1),
        "tokens_per_second": round(manifest.counters["tokens"] * share / window),
        "seconds_with_start": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "digest": manifest.digest(),
    }
    shutil.rmtree(out)
    return result


@contextmanager
def started(command: Sequence[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own that ends with the block, with all that it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for pid in family:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        process.wait(20)


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def prefect_server(scratch: Path) -> Iterator[str]:
    """A Prefect server with a new database; gives the URL of its API."""
    port = free_port()
    home = scratch / "prefect"
    home.mkdir()
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with started(command, env, scratch / "server.log") as process:
        wait_for("the Prefect server", lambda: _answers(f"{url}/health"), process, scratch / "server.log")
        yield url


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


@contextmanager
def ray_nodes(count: int, scratch: Path) -> Iterator[str]:
    """A Ray cluster of so many nodes with one core each, on loopback; gives the address of its head."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAY_DISABLE_IMPORT_WARNING": "1"}
    common = ["--num-cpus", "1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats", "--block"]
    common += ["--object-store-memory", str(256 << 20)]
    # Ray keeps sockets below its folder, whose paths may have 107 characters at most.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray") as folder, ExitStack() as stack:
        for i in range(count):
            which = ["--head", "--port", str(port), "--temp-dir", folder, "--include-dashboard", "false"]
            which = which if i == 0 else ["--address", address]
            log = scratch / f"ray-{i}.log"
            process = stack.enter_context(started([str(BIN / "ray"), "start", *which, *common], env, log))
            wait_for(f"Ray node {i}", lambda log=log: "Ray runtime started" in log.read_text(), process, log)
        yield address


def wait_for(what: str, there: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until ``there()`` is true. Exits with the log if the process ends or time is up."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{what} did not come up:\n{log.read_text()}")
        time.sleep(0.2)


def compare(runs: Sequence[dict[str, Any]], arms: Sequence[Arm]) -> dict[str, Any]:
    """The median rate of each arm, and how much faster the last one is than each other."""
    medians = {
        f"{runner}, {workers}": statistics.median(
            r["units_per_second"] for r in runs if (r["runner"], r["workers"]) == (runner, workers)
        )
        for runner, workers in arms
    }
    *others, last = medians
    return {
        "median_units_per_second": medians,
        "speedup": {f"{last} against {other}": round(medians[last] / medians[other], 3) for other in others},
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    if sys.argv[1:2] == ["--child"]:
        folder, out, runner, workers, *address = sys.argv[2:]
        child(Path(folder), Path(out), runner, int(workers), address[0] if address else None)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", choices=("local", "ray"), default="local")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpora", nargs="*", default=SMALL, help="names below the corpora; none: our own examples")
    parser.add_argument("--scratch", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--save", type=Path, help="write JSON here")
    options = parser.parse_args()
    arms: list[Arm] = [("local", 1), ("local", 2)]
    if options.runner == "ray":
        arms = [("local", 1), ("ray", 1), ("ray", 2)]
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as place, ExitStack() as stack:
        scratch = Path(place)
        config = prepare(originals(options.corpora), options.shards, scratch)
        if options.runner == "ray":
            env["PREFECT_API_URL"] = stack.enter_context(prefect_server(scratch))
            env["DO_NOT_TRACK"] = "1"
        for repeat in range(options.repeats):
            for arm in arms if repeat % 2 == 0 else arms[::-1]:
                runs.append(measure(arm, config, scratch, env))
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    if len({run.pop("digest") for run in runs}) != 1:
        sys.exit("the runs did not write the same bytes")
    result = {
        **machine("benchmarks/scale.py " + " ".join(sys.argv[1:])),
        "shards": options.shards,
        **compare(runs, arms),
        "runs": runs,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.save:
        options.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
