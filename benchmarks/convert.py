"""Speed and memory of conversion, end to end, beside the bare tokenizer on the same text.

    .venv/bin/python benchmarks/convert.py [--input PATH…] [--copies N] [--workers N] [--align SPEC] [--save FILE]

Every copy of the input is a file of its own. Timed: ingest, conversion (alignment, layout, tokens, leak check,
invariants, writing) and the shuffle into final shards, with process start-up. The bare tokenizer encodes the texts of the
produced events in batches, with all cores. Memory is the largest resident set of any process, for one copy of the input
and for all of them: it must not grow with the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "corpora"
SIX = (
    "math-gsm8k",
    "openai-tau-bench-airline",
    "sharegpt-glaive-toolcall",
    "alpaca-gpteacher",
    "think-skythought-math",
    "rc-pubmedqa",
)


def default_inputs() -> list[Path]:
    """The six corpora of the main job where they are there, else the packaged examples."""
    there = [CORPORA / name for name in SIX if (CORPORA / name).is_dir()]
    return there or [ROOT / "examples" / "conversations"]


def copy_inputs(inputs: list[Path], copies: int, target: Path) -> list[Path]:
    """``copies`` folders per input, so that every source pointer is its own."""
    folders = []
    for path in inputs:
        for i in range(copies):
            folder = target / f"{path.stem}-{i}"
            shutil.copytree(path, folder) if path.is_dir() else shutil.copy(path, folder.with_suffix(path.suffix))
            folders.append(folder if path.is_dir() else folder.with_suffix(path.suffix))
    return folders


def convert(folders: list[Path], out: Path, workers: int, align: str) -> dict[str, Any]:
    """One conversion in a process of its own: seconds, counters, largest resident set in MiB."""
    command = [
        sys.executable, str(Path(__file__)), "--child", "--out", str(out), "--workers", str(workers), "--align", align,
        "--input", *map(str, folders),
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return {"seconds": time.perf_counter() - started, **json.loads(done.stdout.splitlines()[-1])}


def child(folders: list[Path], out: Path, workers: int, align: str) -> None:
    """The timed process."""
    from pipeline.convert import ConvertConfig
    from pipeline.shards import ShuffleConfig
    from pipeline.stages.convert import convert_stage
    from pipeline.stages.dataset import dataset_stage
    from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

    sources = [InputSource(path=str(folder)) for folder in folders]
    ingest = ingest_stage(sources, Path(), out / "ingest", IngestConfig())
    converted = convert_stage(ingest, out / "convert", ConvertConfig(align=align), workers=workers)
    dataset = dataset_stage([converted], out / "dataset", ShuffleConfig())
    counters = converted.manifest.counters
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(
        json.dumps(
            {
                "units": counters["units"],
                "records": counters["records"],
                "tokens": counters["tokens"],
                "rss_mib": round(peak / 1024),
                "stage_seconds": {r.manifest.stage: r.manifest.seconds for r in (ingest, converted, dataset)},
            }
        )
    )


def bare_tokenizer(out: Path) -> tuple[float, int]:
    """Seconds and tokens of encoding the texts of all events, in batches."""
    from pipeline.tokenization import load_tokenizer

    tokenizer = load_tokenizer("smollm2")
    texts = [
        text
        for path in sorted((out / "convert").glob("records-*.parquet"))
        for text in pq.read_table(path, columns=["events"])["events"]
        .combine_chunks()
        .flatten()
        .field("text")
        .to_pylist()
    ]
    tokenizer.encode(texts[:64])
    started = time.perf_counter()
    tokens = sum(len(tokenizer.encode(texts[i : i + 2048]).ids) for i in range(0, len(texts), 2048))
    return time.perf_counter() - started, tokens


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--align", default="thinking+evidence+tools_async")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.input, args.out, args.workers, args.align)
        return
    inputs = args.input or default_inputs()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        small = convert(copy_inputs(inputs, 1, place / "in1"), place / "out1", args.workers, args.align)
        large = convert(copy_inputs(inputs, args.copies, place / "in"), place / "out", args.workers, args.align)
        seconds, tokens = bare_tokenizer(place / "out")
    bare = tokens / seconds
    rate = large["tokens"] / large["seconds"]
    result = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": "benchmarks/convert.py " + " ".join(sys.argv[1:]),
        "align": args.align,
        "copies": args.copies,
        "units": large["units"],
        "tokens": large["tokens"],
        "seconds": round(large["seconds"], 2),
        "stage_seconds": large["stage_seconds"],
        "tokens_per_second": round(rate),
        "bare_tokenizer_tokens_per_second": round(bare),
        "ratio": round(rate / bare, 3),
        "rss_mib_1_copy": small["rss_mib"],
        "rss_mib_all_copies": large["rss_mib"],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
