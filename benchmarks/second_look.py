"""A second extractor of leaks, to hold the pipeline's own against: reads stored records, and shares no code with it.

    .venv/bin/python benchmarks/second_look.py PATH… [--json]

PATHs are record shards, or folders of them. A finding is a fact that an output event says, that stands in an input (or, for
an answer or a call, a thought) which its author had read before by source order, but which has not ended by the event's
first row (plus the clock's lag), and that nothing which has ended tells. A fact is a number of at least two digits or with
a fraction; a capitalised name that the record never writes in lower case; an identifier; a run of five words, three of them
long (or two, one of which was not known), or of eight Han, Kana or Hangul characters. A number that the event computes
(``48 / 2 = 24``) is its own, if it is right. Chunks of one part are read as one
text: a word that is cut in two is said where it begins, and read where it ends. Exit 1 if anything is found.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import accumulate, pairwise
from math import factorial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Key = tuple[str, ...]

_PIECE = re.compile(r"\d+|[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|[^\W\d_]")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|\w+")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_NUMERAL = re.compile(r"\d[\d.,]*(?<=\d)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_COMPOUND = re.compile(r"[\w@]+(?:[-./:@']\w+)*")
_STOPS = re.compile(r"[.!?:;\n|]")
_COUNTING = re.compile(r"[.):](?:\s|$)")

#: Long words that say little: a run of words needs others.
_PLAIN_WORDS = """
about above after again along among because before being below between could should would during every first second
third other another following follow follows there these those their which while where whose within without until
under since still using number numbers total value values equal equals answer question problem solution result
results means given calculate determine therefore however provide provided based information example terms needs needed
check checking search searching found finding looking right wrong might going think maybe actually
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
#: Titles write them with a capital, and they name nobody.
_PRONOUNS = frozenset(("you", "your", "she", "her", "his", "him", "they", "them", "their", "our"))
_UNIT_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_UNITS = _UNIT_WORDS.split()
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

RUN, HAN_RUN = 5, 8


@dataclass(frozen=True, slots=True)
class Finding:
    """``event`` of ``record`` says ``fact`` before ``evidence``, an event that it was read in, has ended."""

    record: str
    event: int
    fact: str
    evidence: int


@dataclass(slots=True)
class _Book:
    """Of one record: where facts are said, where they can be read, and from which row on anything told is known."""

    said: dict[int, dict[Key, str]] = field(default_factory=dict)
    read: dict[Key, list[int]] = field(default_factory=dict)
    ended: dict[Key, int] = field(default_factory=dict)
    ended_on: dict[tuple[Key, int], int] = field(default_factory=dict)
    small: set[str] = field(default_factory=set)
    proper: set[str] = field(default_factory=set)
    computed: set[tuple[int, Key]] = field(default_factory=set)

    def tell(self, key: Key, stream: int, end: int) -> None:
        """Something told by the row ``end`` is known from there on."""
        self.ended[key] = min(end, self.ended.get(key, end))
        on = (key, stream)
        self.ended_on[on] = min(end, self.ended_on.get(on, end))

    def known(self, key: Key, stream: int, start: int, lag: int) -> bool:
        """Whether anything that tells the key has ended by ``start``; other streams are heard ``lag`` rows later."""
        never = start + 1
        return self.ended.get(key, never) + lag <= start or self.ended_on.get((key, stream), never) <= start


def findings(table: pa.Table) -> list[Finding]:
    """Findings in a table of records, in order. Output events without a place in a conversation are not judged."""
    columns = table.select(["id", "streams", "clock", "events"])
    return [
        finding for batch in columns.to_batches(256) for record in batch.to_pylist() for finding in _of_record(record)
    ]


