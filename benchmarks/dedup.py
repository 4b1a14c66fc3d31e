"""Near copies that were planted: how many the deduplication stage finds, how many it takes wrongly, how fast, in what memory.

    .venv/bin/python benchmarks/dedup.py [--texts N] [--copies SHARE] [--workers N] [--datatrove PYTHON] [--save FILE]

Texts are made of runs of words of the corpora (of the packaged examples where those are not there), about 200 words each, as a
question and an answer. Of some a near copy is planted: words changed, runs of words put in, taken out or moved, at rates that
make similarities of 0.6 to 1. What should be found is computed from all pairs: the exact Jaccard
similarity of word shingles by a plain implementation of its own. The stage runs as `multistream build` runs it, in a process of
its own, whose resident memory is read. `--datatrove`: the python of an environment that holds datatrove (no dependency); its
MinHash steps, with as many hashes, run over the same texts on one core before and after ours. Without it they are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

THRESHOLD, SHINGLE = 0.8, 5
_UNSPACED = "".join(
    rf"\p{{{name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[[\w\p{{M}}]--[{_UNSPACED}]]+", regex.VERSION1)


def vocabulary() -> list[str]:
    """The words of all corpora, in order."""
    from benchmarks.corpus import CORPORA
    from benchmarks.memory import EXAMPLES

    files = sorted((CORPORA if CORPORA.is_dir() else EXAMPLES).rglob("*.json*"))
    words: list[str] = []
    for file in files:
        if file.suffix != ".gz":
            words += re.sub(r'\\[nrt"u]|[\[\]{}"]', " ", file.read_text(encoding="utf-8", errors="replace")).split()
    return [word for word in words if len(word) < 30]


def plant(texts: int, share: float, seed: int) -> list[tuple[str, str]]:
    """Questions and answers; the last ones are near copies of some of the others."""
    source, dice = vocabulary(), random.Random(seed)
    found = []
    for _ in range(texts):
        words: list[str] = []
        while len(words) < 200:
            start = dice.randrange(len(source) - 40)
            words += source[start : start + dice.randint(15, 40)]
        found.append(words)
    for original in dice.sample(found, int(texts * share)):
        found.append(_edited(original, source, dice))
    return [(" ".join(words[:60]), " ".join(words[60:])) for words in found]


def _edited(words: Sequence[str], source: Sequence[str], dice: random.Random) -> list[str]:
    """A near copy: one kind of edit or several."""
    result = list(words)
    kind = dice.choice(("words", "words", "insert", "delete", "order", "mixed"))
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(result) - 20)
        if kind in ("words", "mixed"):
            result[at] = dice.choice(source)
        if kind in ("insert", "mixed"):
            result[at:at] = dice.choices(source, k=dice.randint(1, 5))
        if kind == "delete":
            del result[at : at + dice.randint(1, 5)]
        if kind == "order":
            size = dice.randint(5, 20)
            moved = result[at : at + size]
            del result[at : at + size]
            to = dice.randrange(len(result))
            result[to:to] = moved
    return result


def expected(talks: Sequence[tuple[str, str]]) -> tuple[set[int], dict[tuple[int, int], float]]:
    """The texts that are near copies of an earlier one that stays, by exact similarity; and all near pairs."""
    sets = []
    for parts in talks:
        shingles = set()
        for part in parts:
            words = _WORD.findall(unicodedata.normalize("NFKC", part).lower())
            shingles |= {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        sets.append(shingles)
    where: dict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs: dict[tuple[int, int], float] = {}
    gone: set[int] = set()
    for number, shingles in enumerate(sets):
        common: dict[int, int] = defaultdict(int)
        for shingle in shingles:
            for other in where[shingle]:
                common[other] += 1
            where[shingle].append(number)
        for other, count in sorted(common.items()):
            similarity = count / (len(shingles) + len(sets[other]) - count)
            if similarity >= THRESHOLD:
                pairs[other, number] = similarity
                if other not in gone:
                    gone.add(number)
    return gone, pairs


def write_records(talks: Sequence[tuple[str, str]], folder: Path, shard: int = 4096) -> None:
    """A finished conversion of the texts: shards of records, with no more in them than the stage reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.manifest import Manifest, output_of, write_manifest
    from pipeline.tables import RECORDS

    folder.mkdir()
    streams = [
        {"name": n, "role": n, "slot": 0, "direction": d} for n, d in (("user", "input"), ("assistant", "output"))
    ]
    event: dict[str, Any] = {
        "part": 0, "call": None, "start": 0, "end": 1, "kind": "message", "final": True, "interrupted": False, "weight": 1.0,
        "time_ms": None, "after": [], "lexical": None, "gain": None, "judged": None,
    }  # fmt: skip
    common: dict[str, Any] = {
        "schema": "stream-record/1", "streams": streams, "rows": 2, "segment": {"k": 1, "n": 1}, "parts": [], "extra": "{}",
        "labels": "{}", "alignment": {"policy": "turns", "version": 1, "params": "{}"},
        "clock": {"unit": "token", "tokenizer": "t", "tokenizer_sha256": "", "ms_per_row": None, "lag": 0},
    }  # fmt: skip
    outputs = []
    for start in range(0, len(talks), shard):
        rows = [
            {
                **common, "id": f"{number:032x}", "conversation_id": f"{number:032x}", "group": str(number),
                "events": [{**event, "stream": i, "message": i, "text": text} for i, text in enumerate(parts)],
                "sources": [{"corpus": "c", "path": "p", "index": number, "format": None, "license": None, "sha256": ""}],
            }
            for number, parts in enumerate(talks[start : start + shard], start)
        ]  # fmt: skip
        path = folder / f"records-{start // shard:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), path, compression="zstd")
        outputs.append(output_of(path, folder, len(rows)))
    write_manifest(folder, Manifest("convert", 1, "f", {}, {}, tuple(outputs), {}, 0.0))


