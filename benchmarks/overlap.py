"""The price of overlap: what it costs a model to speak earlier, policy by policy, on the same conversations.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/overlap.py [--corpora NAME…] [--conversations N] [--seeds N] [--model M]
        [--tokens N] [--store DIR] [--save FILE] [--plot FILE]

Every arm holds the same conversations with the same text: ``turns``, ``evidence`` (with ``thinking``), ``information`` at three
ε, and ``row zero``, the dishonest alignment of the paper's released builder, whose answers wait for no input. Each is trained
by ``pipeline.training`` with the same settings until ``--tokens`` spoken tokens, once per seed, and tested on its own layout of
the same held-out conversations. Told per arm: held-out loss of the output text before and after, in nats per token, its
difference from ``turns`` paired by conversation (95% interval of a bootstrap over conversations, means over seeds; and the
range over seeds), and what is saved of the latencies. An arm whose grids are those of an earlier one is not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus, frontier  # noqa: E402
from pipeline import leaks  # noqa: E402
from pipeline.alignment import Aligned, align_all, parse_align_spec  # noqa: E402
from pipeline.alignment.plan import Resources  # noqa: E402
from pipeline.conversation import Conversation, conversation_id  # noqa: E402
from pipeline.models import quiet_transformers, resolve_model  # noqa: E402
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, token_grid_metadata  # noqa: E402
from pipeline.scoring import Scorer, ScoreStore, score_all  # noqa: E402
from pipeline.tokenization import load_tokenizer  # noqa: E402
from pipeline.training.grid import find_shards, iter_grids, read_metadata  # noqa: E402
from pipeline.training.loop import TrainConfig, train  # noqa: E402
from pipeline.training.loss import cell_losses  # noqa: E402
from pipeline.training.masks import IGNORE, record_cells  # noqa: E402
from pipeline.training.model import MultistreamModel, load_base, load_checkpoint  # noqa: E402
from pipeline.training.packing import make_pack  # noqa: E402

DEFAULT = ("math-gsm8k", "rc-pubmedqa")
ROW_ZERO = "row zero (dishonest)"
#: What differs between arms must be where the words stand, so ``thinking`` is on in all but the baseline's own form.
ARMS = {
    "turns": "turns",
    "evidence 0.8": "thinking:min_coverage=0.8+evidence:over=all,min_coverage=0.8",
    "information 0.02": "information:epsilon=0.02,cue={cue},prefixes={prefixes}",
    "information 0.05": "information:epsilon=0.05,cue={cue},prefixes={prefixes}",
    "information 0.2": "information:epsilon=0.2,cue={cue},prefixes={prefixes}",
    ROW_ZERO: "turns",
}
TEST_SHARE = 0.25
#: Of the plot, in percent.
TICKS = (0, 5, 10, 15, 20, 50, 100, 200, 500, 1000)


def chosen(name: str, count: int, longest: int) -> list[Conversation]:
    """``count`` conversations of a corpus by the hash of their id, of at most ``longest`` tokens each."""
    found = sorted(corpus.conversations(name), key=lambda c: hashlib.sha256(conversation_id(c).encode()).digest())
    encoded = load_tokenizer("smollm2").encode(["\n".join(p.text for m in c.messages for p in m.parts) for c in found])
    return [c for c, tokens in zip(found, encoded.counts.tolist(), strict=True) if tokens <= longest][:count]


def without_waiting(aligned: Aligned) -> Aligned:
    """Outputs that wait for outputs only, as the paper's released Alpaca builder lets the answer start with its input."""
    timeline = aligned.timeline
    is_output = [timeline.streams[span.stream].direction == "output" for span in timeline.spans]
    speaks = [is_output[span] for span in timeline.chunk_span]
    after = [
        tuple(a for a in before if speaks[a]) if speaks[chunk] else before
        for chunk, before in enumerate(timeline.after)
    ]
    return replace(aligned, timeline=replace(timeline, after=after))