def _of_record(record: dict[str, Any]) -> Iterator[Finding]:
    events, lag = record["events"], record["clock"]["lag"]
    output = [record["streams"][e["stream"]]["direction"] == "output" for e in events]
    thought = [record["streams"][e["stream"]]["role"] == "thought" for e in events]
    source = [(t or not o) and e["kind"] != "header" for e, o, t in zip(events, output, thought, strict=True)]
    suspects = _early_starts(events, output, source, lag)
    if not suspects:
        return
    book = _Book()
    for part in _parts(events):
        _open_part(book, events, part, source[part[0]], [e for e in part if e in suspects])
    for event in sorted(suspects):
        e = events[event]
        place, stream, start = _place(e), e["stream"], e["start"]
        for key, text in book.said.get(event, {}).items():
            if (event, key) in book.computed or _is_told(book, key, stream, start, lag):
                continue
            if key[0] == "name" and (key[1] in _PRONOUNS or key[1] in book.small or key[1] not in book.proper):
                continue
            for other in book.read.get(key, ()):
                o = events[other]
                heard = o["end"] + (lag if o["stream"] != stream else 0)
                if heard > start and other != event and _place(o) < place:
                    yield Finding(record["id"], event, text, other)
                    break


def _place(event: dict[str, Any]) -> tuple[int, int]:
    return (-1, -1) if event["message"] is None else (event["message"], -1 if event["part"] is None else event["part"])


def _early_starts(events: list[dict[str, Any]], output: list[bool], source: list[bool], lag: int) -> set[int]:
    """Output events that start before everything read before them has ended."""
    found: set[int] = set()
    order = sorted(range(len(events)), key=lambda i: _place(events[i]))
    latest, pending, last = 0, 0, (-2, -2)
    for i in order:
        if _place(events[i]) != last:
            latest, last = max(latest, pending), _place(events[i])
        if output[i] and events[i]["message"] is not None and latest > events[i]["start"]:
            found.add(i)
        if source[i]:
            pending = max(pending, events[i]["end"] + lag)
    return found


def _parts(events: list[dict[str, Any]]) -> Iterable[list[int]]:
    """The events of every part, in the order in which they are told."""
    parts: dict[tuple[Any, ...], list[int]] = {}
    for i, e in enumerate(events):
        parts.setdefault((e["stream"], e["message"], e["part"], e["kind"] == "header"), []).append(i)
    return parts.values()


def _open_part(book: _Book, events: list[dict[str, Any]], part: list[int], source: bool, suspects: list[int]) -> None:
    """Enters what a part tells: everything as known from its end on, facts as read, and facts as said by suspects."""
    text = "".join(events[i]["text"] for i in part)
    bounds, at = [], 0
    for i in part:
        at += len(events[i]["text"])
        bounds.append(at)
    stream = events[part[0]]["stream"]
    telling = set(suspects)

    def holder(offset: int) -> int:
        return part[min(bisect_right(bounds, offset), len(part) - 1)]

    def tell(key: Key, end: int) -> None:
        book.tell(key, stream, events[holder(end - 1)]["end"])

    def note(key: Key, begin: int, end: int, shown: str) -> None:
        tell(key, end)
        if source:
            book.read.setdefault(key, []).append(holder(end - 1))
        if telling and (first := holder(begin)) in telling:
            book.said.setdefault(first, {}).setdefault(key, shown)

    for match in _COMPOUND.finditer(text):
        _note_compound(text, match, tell, note, book)
    for match in _NUMERAL.finditer(text):
        _note_number(text, match, tell, note)
        if telling and (first := holder(match.start())) in telling and _is_computed(text, match.start(), match.group()):
            book.computed.add((first, _number(match.group().replace(",", ""))))
    _note_runs(text, tell, note)


def _note_compound(text: str, match: re.Match[str], tell: Any, note: Any, book: _Book) -> None:
    """Words of a compound, its pieces, and the whole as an identifier or a name."""
    whole = match.group()
    for piece in _PIECE.finditer(whole):
        word = piece.group().casefold()
        end = match.start() + piece.end()
        tell(("word", word), end)
        for size in range(4, min(len(word), 14) + 1):
            tell(("stem", word[:size]), end)
    book.small.update(w for w in re.findall(r"[^\W\d_]+", whole) if w.islower())
    folded = whole.casefold()
    tell(("id", folded), match.end())
    if _is_identifier(whole):
        note(("id", folded), match.start(), match.end(), whole)
    for name in re.finditer(r"(?<![\w@])[^\W\d_]{3,}(?![\w@])", whole):
        shown, begin = name.group(), match.start() + name.start()
        if shown[0].isupper() and (shown[1:].islower() or shown.isupper()):
            if name.start() == 0 and _within_sentence(text, begin):
                book.proper.add(shown.casefold())
            note(("name", shown.casefold()), begin, begin + len(shown), shown)


