"""Precision and recall of the leak detectors, by corpus and class, on planted leaks and honest records.

    .venv/bin/python benchmarks/leaks.py [--only NAME…] [--per-class N] [--scorer MODEL] [--save FILE]

Every corpus is converted twice, under `turns` and under the default policies. Leaks are planted into the records
(`benchmarks/planting.py`, which knows no detector), as many honest records stand beside them, all laid out by the layout
rule. A plant is found if its event is flagged; a false alarm is any other flagged event but those that had to move along.
`copied` and `early` are for the lexical look; `paraphrase` shows what it cannot see, and is for the informational look
(`--scorer`): how well the gain of an event tells plants from honest overlap. `row zero` is the alignment of the released
Alpaca builder: the share flagged of the records whose answer copies from its input. `--records DIR` reads (or leaves)
the converted corpora in DIR. The second extractor (`benchmarks/second_look.py`) is measured on the same plants.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus, planting, second_look  # noqa: E402
from benchmarks.planting import Plant, Planted, Record  # noqa: E402
from pipeline import leaks  # noqa: E402
from pipeline.checks import record_violations  # noqa: E402
from pipeline.tokenization import TextTokenizer, load_tokenizer  # noqa: E402

CORPORA = ROOT.parent / "shared" / "corpora"
NAMES = (
    "math-gsm8k", "openai-tau-bench-airline", "sharegpt-glaive-toolcall", "agent-webdancer", "agent-swe-agent",
    "rc-pubmedqa", "rc-xquad", "alpaca-gpteacher", "think-skythought-math", "oasst-trees", "injection-bipia",
    "rc-prosqa", "rc-prontoqa", "math-aqua", "think-r1-searcher", "blocks-pi-session", "blocks-reason-tool-use",
)  # fmt: skip
ROW_ZERO = ("alpaca-gpteacher", "rc-pubmedqa", "injection-bipia")
POLICIES = ("turns", "thinking+evidence+tools_async")
PRECISION = 0.95
HEAD = ("plants", "recall", "precision", "early", "copied", "paraphrase", "alarms", "2nd recall", "2nd alarms")

#: Keys of a case that hold text of a corpus.
QUOTED = ("text", "evidence", "answer", "facts")

#: Flagged events of a table of records: (record index, event) with what was said.
Look = Callable[[pa.Table], dict[tuple[int, int], str]]


def lexical(table: pa.Table) -> dict[tuple[int, int], str]:
    """What the pipeline's own detector calls a leak."""
    return {
        (f.record, f.event): ", ".join(f"{key!r} (event {at})" for key, at in f.evidence[:3])
        for f in leaks.lexical(table)
        if f.verdict == "leak"
    }


def second(table: pa.Table) -> dict[tuple[int, int], str]:
    """What the second extractor finds."""
    place = {record: i for i, record in enumerate(table.column("id").to_pylist())}
    return {(place[f.record], f.event): f"{f.fact!r} (event {f.evidence})" for f in second_look.findings(table)}


def read_records(folder: Path, limit: int) -> list[Record]:
    """The first records of a build by the hash of their ids: a fixed sample."""
    tables = [pq.read_table(p) for p in sorted(folder.glob("dataset/*/records-*.parquet"))]
    if not tables:
        return []
    table = pa.concat_tables(tables)
    ids = table.column("id").to_pylist()
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256((ids[i] + planting.draw_of[0]).encode()).digest())
    records: list[Record] = table.take(sorted(order[:limit])).to_pylist()
    return records


def plants_of(
    make: Callable[[Record, frozenset[str], TextTokenizer], Iterator[Planted]],
    records: Sequence[Record],
    lower: frozenset[str],
    tokenizer: TextTokenizer,
    wanted: int,
) -> list[Planted]:
    """At most ``wanted`` plants, as few of one record as will do: first one of each, then a second one, and so on."""
    waiting = [make(record, lower, tokenizer) for record in records]
    found: list[Planted] = []
    while waiting and len(found) < wanted:
        waiting = [source for source in waiting if _take(source, found)]
    return found[:wanted]


def _take(source: Iterator[Planted], found: list[Planted]) -> bool:
    taken = list(islice(source, 1))
    found.extend(taken)
    return bool(taken)


