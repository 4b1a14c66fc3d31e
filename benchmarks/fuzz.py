"""Fuzzing of conversion: real records with broken structure, through the real pipeline, against its promises.

    .venv/bin/python benchmarks/fuzz.py --records 100000 --seed 7 [--corpora DIR] [--workers 2] [--json FILE]

A seed is a record of a corpus, or the example of a format; a few of its values are deleted, doubled, renamed, retyped,
emptied, shuffled, nested, cut or filled with tags, control characters and half surrogate pairs; then its bytes may be
damaged too. Batches of such units go through ``pipeline.convert.Converter`` under the format of their seed, the detected
one, or a wrong one. What must hold of every batch, whatever it is given:

- nothing is raised, and no unit takes longer than ``--limit`` seconds;
- every unit is in the ledger once, in order, with one outcome, and the tables hold what the ledger promises;
- every rejected unit has one reject row with a documented code, a message, its digest and its bytes;
- every record fits its schema, the invariants of records and of tokens hold, and every event has its text.

A unit is told by the seed and its number, so that ``--only NUMBER`` runs one again, whatever the number of workers.
Exit code 1 if anything failed; the failing units and what was said of them are then in ``--failures``.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import hashlib
import json
import os
import platform
import random
import re
import resource
import signal
import sys
import time
import traceback
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT.parent / "shared" / "corpora"

#: Units that are converted together, and units that a worker is given at a time.
BATCH, TASK = 64, 1024
#: Records that are larger are mostly thinned out first, so that a run is about shapes, not about bytes.
_LARGE = 12_000
#: At most so many values of one file make a unit of a format whose unit is the file.
_WINDOW = 40

#: Bytes of address space that a process may take.
_MOST_MEMORY = 8 << 30
#: Failures that are kept with their units.
KEPT = 100

OUTCOMES = ("converted", "input_only", "rejected", "excluded")
FAILURES = ("crashes", "hangs", "lost", "unlabelled", "broken")

_WORDS = [
    "", " ", "user", "assistant", "system", "tool", "human", "gpt", "model", "function", "observation", "developer",
    "toolResult",
    "prompter", "agent", "text", "thinking", "reasoning", "tool_use", "tool_result", "image", "null", "NaN", "true",
    "0", "[]", "{}",
    "role", "content", "messages", "conversations", "id", "name", "arguments", "__proto__", "extra", "key",
]  # fmt: skip
_MARKS = [
    "<think>", "</think>", "<thinking>", "</thinking>", "<answer>", "</answer>", "<Thought>", "</Thought>",
    "<Output>", "</Output>",
    "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>", "<tool_call>",
    "</tool_call>",
    "<tool_response>", "</tool_response>", "<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>",
    "<|end_of_documents|>", "[TOOL_CALLS]", "[INST]", "[/INST]", "<s>", "</s>", "<|im_start|>assistant\n",
    "<|im_end|>", "<|eot_id|>",
    "<|endoftext|>", "<function=f>", "</function>", "\nThought: ", "\nAction: search[x]", "\nObservation: ",
    "\nFinal Answer: ", "\n#### ",
    "<<1+1=2>>", "```json\n", "```", '{"name": "f", "arguments": {"a": 1}}', "USER: ", "ASSISTANT: ", "###",
    "\n\nHuman: ", "\n\nAssistant: ",
]  # fmt: skip
_ODD = [
    "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u200b", "\u200d", "\ufeff", "\u2028", "\u202e", "\ufffd", "\u0301",
    "\ud800", "\udfff",
    "\ude00\ud83d", "😀", "👩‍👩‍👧", "é", "漢字", "مرحبا", "\r", "\r\n", "\n", "\t", "\\n", "\\", '"',
]  # fmt: skip
#: Values that are put into the JSON text as they stand, since no Python value would be written so.
_RAW = {
    "deep list": b"[" * 3_000 + b"]" * 3_000,
    "deep object": b'{"a":' * 900 + b"1" + b"}" * 900,
    "bottomless": b"[" * 200_000 + b"]" * 200_000,
    "unclosed": b"[" * 5_000,
    "long integer": b"7" * 400,
    "endless integer": b"7" * 6_000,
    "float overflow": b"1e999",
    "small float": b"1e-999",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "negative zero": b"-0",
    "leading zero": b"007",
    "half a pair": b'"\\ud83d"',
    "bad escape": b'"\\x41"',
    "bad bytes": b'"\xff\xfe"',
    "two keys": b'{"role":"user","role":"assistant","content":"a","content":"b"}',
}
_RAW_MARK = "@raw value@ "


@dataclass(frozen=True, slots=True)
class Seed:
    """What is mutated: one value as JSON text, or the values of a file whose format takes them together."""

    name: str
    format: str
    values: tuple[bytes, ...]
    whole_file: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One unit to be converted: a row of ``tables.UNITS``, and the seed that it was made from."""

    number: int
    seed: str
    unit: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: its kind (of ``FAILURES``), the unit, and what was wrong."""

    kind: str
    case: Case
    what: str


@dataclass(slots=True)
class Tally:
    """What a part of a run came to."""

    units: int = 0
    bytes: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    by_format: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    records: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)
    slowest: list[tuple[float, int, str]] = field(default_factory=list)

    def fail(self, kind: str, case: Case, what: str) -> None:
        """Books a failure; the first of them are kept."""
        self.failures[kind] += 1
        if len(self.failed) < KEPT:
            self.failed.append(Failure(kind, case, what))

    def add(self, other: Tally) -> None:
        """Adds another part's figures to these."""
        self.units += other.units
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.records += other.records
        for counter in ("outcomes", "reasons", "failures"):
            getattr(self, counter).update(getattr(other, counter))
        for name, counts in other.by_format.items():
            self.by_format.setdefault(name, Counter()).update(counts)
        self.failed = [*self.failed, *other.failed][:KEPT]
        self.slowest = sorted([*self.slowest, *other.slowest], reverse=True)[:10]


