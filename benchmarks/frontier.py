"""The frontier: how much earlier unchanged text may honestly be said, against what that costs in information.

    .venv/bin/python benchmarks/frontier.py [--corpora NAME…] [--conversations N] [--store DIR] [--save FILE] [--plot FILE]

For every corpus, a seeded sample of its conversations is aligned under ``turns``, under ``evidence`` over a range of
``min_coverage`` (with ``thinking`` and ``tools_async``), and under ``information`` (with ``tools_async``) over a range of
``epsilon``. Per record the four latencies of ``pipeline.evaluation.latency`` are compared with ``turns`` of the same
conversation; medians and quartiles are over conversations. Also counted: leaks found by the lexical look (must be 0), calls
that left early, and the future-information gain of what overlaps. The scorer and the cue are named; scores are kept in
the store, so that a run that was broken off goes on, and another epsilon costs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus, planting  # noqa: E402
from pipeline import leaks  # noqa: E402
from pipeline.alignment import Aligned, align_all, parse_align_spec  # noqa: E402
from pipeline.alignment.plan import Resources  # noqa: E402
from pipeline.checks import record_violations  # noqa: E402
from pipeline.conversation import Conversation, conversation_id  # noqa: E402
from pipeline.evaluation.latency import Event, Latency, measure_latency, turns_layout  # noqa: E402
from pipeline.records import Clock, Document, build_tables, encode_spans  # noqa: E402
from pipeline.scoring import Scorer, ScoreStore, record_gains, score_all  # noqa: E402
from pipeline.segments import cut_segments, segment_of  # noqa: E402
from pipeline.tokenization import load_tokenizer  # noqa: E402

DEFAULT = (
    "agent-webdancer", "openai-tau-bench-airline", "agent-swe-agent", "blocks-agent-sessions", "blocks-claude-code-log",
    "blocks-claude-code-transcripts", "blocks-pi-session", "blocks-reason-tool-use", "rc-pubmedqa", "rc-xquad",
    "think-marco-o1", "think-r1-searcher", "think-skythought-math", "think-star1",
)  # fmt: skip
EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
COVERAGES = (1.0, 0.8, 0.6, 0.4)
#: The specs whose records' gain is measured too (a forward pass per event that overlaps).
GAINED = ("evidence:over=all,min_coverage=0.8", "evidence:over=all,min_coverage=0.4", "epsilon=0.02,", "epsilon=0.1,")
WINDOW = 8192


def sample(name: str, count: int) -> list[Conversation]:
    """``count`` conversations of a corpus, chosen by the hash of their id; a conversation over the window gives its first
    segments."""
    found = corpus.conversations(name)
    chosen = sorted(found, key=lambda c: hashlib.sha256(conversation_id(c).encode()).digest())[:count]
    tokenizer = load_tokenizer("smollm2")
    return [piece for conversation in chosen for piece in segments(conversation, tokenizer)]


def segments(conversation: Conversation, tokenizer: Any) -> list[Conversation]:
    """The first segment of a conversation that is longer than the window, or all of it."""
    cells = [sum(tokenizer.encode([p.text for p in m.parts]).counts.tolist()) + 8 for m in conversation.messages]
    fixed = int(tokenizer.encode([conversation.tools]).counts.sum())
    if sum(cells) + fixed <= WINDOW:
        return [conversation]
    first = cut_segments(conversation, [min(c, WINDOW // 2) for c in cells], fixed, WINDOW)[0]
    return [segment_of(conversation, first)]


def records_of(conversations: Sequence[Conversation], aligned: Sequence[Aligned]) -> pa.Table:
    """The records of aligned conversations; those that conversion would reject are named and left out."""
    tokenizer = load_tokenizer("smollm2")
    told = [
        Document(c, a.timeline, a.spec, ordinal=i, labels=a.labels)
        for i, (c, a) in enumerate(zip(conversations, aligned, strict=True))
    ]
    encoded, first = encode_spans([document.timeline for document in told], tokenizer)
    tables = build_tables(told, Clock(tokenizer), encoded, first)
    for number, error in tables.failed:
        print(f"{told[number].conversation.sources[0].path}: {error}", file=sys.stderr)
    return tables.records


def released(table: pa.Table) -> pa.Table:
    """The same records as the paper's released builder lays them out: every answer starts with the input that it answers."""
    tokenizer = load_tokenizer("smollm2")
    laid = (planting.from_row_zero(record, tokenizer) for record in table.to_pylist())
    return planting.table_of([record for record in laid if record is not None])


