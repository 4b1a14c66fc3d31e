"""What telling a format costs, beside conversion, for every file of the corpora.

    .venv/bin/python benchmarks/detect.py [--input PATH…] [--save FILE]

Detection parses the first 64 values of a file and asks every format about each; conversion is that of all of the file's
units: converted, aligned, laid out, checked for leaks. The shares of files of 500 records or more must be below 2%: the
exit code is 1 where one is not. Each time is the best of three.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "corpora"
SAMPLE, MANY, GOAL = 64, 500, 0.02

T = TypeVar("T")


def best(work: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """The least seconds that some work took, and its result."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def measure(path: Path, converter: Any) -> dict[str, Any] | None:
    """The figures of a file; None where its format is not known."""
    from converters import detect_format
    from pipeline.convert import BATCH_UNITS
    from pipeline.ingest import Unit, read_units, sniff

    units: list[Unit] = list(read_units(path, 32 << 20))
    detecting, format_ = best(lambda: detect_format(sniff(units[:SAMPLE])))
    if format_ is None:
        return None
    rows = rows_of(path, format_, units)

    def convert() -> int:
        batches = (rows[i : i + BATCH_UNITS] for i in range(0, len(rows), BATCH_UNITS))
        return sum(converter.convert(batch).counts.tokens for batch in batches)

    converting, tokens = best(convert, 2 if len(units) > 100 else 3)
    return {
        "file": f"{path.parent.name}/{path.name}",
        "format": format_,
        "values": len(units),
        "tokens": tokens,
        "detect_ms": round(1000 * detecting, 3),
        "convert_ms": round(1000 * converting, 2),
        "share": round(detecting / (detecting + converting), 5),
    }


def rows_of(path: Path, format_: str, units: Sequence[Any]) -> list[dict[str, Any]]:
    """The units that conversion is given: the values, or all of them as one, or each with nothing joined."""
    from converters import CONVERTERS

    raws = [unit.raw for unit in units]
    kind = CONVERTERS[format_].UNIT
    if kind == "file":
        raws = [b"[" + b",".join(raws) + b"]"]
    elif kind == "join":
        raws = [b'{"unit":' + raw + b',"joined":null}' for raw in raws]
    return [
        {
            "corpus": path.parent.name, "path": path.name, "index": i, "format": format_, "license": None, "key": None,
            "sha256": "", "raw": raw,
        }
        for i, raw in enumerate(raws)
    ]  # fmt: skip


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", type=Path, help="data files; the corpora, else the packaged examples")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from pipeline.convert import ConvertConfig, Converter

    converter = Converter(ConvertConfig())
    folders = CORPORA if CORPORA.is_dir() else ROOT / "examples"
    suffixes = (".json", ".jsonl", ".gz", ".traj")
    paths = arguments.input or sorted(path for path in folders.glob("*/*") if path.suffix in suffixes)
    print(f"{'file':<48} {'format':<20} {'values':>6} {'detect ms':>9} {'convert ms':>10} {'share':>7}")
    found, unknown = [], []
    for path in paths:
        figures = measure(path, converter)
        if figures is None:
            unknown.append(f"{path.parent.name}/{path.name}")
            continue
        found.append(figures)
        print(
            f"{figures['file'][-48:]:<48} {figures['format']:<20} {figures['values']:>6} {figures['detect_ms']:>9.2f} "
            f"{figures['convert_ms']:>10.1f} {figures['share']:>7.2%}"
        )
    many = [figures for figures in found if figures["values"] >= MANY]
    late = [figures for figures in many if figures["share"] >= GOAL]
    all_detecting, all_converting = (sum(f[key] for f in found) for key in ("detect_ms", "convert_ms"))
    result = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": "benchmarks/detect.py " + " ".join(sys.argv[1:]),
        "goal": f"share < {GOAL:.0%} for files of {MANY} values or more",
        "largest_share_of_many": max((f["share"] for f in many), default=None),
        "share_of_all": round(all_detecting / (all_detecting + all_converting), 5) if found else None,
        "unknown": unknown,
        "files": found,
    }
    for path_name in unknown:
        print(f"{path_name}: no known format")
    print(
        f"all together: {result['share_of_all']:.2%}; files of {MANY} or more: at most {result['largest_share_of_many']:.2%}"
    )
    if arguments.save:
        arguments.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