def plant(
    name: str, records: Path, per_class: int, limit: int, lower: frozenset[str], tokenizer: TextTokenizer
) -> list[Planted]:
    """Plants of every class, and as many honest records as there are leaks of the lexical kind."""
    turns, overlapping = (read_records(records / policy / name, limit) for policy in POLICIES)
    sets = (turns, lower, tokenizer)
    early = plants_of(planting.early, *sets, per_class)
    overlaps = [r for r in overlapping if sum(e["end"] - e["start"] for e in r["events"]) > r["rows"]]
    copied = plants_of(planting.copied, overlaps, lower, tokenizer, per_class // 2)
    copied += plants_of(planting.copied, *sets, per_class - len(copied))
    paraphrase = plants_of(planting.paraphrase, *sets, per_class)
    paraphrase += list(islice(planting.other_language(turns, tokenizer), per_class // 2))
    wanted = len(early) + len(copied)
    untouched = [planting.untouched(r) for r in chain(overlaps[: wanted // 3], turns[: wanted // 6])]
    honest = untouched + plants_of(planting.honest, *sets, wanted - len(untouched))
    return _distinct([*early, *copied, *paraphrase, *honest])


def _distinct(planted: list[Planted]) -> list[Planted]:
    return list({p.plant.record: p for p in planted}.values())


def judge(planted: Sequence[Planted], table: pa.Table, look: Look) -> dict[str, Any]:
    """Found and missed plants by class and variant, false alarms, and the first of both written out."""
    flagged = look(table)
    by_class: dict[str, Counter[str]] = {}
    variants: dict[str, Counter[str]] = {}
    misses: list[dict[str, Any]] = []
    alarms: list[dict[str, Any]] = []
    for i, (record, p) in enumerate((x.record, x.plant) for x in planted):
        counts = by_class.setdefault(p.kind, Counter())
        counts["records"] += 1
        if p.kind != "honest":
            hit = (i, p.event) in flagged
            counts["found"] += hit
            variants.setdefault(f"{p.kind}: {p.variant}", Counter())["found" if hit else "missed"] += 1
            if not hit and p.kind != "paraphrase":
                misses.append(written(record, p, p.event, [f"{text!r} (event {at})" for text, at in p.evidence[:4]]))
        for event in range(len(record["events"])):
            if (i, event) in flagged and event not in (() if p.kind == "honest" else (p.event, *p.moved)):
                counts["false alarms"] += 1
                alarms.append(written(record, p, event, [flagged[i, event]]))
    positives = sum(by_class.get(k, Counter())["records"] for k in ("early", "copied"))
    found = sum(by_class.get(k, Counter())["found"] for k in ("early", "copied"))
    false = sum(counts["false alarms"] for counts in by_class.values())
    return {
        "plants": positives,
        "recall": round(found / positives, 3) if positives else None,
        "precision": round(found / (found + false), 3) if found + false else None,
        "classes": {kind: dict(counts) for kind, counts in by_class.items()},
        "variants": {name: dict(counts) for name, counts in sorted(variants.items())},
        "misses": misses,
        "false_alarms": alarms,
    }


def written(record: Record, p: Plant, event: int | None, evidence: list[str]) -> dict[str, Any]:
    """One plant or false alarm, to be read."""
    e = record["events"][event or 0]
    source = record["sources"][0]
    return {
        "record": p.record,
        "source": f"{source['corpus']} {source['path']}#{source['index']}",
        "variant": f"{p.kind}: {p.variant}",
        "event": event,
        "stream": record["streams"][e["stream"]]["name"],
        "rows": [e["start"], e["end"]],
        "text": e["text"][:240],
        "evidence": evidence,
    }


def row_zero(name: str, records: Path, limit: int, tokenizer: TextTokenizer) -> dict[str, Any]:
    """The released Alpaca alignment: records flagged among those whose answer copies from the input it starts with."""
    chosen = [r for r in read_records(records / "turns" / name, limit) if _one_question_with_input(r)]
    laid = [(r, z) for r in chosen if (z := planting.from_row_zero(r, tokenizer)) is not None]
    table = planting.table_of([z for _, z in laid])
    if broken := record_violations(table):
        sys.exit(f"{name}, row zero: {broken[0]}")
    result: dict[str, Any] = {"records": len(laid)}
    looks: dict[str, set[int]] = {
        label: {r for r, _ in look(table)} for label, look in (("lexical", lexical), ("second look", second))
    }
    copying: list[int] = []
    facts: dict[int, list[str]] = {}
    for i, (record, _) in enumerate(laid):
        out = {s for s, stream in enumerate(record["streams"]) if stream["direction"] == "output"}
        answer = "\n".join(e["text"] for e in record["events"] if e["stream"] in out)
        given = "\n".join(e["text"] for e in record["events"] if e["stream"] not in out)
        if found := planting.copies(answer, given):
            copying.append(i)
            facts[i] = [f"{f.kind} {f.text!r}" for f in found[:5]]
    result["copying"] = len(copying)
    for label, flagged in looks.items():
        hit = sum(i in flagged for i in copying)
        result[label] = {
            "flagged": len(flagged),
            "flagged_of_copying": hit,
            "share": round(hit / len(copying), 4) if copying else None,
            "missed": [
                {"record": laid[i][1]["id"], "facts": facts[i], "answer": _answer(laid[i][1])[:200]}
                for i in copying
                if i not in flagged
            ],
        }
    return result


def _one_question_with_input(record: Record) -> bool:
    """One user message of at least two parts (an instruction and its input) and one answer."""
    inputs = [e for e in record["events"] if record["streams"][e["stream"]]["direction"] == "input"]
    return len({(e["message"], e["part"]) for e in inputs}) >= 2 and len({e["message"] for e in record["events"]}) == 2


def _answer(record: Record) -> str:
    out = {s for s, stream in enumerate(record["streams"]) if stream["direction"] == "output"}
    return "\n".join(e["text"] for e in record["events"] if e["stream"] in out)


def informational(planted: Sequence[Planted], table: pa.Table, model: str) -> dict[str, Any]:
    """How the gain of the planted event tells leaks from honest overlap: AUC, and recall at a precision of 0.95."""
    from pipeline.scoring import Scorer, record_gains

    measured = record_gains(Scorer(model), table)
    gains = list(measured[0] if isinstance(measured, tuple) else measured)
    first = [0]
    for x in planted:
        first.append(first[-1] + len(x.record["events"]))
    by_class: dict[str, list[float]] = {}
    for i, x in enumerate(planted):
        if x.plant.event is not None and (gain := gains[first[i] + x.plant.event]) is not None:
            by_class.setdefault(x.plant.kind, []).append(float(gain))
    negatives = by_class.pop("honest", [])
    return {
        kind: {
            "scored": len(positives),
            "honest": len(negatives),
            "auc": auc(positives, negatives),
            "recall_at_0.95": recall_at(positives, negatives, PRECISION),
            "median_gain": sorted(positives)[len(positives) // 2],
            "median_gain_honest": sorted(negatives)[len(negatives) // 2] if negatives else None,
        }
        for kind, positives in by_class.items()
    }


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Probability that a leak has a larger gain than an honest event (ties count half)."""
    if not positives or not negatives:
        return None
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return round(wins / (len(positives) * len(negatives)), 3)


def recall_at(positives: Sequence[float], negatives: Sequence[float], precision: float) -> float | None:
    """Largest share of leaks above a threshold at which at least ``precision`` of what is above it are leaks."""
    if not positives:
        return None
    best = 0.0
    for threshold in set(positives):
        found, false = sum(p >= threshold for p in positives), sum(n >= threshold for n in negatives)
        if found / (found + false) >= precision:
            best = max(best, found / len(positives))
    return round(best, 3)


def line(name: str, cells: Sequence[Any]) -> str:
    """One line of the printed table."""
    return f"{name:28}" + "".join(f"{'-' if c is None else c:>12}" for c in cells)


def main() -> None:
    """Converts, plants, measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--only", nargs="*", help="names of corpora")
    parser.add_argument("--records", type=Path, help="where converted corpora lie, or are left: DIR/POLICY/CORPUS")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--limit", type=int, default=200, help="records of a corpus")
    parser.add_argument("--draw", default="", help="any text: plants other leaks in other records")
    parser.add_argument("--scorer", help="model of the informational look, for example smollm2")
    parser.add_argument("--show", type=int, default=20, help="misses and false alarms written out, per corpus")
    parser.add_argument("--save", type=Path, help="write figures here, and where the cases stand")
    parser.add_argument("--cases", type=Path, help="write the same with the texts of the cases")
    options = parser.parse_args()
    planting.draw_of[0] = options.draw
    names = [n for n in options.only or NAMES if (options.corpora / n).is_dir()]
    if not names:
        sys.exit(f"no corpus to measure on in {options.corpora}")
    tokenizer = load_tokenizer("smollm2")
    rows: dict[str, Any] = {}
    zero: dict[str, Any] = {}
    print(line("corpus", HEAD))
    with tempfile.TemporaryDirectory() as scratch:
        records = (options.records or Path(scratch)).resolve()
        for name in names:
            for policy in POLICIES:
                corpus.convert(options.corpora / name, records / policy / name, policy)
        everybody = chain.from_iterable(read_records(records / POLICIES[0] / name, options.limit) for name in names)
        lower = planting.lower_words(everybody)
        for name in names:
            planted = plant(name, records, options.per_class, options.limit, lower, tokenizer)
            table = planting.table_of([p.record for p in planted])
            if broken := record_violations(table):
                sys.exit(f"{name}: {broken[0]}")
            started = time.perf_counter()
            rows[name] = {"lexical": judge(planted, table, lexical)}
            rows[name]["lexical"]["seconds"] = round(time.perf_counter() - started, 2)
            rows[name]["second look"] = judge(planted, table, second)
            if options.scorer:
                rows[name]["informational"] = informational(planted, table, options.scorer)
            if name in ROW_ZERO:
                zero[name] = row_zero(name, records, 10 * options.limit, tokenizer)
            print(line(name, summary(rows[name])), flush=True)
    everything = total(rows)
    print(line("all", summary(everything)))
    for name, result in zero.items():
        for label in ("lexical", "second look"):
            got = result[label]
            print(
                f"row zero, {name}, {label}: {got['flagged_of_copying']} of {result['copying']} records that copy are "
                f"flagged ({got['share']}); {got['flagged']} of all {result['records']}"
            )
    for name, row in rows.items():
        show(name, row, options.show)
    for target, texts in ((options.save, False), (options.cases, True)):
        if target:
            value = {
                "date": date.today().isoformat(),
                "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
                "command": "benchmarks/leaks.py " + " ".join(sys.argv[1:]),
                "all": everything,
                "corpora": {name: cut_short(row, options.show, texts) for name, row in rows.items()},
                "row_zero": {name: cut_short(row, options.show, texts) for name, row in zero.items()},
            }
            target.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def summary(row: dict[str, Any]) -> list[Any]:
    """The cells of a corpus: the lexical look, then the second extractor."""
    first, other = row["lexical"], row["second look"]

    def share(kind: str) -> str | None:
        counts = first["classes"].get(kind)
        return f"{counts.get('found', 0)}/{counts['records']}" if counts else None

    def alarms(look: dict[str, Any]) -> int:
        return sum(counts.get("false alarms", 0) for counts in look["classes"].values())

    return [
        first["plants"], first["recall"], first["precision"], share("early"), share("copied"), share("paraphrase"),
        alarms(first), other["recall"], alarms(other),
    ]  # fmt: skip


def total(rows: dict[str, Any]) -> dict[str, Any]:
    """The sums over all corpora."""
    result: dict[str, Any] = {}
    for look in ("lexical", "second look"):
        classes: dict[str, Counter[str]] = {}
        variants: dict[str, Counter[str]] = {}
        for row in rows.values():
            for kind, counts in row[look]["classes"].items():
                classes.setdefault(kind, Counter()).update(counts)
            for variant, counts in row[look]["variants"].items():
                variants.setdefault(variant, Counter()).update(counts)
        lexical_kinds = [classes.get(k, Counter()) for k in ("early", "copied")]
        plants, found = sum(c["records"] for c in lexical_kinds), sum(c["found"] for c in lexical_kinds)
        false = sum(c["false alarms"] for c in classes.values())
        result[look] = {
            "plants": plants,
            "recall": round(found / plants, 3) if plants else None,
            "precision": round(found / (found + false), 3) if found + false else None,
            "classes": {k: dict(c) for k, c in classes.items()},
            "variants": {k: dict(c) for k, c in sorted(variants.items())},
        }
    return result


def show(name: str, row: dict[str, Any], count: int) -> None:
    """The first misses and false alarms of the lexical look."""
    for what in ("misses", "false_alarms"):
        for case in row["lexical"][what][:count]:
            print(
                f"{name} {what}: {case['record']} event {case['event']} ({case['stream']}, {case['variant']}): "
                f"{case['text'][:160]!r} <- {'; '.join(case['evidence'])}"
            )


def cut_short(value: Any, count: int, texts: bool) -> Any:
    """The first cases of every list of cases, with or without what they quote: results never hold text of a corpus."""
    if isinstance(value, dict):
        return {k: cut_short(v, count, texts) for k, v in value.items() if texts or k not in QUOTED}
    return [cut_short(v, count, texts) for v in value[:count]] if _are_cases(value) else value


def _are_cases(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


if __name__ == "__main__":
    main()