def _is_identifier(word: str) -> bool:
    if len(word) < 4 or not re.search(r"[^\W\d_]", word):
        return False
    letters = re.sub(r"\d+", "0", word)
    if re.fullmatch(r"0(?:[.,:]0)*(?:st|nd|rd|th|s|x|k|m|g|kg|km|cm|mm|am|pm|d|D)", letters):
        return False
    digit_inside = bool(re.search(r"[^\W\d_]\d|\d[^\W\d_]", word))
    return digit_inside or bool(re.search(r"\w_\w|@|[a-z][A-Z]", word))


def _within_sentence(text: str, begin: int) -> bool:
    """Behind a word in lower case (or a comma): there only names are capitalised."""
    before = text[max(0, begin - 2) : begin]
    return len(before) == 2 and before[1] == " " and (before[0].islower() or before[0] in ",;")


def _note_number(text: str, match: re.Match[str], tell: Any, note: Any) -> None:
    """A number that stands by itself; the pieces of any, which make it known."""
    written = match.group()
    for piece in re.finditer(r"\d+", written):
        tell(_number(piece.group()), match.start() + piece.end())
    if not (_GROUPED.fullmatch(written) or re.fullmatch(r"\d+(?:\.\d+)?", written)):
        return
    key = _number(written.replace(",", ""))
    tell(key, match.end())
    before = text[max(0, match.start() - 1) : match.start()]
    joined = re.match(r"(?![^\W\d_]{1,3}(?!\w))\w|[-/:.]\w", text[match.end() : match.end() + 5])
    alone = not joined and not re.match(r"[\w\-/:.]", before or " ")
    line_start = not text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip(" \t>*#-(")
    counting = line_start and bool(_COUNTING.match(text[match.end() : match.end() + 2] or " "))
    if alone and not counting and _says_much(key[1]):
        note(key, match.start(), match.end(), written)


def _number(written: str) -> Key:
    value = Decimal(written)
    return ("number", format(value.normalize(), "f") if value else "0")


def _says_much(value: str) -> bool:
    return "." in value or len(value) >= 2


def _is_computed(text: str, at: int, written: str) -> bool:
    """Whether what stands before a number is an equals sign with an expression of that value on its left."""
    line = text[max(0, at - 200) : at].rpartition("\n")[2].rstrip(" $€£\\")
    if not line.endswith("=") or written.count(".") > 1:
        return False
    left = re.sub(r"\\frac\{([\d.]+)\}\{([\d.]+)\}", r"(\1)/(\2)", line[:-1])
    left = re.sub(r"/\s*[a-z]+|(?<=\d)(?=\()", lambda m: "*" if not m[0] else "", left)
    left = left.replace("\\times", "*").replace("\\div", "/").replace("\\cdot", "*")
    left = re.sub(r"(?<=[\d)%a-z ])\s*[x×](?=\s*[\d($])", "*", left).replace("÷", "/").replace("^", "**")
    left = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\1/100)", re.sub(r"[$€£,]", "", left))
    left = re.sub(r"(?<=\d)\s*!", "!", re.sub(r"[^\W\d_]+", " ", left))
    left = re.sub(r"(\d+)!", lambda m: f"(1*{factorial(min(int(m[1]), 20))})", left)
    stated = Decimal(written.replace(",", ""))
    places = len(written.partition(".")[2])
    hundred = 100 if text[at + len(written) : at + len(written) + 2].strip(" \\")[:1] == "%" else 1
    found = re.search(r"[\d(][\d.()+\-*/ ]*$", left)
    expression = found.group() if found else ""
    while expression:
        value = _value(expression)
        if value is not None and abs(value * hundred - float(stated)) <= 0.51 * 10.0**-places:
            return True
        later = re.search(r"[\s+\-*/(=](?=[\d(])", expression)
        expression = expression[later.end() :] if later else ""
    return False


