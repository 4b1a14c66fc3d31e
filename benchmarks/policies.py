"""Every policy over every corpus: what overlaps, what it saves, and that nothing leaks, by two looks that share no code.

    .venv/bin/python benchmarks/policies.py [--corpora NAME…] [--align SPEC…] [--save FILE]

Conversations are aligned and laid out as conversion does it, but nothing is laid out again when a leak is found: leaks are
counted by ``pipeline.leaks`` and by ``benchmarks.second_look``, broken invariants by ``pipeline.checks``. A policy that has
nothing to do in a corpus is left out of its rows. ``information`` needs a language model and has a benchmark of its own
(``frontier``). Conversations longer than the window are cut into segments first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus, second_look  # noqa: E402
from benchmarks.frontier import records_of  # noqa: E402
from pipeline import leaks  # noqa: E402
from pipeline.alignment import POLICIES, align_all, parse_align_spec  # noqa: E402
from pipeline.alignment.plan import Resources  # noqa: E402
from pipeline.checks import record_violations  # noqa: E402
from pipeline.conversation import Conversation, RecordError  # noqa: E402
from pipeline.segments import cut_segments, segment_of  # noqa: E402
from pipeline.stats import PolicyStats, RecordStats  # noqa: E402
from pipeline.timeline import draft_of  # noqa: E402
from pipeline.tokenization import TextTokenizer, load_tokenizer, token_ends  # noqa: E402

SPECS = (
    "turns", "auto", "wait_k", "wait_k:k=3,chunk=token", "evidence", "evidence:over=data", "evidence:over=all", "thinking",
    "tools_async", "tools_async:latency=*:40:0.7", "audit", "audit:corrupt=0.5", "monitor", "monitor:plant=1", "timestamps",
    "thinking+evidence:over=all+tools_async+audit+monitor",
)  # fmt: skip
WINDOW = 8192
BATCH = 128


def pieces(conversation: Conversation, tokenizer: TextTokenizer) -> list[Conversation]:
    """The conversation, or its segments; none if a message alone is longer than the window."""
    cells = [int(tokenizer.encode([p.text for p in m.parts]).counts.sum()) + 16 for m in conversation.messages]
    fixed = int(tokenizer.encode([conversation.tools]).counts.sum())
    if sum(cells) + fixed <= WINDOW:
        return [conversation]
    try:
        return [segment_of(conversation, chosen) for chosen in cut_segments(conversation, cells, fixed, WINDOW)]
    except RecordError:
        return []


def applies(spec: str, conversations: Sequence[Conversation]) -> bool:
    """Whether a policy of the spec has something to do in a conversation; turns, wait_k and auto always have."""
    chosen = parse_align_spec(spec)
    names = [name for name, _ in chosen.policies]
    if chosen.auto or names[0] in ("turns", "wait_k"):
        return True
    return any(POLICIES[name].why(draft_of(c)) for name in names for c in conversations)


def measure(name: str, spec: str, conversations: Sequence[Conversation], resources: Resources) -> dict[str, Any]:
    """The row of one corpus under one spec."""
    stats = RecordStats()
    found = other = broken = 0
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        aligned = align_all(batch, parse_align_spec(spec), resources)
        spoken = [(c, a) for c, a in zip(batch, aligned, strict=True) if a.timeline.spans]
        table = records_of([c for c, _ in spoken], [a for _, a in spoken])
        found += len({f.record for f in leaks.lexical(table) if f.verdict != "clear"})
        other += len({f.record for f in second_look.findings(table)})
        broken += len(record_violations(table))
        stats.add(table)
    total = PolicyStats()
    for own in stats.by_policy.values():
        total.merge(own)
    return {
        "corpus": name,
        "align": spec,
        **total.to_json(),
        "best": total.saved.quantiles([1.0])[0],
        "leaking_records": found,
        "leaking_by_second_look": other,
        "violations": broken,
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=corpus.names())
    parser.add_argument("--align", nargs="+", default=SPECS)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    tokenizer = load_tokenizer("smollm2")
    resources = Resources(token_ends=lambda text: token_ends(tokenizer, text))
    rows = []
    for name in args.corpora:
        conversations = [piece for c in corpus.conversations(name) for piece in pieces(c, tokenizer)]
        for spec in args.align if conversations else ():
            if applies(spec, conversations):
                rows.append(measure(name, spec, conversations, resources))
                print(json.dumps(rows[-1]), flush=True)
    total = {key: sum(row[key] for row in rows) for key in ("leaking_records", "leaking_by_second_look", "violations")}
    result = {**corpus.machine("benchmarks/policies.py " + " ".join(sys.argv[1:])), **total, "rows": rows}
    print(json.dumps(total))
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    if any(total.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
