"""What alignment and leak detection cost, beside the bare tokenizer on the same text, and how they grow.

    .venv/bin/python benchmarks/align.py [--corpora NAME…] [--align SPEC] [--repeat N] [--save FILE]

Timed per corpus: ``align_all`` and ``leaks.lexical`` in one process per core (each has its share of the conversations, both
run at the same time; the slower one counts), and the tokenizer over the same spans in batches on all cores. The goal is a
ratio of at most 0.4. Then one conversation, ever longer, up to 200,000 tokens: seconds per 1,000 tokens must not grow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from pipeline import leaks, words  # noqa: E402
from pipeline.alignment import align_all, parse_align_spec  # noqa: E402
from pipeline.conversation import Conversation  # noqa: E402
from pipeline.records import Clock, Document, build_tables, encode_spans  # noqa: E402
from pipeline.tokenization import load_tokenizer  # noqa: E402

DEFAULT = (
    "math-gsm8k", "sharegpt-glaive-toolcall", "openai-tau-bench-airline", "agent-webdancer", "think-skythought-math",
    "rc-pubmedqa", "alpaca-gpteacher", "oasst-trees", "blocks-reason-tool-use", "agent-swe-agent",
)  # fmt: skip
BATCH = 256
SIZES = (12_500, 25_000, 50_000, 100_000, 200_000)


def timed(conversations: Sequence[Conversation], spec: str, repeat: int) -> tuple[float, float]:
    """Least seconds of aligning the conversations and of looking for leaks in their records, each time as if for the first."""
    chosen, tokenizer = parse_align_spec(spec), load_tokenizer("smollm2")
    align_seconds = detect_seconds = float("inf")
    batches = [conversations[i : i + BATCH] for i in range(0, len(conversations), BATCH)]
    for _ in range(repeat):
        spent = looked = 0.0
        words.forget()
        for batch in batches:
            started = time.perf_counter()
            aligned = align_all(batch, chosen)
            spent += time.perf_counter() - started
            told = [Document(c, a.timeline, a.spec) for c, a in zip(batch, aligned, strict=True) if a.timeline.spans]
            encoded, first = encode_spans([document.timeline for document in told], tokenizer)
            records = build_tables(told, Clock(tokenizer), encoded, first).records
            started = time.perf_counter()
            leaks.lexical(records)
            looked += time.perf_counter() - started
        align_seconds, detect_seconds = min(align_seconds, spent), min(detect_seconds, looked)
    return align_seconds, detect_seconds


def worker(conversations: Sequence[Conversation], spec: str, repeat: int) -> tuple[float, float]:
    """``timed``, in a process that has one core."""
    return timed(conversations, spec, repeat)


def tokenize(conversations: Sequence[Conversation], spec: str, repeat: int) -> tuple[float, int]:
    """Least seconds of encoding every span on all cores, with a tokenizer that has seen nothing yet; and the tokens."""
    texts = [s.text for a in align_all(conversations, parse_align_spec(spec)) for s in a.timeline.spans]
    best, tokens = float("inf"), 0
    for _ in range(repeat):
        tokenizer = load_tokenizer("smollm2")
        tokenizer.encode(["Hello."] * 4)
        started = time.perf_counter()
        tokens = sum(len(tokenizer.encode(texts[i : i + 2048]).ids) for i in range(0, len(texts), 2048))
        best = min(best, time.perf_counter() - started)
    return best, tokens


def start() -> None:
    """One thread per process, as in conversion."""
    import pyarrow

    pyarrow.set_cpu_count(1)


def measure(name: str, spec: str, repeat: int, pool: Any) -> dict[str, Any]:
    """The figures of one corpus."""
    conversations = corpus.conversations(name)
    cores = os.cpu_count() or 1
    shares = [conversations[i::cores] for i in range(cores)]
    seconds = pool.starmap(worker, [(share, spec, repeat) for share in shares], chunksize=1)
    bare, tokens = tokenize(conversations, spec, repeat)
    align, detect = (max(values) for values in zip(*seconds, strict=True))
    return {
        "corpus": name,
        "conversations": len(conversations),
        "tokens": tokens,
        "align_seconds": round(align, 4),
        "detect_seconds": round(detect, 4),
        "tokenizer_seconds": round(bare, 4),
        "ratio": round((align + detect) / bare, 3),
    }


def grow(spec: str, repeat: int) -> list[dict[str, Any]]:
    """One conversation of one corpus after the other, joined, up to so many tokens."""
    tokenizer = load_tokenizer("smollm2")
    parts = [c for name in ("openai-tau-bench-airline", "agent-webdancer") for c in corpus.conversations(name)]
    sizes = [int(tokenizer.encode([p.text for m in c.messages for p in m.parts]).offsets[-1]) for c in parts]
    found = []
    for size in SIZES:
        messages: list[Any] = []
        tokens = 0
        for conversation, count in zip(parts * 4, sizes * 4, strict=True):
            if tokens >= size:
                break
            messages.extend(conversation.messages)
            tokens += count
        align, detect = timed([replace(parts[0], messages=tuple(messages))], spec, repeat)
        found.append(
            {
                "tokens": tokens,
                "align_seconds": round(align, 3),
                "detect_seconds": round(detect, 3),
                "milliseconds_per_1000_tokens": round((align + detect) / tokens * 1e6, 2),
            }
        )
    return found


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[name for name in DEFAULT if name in corpus.names()])
    parser.add_argument("--align", default="auto")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), start) as pool:
        rows = [measure(name, args.align, args.repeat, pool) for name in args.corpora]
    total = {key: sum(row[key] for row in rows) for key in ("align_seconds", "detect_seconds", "tokenizer_seconds")}
    result = {
        **corpus.machine("benchmarks/align.py " + " ".join(sys.argv[1:])),
        "align": args.align,
        "ratio": round((total["align_seconds"] + total["detect_seconds"]) / total["tokenizer_seconds"], 3),
        "corpora": rows,
        "growth": grow(args.align, args.repeat),
    }
    for row in [*rows, *result["growth"]]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"all: ratio {result['ratio']}")
    if args.save:
        args.save.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