# --- seeds ---------------------------------------------------------------------------------------------------------------


@cache
def load_seeds(corpora: Path | None) -> tuple[tuple[Seed, ...], ...]:
    """The seeds in groups, one per format's example and one per corpus; every group is drawn as often."""
    from converters import CONVERTERS, detect_format

    groups: list[tuple[Seed, ...]] = [
        (Seed(f"example {name}", name, _as_values(module.EXAMPLE, module.UNIT), module.UNIT == "file"),)
        for name, module in CONVERTERS.items()
    ]
    if corpora is None or not corpora.is_dir():
        return tuple(groups)
    by_corpus: dict[str, list[Seed]] = {}
    for path in sorted(p for p in corpora.glob("*/*") if p.suffix in (".json", ".jsonl", ".gz", ".traj")):
        values = _read(path)
        format_ = detect_format([json.loads(raw) for raw in values[:64]]) or "openai_messages"
        unit = CONVERTERS[format_].UNIT
        name = f"{path.parent.name}/{path.name}"
        seeds = by_corpus.setdefault(path.parent.name, [])
        if unit == "file":
            seeds.append(Seed(name, format_, tuple(values), True))
        elif unit == "join":
            seeds.extend(Seed(name, format_, (b'{"unit":' + raw + b',"joined":null}',)) for raw in values)
        else:
            seeds.extend(Seed(name, format_, (raw,)) for raw in values)
    groups.extend(map(tuple, by_corpus.values()))
    return tuple(groups)


