"""Precision and recall of the auditor's flags, on steps with planted errors and on clean ones.

    .venv/bin/python benchmarks/audit.py [--only NAME…] [--corrupt SHARE] [--seed N] [--records DIR] [--save FILE]

Every corpus is converted with `audit` as it is, and with errors planted into a share of its steps; all is read off the
records. A step is *corrupted* if a planted error stands in it, *clean* otherwise; it is *flagged* if the auditor says that
something is wrong. What he flags in the source itself was read and named (`READ`): `real`, the source states something false;
`brackets`, it means an expression that it does not write; `context`, it is right about something else (last digits, cents).
Real errors of the corpus are counted apart: precision is that of all other flags. The auditor that always agrees has
recall 0.

Errors are planted into equations that can be computed, so that recall on them says whether planting and finding agree.
*Blind* errors are planted by this script, which knows nothing of equations: one digit changes in a number behind an
equals sign, wherever one stands. Recall on those is what is caught of all.

*Checked*: the lines with a number behind an equals sign about which the auditor says something, and the equals signs of
that kind that are part of an equation which he computes; most others are algebra.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.corpus import convert  # noqa: E402
from pipeline.alignment.audit import flags, restored, steps, verdict  # noqa: E402
from pipeline.arithmetic import Equation, equations  # noqa: E402

CORPORA = ROOT.parent / "shared" / "corpora"
NAMES = ("math-gsm8k", "think-skythought-math", "math-aqua")

#: An equals sign before a number.
_SIGN = re.compile(r"(?<![=<>!:])=(?![=>])[ \t]*(?:<<[^<>\n]*>>|[-$(\\{\[ \t])*\d")

#: What was read of the flags in the sources, by the key of what they flag (``key_of``).
_REAL = """
01d15d5342 038ca7dced 03cfd8da64 05f8c8e72e 12287bb2ff 167c48d2df 1ec01b7006 23a9a39b7f 248ecc32d9 296be9f16b
32355eb366 382a492cc6 398c9e6f18 3baaf9c6fa 3bb8b203f3 4105380596 4350cc3a0a 4c60cac477 59561d1357 5cf9b8b82d
6050358918 6f10c2a369 7af1edb8ab 7b1eaa0db7 831ef78100 8c1865435f 8e918ba739 96b6a8a42e 980dab0d27 9fc671d666
a2cee3ad55 a32d2dc3ea a9ad9c9342 a9d5921bb0 b6c5d4ad65 b8d5d2ec76 bb0c74ea86 c5fc804bf7 c6b5452479 c80096c258
ceafbe5376 ceed45e5c3 d20514cc2f d4f8eee708 d52028ab7a d905ee7957 daaea82df2 df6177d589 df887ef962 e81c384929
f7201c87c9 ffda2cbbde
"""
_BRACKETS = "bdf7433a7a c78fb35fdc"
_CONTEXT = "6a06198b2b 8fc7ee016c bf8367d75c d1103a22e0 fc7de18577 fce08b28b9"
READ = {
    key: name
    for name, keys in (("real", _REAL), ("brackets", _BRACKETS), ("context", _CONTEXT))
    for key in keys.split()
}


@dataclass(frozen=True)
class Checked:
    """One message of the auditor: its record, the step it is about, what it says, whether an error was planted there."""

    record: str
    equations: tuple[Equation, ...]
    text: str
    said: str
    corrupted: bool

    @property
    def flagged(self) -> bool:
        """Whether it says that something is wrong."""
        return flags(self.said)


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The records of a build, with their labels read."""
    rows = [
        row for path in sorted(folder.glob("dataset/*/records-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    return [{**row, "labels": json.loads(row["labels"])} for row in rows]


def solved(record: dict[str, Any]) -> dict[tuple[int, int], str]:
    """The text of every part that the model says."""
    said: dict[tuple[int, int], str] = {}
    for event in record["events"]:
        if record["streams"][event["stream"]]["role"] in ("thought", "assistant") and event["kind"] == "message":
            place = event["message"], event["part"]
            said[place] = said.get(place, "") + event["text"]
    return said


def checked(record: dict[str, Any]) -> Iterator[Checked]:
    """The messages of a record's auditor, each with the step that it waited for."""
    ends: dict[int, tuple[tuple[int, int], int]] = {}
    length: Counter[tuple[int, int]] = Counter()
    text = solved(record)
    for number, event in enumerate(record["events"]):
        place = event["message"], event["part"]
        if place in text:
            length[place] += len(event["text"])
            ends[number] = place, length[place]
    planted = record["labels"].get("corrupted", [])
    for event in record["events"]:
        if record["streams"][event["stream"]]["role"] != "audit":
            continue
        place, end = next(ends[number] for number in event["after"] if number in ends)
        told = steps(text[place])
        index = bisect_left([step.end for step in told], end)
        # A token that straddles the end of a step is written with what follows.
        index = min(index, len(told) - 1)
        low = told[index - 1].end if index else 0
        high = told[index].end
        corrupted = any((p["message"], p["part"]) == place and low <= p["at"] < high for p in planted)
        yield Checked(record["id"], told[index].equations, text[place][low:high], event["text"], corrupted)


#: A number behind an equals sign: with the annotation before it, or alone.
_NOTED = re.compile(r"=(?P<first>\d[\d,]*(?:\.\d+)?)>>[ \t]*\$?(?P<again>\d[\d,]*(?:\.\d+)?)")
_ALONE = re.compile(r"(?<![=<>!:])=(?![=>])[ \t]*\$?(?P<first>\d[\d,]*(?:\.\d+)?)(?![\d,.]*>>)")


def blind(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What is caught of errors that are planted without looking for equations, a line at a time."""
    counts: Counter[str] = Counter()
    for record in records:
        for text in solved(record).values():
            for line in text.split("\n"):
                found = [*_NOTED.finditer(line), *_ALONE.finditer(line)]
                if not found or any(flags(verdict(step)) for step in steps(line)):
                    continue
                draw = int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "big")
                match = found[draw % len(found)]
                places = [match.span("first"), *([match.span("again")] if "again" in match.re.groupindex else [])]
                digits = [i for i, c in enumerate(match["first"]) if c.isdigit()]
                at = digits[(draw >> 16) % len(digits)]
                leads = at == 0 and len(digits) > 1
                others = [d for d in "0123456789" if d != match["first"][at] and not (leads and d == "0")]
                wrong = line
                for low, high in reversed(places):
                    if line[low:high] == match["first"]:
                        wrong = wrong[: low + at] + others[(draw >> 32) % len(others)] + wrong[low + at + 1 :]
                counts["lines"] += 1
                counts["computed"] += any(e.start <= match.start("first") < e.end for e in equations(line))
                counts["caught"] += any(flags(verdict(step)) for step in steps(wrong))
    return {
        "lines_with_an_error": counts["lines"],
        "caught": counts["caught"],
        "recall": round(counts["caught"] / counts["lines"], 3) if counts["lines"] else None,
        "of_which_the_source_is_computed": counts["computed"],
    }


def key_of(corpus: str, equation: Equation) -> str:
    """A short name of what is flagged, without the text of the corpus."""
    return hashlib.sha256(f"{corpus}\0{equation.left}\0{equation.stated}".encode()).hexdigest()[:10]


def named(corpus: str, step: Checked) -> str:
    """What a flag in the source is: the worst of what was read of its equations, ``unread`` if nobody did."""
    found = {READ.get(key_of(corpus, e), "unread") for e in step.equations if not e.holds}
    return next((name for name in ("unread", "context", "brackets", "real") if name in found), "unread")


def coverage(records: list[dict[str, Any]]) -> dict[str, Any]:
    """How much of what looks like a computation is checked."""
    lines = told = signs = computed = 0
    for record in records:
        for text in solved(record).values():
            found = equations(text)
            at = [m.start() for m in _SIGN.finditer(text)]
            hit = [any(e.start < i < e.stated_start for e in found) for i in at]
            signs, computed = signs + len(at), computed + sum(hit)
            by_line: dict[int, bool] = {}
            for i, is_hit in zip(at, hit, strict=True):
                line = text.count("\n", 0, i)
                by_line[line] = by_line.get(line, False) or is_hit
            lines, told = lines + len(by_line), told + sum(by_line.values())
    return {
        "lines_with_a_result": lines,
        "lines_checked": round(told / lines, 3) if lines else None,
        "signs_with_a_result": signs,
        "signs_computed": round(computed / signs, 3) if signs else None,
    }


def measure(corpus: str, clean: list[dict[str, Any]], corrupted: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one corpus; what is flagged in its source is printed, to be read."""
    source = [step for record in clean for step in checked(record)]
    flagged: Counter[str] = Counter()
    for step in source:
        if step.flagged:
            name = named(corpus, step)
            flagged[name] += 1
            keys = ", ".join(key_of(corpus, e) for e in step.equations if not e.holds)
            print(f"{corpus} {name} [{keys}] {step.said!r}\n    {' '.join(step.text.split())[-160:]}", file=sys.stderr)
    planted = [step for record in corrupted for step in checked(record)]
    kinds: dict[str, Counter[str]] = {}
    for record in corrupted:
        text = solved(record)
        for place, written in text.items():
            here = [p for p in record["labels"].get("corrupted", []) if (p["message"], p["part"]) == place]
            if here:
                assert restored(written, here) != written
                for step_number in {p["step"] for p in here}:
                    kinds.setdefault(next(p["kind"] for p in here if p["step"] == step_number), Counter())[
                        "planted"
                    ] += 1
    hits = sum(step.corrupted and step.flagged for step in planted)
    positives = sum(step.corrupted for step in planted)
    false = [step for step in planted if step.flagged and not step.corrupted]
    real = sum(named(corpus, step) == "real" for step in false)
    silent_errors = sum(
        len({(p["message"], p["part"], p["step"]) for p in r["labels"].get("corrupted", [])}) for r in corrupted
    )
    return {
        "corpus": corpus,
        "records": len(clean),
        **coverage(clean),
        "steps_checked": len(source),
        "clean": {
            "flagged": dict(flagged),
            "false_flags": sum(flagged.values()) - flagged["real"],
            "false_flags_per_step": round((sum(flagged.values()) - flagged["real"]) / max(len(source), 1), 5),
        },
        "corrupted": {
            "steps_checked": len(planted),
            "errors_planted": silent_errors,
            "by_kind": {kind: counts["planted"] for kind, counts in sorted(kinds.items())},
            "steps_with_an_error": positives,
            "flagged": hits,
            "recall": round(hits / silent_errors, 4) if silent_errors else None,
            "flags_on_clean_steps": len(false),
            "of_them_real_errors": real,
            "precision": round(hits / (hits + len(false) - real), 4) if hits else None,
        },
        "blind": blind(clean),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--corrupt", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, help="keep the converted corpora here, or read them")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = args.records or Path(scratch)
        for corpus in args.only:
            if not (CORPORA / corpus).is_dir():
                sys.exit(f"{CORPORA / corpus} is not there")
            builds = []
            for align in ("audit", f"audit:corrupt={args.corrupt},seed={args.seed}"):
                out = place / re.sub(r"\W+", "-", align) / corpus
                convert(CORPORA / corpus, out, align)
                builds.append(records_of(out))
            rows.append(measure(corpus, *builds))
    result = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": "benchmarks/audit.py " + " ".join(sys.argv[1:]),
        "corrupt": args.corrupt,
        "seed": args.seed,
        "corpora": rows,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
