"""Every corpus through the real command, with auto-detection alone: what came in, what came out, what was refused and why.

    .venv/bin/python benchmarks/corpora.py [--corpora DIR] [--only NAME…] [--save FILE]

Per corpus: values read from its files, source units, conversations (with and without an answer), records, rejects by
reason, tokens, seconds of ingest and conversion, and what `multistream validate` finds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "corpora"
COLUMNS = (
    "corpus", "formats", "values", "units", "conversations", "input_only", "rejected", "records", "tokens", "seconds",
    "failures",
)  # fmt: skip


def measure(folder: Path, out: Path) -> dict[str, Any]:
    """Converts and validates one corpus; the counts are read from what is on disk."""
    run(["convert", str(folder), "--out", str(out), "--max-rejected-fraction", "1", "--workers", "1"])
    status = json.loads(run(["status", str(out), "--json"]))
    validated = json.loads(run(["validate", str(out), "--json"], allowed=(0, 1)))[str(out)]
    manifest = json.loads((out / "ingest" / "manifest.json").read_text())
    ledger = [row for p in sorted((out / "convert").glob("ledger-*.parquet")) for row in pq.read_table(p).to_pylist()]
    rejects = [row for p in sorted(out.glob("*/rejects-*.parquet")) for row in pq.read_table(p).to_pylist()]
    return {
        "corpus": folder.name,
        "formats": sorted(set(manifest["notes"]["formats"].values())),
        "values": manifest["counters"].get("values", manifest["counters"]["in"]),
        "units": manifest["counters"]["in"],
        "conversations": sum(row["conversations"] for row in ledger),
        "input_only": sum(row["input_only"] for row in ledger),
        "rejected": len(rejects),
        "reasons": dict(Counter(row["code"] for row in rejects)),
        "messages": [f"{r['path']}#{r['index']} {r['code']}: {r['message']}" for r in rejects],
        "records": sum(row["records"] for row in ledger),
        "tokens": status["convert"]["counters"]["tokens"],
        "seconds": round(status["ingest"]["seconds"] + status["convert"]["seconds"], 2),
        "failures": sum(validated["failures"].values()),
        "overlapping": validated["checked"].get("overlapping events", 0),
    }


def run(arguments: list[str], allowed: tuple[int, ...] = (0,)) -> str:
    """The output of a multistream command."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with a line of sums."""
    sums = {k: round(sum(r[k] for r in rows), 1) for k in COLUMNS if isinstance(rows[0][k], int | float)}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in [*rows, {"corpus": "all", "formats": [], **sums}]:
        cells = [
            ", ".join(v) if isinstance(v := row[c], list) else f"{v:,}" if not isinstance(v, str) else v
            for c in COLUMNS
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--only", nargs="*", help="names of corpora")
    parser.add_argument("--save", type=Path, help="write JSON here")
    options = parser.parse_args()
    folders = sorted(
        p for p in options.corpora.iterdir() if p.is_dir() and (not options.only or p.name in options.only)
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            rows.append(measure(folder, Path(scratch) / folder.name))
            print(
                f"{folder.name}: {rows[-1]['units']} units, {rows[-1]['rejected']} rejected",
                file=sys.stderr,
                flush=True,
            )
    print(table(rows))
    for row in rows:
        for message in row["messages"]:
            print(f"- {row['corpus']}: {message}")
    if options.save:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        value = {"date": date.today().isoformat(), "machine": machine, "corpora": rows}
        options.save.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