def lay_out(arm: str, conversations: Sequence[Conversation], args: argparse.Namespace, resources: Resources) -> Tables:
    """The records and token grids of one arm."""
    spec = parse_align_spec(ARMS[arm].format(cue=args.cue, prefixes=args.prefixes))
    aligned = align_all(conversations, spec, resources)
    if arm == ROW_ZERO:
        aligned = [without_waiting(a) for a in aligned]
    told = [
        Document(c, a.timeline, a.spec, ordinal=i, labels=a.labels)
        for i, (c, a) in enumerate(zip(conversations, aligned, strict=True))
    ]
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([document.timeline for document in told], tokenizer)
    tables = build_tables(told, Clock(tokenizer), encoded, first)
    if tables.failed:
        sys.exit(f"{arm}: {len(tables.failed)} conversations cannot be laid out: {tables.failed[0][1]}")
    return tables


def write(tables: Tables, folder: Path) -> None:
    """A data set of two splits; the same conversations are held out in every arm."""
    held_out = int(tables.tokens.num_rows * TEST_SHARE)
    metadata = token_grid_metadata(Clock(load_tokenizer("smollm2")))
    for split, part in (("test", tables.tokens.slice(0, held_out)), ("train", tables.tokens.slice(held_out))):
        (folder / split).mkdir(parents=True)
        pq.write_table(part.replace_schema_metadata(metadata), folder / split / "tokens-00000.parquet")


def losses(model: MultistreamModel, folder: Path) -> np.ndarray[Any, Any]:
    """Summed output text loss in nats and the number of its tokens per held-out conversation: float64 [N, 2]."""
    shards = find_shards(folder, "test")
    metadata = read_metadata(shards)
    model.eval()
    found = []
    with torch.inference_mode():
        for grid in iter_grids(shards):
            pack = make_pack(record_cells(grid, metadata), model.role_index, "same_row")
            words = np.flatnonzero((pack.target != IGNORE) & (pack.target != metadata.silence_id))
            target = torch.from_numpy(pack.target[words])
            nats = cell_losses(model, model.hidden(pack)[torch.from_numpy(words)], target)
            found.append((float(nats.double().sum()), len(words)))
    return np.array(found)


def mean_loss(sums: np.ndarray[Any, Any]) -> float:
    """Nats per token over all conversations."""
    return float(sums[..., 0].sum() / sums[..., 1].sum())


def interval(arm: np.ndarray[Any, Any], turns: np.ndarray[Any, Any], draws: int = 2000) -> tuple[float, float]:
    """95% interval of the difference of mean losses, conversations resampled in pairs: sums [seeds, N, 2] of both."""
    rng = np.random.default_rng(0)
    count = arm.shape[1]
    picked = rng.integers(0, count, (draws, count))
    mean = [each[:, picked].sum(2).sum(0) for each in (arm, turns)]  # [draws, 2]
    differences = mean[0][:, 0] / mean[0][:, 1] - mean[1][:, 0] / mean[1][:, 1]
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Trained:
    """An arm's grids, its held-out sums before training [N, 2] and after, per seed [seeds, N, 2]; the tokens of a run."""

    grids: pa.Table
    before: np.ndarray[Any, Any]
    after: np.ndarray[Any, Any]
    tokens: int


def trained_on(tables: Tables, base: Path, args: argparse.Namespace) -> Trained:
    """Trains on an arm once per seed."""
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        write(tables, folder)
        roles = sorted({s["role"] for streams in tables.tokens.column("streams").to_pylist() for s in streams})
        before = losses(load_base(base, roles, cpu), folder)
        runs = []
        for seed in range(args.seeds):
            config = TrainConfig(
                steps=100_000, max_tokens=args.tokens, packs_per_step=1, max_cells=args.cells, seed=seed, save_every=0,
                learning_rate=args.learning_rate, embedding_learning_rate=10 * args.learning_rate, device="cpu",
            )  # fmt: skip
            result = train(folder, base, Path(scratch) / "checkpoint", config)
            runs.append(losses(load_checkpoint(result.checkpoint, cpu), folder))
    return Trained(tables.tokens.drop_columns(["id"]), before, np.stack(runs), result.tokens)


