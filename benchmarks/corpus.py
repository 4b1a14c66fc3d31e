"""The conversations of the corpora, for benchmarks: read, detected and converted as ``multistream convert`` does it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.conversation import Conversation, RecordError
from pipeline.convert import conversations_of
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "corpora"


def names() -> list[str]:
    """The corpora that are there, by name."""
    return sorted(path.name for path in CORPORA.iterdir() if path.is_dir()) if CORPORA.is_dir() else []


def conversations(name: str) -> list[Conversation]:
    """Every conversation of a corpus in which the model speaks, in order; sources that are streams already left out."""
    with tempfile.TemporaryDirectory() as scratch:
        ingest = ingest_stage([InputSource(path=str(CORPORA / name))], Path(), Path(scratch) / "i", IngestConfig())
        units = [
            unit
            for path in ingest.manifest.paths(ingest.directory, "units-")
            for unit in pq.read_table(path).to_pylist()
        ]
    found: list[Conversation] = []
    for unit in units:
        try:
            told = list(conversations_of(unit))
        except RecordError:
            continue
        found.extend(item.conversation for item in told if item.script is None and item.conversation.has_output())
    return found


def convert(folder: Path, out: Path, align: str) -> None:
    """Converts one corpus, unless it lies there already."""
    if (out / "dataset" / "manifest.json").exists():
        return
    command = [
        sys.executable, "-m", "pipeline.cli", "convert", str(folder), "--out", str(out), "--align", align,
        "--max-rejected-fraction", "1", "--test-fraction", "0", "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{folder.name}, {align}: {done.stderr.strip()}")


def machine(command: str) -> dict[str, Any]:
    """What every result file says of how it came to be."""
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "polars", "pyarrow", "tokenizers")},
        "revision": revision.stdout.strip(),
        "command": command,
    }