def _as_values(example: Any, unit: str) -> tuple[bytes, ...]:
    return tuple(map(_dump, example)) if unit == "file" else (_dump(example),)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _read(path: Path) -> list[bytes]:
    """The records of a corpus file as JSON text."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [line.encode() for line in text.split("\n") if line.strip()]
    if isinstance(value, dict) and len(value) > 20 and all(isinstance(v, dict) for v in value.values()):
        value = list(value.values())
    return [json.dumps(v, ensure_ascii=False).encode() for v in (value if isinstance(value, list) else [value])]


@cache
def _vocabulary() -> tuple[list[str], list[str]]:
    """Keys and values that the formats know, and the tags that their modules name."""
    from converters import CONVERTERS

    words = set(_WORDS)

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            words.update(value)
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, str) and len(value) < 24:
            words.add(value)

    for module in CONVERTERS.values():
        collect(module.EXAMPLE)
    sources = "".join(path.read_text() for path in sorted((ROOT / "converters").rglob("*.py")))
    tags = set(re.findall(r"""["'](</?\|?[\w:]+\|?>|\[/?[A-Z_]+\])["']""", sources))
    return sorted(words), sorted(tags | set(_MARKS))


# --- mutation ------------------------------------------------------------------------------------------------------------


def make_case(seed: int, number: int, corpora: Path | None) -> Case:
    """The unit of this number: the same for the same seed, corpora and formats."""
    rng = random.Random(f"{seed}/{number}")
    group = rng.choice(load_seeds(corpora))
    chosen = rng.choice(group)
    values = [json.loads(raw) for raw in _window(chosen, rng)]
    value: Any = values if chosen.whole_file else values[0]
    size = sum(map(len, chosen.values)) if chosen.whole_file else len(chosen.values[0])
    if size > _LARGE and rng.random() > 0.02:
        value = _thin(value, rng)
    if rng.random() > 0.03:
        for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 6))):
            value = _mutate(value, rng)
    raw = _damage(_write(value, rng), rng)
    unit = {
        "corpus": "fuzz",
        "path": f"{seed}.jsonl",
        "index": number,
        "format": _format(chosen.format, value, rng),
        "license": None,
        "key": rng.choice((None, None, None, "k")),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "raw": raw,
    }
    return Case(number, chosen.name, unit)


def _window(seed: Seed, rng: random.Random) -> tuple[bytes, ...]:
    """All values, or, of many, a run of them: from the start, or from anywhere."""
    if len(seed.values) <= _WINDOW:
        return seed.values
    start = 0 if rng.random() < 0.5 else rng.randrange(len(seed.values) - _WINDOW)
    return seed.values[start : start + rng.randint(1, _WINDOW)]


def _format(own: str, value: Any, rng: random.Random) -> str:
    """The seed's own format, the detected one, or any; with options where it has some."""
    from converters import CONVERTERS, detect_format

    chosen, at = own, rng.random()
    if at < 0.20:
        chosen = (
            detect_format(value[:64] if isinstance(value, list) and CONVERTERS[own].UNIT == "file" else [value]) or own
        )
    elif at < 0.28:
        chosen = rng.choice(list(CONVERTERS))
    if takes_options() and hasattr(module := CONVERTERS[chosen], "Options") and rng.random() < 0.5:
        options = {k: rng.choice(typing.get_args(t)) for k, t in typing.get_type_hints(module.Options).items()}
        return f"{chosen}:{','.join(f'{k}={v}' for k, v in options.items())}"
    return chosen


@cache
def takes_options() -> bool:
    """Whether the format of a unit may name options."""
    return "parse_format" in (ROOT / "pipeline" / "convert.py").read_text()


def _thin(value: Any, rng: random.Random) -> Any:
    """The value with its long lists cut to a run of a few elements, and its long texts cut."""
    if isinstance(value, list):
        if len(value) > 12:
            start = 0 if rng.random() < 0.5 else rng.randrange(len(value) - 12)
            value = value[start : start + rng.randint(2, 12)]
        return [_thin(inner, rng) for inner in value]
    if isinstance(value, dict):
        return {key: _thin(inner, rng) for key, inner in value.items()}
    if isinstance(value, str) and len(value) > 2_000:
        return value[: rng.randint(200, 2_000)]
    return value


def _mutate(value: Any, rng: random.Random) -> Any:
    """The value with one place of it changed."""
    path = _place(value, rng)
    if not path:
        return _other(value, rng) if rng.random() < 0.1 else value
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, inner = path[-1], parent[path[-1]]
    rng.choice(_IN_OBJECT if isinstance(parent, dict) else _IN_LIST)(parent, key, inner, rng)
    return value


def _place(value: Any, rng: random.Random) -> tuple[Any, ...]:
    """A random place below the root; every depth is likely."""
    path: list[Any] = []
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        path.append(key)
        value = value[key]
        if rng.random() < 0.12:
            break
    return tuple(path)