def events_of(record: dict[str, Any]) -> list[Event]:
    """The events of a record, as latency is measured on them."""
    outputs = [stream["direction"] == "output" for stream in record["streams"]]
    return [
        Event(e["stream"], outputs[e["stream"]], e["message"], e["part"], e["start"], e["end"], tuple(e["after"]))
        for e in record["events"]
    ]


def latencies(table: pa.Table) -> list[tuple[Latency, Latency]]:
    """(as laid out, under turns) of every record."""
    found = []
    for record in table.select(["streams", "events"]).to_pylist():
        events = events_of(record)
        own = measure_latency(events, [(e.start, e.end) for e in events])
        turns = measure_latency(events, turns_layout(events, 0))
        if own is not None and turns is not None:
            found.append((own, turns))
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """25%, 50% and 75%."""
    return [round(float(v), 4) for v in np.percentile(values, [25, 50, 75])] if len(values) else []


def savings(table: pa.Table) -> dict[str, Any]:
    """Quartiles over conversations: rows from the end of an input turn to the first output (0 under turns), and the shares of
    response latency, of rows to the end and of decode steps that are saved against ``turns``."""
    pairs = latencies(table)
    firsts = [float(np.mean(own.time_to_first_output)) for own, _ in pairs if own.time_to_first_output]
    return {
        "time_to_first_output_rows": quartiles(firsts),
        "response_latency_saved": quartiles(
            [1 - sum(o.response_latency) / max(sum(t.response_latency), 1) for o, t in pairs if t.response_latency]
        ),
        "rows_to_end_saved": quartiles([1 - o.rows_to_end / t.rows_to_end for o, t in pairs]),
        "decode_steps_saved": quartiles([1 - o.decode_steps / t.decode_steps for o, t in pairs]),
        "records_that_save_rows": sum(o.rows_to_end < t.rows_to_end for o, t in pairs),
        "records_whose_answers_come_earlier": sum(sum(o.response_latency) < sum(t.response_latency) for o, t in pairs),
    }  # fmt: skip


def early_calls(table: pa.Table) -> dict[str, int]:
    """Calls, and those that leave before a result of an earlier call has been read."""
    calls = moved = 0
    for events in table.column("events").to_pylist():
        results: dict[int, int] = {}
        for event in events:
            if event["kind"] == "tool_result" and event["call"] is not None:
                results[event["call"]] = max(event["end"], results.get(event["call"], 0))
        message = {e["call"]: e["message"] for e in events if e["kind"] == "tool_call"}
        for event in events:
            if event["kind"] == "tool_call":
                calls += 1
                moved += any(
                    end > event["start"] and message.get(call, event["message"]) < event["message"]
                    for call, end in results.items()
                )
    return {"calls": calls, "calls_that_left_early": moved}


def gain_of(scorer: Scorer, table: pa.Table, store: ScoreStore) -> dict[str, Any]:
    """The future-information gain of what overlaps: mean over tokens, and the largest of an event."""
    gains, counters = record_gains(scorer, table, store)
    flat = table.column("events").combine_chunks().flatten()
    tokens = flat.field("end").to_numpy() - flat.field("start").to_numpy()
    known = np.array([g is not None and g != 0 for g in gains], bool)
    values = np.array([0.0 if g is None else g for g in gains])
    spoken = int(tokens[known].sum())
    return {
        "gain_of_overlapping": round(float((values * tokens)[known].sum() / spoken), 4) if spoken else 0.0,
        "largest_gain": round(float(values.max(initial=0.0)), 4),
        "events_scored": int(counters.scored),
        "events_over_window": int(counters.over_window),
    }