def measure(name: str, args: argparse.Namespace, scorer: Scorer, store: ScoreStore) -> list[dict[str, Any]]:
    """The rows of one corpus, an arm each."""
    conversations = chosen(name, args.conversations, args.longest)
    resources = Resources(scores=lambda queries: score_all(scorer, queries, store))
    base = resolve_model(args.model)
    after: dict[str, np.ndarray[Any, Any]] = {}
    trained: dict[str, Trained] = {}
    rows = []
    for arm in ARMS:
        started = time.perf_counter()
        tables = lay_out(arm, conversations, args, resources)
        grids = tables.tokens.drop_columns(["id"])
        same = next((name for name, known in trained.items() if known.grids.equals(grids)), None)
        found = trained[arm] = trained[same] if same else trained_on(tables, base, args)
        after[arm] = found.after
        low, high = interval(after[arm], after["turns"])
        by_seed = [mean_loss(run) - mean_loss(turns) for run, turns in zip(found.after, after["turns"], strict=True)]
        findings = leaks.lexical(tables.records)
        rows.append(
            {
                "corpus": name,
                "arm": arm,
                "same_grids_as": same,
                "conversations": len(conversations),
                "held_out": len(found.before),
                "held_out_tokens": int(found.before[:, 1].sum()),
                "trained_tokens": found.tokens,
                "records_with_a_leak": len({f.record for f in findings if f.verdict == "leak"}),
                **frontier.savings(tables.records),
                "loss_before": round(mean_loss(found.before), 4),
                "loss_after": round(mean_loss(after[arm]), 4),
                "above_turns": round(mean_loss(after[arm]) - mean_loss(after["turns"]), 4),
                "above_turns_interval": [round(low, 4), round(high, 4)],
                "above_turns_by_seed": [round(v, 4) for v in by_seed],
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Response latency saved (median, quartiles) against the held-out loss above ``turns`` (interval), a panel per corpus."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "overlap"
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["corpus"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(5.2 * len(names), 4), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        for number, row in enumerate(r for r in rows if r["corpus"] == name):
            low, middle, high = (100 * v for v in row["response_latency_saved"])
            x = row["above_turns"]
            errors = [[x - row["above_turns_interval"][0]], [row["above_turns_interval"][1] - x]]
            axis.errorbar(
                x, middle, [[middle - low], [high - middle]], errors, fmt="os^Dv*"[number], label=row["arm"],
                capsize=2, linewidth=1, color="red" if row["arm"] == ROW_ZERO else None,
            )  # fmt: skip
        axis.axvline(0, color="gray", linewidth=0.5)
        axis.axhline(0, color="gray", linewidth=0.5)
        axis.set_yscale("symlog", linthresh=20)
        axis.set_yticks(TICKS, map(str, TICKS))
        axis.minorticks_off()
        axis.set_title(name)
        axis.set_xlabel("held-out loss of the output text above turns (nats per token)")
        top = max(100 * row["response_latency_saved"][2] for row in rows if row["corpus"] == name)
        axis.set_ylim(-2, 1.2 * max(top, 10))
    axes[0][0].set_ylabel("response latency saved (%), median and quartiles")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[name for name in DEFAULT if name in corpus.names()])
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--longest", type=int, default=700, help="longest conversation in tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=10_000, help="spoken tokens that each arm is trained on")
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--cue", default="turn")
    parser.add_argument("--prefixes", type=int, default=8)
    parser.add_argument("--store", type=Path, default=Path("build/scores"))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    quiet_transformers()
    torch.set_num_threads(os.cpu_count() or 1)
    scorer = Scorer("smollm2", cue=args.cue, max_context=4096)
    store = ScoreStore(args.store)
    rows: list[dict[str, Any]] = []
    for name in args.corpora:
        rows.extend(measure(name, args, scorer, store))
        if args.save:
            described = {"scorer": scorer.name, "cue": args.cue, "model": args.model, "tokens": args.tokens}
            machine = corpus.machine("benchmarks/overlap.py " + " ".join(sys.argv[1:]))
            args.save.write_text(json.dumps({**machine, **described, "rows": rows}, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
