"""A build that is there to be killed: its inputs, its configuration, its endpoint, its processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil

from benchmarks import landing
from pipeline import folders
from tests.synth.endpoint import Endpoint, fingerprint
from tests.synth.scripted import speak

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Size:
    """How much work a build is. ``units``: generated source records; ``samples``: dialogues; ``steps`` of a training."""

    units: int = 8000
    shard_units: int = 1000
    shard_rows: int = 2000
    samples: int = 24
    steps: int = 20
    heldout: int = 12
    control: bool = True


class Victim:
    """A folder with inputs, a model and an endpoint, in which the same configuration is built again and again as ``out``.

    ``whole`` is the undisturbed build, ``spans`` the seconds that its stages took, ``work`` those of them until the last table
    was there, ``contents`` what is compared of it. Used as a context.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        self.out, self.whole, self.temporary = folder / "out", folder / "whole", folder / "tmp"
        self.config = folder / "config.json"
        self.stages = [s for s in folders.STAGES if size.control or s != folders.CONTROL]
        self.spans: dict[str, float] = {}
        self.work: dict[str, float] = {}
        self.contents: dict[str, str] = {}
        self.promised: dict[str, str] = {}
        self.said: dict[str, set[str]] = {}
        self._running: subprocess.Popen[bytes] | None = None
        self.endpoint = Endpoint(reply=self._reply, delay=0.01)

    def __enter__(self) -> Victim:
        self.endpoint.__enter__()
        self.temporary.mkdir(parents=True)
        _write_inputs(self.folder / "math.jsonl", self.size.units)
        from tests.training.synthetic_grids import save_tiny_llama

        save_tiny_llama(self.folder / "model", vocab_size=49152)
        self.config.write_text(json.dumps(self._settings(), indent=1))
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None and self._running.poll() is None:
            kill(self._running)
        self.endpoint.__exit__(None, None, None)

    def _reply(self, body: dict[str, Any]) -> str:
        text = speak(body)
        self.said.setdefault(text, set()).add(fingerprint(body))
        return text

    def _settings(self) -> dict[str, Any]:
        size = self.size
        engine = {"kind": "openai", "url": self.endpoint.url, "concurrency": 4, "backoff": 0.05, "timeout": 10.0}
        gate = {
            "min_improvement": -1e6, "stream_tolerance": 1e6, "row_tolerance": None, "control_margin": -1e6,
            "permuted_margin": None,
        }  # fmt: skip
        return {
            "name": "killed",
            "seed": 5,
            "sources": [
                {"path": str(ROOT / "examples" / "conversations"), "corpus": "examples"},
                {"path": str(self.folder / "math.jsonl"), "corpus": "math", "license": "MIT"},
            ],
            "ingest": {"shard_units": size.shard_units, "max_unit_bytes": 20_000},
            "shards": {"shard_rows": size.shard_rows, "test_fraction": 0.1},
            "synth": {
                "generator": "concurrent", "scenarios": [str(ROOT / "examples" / "scenarios" / "*.yaml")],
                "samples": size.samples, "batch_size": 8, "model": "scripted", "engine": engine,
            },
            "train": {
                "model": str(self.folder / "model"), "steps": size.steps, "packs_per_step": 1, "max_cells": 192,
                "save_every": 4, "device": "cpu", "shuffle_buffer": 32, "learning_rate": 1e-3,
                "embedding_learning_rate": 1e-2,
            },
            "evaluate": {
                "control": size.control, "controls": ["turns"], "max_cells": 192, "max_records": size.heldout,
                "device": "cpu", "resamples": 100, "generate_records": 1, "generate_rows": 24, "injection_records": 2,
                "gate": gate,
            },
        }  # fmt: skip

    def start(self, workers: int) -> subprocess.Popen[bytes]:
        """A build in a process group of its own."""
        command = [sys.executable, "-m", "pipeline.cli", "build", str(self.config), "--out", str(self.out)]
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with (self.folder / "errors").open("wb") as errors:
            self._running = subprocess.Popen(
                [*command, "--workers", str(workers)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        return self._running

    def errors(self) -> str:
        """What the last build wrote to standard error."""
        return (self.folder / "errors").read_text()

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a build that nobody kills. Raises RuntimeError if it fails."""
        if code := process.wait(timeout=600):
            raise RuntimeError(f"the build ended with {code}: {self.errors()[-2000:]}")

    def measure(self) -> None:
        """The undisturbed build, and how long its stages take, from their first file to their manifest."""
        process, nothing = self.start(1), landing.Tree()
        for stage in self.stages:
            self.wait_for(process, stage, nothing)
            began, at = time.monotonic(), time.time()
            while not landing.is_finished(self.out, stage) and process.poll() is None:
                time.sleep(POLL_SECONDS)
            self.spans[stage] = time.monotonic() - began
            tables = [path.stat().st_mtime - at for path in (self.out / stage).rglob("*.parquet")]
            shuffled = stage in (folders.INGEST, folders.DATASET)
            self.work[stage] = max(POLL_SECONDS, *tables) if shuffled else self.spans[stage]
        self.finish(process)
        self.contents = landing.contents(self.out)
        self.promised = landing.finished(self.out, self.stages)
        self.out.rename(self.whole)

    def wait_for(self, process: subprocess.Popen[bytes], stage: str, before: landing.Tree) -> None:
        """Waits until the process works on a stage: a file of it changed, it is finished, or the process is over."""
        then = landing.part(before, stage)
        while process.poll() is None and not landing.is_finished(self.out, stage):
            now = landing.tree(self.out, stage)
            if any(then.get(path) != stamp for path, stamp in now.items() if path != stage):
                return
            time.sleep(POLL_SECONDS)

    def wait_for_instant(self, process: subprocess.Popen[bytes], stage: str, chance: random.Random) -> bool:
        """Waits for a random instant of the work that is left of a stage, or for what comes first: its end. False if
        the process is over.

        Even over the stage's units of work, so that it does not matter how busy the machine is: a unit is drawn, then a
        moment of the time that one takes. ``process`` was just started.
        """
        before, asked, left = landing.tree(self.out), self.asked(), self.left_to_ask()
        self.wait_for(process, stage, before)

        def progress() -> tuple[int, int]:
            if stage == folders.SYNTH:
                return self.asked() - asked, left
            return landing.progress(self.out, self.whole, stage, before, self.size.steps)

        (done, total), share = progress(), chance.random()
        target = done + int(share * (total - done))
        while not landing.is_finished(self.out, stage) and process.poll() is None and progress()[0] < target:
            time.sleep(POLL_SECONDS)
        until = time.monotonic() + chance.random() * self.work[stage] / max(total, 1)
        while not landing.is_finished(self.out, stage) and process.poll() is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return process.poll() is None

    def asked(self) -> int:
        """How many requests there were."""
        return len(self.endpoint.bodies)

    def left_to_ask(self) -> int:
        """How many answers are not stored yet."""
        return len(landing.answers(self.whole)) - len(landing.answers(self.out))

    def stored(self) -> set[str]:
        """Requests whose answers are stored; where two requests have the same answer, neither."""
        same = (self.said.get(text, set()) for text in landing.answers(self.out))
        return {name for names in same if len(names) == 1 for name in names}

    def asked_again(self, asked: int, stored: set[str]) -> int:
        """How many requests after the first ``asked`` were for a stored answer."""
        return sum(fingerprint(body) in stored for body in self.endpoint.bodies[asked:])

    def differences(self) -> list[str]:
        """What is there after a build's end and must not be, and what is not what the undisturbed build has."""
        wrong = [f"left: {name}" for name in landing.remains(self.out, self.stages)]
        wrong += [f"left in TMPDIR: {path.name}" for path in sorted(self.temporary.iterdir())]
        mine = landing.contents(self.out)
        wrong += [f"{p} is only here" for p in sorted(mine.keys() - self.contents.keys())]
        wrong += [f"{p} is missing" for p in sorted(self.contents.keys() - mine.keys())]
        both = sorted(mine.keys() & self.contents.keys())
        return wrong + [f"{p} differs{self._first_line(p)}" for p in both if mine[p] != self.contents[p]]

    def _first_line(self, name: str) -> str:
        """Where a text differs, for people."""
        if Path(name).suffix not in (".md", ".json", ".jsonl"):
            return ""
        texts = [(folder / name).read_text().splitlines() for folder in (self.whole, self.out)]
        pairs = (pair for pair in zip_longest(*texts, fillvalue="") if pair[0] != pair[1])
        was, now = next(pairs, ("", ""))
        return f" ({was[:160]!r} is {now[:160]!r})"

    def clear(self) -> None:
        """Removes the build, for the next one."""
        for folder in (self.out, self.temporary):
            shutil.rmtree(folder)
        self.temporary.mkdir()


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the whole group, until none of it lives."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while group_of(process.pid) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def group_of(leader: int) -> list[int]:
    """The processes of a group that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _write_inputs(path: Path, units: int) -> None:
    """Sums in words, of which some are no JSON and some are larger than the limit."""
    lines = []
    for i in range(units):
        drawn = random.Random(i)
        a, b, c = (drawn.randint(2, 999) for _ in range(3))
        who = drawn.choice(("Ada", "Bo", "Chidi", "Dina", "Emre", "Fay"))
        question = f"{who} has {a} stones, finds {b} and gives {c} away. How many are left in basket {i}?"
        answer = (
            f"{who} first has {a} + {b} = {a + b} stones.\nThen {a + b} - {c} = {a + b - c} are left.\n#### {a + b - c}"
        )
        lines.append(json.dumps({"question": question, "answer": answer}))
        if i % 97 == 5:
            lines.append(f"no JSON, line {i}")
        if i % 211 == 7:
            lines.append(json.dumps({"question": "x" * 21_000 + str(i), "answer": "none"}))
    path.write_text("\n".join(lines) + "\n")