def _value(expression: str) -> float | None:
    """The value of a sum of at least two numbers; None for what is none, or too big."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    try:
        return _worth(tree) if isinstance(tree, ast.BinOp) else None
    except (ArithmeticError, TypeError):
        return None


_DOES: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv
}  # fmt: skip


def _worth(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_worth(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _worth(node.left), _worth(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) <= 12:
            return float(left**right)
        if type(node.op) in _DOES:
            return _DOES[type(node.op)](left, right)
    raise TypeError("no sum")


def _note_runs(text: str, tell: Any, note: Any) -> None:
    """Five words in a row, and eight characters of scripts that are written without spaces."""
    words = [(m.group().casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]
    han = [bool(_HAN.match(w)) for w, _, _ in words]
    long = [_says_something(w) for w, _, _ in words]
    #: How many sentences (or lines) have ended before each word: a run does not go on from one to the next.
    sentence = list(accumulate((_STOPS.search(text, a[2], b[1]) is not None for a, b in pairwise(words)), initial=0))
    for i in range(len(words) - RUN + 1):
        window = range(i, i + RUN)
        if any(han[j] for j in window):
            window = range(i, i + HAN_RUN)
            if window.stop > len(words) or not all(han[j] for j in window):
                continue
        elif sentence[window[0]] != sentence[window[-1]] or len({words[j][0] for j in window if long[j]}) < 2:
            continue
        key = ("run", *(words[j][0] for j in window))
        first, last = words[i], words[window.stop - 1]
        note(key, last[1], last[2], text[first[1] : last[2]])


def _says_something(word: str) -> bool:
    return len(word) >= 5 and word.isalpha() and word not in _PLAIN


def _is_told(book: _Book, key: Key, stream: int, start: int, lag: int) -> bool:
    """Whether what has ended tells the key, read generously: in pieces, inflected, or spelt out."""

    def known(*other: str) -> bool:
        return book.known(other, stream, start, lag)

    kind, value = key[0], key[-1]
    if kind == "run":
        long = {word for word in key[1:] if _says_something(word)}
        return known(*key) or (0 < len(long) < 3 and all(known("word", word) for word in long))
    if kind == "number":
        return known(*key) or _is_spelt(value, known)
    if kind == "id":
        pieces = [p.group().casefold() for p in _PIECE.finditer(value)]
        return known(*key) or all(known(*_number(p)) if p.isdecimal() else known("word", p) for p in pieces)
    return known("word", value) or known("id", value + "s") or known("stem", value[: max(4, len(value) - 3)])


def _is_spelt(value: str, known: Any) -> bool:
    if not value.isdecimal() or len(value) > 2:
        return False
    number = int(value)
    words = (
        [_UNITS[number]] if number < 20 else [_TENS[number // 10 - 2], *([_UNITS[number % 10]] if number % 10 else [])]
    )
    return all(known("word", word) for word in words) or (number == 12 and known("word", "dozen"))


def record_files(paths: Iterable[Path]) -> list[Path]:
    """Record shards: the files themselves, and those of folders, the finished data set of a build before its stages."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob("records-*.parquet"))
            files += [p for p in inside if "dataset" in p.relative_to(path).parts] or inside
        else:
            files.append(path)
    return files


def main() -> None:
    """Reads shards, prints findings; exit 1 if there are any, 2 if there is nothing to read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    files = record_files(options.paths)
    missing = [p for p in files if not p.is_file()]
    if missing or not files:
        print(f"no record shards in {', '.join(map(str, missing or options.paths))}", file=sys.stderr)
        sys.exit(2)
    records = count = 0
    for path in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches(512, columns=["id", "streams", "clock", "events"]):
                records += batch.num_rows
                for finding in findings(pa.Table.from_batches([batch])):
                    count += 1
                    shown = asdict(finding)
                    print(
                        json.dumps({"file": str(path), **shown}, ensure_ascii=False)
                        if options.json
                        else f"{path}: record {finding.record} event {finding.event} says {finding.fact!r} before event "
                        f"{finding.evidence} has ended"
                    )
        except (pa.ArrowException, OSError) as error:
            print(f"{path}: {str(error).splitlines()[0]}", file=sys.stderr)
            sys.exit(2)
    print(f"{records} records, {count} findings", file=sys.stderr)
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()