def measure(name: str, args: argparse.Namespace, scorer: Scorer, store: ScoreStore) -> list[dict[str, Any]]:
    """The rows of one corpus."""
    conversations = sample(name, args.conversations)

    def scores(queries: Sequence[Any]) -> Sequence[Any]:
        return score_all(scorer, queries, store)

    rows = []
    specs = ["turns", *(f"thinking:min_coverage={c}+evidence:over=all,min_coverage={c}+tools_async" for c in COVERAGES)]
    specs += [f"information:epsilon={e},cue={args.cue},prefixes={args.prefixes}+tools_async" for e in EPSILONS]
    for spec in specs:
        started = time.perf_counter()
        table = records_of(conversations, align_all(conversations, parse_align_spec(spec), Resources(scores=scores)))
        findings = leaks.lexical(table)
        labels = [json.loads(text).get("information", {}) for text in table.column("labels").to_pylist()]
        row = {
            "corpus": name,
            "align": spec,
            "conversations": len(conversations),
            "leaks": sum(f.verdict == "leak" for f in findings),
            "violations": len(record_violations(table)),
            **savings(table),
            **early_calls(table),
            "queries_over_window": sum(told.get("over_window", 0) for told in labels),
            "queries": sum(told.get("scored", 0) + told.get("over_window", 0) for told in labels),
        }
        if args.gains and (spec == "turns" or any(mark in spec for mark in GAINED)):
            row |= gain_of(scorer, table.slice(0, args.gains), store)
        rows.append(row | {"seconds": round(time.perf_counter() - started, 1)})
        print(json.dumps(rows[-1]), flush=True)
    if args.gains:
        table = released(records_of(conversations, align_all(conversations, parse_align_spec("turns"))))
        rows.append({"corpus": name, "align": "released", "conversations": len(conversations), **savings(table)})
        rows[-1] |= gain_of(scorer, table.slice(0, args.gains), store) | {
            "leaks": sum(f.verdict != "clear" for f in leaks.lexical(table))
        }
        print(json.dumps(rows[-1]), flush=True)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Median response latency saved against epsilon and against min_coverage, with quartiles, a panel per corpus."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["corpus"] for row in rows))
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3.4 * columns, 2.6 * lines), squeeze=False, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        own = [row for row in rows if row["corpus"] == name]
        for prefix, key, values, color in (
            ("information", "ε (nats per token)", EPSILONS, "tab:blue"),
            ("thinking", "1 − min_coverage", [1 - c for c in COVERAGES], "tab:orange"),
        ):
            chosen = [row for row in own if row["align"].startswith(prefix) and row["response_latency_saved"]]
            if len(chosen) != len(values):
                continue
            low, middle, high = zip(*(row["response_latency_saved"] for row in chosen), strict=True)
            label = "information, ε" if prefix == "information" else "evidence, 1 − min_coverage"
            places = [max(v, 0.004) for v in values]
            axis.plot(places, middle, "o-", color=color, label=label, markersize=3)
            axis.fill_between(places, low, high, color=color, alpha=0.2)
            axis.set_xlabel(key if axis is axes[-1][0] else "")
        axis.set_xscale("log")
        axis.set_title(name, fontsize=9)
        axis.axhline(0, color="gray", linewidth=0.5)
        axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    for line in axes:
        line[0].set_ylabel("response latency saved", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[name for name in DEFAULT if name in corpus.names()])
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--cue", default="turn")
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--gains", type=int, default=0, help="records whose gain is measured too, under some policies")
    parser.add_argument("--prefixes", type=int, default=16, help="parts of one reading that are tried")
    parser.add_argument("--store", type=Path, default=Path("build/scores"))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    scorer = Scorer("smollm2", cue=args.cue, max_context=args.window)
    store = ScoreStore(args.store)
    rows: list[dict[str, Any]] = []
    for name in args.corpora:
        rows.extend(measure(name, args, scorer, store))
        if args.save:
            result = {
                **corpus.machine("benchmarks/frontier.py " + " ".join(sys.argv[1:])),
                "scorer": scorer.name,
                "cue": args.cue,
                "window": args.window,
                "prefixes": args.prefixes,
                "rows": rows,
            }
            args.save.write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
