"""Peak memory of `multistream convert` (ingest, convert, dataset) for ever more records: it must not grow with them.

    .venv/bin/python benchmarks/memory.py [--records N…] [--corpora NAME…] [--workers N] [--scratch DIR] [--save FILE]

The input is real corpora, repeated: each copy in files of its own, every record with another id and a word of its own in
its first question, so that no two are the same. The command is a process of its own. Ten times a second its resident set
(RSS) and those of its children are read. Told per stage: the largest of any one process, and the largest sum over all
of them, which counts a page once for each process that shares it, so it is an upper bound. Beside them stands what the
kernel says of the largest process, which misses no peak between two readings. Scratch files are removed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import CORPORA, ROOT, machine
from pipeline.folders import CONVERT, DATASET, INGEST
from pipeline.manifest import MANIFEST, need_manifest

#: Records of a few hundred tokens, in seven formats.
SMALL = (
    "math-gsm8k",
    "alpaca-gpteacher",
    "alpaca-fireact",
    "sharegpt-glaive-toolcall",
    "rc-pubmedqa",
    "rc-prontoqa",
)
EXAMPLES = ROOT / "examples" / "conversations"

#: Where a record's first question stands, by key; and the lists of messages that one may stand in.
QUESTIONS = ("question", "QUESTION", "Question", "instruction", "problem", "prompt")
MESSAGES = ("conversations", "messages", "traj")
IDS = ("id", "ID", "_id", "task_id", "idx")

#: What the time after the last stage's manifest goes to: the data set's card.
CARD = "card"
STAGES = (INGEST, CONVERT, DATASET, CARD)

Record = dict[str, Any]


def originals(corpora: Sequence[str]) -> dict[str, list[Record]]:
    """The records of corpora by file; those of our own examples if ``corpora`` is empty or their folder is not there."""
    folders = [CORPORA / name for name in corpora] if CORPORA.is_dir() and corpora else [EXAMPLES]
    found: dict[str, list[Record]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            name = path.name.removesuffix(".gz")
            if name.endswith((".json", ".jsonl")):
                found[f"{folder.name}-{name.partition('.')[0]}"] = list(_values(path))
    return found


def _values(path: Path) -> Iterator[Record]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if raw.lstrip()[:1] == b"[":
        yield from json.loads(raw)
        return
    lines = [json.loads(line) for line in raw.splitlines()] if b'\n{"' in raw else [json.loads(raw)]
    yield from lines if len(lines) > 1 else lines[0].values()


def perturbed(record: Record, word: str) -> Record:
    """The record with ``word`` in its ids and at the end of its first question. Exits where no question is found."""
    changed: Record = {key: f"{value}-{word}" if key in IDS else value for key, value in record.items()}
    for key in QUESTIONS:
        if isinstance(changed.get(key), str):
            return {**changed, key: f"{changed[key]} ({word})"}
    for key in MESSAGES:
        messages = [dict(m) for m in changed.get(key) or ()]
        for message in messages:
            said = "value" if "value" in message else "content"
            if message.get("from", message.get("role")) in ("human", "user") and isinstance(message[said], str):
                message[said] = f"{message[said]} ({word})"
                return {**changed, key: messages}
    sys.exit(f"no question was found in a record with the keys {', '.join(record)}")


def write_copies(found: dict[str, list[Record]], target: Path, records: int) -> int:
    """``records`` records under ``target/COPY/FILE.jsonl``, streamed; returns their bytes.

    Every copy but the last is whole, so all copies are the same work in the same order.
    """
    size = written = 0
    for copy in range(-(-records // sum(map(len, found.values())))):
        folder = target / f"{copy:05d}"
        folder.mkdir(parents=True)
        for name, originals_of_file in found.items():
            with (folder / f"{name}.jsonl").open("wb") as file:
                for i, record in enumerate(originals_of_file[: records - written]):
                    word = hashlib.sha256(f"{copy}/{name}/{i}".encode()).hexdigest()[:8]
                    size += file.write(json.dumps(perturbed(record, word), ensure_ascii=False).encode() + b"\n")
                written += min(len(originals_of_file), records - written)
            if written == records:
                return size
    return size


@dataclass(slots=True)
class Peak:
    """The most memory of a stage, in bytes; ``seconds`` and ``samples`` of it."""

    tree: int = 0
    process: int = 0
    children: int = 0
    seconds: float = 0.0
    samples: int = 0


@dataclass(slots=True)
class Watch:
    """What was seen of a run."""

    peaks: dict[str, Peak] = field(default_factory=lambda: {stage: Peak() for stage in STAGES})
    disk: int = 0
    kernel: int = 0
    seconds: float = 0.0


def watched(command: Sequence[str], out: Path, scratch: Path, every: float = 0.1) -> Watch:
    """Runs a command that builds in ``out`` and watches its memory until it ends. Exits if it fails."""
    watch = Watch()
    started = time.perf_counter()
    with (scratch / "stderr").open("wb") as errors:
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
    process = psutil.Process(running.pid)
    last, looked = started, 0.0
    while True:
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
        if pid:
            break
        stage = next((s for s in STAGES[:-1] if not (out / s / MANIFEST).exists()), CARD)
        sizes = _sizes(process)
        now = time.perf_counter()
        peak = watch.peaks[stage]
        peak.tree = max(peak.tree, sum(sizes))
        peak.process = max([peak.process, *sizes])
        peak.children = max([peak.children, *sizes[1:]])
        peak.seconds += now - last
        peak.samples += 1
        last = now
        if now - looked > 2:
            watch.disk, looked = max(watch.disk, disk(out)), now
        time.sleep(max(0.0, every - (time.perf_counter() - now)))
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        sys.exit((scratch / "stderr").read_text())
    watch.seconds = time.perf_counter() - started
    watch.kernel = usage.ru_maxrss << 10
    watch.disk = max(watch.disk, disk(out))
    return watch


def _sizes(process: psutil.Process) -> list[int]:
    """RSS of a process and then of all that it started, without those that have ended by now."""
    found: list[int] = []
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found.append(one.memory_info().rss)
    return found


def disk(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def measure(records: int, found: dict[str, list[Record]], workers: int, scratch: Path) -> dict[str, Any]:
    """One run over so many records."""
    corpus, out = scratch / "repeated", scratch / "out"
    source = write_copies(found, corpus, records)
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "convert",
        str(corpus),
        "--out",
        str(out),
        "--workers",
        str(workers),
    ]
    watch = watched(command, out, scratch)
    counters = need_manifest(out / CONVERT).counters
    made = need_manifest(out / DATASET).counters["out"]
    result = {
        "records_in": counters["units"],
        "records_out": made,
        "rejected": counters["rejected"],
        "source_bytes": source,
        "mean_source_bytes": round(source / records),
        "mean_tokens": round(counters["tokens"] / max(counters["records"], 1)),
        "seconds": round(watch.seconds, 1),
        "records_per_second": round(records / watch.seconds),
        "disk_mib": _mib(watch.disk),
        "peak_tree_rss_mib": _mib(max(p.tree for p in watch.peaks.values())),
        "peak_process_rss_mib": _mib(max(p.process for p in watch.peaks.values())),
        "kernel_peak_process_rss_mib": _mib(watch.kernel),
        "stages": {
            stage: {
                "seconds": round(peak.seconds, 1),
                "records_per_second": round(records / peak.seconds) if peak.seconds else None,
                "peak_tree_rss_mib": _mib(peak.tree),
                "peak_process_rss_mib": _mib(peak.process),
                "peak_worker_rss_mib": _mib(peak.children),
                "samples": peak.samples,
            }
            for stage, peak in watch.peaks.items()
            if peak.samples
        },
    }
    shutil.rmtree(corpus)
    shutil.rmtree(out)
    return result


def _mib(size: int) -> int:
    return round(size / 2**20)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per run and stage, as Markdown."""
    lines = [
        "| records | stage | seconds | records/s | all processes, RSS MiB | largest process, RSS MiB |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        parts = {**row["stages"], "all": row}
        for name, part in parts.items():
            cells = (part[k] for k in ("seconds", "records_per_second", "peak_tree_rss_mib", "peak_process_rss_mib"))
            lines.append(f"| {row['records_in']:,} | {name} | " + " | ".join(f"{c or 0:,}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--corpora", nargs="*", default=SMALL, help="names below the corpora; none: our own examples")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--save", type=Path, help="write JSON here")
    options = parser.parse_args()
    found = originals(options.corpora)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for records in options.records:
            rows.append(measure(records, found, options.workers, Path(scratch)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    growth = {key: round(rows[-1][key] / rows[0][key] - 1, 3) for key in ("peak_tree_rss_mib", "peak_process_rss_mib")}
    result = {
        **machine("benchmarks/memory.py " + " ".join(sys.argv[1:])),
        "mix": {name: len(values) for name, values in found.items()},
        "workers": options.workers,
        "growth_first_to_last": growth,
        "runs": rows,
    }
    print(table(rows))
    print(f"growth from {rows[0]['records_in']:,} to {rows[-1]['records_in']:,} records: {json.dumps(growth)}")
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
