"""How long the viewer takes: first screen, next record, random jumps, first find and whole search.

    .venv/bin/python benchmarks/view.py DATA [--jumps N] [--filter LINE] [--seed N] [--save FILE]

``DATA`` is a build, a data set or a folder of record shards of any size. Times are of the clock, in milliseconds: ``open`` is
finding the shards and counting their records, ``screen`` the time from starting the application (imports left out) to its first
record being drawn at 80x24, ``next`` and ``jump`` reading a record and making what is drawn of it, with median, 95th percentile
and worst. Searches run through all records: words that no record has, and ``--filter``. Files are warm or cold as
the machine has them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from pipeline.viewer.app import ViewerApp  # noqa: E402
from pipeline.viewer.bands import text_lines  # noqa: E402
from pipeline.viewer.filters import Filter, parse_filter  # noqa: E402
from pipeline.viewer.lanes import view_of  # noqa: E402
from pipeline.viewer.rejects import open_rejects  # noqa: E402
from pipeline.viewer.samples import Samples, open_samples  # noqa: E402

#: What no record says.
NOWHERE = "qzxjkvwq-nowhere"
LANE = 30


def main() -> None:
    """Measures, prints a table, and saves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--jumps", type=int, default=50)
    parser.add_argument("--filter", default="policy:evidence overlap:yes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()

    opened = milliseconds(lambda: len(open_samples(args.data)))
    samples = open_samples(args.data)
    figures: dict[str, Any] = {
        "records": len(samples),
        "shards": len(samples.shards),
        "bytes": sum(path.stat().st_size for path in samples.shards),
        "open_ms": opened,
        "screen_ms": asyncio.run(first_screen(args.data)),
        "next_ms": spread([draw(samples, number) for number in range(min(args.jumps, len(samples)))]),
    }
    order = random.Random(args.seed)
    jumps = [order.randrange(len(samples)) for _ in range(args.jumps)]
    figures["jump_ms"] = spread([draw(samples, number) for number in jumps])
    last = samples.record(len(samples) - 1)["id"]
    figures["find_id_ms"] = milliseconds(lambda: samples.find(last))
    for name, filter_ in (("words", Filter(text=NOWHERE)), ("filter", parse_filter(args.filter))):
        figures[f"search_{name}"] = search(samples, filter_)
    for name, value in figures.items():
        print(f"{name:<16} {value}")
    if args.save:
        report = {
            **corpus.machine("benchmarks/view.py " + " ".join(sys.argv[1:])),
            "versions": {name: version(name) for name in ("pyarrow", "polars", "textual")},
            "filter": args.filter,
            **figures,
        }
        args.save.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def milliseconds(work: Callable[[], Any]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return round(1000 * (time.perf_counter() - started), 1)


def draw(samples: Samples, number: int) -> float:
    """Milliseconds from asking for a record to its lines."""
    return milliseconds(lambda: text_lines(view_of(samples.record(number)), LANE))


async def first_screen(data: Path) -> float:
    """Milliseconds until the first record is drawn."""
    started = time.perf_counter()
    app = ViewerApp(open_samples(data), open_rejects(data))
    async with app.run_test(size=(80, 24)) as pilot:
        while app.records.record is None:
            await pilot.pause(0.001)
        return round(1000 * (time.perf_counter() - started), 1)


def search(samples: Samples, filter_: Filter) -> dict[str, Any]:
    """Milliseconds to the first find and to the end, and how many are found."""
    started = time.perf_counter()
    first = None
    found = 0
    for _ in samples.matching(filter_):
        first = first or round(1000 * (time.perf_counter() - started), 1)
        found += 1
    return {"found": found, "first_ms": first, "all_ms": round(1000 * (time.perf_counter() - started), 1)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile, worst."""
    median, high = np.percentile(values, [50, 95])
    return {"median": round(float(median), 1), "p95": round(float(high), 1), "worst": max(values)}


if __name__ == "__main__":
    main()