def run_ours(folder: Path, out: Path, workers: int, differing: float) -> None:
    """Runs the stage in this process, and prints as JSON who is gone, the seconds, and the peak of resident memory in MB."""
    import pyarrow.parquet as pq

    from pipeline.dedup.config import DedupConfig
    from pipeline.manifest import Result, need_manifest
    from pipeline.stages.dedup import dedup_stage

    made = Result(folder, need_manifest(folder), skipped=True)
    started = time.perf_counter()
    result = dedup_stage([made], out, DedupConfig(differing=differing), workers=workers, fresh=True)
    seconds = time.perf_counter() - started
    books = result.manifest.paths(out, "filtered")
    gone = [int(id_, 16) for path in books for id_ in pq.read_table(path, columns=["id"]).column("id").to_pylist()]
    # Not getrusage: what that says begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = int(status.partition("VmHWM:")[2].split()[0])
    told = {"compared": result.manifest.counters["compared"], "peak_mb": kilobytes // 1024}
    print(json.dumps({"seconds": seconds, "gone": sorted(gone), **told}))


def run_datatrove(file: Path, scratch: Path, bands: int, rows: int) -> None:
    """Runs datatrove's four steps in this process over a JSON list of texts, and prints as JSON who is gone, and the seconds.

    Nothing but datatrove is imported, so that any environment will do.
    """
    import xxhash
    from datatrove.data import Document  # type: ignore[import-not-found,unused-ignore]
    from datatrove.pipeline.dedup import minhash  # type: ignore[import-not-found,unused-ignore]

    config = minhash.MinhashConfig(n_grams=SHINGLE, num_buckets=bands, hashes_per_bucket=rows)
    places = {name: str(scratch / name) for name in ("signatures", "buckets", "removed")}
    documents = [Document(text=text, id=str(n)) for n, text in enumerate(json.loads(file.read_text(encoding="utf-8")))]
    step = minhash.MinhashDedupSignature(places["signatures"], config=config)
    step._hash_func = lambda data: xxhash.xxh64_intdigest(
        data.encode()
    )  # its own hands over text, which xxhash 4 refuses
    started = time.perf_counter()
    step.run(iter(documents))
    signed = time.perf_counter() - started
    for bucket in range(bands):
        minhash.MinhashDedupBuckets(places["signatures"], places["buckets"], config=config).run(None, bucket, bands)
    minhash.MinhashDedupCluster(places["buckets"], places["removed"], config=config).run()
    kept = {int(document.id) for document in minhash.MinhashDedupFilter(places["removed"]).run(iter(documents))}
    seconds = time.perf_counter() - started
    gone = sorted(set(range(len(documents))) - kept)
    print(json.dumps({"seconds": seconds, "signatures": signed, "gone": gone}))


def _child(python: str, *arguments: object) -> dict[str, Any]:
    """What a run of this file in a process of its own prints."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [python, __file__, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(
    run: dict[str, Any], wanted: set[int], pairs: dict[tuple[int, int], float], texts: int, size: int
) -> dict[str, Any]:
    """Figures of a run. ``found``: of what should go, the share that does; a pair of which either is gone is found."""
    gone = set(run["gone"])
    near = {number for pair in pairs for number in pair}
    return {
        "seconds": round(run["seconds"], 2),
        "texts_per_second": round(texts / run["seconds"]),
        "mb_per_second": round(size / 1e6 / run["seconds"], 2),
        "gone": len(gone),
        "recall": round(len(gone & wanted) / max(1, len(wanted)), 4),
        "pairs_found": round(sum(bool(gone & set(pair)) for pair in pairs) / max(1, len(pairs)), 4),
        "precision": round(len(gone & near) / max(1, len(gone)), 4),
        **{key: run[key] for key in ("compared", "peak_mb") if key in run},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--copies", type=float, default=0.2, help="the share of the texts that get a near copy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--datatrove", help="python of an environment that holds datatrove")
    parser.add_argument("--save", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    from benchmarks.corpus import machine
    from pipeline.dedup.config import DedupConfig
    from pipeline.dedup.minhash import bands_of

    talks = plant(arguments.texts, arguments.copies, arguments.seed)
    wanted, pairs = expected(talks)
    size = sum(len(text.encode()) for parts in talks for text in parts)
    print(f"{len(talks):,} texts, {size / 1e6:.1f} MB, {len(pairs):,} near pairs, {len(wanted):,} should go")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(talks, folder / "convert")
        texts = folder / "texts.json"
        texts.write_text(json.dumps(["\n".join(parts) for parts in talks]), encoding="utf-8")
        for turn in range(2):
            if arguments.datatrove:
                given = ("--run-datatrove", texts, folder / f"datatrove-{turn}", *bands_of(THRESHOLD, 128))
                run = _child(arguments.datatrove, *given)
                rows[f"datatrove {turn + 1}"] = _row(run, wanted, pairs, len(talks), size)
            for label, differing in (("whole", 0.0), ("default", DedupConfig().differing)):
                out = folder / f"out-{label}-{turn}"
                run = _child(sys.executable, "--run-ours", folder / "convert", out, arguments.workers, differing)
                rows[f"{label} {turn + 1}"] = _row(run, wanted, pairs, len(talks), size)
    if not arguments.datatrove:
        print("datatrove: skipped, no environment that holds it was named (--datatrove PYTHON)")
    for label, row in rows.items():
        print(f"{label:12}", "  ".join(f"{key} {value}" for key, value in row.items()))
    ratio = None
    if arguments.datatrove:
        best = {label: min(rows[f"{label} {turn}"]["seconds"] for turn in (1, 2)) for label in ("datatrove", "whole")}
        ratio = round(best["datatrove"] / best["whole"], 2)
        print(f"throughput against datatrove's, best of two runs each: {ratio}")
    if arguments.save:
        about = machine("benchmarks/dedup.py " + " ".join(sys.argv[1:]))
        figures = {**about, "texts": len(talks), "bytes": size, "near_pairs": len(pairs), "runs": rows, "ratio": ratio}
        arguments.save.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run-ours"]:
        run_ours(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    elif sys.argv[1:2] == ["--run-datatrove"]:
        run_datatrove(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
