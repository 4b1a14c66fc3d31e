"""What the command itself costs: a build of next to nothing, Python's start included, without Prefect.

    .venv/bin/python benchmarks/overhead.py [--repeats N] [--save FILE]

An input without any record is refused (one line, exit code 1), so a data set is built of one record: ingest, convert,
dataset and card, which is more than an empty build can do. Timed: that, the same command again on the finished build, and
the refusal. The first run of all is not counted: it writes Python's byte code, as an installation does, to a scratch
folder. Beside the seconds stand the processor's, which other work on the machine lengthens less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import ROOT, machine

RECORD = {"messages": [{"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "Yes."}]}


def timed(command: list[str], env: dict[str, str], expected: int = 0) -> tuple[float, float]:
    """Seconds and processor seconds of a command. Exits where its exit code is not the expected one."""
    started = time.perf_counter()
    running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert running.stderr is not None
    errors = running.stderr.read().decode()
    _, status, usage = os.wait4(running.pid, 0)
    seconds = time.perf_counter() - started
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != expected:
        sys.exit(f"exit code {running.returncode}, not {expected}: {errors}")
    return seconds, usage.ru_utime + usage.ru_stime


def measure(repeats: int, scratch: Path) -> dict[str, Any]:
    """Medians of every case."""
    (scratch / "one.jsonl").write_text(json.dumps(RECORD) + "\n")
    (scratch / "none.jsonl").write_text("")
    for name in ("one", "none"):
        (scratch / f"{name}.yaml").write_text(f"name: {name}\nsources: [{{path: {name}.jsonl}}]\n")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    multistream = [sys.executable, "-m", "pipeline.cli"]
    runs: dict[str, list[tuple[float, float]]] = {"help": [], "one record": [], "again": [], "no record": []}
    for repeat in range(repeats + 1):
        build = [*multistream, "build", str(scratch / "one.yaml"), "--out", str(scratch / f"out-{repeat}")]
        empty = [*multistream, "build", str(scratch / "none.yaml"), "--out", str(scratch / f"none-{repeat}")]
        found = {
            "help": timed([*multistream, "--help"], env),
            "one record": timed(build, env),
            "again": timed(build, env),
            "no record": timed(empty, env, expected=1),
        }
        if repeat:
            for name, figures in found.items():
                runs[name].append(figures)
    return {
        name: {
            "seconds": round(statistics.median(s for s, _ in figures), 2),
            "cpu_seconds": round(statistics.median(c for _, c in figures), 2),
            "best_seconds": round(min(s for s, _ in figures), 2),
        }
        for name, figures in runs.items()
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.repeats, Path(scratch))
    result = {**machine("benchmarks/overhead.py " + " ".join(sys.argv[1:])), "repeats": options.repeats, **found}
    text = json.dumps(result, indent=1)
    print(text)
    if options.save:
        options.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