def _replace(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[key] = _other(inner, rng)


def _delete(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    del parent[key]


def _rename(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[rng.choice(_vocabulary()[0])] = parent.pop(key)


def _double(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[rng.choice(_vocabulary()[0])] = inner


def _swap(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    other = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    parent[key], parent[other] = parent[other], inner


def _wrap(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[key] = rng.choice(([inner], {"text": inner}, [[inner]], {str(key): inner}, [inner, inner]))


def _repeat(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    times = rng.choice((1, 1, 1, 2, 5, 300)) if len(repr(inner)) < 2_000 else 1
    parent[key:key] = [inner] * times


def _shuffle(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    rng.shuffle(parent)


def _empty(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[key] = type(inner)() if inner is not None else ""


def _cut(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    del parent[key:]


def _edit(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[key] = _edited(inner, rng) if isinstance(inner, str) else _other(inner, rng)


def _edit_key(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    parent[_edited(key, rng)] = parent.pop(key)


def _pull_up(parent: Any, key: Any, inner: Any, rng: random.Random) -> None:
    if isinstance(inner, dict) and inner and isinstance(parent, dict):
        del parent[key]
        parent.update(inner)
    else:
        parent[key] = json.dumps(inner)


Change = Callable[[Any, Any, Any, random.Random], None]
_IN_OBJECT: tuple[Change, ...] = (
    _edit, _edit, _edit, _edit, _edit, _edit, _edit, _edit, _replace, _replace, _delete, _rename, _double, _swap,
    _wrap, _empty, _edit_key, _pull_up,
)  # fmt: skip
_IN_LIST: tuple[Change, ...] = (
    _edit, _edit, _edit, _replace, _delete, _delete, _swap, _wrap, _repeat, _repeat, _shuffle, _empty, _cut,
)  # fmt: skip


def _other(value: Any, rng: random.Random) -> Any:
    """A value that has nothing, or the wrong thing, in common with the one that is there."""
    simple: list[Any] = [
        None, True, False, 0, 1, -1, 3.5, 1e300, 2**53 + 1, 2**63, -(2**70), "", " ", "\n", [], {}, [None], [[]],
        [{}], {"": ""}, {"a": None},
    ]  # fmt: skip
    match rng.randrange(6):
        case 0:
            return rng.choice(_vocabulary()[0])
        case 1:
            return _RAW_MARK + rng.choice(list(_RAW))
        case 2 if isinstance(value, str | int | float):
            return rng.choice(([value], str(value), {"value": value}, [{"type": "text", "text": str(value)}]))
        case 2 if isinstance(value, list | dict):
            return rng.choice((json.dumps(value), str(value), list(value), {"0": value}))
        case _:
            return rng.choice(simple)


def _edited(text: str, rng: random.Random) -> str:
    """The text with something put in, taken out, cut, or made very long."""
    at, until = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    match rng.randrange(11):
        case 0 | 1 | 2:
            return text[:at] + rng.choice(_vocabulary()[1]) + text[at:]
        case 3:
            marks = rng.choices(_vocabulary()[1], k=rng.randint(2, 8))
            spots = sorted(rng.randint(0, len(text)) for _ in marks)
            cuts = [text[a:b] for a, b in zip([0, *spots], [*spots, len(text)], strict=True)]
            return "".join(piece + mark for piece, mark in zip(cuts, [*marks, ""], strict=True))
        case 4 | 5:
            return text[:at] + rng.choice(_ODD) + text[at:]
        case 6:
            return text[:at]
        case 7:
            return text[:at] + text[until:]
        case 8 if rng.random() < 0.04:
            piece = text[at : at + 200] or rng.choice(_vocabulary()[1])
            return piece * (rng.choice((20_000, 150_000)) // len(piece) + 1)
        case 8:
            return text[:at] + " " * rng.choice((1, 50, 3_000)) + text[at:]
        case 9:
            return rng.choice(_vocabulary()[0])
        case _:
            return text + text[at:until]


def _write(value: Any, rng: random.Random) -> bytes:
    """The value as JSON text, in one of the ways in which writers write it."""
    ascii_ = rng.random() < 0.5
    text = json.dumps(value, ensure_ascii=ascii_, indent=rng.choice((None, None, 2)))
    raw = text.encode("utf-8", "surrogatepass")
    if _RAW_MARK.encode() in raw:
        for name, inner in _RAW.items():
            raw = raw.replace(f'"{_RAW_MARK}{name}"'.encode(), inner)
    return raw


def _damage(raw: bytes, rng: random.Random) -> bytes:
    """Mostly the same bytes; now and then cut short, with a byte changed, or with a key said twice."""
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(60):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
        case 2:
            return re.sub(rb'\{("\w+"):', rb"{\1:null,\1:", raw, count=1)
        case 3:
            return rng.choice((b"\xef\xbb\xbf" + raw, raw + b" {}", b" \n" + raw + b"\n", b""))
        case _:
            return raw


# --- running -------------------------------------------------------------------------------------------------------------


class _Hang(BaseException):
    """Raised by the alarm: nothing in the pipeline may catch it."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends Python code that runs longer; what does not let itself be interrupted ends the process."""

    def ring(*_: object) -> None:
        raise _Hang

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(4 * seconds + 30, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        faulthandler.cancel_dump_traceback_later()


@cache
def documented_codes() -> frozenset[str]:
    """Every word in backticks of the pages on formats, and of those on what bad input does."""
    docs = ROOT / "docs"
    pages = [*(docs / f"{name}.md" for name in ("formats", "pipeline", "inspect")), *(docs / "formats").glob("*.md")]
    return frozenset(
        re.findall(r"`([a-z][a-z_]+)`", "".join(page.read_text(encoding="utf-8") for page in pages if page.exists()))
    )


#: How units are converted: ``TASK`` of them in one way, the next ones in the next.
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"align": "turns", "lag": 1},
    {},
    {"max_cells": 256},
    {},
    {"question": "last", "media": "reject", "max_cells": 1024},
)


@cache
def _converter(way: int) -> Any:
    from converters import CONVERTERS
    from pipeline.convert import ConvertConfig, Converter

    converter = Converter(ConvertConfig(**CONFIGS[way]))
    raw = _dump(CONVERTERS["alpaca"].EXAMPLE)
    unit = {"corpus": "fuzz", "path": "warm", "index": 0, "format": "alpaca", "license": None, "key": None, "raw": raw}
    case = Case(0, "warm", unit | {"sha256": hashlib.sha256(raw).hexdigest()})
    # What is loaded and compiled at first use is no unit's time.
    list(_problems([case], converter.convert([case.unit])))
    return converter


def run_cases(cases: Sequence[Case], limit: float) -> Tally:
    """Converts the cases in batches and checks what becomes of them."""
    tally = Tally()
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        _run_batch(batch, limit, _converter(batch[0].number // TASK % len(CONFIGS)), tally)
    return tally


def _run_batch(cases: Sequence[Case], limit: float, converter: Any, tally: Tally) -> None:
    units = [case.unit for case in cases]
    started = time.perf_counter()
    try:
        with _limited(limit):
            batch = converter.convert(units)
            problems = list(_problems(cases, batch))
    except (_Hang, Exception) as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        if len(cases) > 1:
            for case in cases:
                _run_batch([case], limit, converter, tally)
            return
        what = (f"longer than {limit} s\n" if isinstance(error, _Hang) else "") + traceback.format_exc()
        tally.units += 1
        tally.bytes += len(units[0]["raw"])
        tally.fail("hangs" if isinstance(error, _Hang) else "crashes", cases[0], what)
        return
    seconds = time.perf_counter() - started
    named = {case.number: case for case in cases}
    for kind, number, what in problems:
        tally.fail(kind, named[number], what)
    tally.units += len(cases)
    tally.bytes += sum(len(unit["raw"]) for unit in units)
    tally.seconds += seconds
    tally.records += batch.records.num_rows + batch.input_only.num_rows
    tally.reasons.update(row["code"] for row in batch.rejects)
    for unit, book in zip(units, batch.books, strict=True):
        tally.outcomes[book.outcome] += 1
        counts = tally.by_format.setdefault(unit["format"].partition(":")[0], Counter())
        counts[book.outcome] += 1
    _time_alone(cases, seconds, converter, tally, limit)


#: Seconds of the longest batch of this process.
_longest_batch = 0.0


def _time_alone(cases: Sequence[Case], seconds: float, converter: Any, tally: Tally, limit: float) -> None:
    """Where a batch took longer than every other of this process so far, each of its units is timed by itself."""
    global _longest_batch
    if len(cases) == 1:
        timed = [(seconds, cases[0])]
    elif seconds > _longest_batch:
        _longest_batch = seconds
        timed = []
        for case in cases:
            started = time.perf_counter()
            converter.convert([case.unit])
            timed.append((time.perf_counter() - started, case))
    else:
        return
    for took, case in timed:
        tally.slowest.append(
            (took, case.number, f"{case.seed} as {case.unit['format']}, {len(case.unit['raw']):,} bytes")
        )
        if took > limit:
            tally.fail("hangs", case, f"{took:.1f} s alone")
    tally.slowest = sorted(tally.slowest, reverse=True)[:10]


def _problems(cases: Sequence[Case], batch: Any) -> Iterator[tuple[str, int, str]]:
    """What a batch breaks of its promises: kind, number of the unit, what is wrong."""
    from pipeline.checks import record_violations, token_violations
    from pipeline.ingest import RAW_LIMIT
    from pipeline.records import to_json
    from schemas import violations

    units = [case.unit for case in cases]
    ledger = batch.ledger().to_pylist()
    numbers = [case.number for case in cases]
    if [(row["corpus"], row["path"], row["index"]) for row in ledger] != [
        (unit["corpus"], unit["path"], unit["index"]) for unit in units
    ]:
        yield "lost", numbers[0], "the ledger does not list the units, each once and in order"
        return
    rejects: dict[int, list[dict[str, Any]]] = {}
    for row in batch.rejects:
        rejects.setdefault(row["index"], []).append(row)
    held = {name: _per_unit(table) for name, table in (("records", batch.records), ("input_only", batch.input_only))}
    for number, unit, row in zip(numbers, units, ledger, strict=True):
        outcome = row["outcome"]
        promised = {name: row[name] for name in held}
        found = {name: counts[number] for name, counts in held.items()}
        told = len(rejects.get(number, ()))
        if outcome not in OUTCOMES or (outcome == "rejected") != (told == 1) or told > 1:
            yield "lost", number, f"outcome {outcome!r} with {told} reject rows"
        if promised != found:
            yield "lost", number, f"the ledger promises {promised}, the tables hold {found}"
        due = {"converted": found["records"] > 0, "input_only": found["records"] == 0 < found["input_only"]}
        if not due.get(outcome, sum(found.values()) == 0):
            yield "lost", number, f"outcome {outcome!r} with {found}"
        for reject in rejects.get(number, ()):
            if reject["code"] not in documented_codes():
                yield "unlabelled", number, f"the code {reject['code']!r} is not documented: {reject['message']}"
            if not reject["message"].strip() or "Traceback" in reject["message"] or len(reject["message"]) > 2_000:
                yield "unlabelled", number, f"{reject['code']} says {reject['message'][:300]!r}"
            if (reject["sha256"], reject["raw"]) != (unit["sha256"], unit["raw"][:RAW_LIMIT]):
                yield "unlabelled", number, "the reject row does not hold the unit"
    if sum(row["tokens"] for row in ledger) != batch.counts.tokens:
        yield "lost", numbers[0], "the ledger's tokens are not those of the tables"
    counts = batch.counts
    if counts.units != counts.converted + counts.input_only + counts.rejected + counts.excluded:
        yield "lost", numbers[0], f"the counters do not add up: {counts}"
    for table in (batch.records, batch.input_only):
        owners = [row[0]["index"] for row in table.column("sources").to_pylist()]
        ids = dict(zip(table.column("id").to_pylist(), owners, strict=True))
        for index, message in violations("stream_record", to_json(table)):
            yield "broken", owners[index], f"schema: {message}"
        for violation in record_violations(table):
            yield "broken", ids.get(violation.record, numbers[0]), f"{violation.code}: {violation.message}"
        if len(ids) != len(owners):
            yield "broken", owners[0], "two records have one id"
    for violation in token_violations(batch.records, batch.tokens, None):
        yield "broken", numbers[0], f"{violation.code}: {violation.message} ({violation.record})"


def _per_unit(table: Any) -> Counter[int]:
    return Counter(source["index"] for row in table.column("sources").to_pylist() for source in row)


def fuzz_range(start: int, stop: int, seed: int, corpora: Path | None, limit: float) -> Tally:
    """Makes and runs the units of these numbers."""
    return run_cases([make_case(seed, number, corpora) for number in range(start, stop)], limit)


def _start_worker() -> None:
    import pyarrow as pa

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pa.set_cpu_count(1)
    # A unit that takes all memory is a failure of its own, not the end of the machine.
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


def fuzz(records: int, seed: int, corpora: Path | None, workers: int, limit: float, progress: bool = False) -> Tally:
    """A whole run, in so many processes."""
    total = Tally()
    tasks = [(start, min(start + TASK, records)) for start in range(0, records, TASK)]
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
        futures = {pool.submit(fuzz_range, *task, seed, corpora, limit): task for task in tasks}
        for future in as_completed(futures):
            low, high = futures[future]
            try:
                total.add(future.result())
            except BrokenProcessPool:
                died = Case(low, "", {"raw": b"", "format": "", "key": None})
                total.fail("crashes", died, f"the process that ran units {low} to {high - 1}, or one beside it, died")
            if progress and sys.stderr.isatty():
                print(f"\r{total.units:,} of {records:,}, {total.failures.total()} failures ", end="", file=sys.stderr)
    return total


def save_failures(tally: Tally, seed: int, folder: Path) -> None:
    """Writes the bytes of each failing unit, and what was wrong beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for failure in tally.failed:
        unit = failure.case.unit
        name = folder / f"{failure.kind}-{seed}-{failure.case.number}"
        name.with_suffix(".json").write_bytes(unit["raw"])
        about = f"seed unit: {failure.case.seed}\nformat: {unit['format']}\nkey: {unit['key']}\n\n{failure.what}\n"
        name.with_suffix(".txt").write_text(about, encoding="utf-8", errors="backslashreplace")


def summary(tally: Tally, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run's figures, for programs."""
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "command": "benchmarks/fuzz.py " + " ".join(sys.argv[1:]),
        "seed": arguments.seed,
        "units": tally.units,
        "bytes": tally.bytes,
        "outcomes": {name: tally.outcomes[name] for name in OUTCOMES},
        "records": tally.records,
        "rejected_by_reason": dict(tally.reasons.most_common()),
        "failures": {name: tally.failures[name] for name in FAILURES},
        "seconds": round(seconds, 1),
        "units_per_second": round(tally.units / seconds, 1),
        "slowest": [{"seconds": round(s, 3), "number": n, "unit": what} for s, n, what in tally.slowest],
        "by_format": {name: dict(counts) for name, counts in sorted(tally.by_format.items())},
    }


def print_table(result: dict[str, Any]) -> None:
    """The same for people."""
    rows = [
        ("units", result["units"]),
        *((f"  {name.replace('_', ' ')}", count) for name, count in result["outcomes"].items()),
        ("records", result["records"]),
        *((f"  rejected: {code}", count) for code, count in result["rejected_by_reason"].items()),
        *result["failures"].items(),
        ("bytes", result["bytes"]),
        ("seconds", result["seconds"]),
        ("units/s", result["units_per_second"]),
    ]
    for name, value in rows:
        print(f"{name:<40} {value:>14,}")
    print(f"\n{'format':<28} " + " ".join(f"{name:>11}" for name in OUTCOMES[:3]))
    for name, counts in result["by_format"].items():
        print(f"{name:<28} " + " ".join(f"{counts.get(outcome, 0):>11,}" for outcome in OUTCOMES[:3]))
    print("\nslowest units")
    for slow in result["slowest"][:5]:
        print(f"  {slow['seconds']:>8.3f} s  {slow['number']:>8}  {slow['unit']}")


def main() -> None:
    """Parses the command line, runs, prints; exit code 1 on any failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000, help="units to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpora", type=Path, default=CORPORA, help="folder of corpora; without it, examples only")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that one unit may take")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz-failures"), help="folder for failing units")
    parser.add_argument("--only", type=int, help="run the unit of this number, in this process")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.only is not None:
        tally = fuzz_range(arguments.only, arguments.only + 1, arguments.seed, arguments.corpora, arguments.limit)
    else:
        tally = fuzz(
            arguments.records, arguments.seed, arguments.corpora, arguments.workers, arguments.limit, progress=True
        )
    result = summary(tally, time.perf_counter() - started, arguments)
    print_table(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if tally.failures:
        save_failures(tally, arguments.seed, arguments.failures)
        print(f"\n{tally.failures.total():,} failures; the units are in {arguments.failures}")
        for failure in tally.failed[:8]:
            last = failure.what.strip().splitlines()[0 if failure.kind == "hangs" else -1]
            print(f"  {failure.kind} {failure.case.number}: {last[:200]}")
        sys.exit(1)


if __name__ == "__main__":
    main()
