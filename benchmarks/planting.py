"""Leaks planted into honest stream records, and honest records that look like leaks: what detectors are measured on.

Nothing here knows how a detector works. Evidence is found by a reading of its own: a fact (number, name, identifier, copied
words) is planted only if it stands in what is unread when the event starts and in nothing that has ended by then, by the
rows of the record as it was laid out again.

- ``early``: an event is moved before the end of the input (or thought) that it takes a fact from, whole, or up to the first
  sentence with a fact, or after half of the input;
- ``copied``: a fact of unread input is put, in words of ours, into an event that overlaps with it: an honest one of a
  policy, or an opening that starts with the input;
- ``paraphrase``: the same without shared words: numbers spelt out, synonyms, conclusions, another language;
- ``honest``: records as they were, openings that say nothing, facts that the author brings in himself, sentences that
  were moved and take nothing from the unread part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.tables import RECORDS
from pipeline.tokenization import TextTokenizer

Record = dict[str, Any]
Class = Literal["early", "copied", "paraphrase", "honest"]
FactKind = Literal["number", "name", "identifier", "run", "span"]


@dataclass(frozen=True, slots=True)
class Plant:
    """One planted event, or (``honest``) one record in which nothing may be found.

    ``record`` is the id of the record with the plant, ``origin`` of the one it was made of; ``event`` and those of
    ``evidence`` are indices into its events; ``moved``: events that had to move along, of which nothing is claimed.
    """

    record: str
    origin: str
    kind: Class
    variant: str
    event: int | None
    evidence: tuple[tuple[str, int], ...] = ()
    moved: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Planted:
    """A record, as it is stored, and what was planted in it."""

    record: Record
    plant: Plant


@dataclass(frozen=True, slots=True)
class Fact:
    """What can be known only by reading: ``key`` is its one form, ``text`` as it stands where it was found."""

    kind: FactKind
    key: str
    text: str


# --------------------------------------------------------------------------------------------------------------- facts

_ATOM = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_NUMBER = re.compile(r"(?<![\w.,/:\-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,/:\-]\w)")
_IDENTIFIER = re.compile(r"(?<![\w@])[\w@]+(?:[-.]\w+)*(?!\w)", re.ASCII)
_CAPITALISED = re.compile(r"(?<=[a-z,;)] )[A-Z][a-z]{3,}(?![\w'’.-])")
_FIRST_WORD = re.compile(r"(?:^|(?<=[.!?\n] )|(?<=[\n\"]))[A-Z][a-z]{2,}(?= [a-z])")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+(?:[.,]\d+)*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s)|[。！？]|[^\s](?=\n)")

#: Numbers that anybody may say without having read them.
_COMMON_NUMBERS = """
10 11 12 14 15 16 18 20 24 25 30 40 50 52 60 64 75 80 90 100 180 200 360 365 500 1000
"""
_COMMON = frozenset(_COMMON_NUMBERS.split())
#: Capitalised words that say nothing of what was read.
_NO_NAME_WORDS = """
also because english first however january february march april june july august september october november december
monday tuesday wednesday thursday friday saturday sunday then therefore there this that these those with your please
thank thanks sure yes note step final answer question world hello
"""
_NO_NAMES = frozenset(_NO_NAME_WORDS.split())
#: Identifiers that anybody may use.
_NO_IDENTIFIERS = frozenset(["base64", "utf-8", "sha256", "python3", "log10", "float32", "float64", "int32", "int64"])
#: Long words that say nothing of their own.
_STOP_WORDS = """
about above after again along among because before being below between could would should during every first second
third other another there these those their they're which while where whose within without until under since still
through please using thing things something anything everything seems maybe might think thinking really actually
problem question answer missed
"""
_STOP = frozenset(_STOP_WORDS.split())
_RUN = 6
_HAN_RUN = 8


def number_of(text: str) -> str:
    """One form of a number: no separators, no zeros that say nothing."""
    text = text.replace(",", "")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    text = text.lstrip("0")
    return f"0{text}" if not text or text[0] == "." else text


@dataclass(frozen=True, slots=True)
class Reading:
    """What one text says: ``atoms`` are its words and numbers, looked up to see that something is not known."""

    folded: str
    atoms: frozenset[str]
    numbers: Mapping[str, str]
    names: frozenset[str]
    identifiers: frozenset[str]
    runs: Mapping[str, str]
    words: tuple[str, ...]


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """Reads a text once."""
    folded = text.casefold()
    atoms: set[str] = set()
    for match in _ATOM.finditer(folded):
        atom = match.group()
        if atom[0].isdigit():
            atoms.add(number_of(atom))
            atoms.update(number_of(piece) for piece in re.split("[.,]", atom))
        else:
            atoms.add(atom)
    numbers: dict[str, str] = {}
    for match in _NUMBER.finditer(text):
        key = number_of(match.group())
        if len(key.replace(".", "")) > 1 and key not in _COMMON:
            numbers.setdefault(key, match.group())
    identifiers = {w for w in _IDENTIFIER.findall(text) if _is_identifier(w)}
    words = tuple(w.casefold() for w in _WORD.findall(text))
    capitalised = {*_CAPITALISED.findall(text), *(w for w in _FIRST_WORD.findall(text) if not w.endswith("ly"))}
    names = frozenset(n for n in capitalised if n.casefold() not in _NO_NAMES and n.casefold() not in _STOP)
    return Reading(folded, frozenset(atoms), numbers, names, frozenset(identifiers), _runs(text), words)


def _runs(text: str) -> dict[str, str]:
    """Copied prose as it is told: six words with nothing but spaces and commas between them, three of them of weight, or
    eight Han, Kana or Hangul characters. Keys have one space between words."""
    runs: dict[str, str] = {}
    found = list(_WORD.finditer(text))
    heavy = [len(m.group()) > 4 and m.group().isalpha() and m.group().casefold() not in _STOP for m in found]
    joined = [text[a.end() : b.start()] in (" ", ", ") for a, b in pairwise(found)]
    for i in range(len(found) - _RUN + 1):
        if all(joined[i : i + _RUN - 1]) and sum(heavy[i : i + _RUN]) >= 3:
            key = " ".join(m.group().casefold() for m in found[i : i + _RUN])
            runs.setdefault(key, text[found[i].start() : found[i + _RUN - 1].end()])
    for match in _HAN.finditer(text):
        for i in range(len(match.group()) - _HAN_RUN + 1):
            runs.setdefault(match.group()[i : i + _HAN_RUN], match.group()[i : i + _HAN_RUN])
    return runs


def _is_identifier(word: str) -> bool:
    """At least five characters, with a letter beside a digit, an underscore, ``@``, or a capital inside."""
    if len(word) < 5 or not any(c.isalpha() for c in word) or word.strip("_") != word:
        return False
    if word.casefold() in _NO_IDENTIFIERS:
        return False
    mixed = bool(re.search(r"[^\W\d_]\d|\d[^\W\d_]", word)) and not re.fullmatch(r"[\d.]+[a-zA-Z]{1,2}", word)
    inner = any(a.islower() and b.isupper() for a, b in pairwise(word))
    return mixed or "_" in word or "@" in word or inner


def shared_facts(said: str, source: str, lower: frozenset[str]) -> list[Fact]:
    """Facts that stand in both texts. ``lower``: words that the record also has in lower case, which are no names."""
    a, b = read(said), read(source)
    facts = [Fact("number", k, a.numbers[k]) for k in a.numbers if k in b.numbers and not _computed(said, a.numbers[k])]
    facts += [Fact("name", n.casefold(), n) for n in sorted(a.names & b.names) if n.casefold() not in lower]
    facts += [Fact("identifier", w.casefold(), w) for w in sorted(a.identifiers & b.identifiers)]
    facts += [Fact("run", key, b.runs[key]) for key in sorted(a.runs.keys() & b.runs.keys())[:3]]
    if span := _span(said, b):
        facts.append(span)
    return facts


def _computed(said: str, number: str) -> bool:
    """Whether the text gives the number as a result of its own."""
    return re.search(rf"(?:=|≈|>>|\bis|\bequals)\s*[$\\({{]*{re.escape(number)}(?!\d)", said) is not None


def _span(said: str, source: Reading) -> Fact | None:
    """The whole of a short text, if it was copied as it is: a span that answers a question."""
    text = said.strip().strip(".。")
    letters = [w for w in _WORD.findall(text) if not w.isdigit()]
    han = sum(len(h) for h in _HAN.findall(text))
    enough = 4 <= han <= 30 or (2 <= len(letters) <= 8 and sum(len(w) > 3 for w in letters) >= 2)
    return Fact("span", text.casefold(), text) if enough and text.casefold() in source.folded else None


def is_known(fact: Fact, texts: Iterable[str]) -> bool:
    """Whether any of the texts tells the fact, read generously: inside other words, spelt out, or piece by piece."""
    atoms: set[str] = set()
    for text in texts:
        reading = read(text)
        if fact.kind in ("number", "identifier"):
            atoms |= reading.atoms
        if fact.kind == "number":
            if fact.key in reading.atoms or any(fact.key in w for w in reading.identifiers):
                return True
            if (spelt := spell(fact.key)) and spelt in reading.folded.replace(" ", "-"):
                return True
        elif fact.kind == "run":
            if fact.key in reading.runs or fact.key in " ".join(reading.words) or fact.key in reading.folded:
                return True
        elif fact.key in reading.folded:
            return True
    if fact.kind == "identifier":
        pieces = _ATOM.findall(fact.key)
        return all(
            number_of(p) in atoms if p[0].isdigit() else {p, p + "s", p.removesuffix("s")} & atoms for p in pieces
        )
    return fact.kind == "number" and _computable(fact.key, atoms)


def _computable(key: str, atoms: set[str]) -> bool:
    """Whether two known numbers give this one: it may be the author's own result."""
    values = sorted({float(a) for a in atoms if re.fullmatch(r"[0-9]{1,7}(\.[0-9]+)?", a)})[:200]
    have, wanted = set(values), float(key)
    near = {round(v, 6) for v in have}
    return any(
        round(other, 6) in near
        for v in values
        for other in (wanted - v, v - wanted, wanted * v, *((wanted / v, v / wanted) if v and wanted else ()))
    )


_ONE_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES, _TENS = _ONE_WORDS.split(), _TEN_WORDS.split()


def spell(key: str) -> str:
    """An English number below ten thousand in words, joined by hyphens; "" for others."""
    if not key.isdigit() or int(key) >= 10_000:
        return ""
    value = int(key)
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10 - 2] + (f"-{_ONES[value % 10]}" if value % 10 else "")
    big, name = (value // 1000, "thousand") if value >= 1000 else (value // 100, "hundred")
    rest = value % (1000 if value >= 1000 else 100)
    return f"{spell(str(big))}-{name}" + (f"-{spell(str(rest))}" if rest else "")


# --------------------------------------------------------------------------------------------------- records being edited


@dataclass(slots=True, eq=False)
class Piece:
    """An event of a draft: its stored values, its tokens (end of message not counted), and the pieces it waits for."""

    values: dict[str, Any]
    tokens: int
    waits: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text."""
        return str(self.values["text"])

    @property
    def place(self) -> tuple[int, int]:
        """Source order: message and part; what has none comes first."""
        return (-1 if (m := self.values["message"]) is None else m, -1 if (p := self.values["part"]) is None else p)


@dataclass(slots=True)
class Draft:
    """A record whose events can be split, moved and rewritten. ``pieces`` are ordered within each stream."""

    record: Record
    pieces: list[Piece]
    touched: set[tuple[int, int]] = field(default_factory=set)

    def role(self, piece: Piece) -> str:
        """Role of the piece's stream."""
        return str(self.record["streams"][piece.values["stream"]]["role"])

    def is_output(self, piece: Piece) -> bool:
        """Whether the model writes it."""
        return bool(self.record["streams"][piece.values["stream"]]["direction"] == "output")

    def is_source(self, piece: Piece) -> bool:
        """Whether facts can be read in it: inputs, and thoughts for what comes after them; headers say nothing."""
        return piece.values["kind"] != "header" and (not self.is_output(piece) or self.role(piece) == "thought")

    def previous(self, piece: Piece) -> Piece | None:
        """The piece before it on its stream."""
        own = [p for p in self.pieces if p.values["stream"] == piece.values["stream"]]
        at = own.index(piece)
        return own[at - 1] if at else None


def draft(record: Record) -> Draft:
    """A record (``to_pylist`` form) as a draft; the record itself stays as it is."""
    pieces = []
    for event in record["events"]:
        values = {k: v for k, v in event.items() if k not in ("start", "end", "after")}
        values.update(lexical=None, gain=None, judged=None)
        pieces.append(Piece(values, event["end"] - event["start"] - event["final"]))
    for piece, event in zip(pieces, record["events"], strict=True):
        piece.waits = [pieces[a] for a in event["after"]]
    return Draft(record, pieces)


def split(d: Draft, piece: Piece, cuts: Sequence[int]) -> list[Piece]:
    """Cuts a piece at character offsets; the first part keeps the waits, what waited for the piece waits for the last."""
    bounds = [0, *cuts, len(piece.text)]
    text = piece.text
    parts = [Piece(dict(piece.values, text=text[a:b], final=False, interrupted=False), 0) for a, b in pairwise(bounds)]
    parts[0].waits = piece.waits
    parts[-1].values.update(final=piece.values["final"], interrupted=piece.values["interrupted"])
    for other in d.pieces:
        other.waits = [parts[-1] if w is piece else w for w in other.waits]
    at = d.pieces.index(piece)
    d.pieces[at : at + 1] = parts
    d.touched.add(piece.place)
    return parts


def move(d: Draft, piece: Piece, waits: Iterable[Piece]) -> None:
    """Makes a piece wait for these alone; whatever came after it still waits for all that it waited for."""
    before = _ancestors(d)
    lost = before[piece]
    piece.waits = list(waits)
    lost = lost - _ancestors(d)[piece]
    last: dict[int, Piece] = {}
    for p in d.pieces:
        if p in lost:
            last[p.values["stream"]] = p
    for other in d.pieces:
        if piece in other.waits or d.previous(other) is piece:
            other.waits = [*other.waits, *(p for p in last.values() if p is not other and p not in other.waits)]


def _ancestors(d: Draft) -> dict[Piece, set[Piece]]:
    """Every piece that must have ended before each piece starts."""
    found: dict[Piece, set[Piece]] = {}
    for piece in TopologicalSorter(_graph(d)).static_order():
        direct = _graph_of(d, piece)
        found[piece] = set(direct).union(*(found[p] for p in direct))
    return found


def _graph(d: Draft) -> dict[Piece, list[Piece]]:
    graph: dict[Piece, list[Piece]] = {}
    last: dict[int, Piece] = {}
    for piece in d.pieces:
        stream = piece.values["stream"]
        graph[piece] = [*piece.waits, *([last[stream]] if stream in last else [])]
        last[stream] = piece
    return graph


def _graph_of(d: Draft, piece: Piece) -> list[Piece]:
    before = d.previous(piece)
    return [*piece.waits, *([before] if before is not None else [])]


@dataclass(frozen=True, slots=True)
class Laid:
    """A draft as a record again, and where every piece went."""

    record: Record
    index: Mapping[Piece, int]


def lay_out(d: Draft, identity: str, tokenizer: TextTokenizer) -> Laid | None:
    """The layout rule: start = max(end on the stream; end of each wait, plus ``lag`` if on another stream).

    None where pieces wait in a circle, or a cut does not fall on a token boundary.
    """
    if not all(_count_tokens(d, place, tokenizer) for place in d.touched):
        return None
    lag = d.record["clock"]["lag"]
    graph = _graph(d)
    rows: dict[Piece, tuple[int, int]] = {}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError:
        return None
    for piece in order:
        own = piece.values["stream"]
        start = max((rows[p][1] + (lag if p.values["stream"] != own else 0) for p in graph[piece]), default=0)
        rows[piece] = (start, start + piece.tokens + bool(piece.values["final"]))
    place = {piece: i for i, piece in enumerate(d.pieces)}
    ordered = sorted(d.pieces, key=lambda p: (rows[p][0], p.values["stream"], place[p]))
    index = {piece: i for i, piece in enumerate(ordered)}
    events = [
        dict(p.values, start=rows[p][0], end=rows[p][1], after=sorted({index[w] for w in p.waits})) for p in ordered
    ]
    joined: dict[tuple[int, int], str] = {}
    for p in d.pieces:
        if p.place in d.touched and p.values["kind"] != "header":
            joined[p.place] = joined.get(p.place, "") + p.text
    parts = []
    for part in d.record["parts"]:
        key = (-1 if part["message"] is None else part["message"], -1 if part["part"] is None else part["part"])
        digest = hashlib.sha256(joined[key].encode()).hexdigest() if key in joined else part["sha256"]
        parts.append(dict(part, sha256=digest))
    identity = hashlib.blake2b(f"{d.record['id']} {identity}".encode(), digest_size=16).hexdigest()
    record = dict(d.record, id=identity, rows=max(e["end"] for e in events), events=events, parts=parts)
    return Laid(record, index)


def _count_tokens(d: Draft, place: tuple[int, int], tokenizer: TextTokenizer) -> bool:
    """Counts the tokens of a part's pieces anew, the part encoded whole; False if a piece ends inside a token."""
    pieces = [p for p in d.pieces if p.place == place and p.values["kind"] != "header"]
    encoded = tokenizer.encode(["".join(p.text for p in pieces)])
    if encoded.lossy:
        return False
    ends, done, at = encoded.ends, 0, 0
    for piece in pieces:
        at += len(piece.text.encode())
        upto = int(np.searchsorted(ends, at, side="right"))
        if at and (not upto or ends[upto - 1] != at or upto == done):
            return False
        piece.tokens, done = upto - done, upto
    return True


def table_of(records: Sequence[Record]) -> pa.Table:
    """Records as a table of ``tables.RECORDS``."""
    return pa.Table.from_pylist(list(records), schema=RECORDS)


# ------------------------------------------------------------------------------------------------------- what is unread


def unread_and_ended(record: Record, event: int) -> tuple[list[int], list[int]]:
    """Events that ``event``'s author had read before (source order) but that have not ended by its start; events that have."""
    events, streams = record["events"], record["streams"]
    lag = record["clock"]["lag"]
    e = events[event]
    place = (e["message"], e["part"])
    unread, ended = [], []
    for i, other in enumerate(events):
        same = other["stream"] == e["stream"]
        if i == event:
            continue
        if other["end"] + (0 if same else lag) <= e["start"]:
            ended.append(i)
        elif other["kind"] != "header":
            stream = streams[other["stream"]]
            source = stream["direction"] == "input" or stream["role"] == "thought"
            before = other["message"] is None or (other["message"], other["part"]) < place
            if source and before:
                unread.append(i)
    return unread, ended


def lower_words(records: Iterable[Record]) -> frozenset[str]:
    """Words that stand anywhere in the records in lower case: capitalised, they are no sure names."""
    return frozenset(
        w
        for record in records
        for e in record["events"]
        for w in re.findall(r"[^\W\d_]+", e["text"])
        if w.islower() and len(w) > 2
    )


def evidence_of(record: Record, event: int, lower: frozenset[str]) -> list[tuple[Fact, int]]:
    """Facts that an event says, that something unread holds, and that nothing ended tells."""
    unread, ended = unread_and_ended(record, event)
    texts = [record["events"][i]["text"] for i in ended]
    found: dict[tuple[str, str], tuple[Fact, int]] = {}
    for u in unread:
        for fact in shared_facts(record["events"][event]["text"], record["events"][u]["text"], lower):
            if (fact.kind, fact.key) not in found and not is_known(fact, texts):
                found[fact.kind, fact.key] = (fact, u)
    return list(found.values())


def sentence_ends(text: str) -> list[int]:
    """Character offsets behind sentences (and lines), the end of the text not among them."""
    return [m.end() for m in _SENTENCE_END.finditer(text) if text[m.end() :].strip()]


#: Another draw plants other leaks; the first one is the empty text.
draw_of = [""]


def _choice(key: str, count: int) -> int:
    """A fixed choice among ``count``, by a hash, of the draw that is made."""
    return int.from_bytes(hashlib.blake2b(f"{key}{draw_of[0]}".encode(), digest_size=4).digest()) % count


# --------------------------------------------------------------------------------------------------------------- early


def early(record: Record, lower: frozenset[str], tokenizer: TextTokenizer) -> Iterator[Planted]:
    """One plant for each output event that takes a fact from something read just before it."""
    for at in _hosts(record, lower):
        ways = ["whole", "first sentences", "half read"]
        turn = _choice(f"{record['id']} {at}", 3)
        for way in ways[turn:] + ways[:turn]:
            if planted := _early(record, at, way, lower, tokenizer):
                yield planted
                break


def _hosts(record: Record, lower: frozenset[str]) -> Iterator[tuple[int, int]]:
    """(event, source): events that could start before the source does, and share a fact with it."""
    d = draft(record)
    where = {p: i for i, p in enumerate(d.pieces)}
    for piece in d.pieces:
        if not d.is_output(piece) or piece.values["message"] is None:
            continue
        before = d.previous(piece)
        sources = [
            p
            for p in d.pieces
            if d.is_source(p)
            and p.values["message"] is not None
            and p.place < piece.place
            and p.values["stream"] != piece.values["stream"]
            and (before is None or before.place < p.place)
        ]
        for source in reversed(sources):
            facts = shared_facts(piece.text, source.text, lower)
            earlier = [p.text for p in d.pieces if p.place < source.place]
            if any(not is_known(f, earlier) for f in facts):
                yield where[piece], where[source]
                break


def _early(
    record: Record, at: tuple[int, int], way: str, lower: frozenset[str], tokenizer: TextTokenizer
) -> Planted | None:
    d = draft(record)
    piece, source = d.pieces[at[0]], d.pieces[at[1]]
    read_before = [p for p in d.pieces if p.place < source.place or (p.place == source.place and p is not source)]
    read_before = [p for p in read_before if d.pieces.index(p) < d.pieces.index(source)]
    along: list[Piece] = []
    if way == "half read":
        cuts = _exact(source.text, sentence_ends(source.text), tokenizer)
        half = _evidence_cut(piece.text, source.text, cuts, lower)
        if half is None:
            return None
        read_before = [*read_before, split(d, source, [half])[0]]
    if way == "first sentences":
        cuts = _exact(piece.text, sentence_ends(piece.text), tokenizer)
        bounds = [0, *cuts, len(piece.text)]
        earlier = [p.text for p in read_before]
        first = next(
            (
                i
                for i, (a, b) in enumerate(pairwise(bounds))
                if any(not is_known(f, earlier) for f in shared_facts(piece.text[a:b], source.text, lower))
            ),
            None,
        )
        if first is None or not cuts or first > 3:
            return None
        parts = split(d, piece, sorted({c for c in (bounds[first], bounds[first + 1]) if 0 < c < len(piece.text)}))
        along, piece = parts[: int(first > 0)], parts[int(first > 0)]
    waits = _last_of_streams(d, read_before)
    for p in along or [piece]:
        move(d, p, waits)
    if along:
        move(d, piece, [])
    laid = lay_out(d, f"early {at[0]} {way}", tokenizer)
    if laid is None:
        return None
    return _checked(laid, piece, along, "early", way, lower)


def _evidence_cut(said: str, source: str, cuts: Sequence[int], lower: frozenset[str]) -> int | None:
    """The last of a few cuts of the source behind which a shared fact stands that does not stand before it."""
    for cut in reversed(cuts[:: max(1, len(cuts) // 8)]):
        behind = shared_facts(said, source[cut:], lower)
        if any(not is_known(f, [source[:cut]]) for f in behind):
            return cut
    return None


def _last_of_streams(d: Draft, pieces: Iterable[Piece]) -> list[Piece]:
    chosen = set(pieces)
    last = {p.values["stream"]: p for p in d.pieces if p in chosen}
    return list(last.values())


def _checked(
    laid: Laid, piece: Piece, along: Iterable[Piece], kind: Class, variant: str, lower: frozenset[str]
) -> Planted | None:
    """The plant, if by the rows of the record it really is one."""
    event = laid.index[piece]
    evidence = evidence_of(laid.record, event, lower)
    if not evidence:
        return None
    kinds = sorted({fact.kind for fact, _ in evidence})
    return Planted(
        laid.record,
        Plant(
            laid.record["id"],
            laid.record["conversation_id"],
            kind,
            f"{variant}: {'+'.join(kinds)}",
            event,
            tuple((fact.text, at) for fact, at in evidence),
            tuple(laid.index[p] for p in along),
        ),
    )


def _exact(text: str, cuts: Sequence[int], tokenizer: TextTokenizer) -> list[int]:
    """The cuts that fall on token boundaries."""
    ends = set(tokenizer.encode([text]).ends.tolist())
    return [c for c in cuts if len(text[:c].encode()) in ends]


# -------------------------------------------------------------------------------------------------------------- copied

#: Words of ours around a fact, by kind: (name of the variant, text). ``{}`` is the fact, rewritten by ``_DRESS``.
_SAID: Mapping[str, tuple[tuple[str, str], ...]] = {
    "number": (
        ("plain", "Here {} comes up."),
        ("money", "That is ${} then."),
        ("percent", "I see {}% there."),
        ("unit", "I count {}kg of it."),
        ("first word", "{} it is."),
        ("separated", "I have {} in mind."),
        ("zeros", "It says {} here."),
    ),
    "name": (
        ("plain", "This has to do with {}."),
        ("first word", "{} comes up here."),
        ("possessive", "I will look at {}'s part."),
        ("capitals", "I see {} in this."),
        ("lower case", "so {} it is."),
        ("hyphen", "A {}-like case, I think."),
        ("bold", "It may be **{}** again."),
    ),
    "identifier": (
        ("plain", "I will need {} for it."),
        ("quoted", "I will need `{}` for it."),
        ("called", "Then {}() is next."),
        ("last word", "The one I need is {}"),
    ),
    "run": (
        ("plain", "I think {} is said."),
        ("quoted", 'It says "{}" there.'),
        ("first word", "{}, I gather."),
        ("other commas", "So it seems: {}."),
    ),
}


def _comma_in_the_middle(words: Sequence[str]) -> str:
    return " ".join(words[:3]) + (", " if len(words) > 3 else "") + " ".join(words[3:])


_DRESS: Mapping[tuple[str, str], Callable[[str], str]] = {
    ("number", "separated"): lambda n: f"{int(n):,}" if n.isdigit() else n,
    ("number", "zeros"): lambda n: f"{n}0" if "." in n else f"{n}.00",
    ("name", "capitals"): str.upper,
    ("name", "lower case"): str.lower,
    ("run", "first word"): str.capitalize,
    ("run", "other commas"): lambda run: _comma_in_the_middle(run.replace(",", "").split(" ")),
}
_OPENINGS = (
    "Sure, let me look at that.",
    "All right, I am reading this now.",
    "One moment, please.",
    "Okay, let me see what this is.",
    "Let me take this one step at a time.",
    "I am following along.",
)


#: How authors begin who have not said anything yet.
_OPENS = re.compile(
    r"\s*(?:Sure|Okay|OK|Ok|Let me|Let's|Certainly|Of course|Hello|Hi\b|Great|Alright|All right|Please|I can|I'll|I will"
    r"|I understand|To (?:solve|find|answer)|First|好的|当然)"
)


def copied(record: Record, lower: frozenset[str], tokenizer: TextTokenizer) -> Iterator[Planted]:
    """Plants facts of unread input into the record's own overlapping events, or into openings where it has none."""
    overlapping = _overlapping(record)
    for event in overlapping:
        unread, ended = unread_and_ended(record, event)
        texts = [record["events"][i]["text"] for i in ended]
        fact = _fact_to_copy(record, unread, [*texts, record["events"][event]["text"]], lower, str(event))
        if fact:
            variant, sentence = _in_our_words(fact, f"{record['id']} {event}")
            d = draft(record)
            piece = d.pieces[event]
            if planted := _inserted(d, piece, sentence, fact, f"overlap, {fact.kind} {variant}", lower, tokenizer):
                yield planted
    for opening in [] if overlapping else openings(record):
        d, piece, source, where = _open(record, *opening, tokenizer)
        before = [p.text for p in d.pieces[: d.pieces.index(source)] if p is not piece]
        behind = source.text
        fact = _fact_of(behind, before, lower, f"{record['id']} {opening[0]}")
        if fact:
            variant, sentence = _in_our_words(fact, f"{record['id']} {opening[0]}")
            if planted := _inserted(d, piece, sentence, fact, f"{where}, {fact.kind} {variant}", lower, tokenizer):
                yield planted


def _overlapping(record: Record) -> list[int]:
    streams = record["streams"]
    return [
        i
        for i, e in enumerate(record["events"])
        if streams[e["stream"]]["direction"] == "output"
        and e["kind"] == "message"
        and e["message"] is not None
        and unread_and_ended(record, i)[0]
    ]


def _fact_to_copy(
    record: Record, unread: Sequence[int], known: list[str], lower: frozenset[str], salt: str
) -> Fact | None:
    for u in unread:
        if fact := _fact_of(record["events"][u]["text"], known, lower, f"{record['id']} {salt}"):
            return fact
    return None


def _fact_of(source: str, known: list[str], lower: frozenset[str], salt: str) -> Fact | None:
    """A fact that stands in the source and is not known; its kind changes from record to record."""
    reading = read(source)
    pools: list[list[Fact]] = [
        [Fact("number", k, t) for k, t in reading.numbers.items()],
        [Fact("name", n.casefold(), n) for n in sorted(reading.names) if n.casefold() not in lower],
        [Fact("identifier", w.casefold(), w) for w in sorted(reading.identifiers) if len(w) < 40],
        [Fact("run", key, text) for key, text in sorted(reading.runs.items())],
    ]
    turn = _choice(salt, 4)
    for pool in pools[turn:] + pools[:turn]:
        start = _choice(salt + "fact", max(1, len(pool)))
        for fact in (pool[start:] + pool[:start])[:20]:
            if not is_known(fact, known):
                return fact
    return None


def _in_our_words(fact: Fact, salt: str) -> tuple[str, str]:
    ways = [
        (name, text)
        for name, text in _SAID[fact.kind]
        if not (name == "separated" and not (fact.key.isdigit() and int(fact.key) > 999))
        and not (fact.kind == "run" and _HAN.search(fact.key) and name in ("other commas", "first word"))
        and not (name == "called" and not fact.text.isidentifier())
    ]
    name, text = ways[_choice(salt + "way", len(ways))]
    value = fact.key if fact.kind == "number" and name in ("separated", "zeros") else fact.text
    return name, text.format(_DRESS.get((fact.kind, name), str)(value))


def openings(record: Record) -> list[tuple[int, int]]:
    """(event, source) index pairs: outputs that an opening can be put before, to start with the input just read."""
    d = draft(record)
    found = []
    for i, piece in enumerate(d.pieces):
        if not d.is_output(piece) or piece.values["kind"] != "message" or piece.values["message"] is None:
            continue
        before = d.previous(piece)
        inputs = [
            j
            for j, p in enumerate(d.pieces)
            if not d.is_output(p)
            and p.values["kind"] != "header"
            and d.role(p) != "system"
            and p.values["message"] is not None
            and p.place < piece.place
            and (before is None or before.place < p.place)
        ]
        if inputs:
            found.append((i, inputs[-1]))
    return found


def _open(
    record: Record, event: int, source: int, tokenizer: TextTokenizer
) -> tuple[Draft, Piece, Piece, Literal["opening", "half read"]]:
    """A draft with an opening of ours before an output event: it starts with the source, or after its first sentences.

    Given are the draft, the opening, and the piece that is unread when it starts.
    """
    d = draft(record)
    piece, unread = d.pieces[event], d.pieces[source]
    where: Literal["opening", "half read"] = "opening"
    salt = f"{record['id']} {event} opening"
    cuts = _exact(unread.text, sentence_ends(unread.text), tokenizer)
    if cuts and _choice(salt, 2):
        where = "half read"
        unread = split(d, unread, [cuts[len(cuts) // 2]])[1]
    opening = Piece(
        dict(piece.values, text=_OPENINGS[_choice(salt + "text", len(_OPENINGS))], final=False, interrupted=False), 0
    )
    opening.waits = []
    opening_at = d.pieces.index(piece)
    if not piece.text[:1].isspace():
        piece.values["text"] = "\n" + piece.text
    d.pieces.insert(opening_at, opening)
    d.touched.add(piece.place)
    opening.waits = _last_of_streams(
        d, (p for p in d.pieces[: d.pieces.index(unread)] if p is not opening and p.place <= unread.place)
    )
    return d, opening, unread, where


def _inserted(
    d: Draft, piece: Piece, sentence: str, fact: Fact, variant: str, lower: frozenset[str], tokenizer: TextTokenizer
) -> Planted | None:
    """Our sentence at the end of the piece, if the fact really is unread when the piece starts."""
    text = piece.text
    trail = text[len(text.rstrip()) :]
    glue = "" if not text.strip() else " "
    piece.values["text"] = text.rstrip() + glue + sentence + trail
    d.touched.add(piece.place)
    laid = lay_out(d, f"copied {variant} {sentence}", tokenizer)
    if laid is None:
        return None
    event = laid.index[piece]
    unread, ended = unread_and_ended(laid.record, event)
    events = laid.record["events"]
    holders = [u for u in unread if _tells(fact, events[u]["text"])]
    if not holders or is_known(fact, [events[i]["text"] for i in ended]):
        return None
    plant = Plant(
        laid.record["id"], d.record["id"], "copied", variant, event, tuple((fact.text, u) for u in holders[:1])
    )
    return Planted(laid.record, plant)


def _tells(fact: Fact, text: str) -> bool:
    reading = read(text)
    if fact.kind == "number":
        return fact.key in reading.numbers
    if fact.kind == "run":
        return fact.key in reading.runs
    return fact.text in text


# ---------------------------------------------------------------------------------------------------------- paraphrase

#: Words of inputs, and what a reader may call them without using the word.
_SYNONYMS: Mapping[str, str] = {
    "flight": "an air trip", "flights": "air trips", "airport": "where planes land", "hotel": "a place to sleep in",
    "restaurant": "a place to dine", "weather": "sun or rain", "car": "an automobile", "cars": "automobiles",
    "apples": "fruit", "oranges": "citrus", "movie": "a film", "song": "a melody", "novel": "a piece of fiction",
    "doctor": "a physician", "hospital": "a clinic", "patients": "people under medical care", "cancer": "a tumour",
    "children": "kids", "students": "pupils", "teacher": "somebody who educates", "dog": "a hound", "dogs": "hounds",
    "cat": "a feline", "cats": "felines", "bird": "something with wings", "fish": "something that swims",
    "triangle": "a figure with three sides", "circle": "a round figure", "rectangle": "a box-shaped figure",
    "probability": "how likely a thing is", "polynomial": "sums of powers", "recipe": "how to cook a dish",
    "email": "electronic mail", "password": "a secret login", "website": "a page online",
    "python": "a programming language named after a snake", "javascript": "the language of browsers", "poem": "verse",
    "essay": "a longer text", "sentence": "a line of text", "french": "the language of Paris",
    "german": "the language of Berlin", "spanish": "the language of Madrid", "president": "a head of state",
    "river": "running water", "mountain": "a high peak", "money": "cash", "salary": "what a job pays",
    "loan": "borrowed cash", "tax": "what the state takes", "birthday": "a yearly celebration",
    "wedding": "a marriage", "church": "a place of worship", "farmer": "a grower", "football": "a ball sport",
    "basketball": "a sport with hoops", "baseball": "a sport with bats", "bus": "public transport",
    "bicycle": "a two-wheeler", "ship": "a vessel", "boat": "a vessel", "discount": "a price cut",
    "robot": "a machine that acts", "computer": "a calculating machine", "planet": "a world in space",
    "copyright": "rights of authors", "lyrics": "words that are sung", "book": "a volume to read",
    "books": "volumes to read", "pizza": "an Italian dish", "coffee": "a hot drink", "tea": "a hot drink",
    "shop": "a retailer", "garden": "a plot with plants", "flowers": "blossoms", "pills": "medicine",
    "candy": "sweets", "cookies": "biscuits", "eggs": "what hens lay", "milk": "a dairy drink",
}  # fmt: skip


def paraphrase(record: Record, _lower: frozenset[str], tokenizer: TextTokenizer) -> Iterator[Planted]:
    """Plants that share no word with what they rest on: conclusions, numbers spelt out, synonyms."""
    if planted := _conclusion(record, tokenizer):
        yield planted
    for opening in openings(record):
        d, piece, source, where = _open(record, *opening, tokenizer)
        known = [p.text for p in d.pieces[: d.pieces.index(source)] if p is not piece]
        if hidden := _reworded(source.text, known, f"{record['id']} {opening[0]}"):
            variant, sentence, evidence = hidden
            piece.values["text"] = f"{piece.text} {sentence}"
            if planted := _hidden(d, piece, f"{where}, {variant}", evidence, sentence, tokenizer):
                yield planted


def _reworded(source: str, known: list[str], salt: str) -> tuple[str, str, str] | None:
    """(variant, our sentence, the word it is about) for one number or word of the source that is not known."""
    reading = read(source)
    told = set().union(*(read(t).atoms for t in known)) if known else set()
    found = []
    for key, text in reading.numbers.items():
        spelt = re.sub(r"-(thousand|hundred)\b-?", r" \1 ", spell(key)).replace("hundred ", "hundred and ").strip()
        spelt = spelt.removesuffix(" and")
        words = set(re.findall("[a-z]+", spelt))
        if spelt and not words & reading.atoms and not is_known(Fact("number", key, text), known):
            found.append(("number spelt out", f"There are {spelt} of them.", text))
    for word, other in _SYNONYMS.items():
        content = {w for w in re.findall("[a-z]+", other) if len(w) > 3}
        if f" {word}" in source and word in reading.atoms and word not in told and not content & (reading.atoms | told):
            found.append(("synonym", f"So this is about {other}.", word))
    return found[_choice(salt, len(found))] if found else None


def _conclusion(record: Record, tokenizer: TextTokenizer) -> Planted | None:
    """The short last word of an answer (yes, a letter, a class), said before the last thing it rests on has been read."""
    d = draft(record)
    spoken = [p for p in d.pieces if d.role(p) == "assistant" and p.values["message"] is not None]
    if not spoken:
        return None
    piece = spoken[-1]
    inputs = [p for p in d.pieces if d.is_source(p) and p.place < piece.place and p.values["message"] is not None]
    inputs = [p for p in inputs if p.values["message"] > 0 or len(inputs) > 1 or len(p.text) > 200]
    called = any(d.role(p) == "call" and p.values["message"] == piece.values["message"] for p in d.pieces)
    if len(piece.text.split()) > 3 or not inputs or not re.search(r"\w", piece.text) or called:
        return None
    said = read(piece.text).atoms
    before = d.previous(piece)
    if before is not None and before.values["message"] == piece.values["message"]:
        # The last word moves to the front of its message; source order stays what it was.
        own = [p for p in spoken if p.values["message"] == piece.values["message"]]
        waits = own[0].waits
        d.pieces.remove(piece)
        d.pieces.insert(d.pieces.index(own[0]), piece)
        own[0].waits = list(waits)
    said_to = [p for p in inputs if d.role(p) != "thought" and len(p.text) > 60]
    # The question comes first, and is short: what it is asked of counts.
    source = said_to[1] if len(said_to) > 1 and len(said_to[0].text) < 300 else said_to[0] if said_to else inputs[0]
    late = [p for p in inputs if d.pieces.index(p) >= d.pieces.index(source)]
    if any(said & read(p.text).atoms for p in late):
        return None
    waits = _last_of_streams(d, (p for p in d.pieces[: d.pieces.index(source)] if p is not piece))
    previous = d.previous(piece)
    if previous is not None and previous.place > source.place:
        return None
    move(d, piece, waits)
    return _hidden(d, piece, "conclusion", source.text[:60], "", tokenizer)


def _hidden(
    d: Draft, piece: Piece, variant: str, evidence: str, sentence: str, tokenizer: TextTokenizer
) -> Planted | None:
    laid = lay_out(d, f"paraphrase {variant} {sentence}", tokenizer)
    if laid is None:
        return None
    event = laid.index[piece]
    unread, _ = unread_and_ended(laid.record, event)
    holders = [u for u in unread if evidence in laid.record["events"][u]["text"].casefold() or variant == "conclusion"]
    if not holders:
        return None
    plant = Plant(laid.record["id"], d.record["id"], "paraphrase", variant, event, ((evidence, holders[0]),))
    return Planted(laid.record, plant)


def other_language(records: Sequence[Record], tokenizer: TextTokenizer) -> Iterator[Planted]:
    """Answers in another language: records of one question (``extra.id``) in several, each answered by another's answer.

    The answer starts with the passage, and shares no word with it.
    """
    same: dict[str, list[Record]] = {}
    for record in records:
        same.setdefault(str(json.loads(record["extra"]).get("id")), []).append(record)
    for question, group in same.items():
        texts = {r["events"][-1]["text"] for r in group}
        if question == "None" or len(texts) < 2:
            continue
        for record in group:
            other = next((r for r in group if r["events"][-1]["text"] != record["events"][-1]["text"]), None)
            d = draft(record)
            piece = d.pieces[-1]
            if other is None or not d.is_output(piece) or len(d.pieces) < 2:
                continue
            text = other["events"][-1]["text"]
            said = {a for a in read(text).atoms if len(a) > 1}
            if not said or said & frozenset().union(*(read(p.text).atoms for p in d.pieces[:-1])):
                continue
            if _HAN.search(text) and any(text in p.text for p in d.pieces[:-1]):
                continue
            piece.values["text"] = text
            d.touched.add(piece.place)
            move(d, piece, d.pieces[:-2][-1:])
            evidence = record["events"][-1]["text"].casefold()
            if planted := _hidden(d, piece, "another language", evidence, text, tokenizer):
                yield planted


# -------------------------------------------------------------------------------------------------------------- honest


def untouched(record: Record) -> Planted:
    """The record as it is."""
    overlap = sum(e["end"] - e["start"] for e in record["events"]) > record["rows"]
    variant = "untouched, overlapping" if overlap else "untouched"
    return Planted(record, Plant(record["id"], record["id"], "honest", variant, None))


#: What authors say before they have read anything, in forms that leaks have too.
_ORDINARY: Mapping[str, tuple[str, ...]] = {
    "a compound of ordinary words": (
        "I will go step-by-step.", "I keep my notes up-to-date.", "I call it my_first_try.", "This is on my to-do list.",
        "A follow-up may come.", "I go one-by-one, as in check_if_done.",
    ),
    "a small number of his own": (
        "I will do it in 2 steps.", "Step 1: I read.", "Give me 5 minutes.", "I have 3 ways to do this.", "Part 4 is last.",
    ),
    "ordinary words in quotes": (
        'I mark it as "to be read" and go on.', 'First "what", then "how many", then "why".', "My note says `now` so far.",
    ),
    "ordinary words in capitals": (
        "I read it ALL before I say more.", "Next is the Question, then the Answer.", "PLEASE NOTE: I am still reading.",
        "OK, I am IN.",
    ),
}  # fmt: skip


def honest(record: Record, lower: frozenset[str], tokenizer: TextTokenizer) -> Iterator[Planted]:
    """Honest records that overlap: openings, facts that the author brings in himself, sentences that take nothing."""
    for event, source in openings(record):
        salt = f"{record['id']} {event}"
        d, piece, unread, where = _open(record, event, source, tokenizer)
        own = _own_fact(d, unread, salt)
        if (already := _read_fact(d, piece, unread, lower, salt)) and _choice(salt + "read", 3):
            variant, sentence = already
            piece.values["text"] += f" {sentence}"
        elif own is not None and _choice(salt + "own", 2):
            variant, fact = own
            piece.values["text"] += f" My first guess is {fact}."
        elif _choice(salt + "ordinary", 2):
            variant, sentences = list(_ORDINARY.items())[_choice(salt + "kind", len(_ORDINARY))]
            piece.values["text"] += f" {sentences[_choice(salt + 'sentence', len(sentences))]}"
        else:
            variant = "an opening that says nothing"
        laid = lay_out(d, f"honest {variant} {event}", tokenizer)
        if laid is not None:
            plant = Plant(laid.record["id"], record["id"], "honest", f"{where}: {variant}", laid.index[piece])
            yield Planted(laid.record, plant)
        if planted := _silent_sentence(record, event, source, lower, tokenizer):
            yield planted


def _own_fact(d: Draft, unread: Piece, salt: str) -> tuple[str, str] | None:
    """A fact that nothing read or about to be read holds: one that the user repeats later, or one of our own."""
    here = read(unread.text).atoms
    earlier = frozenset().union(*(read(p.text).atoms for p in d.pieces if p.place <= unread.place))
    for later in d.pieces:
        if d.role(later) == "user" and later.place > unread.place and not d.is_output(later):
            for key, text in read(later.text).numbers.items():
                if key not in earlier:
                    return "a number that the user repeats later", text
            for name in sorted(read(later.text).names):
                if name.casefold() not in earlier and all(
                    name.casefold() not in read(p.text).folded for p in d.pieces if p.place <= unread.place
                ):
                    return "a name that the user repeats later", name
    number = str(7001 + _choice(salt + "number", 2000))
    return None if number in here | earlier else ("a number of his own", number)


def _read_fact(d: Draft, piece: Piece, unread: Piece, lower: frozenset[str], salt: str) -> tuple[str, str] | None:
    """A fact that has been read, in another form if one is at hand: best one that the unread part repeats."""
    before = [p for p in d.pieces[: d.pieces.index(unread)] if p is not piece and not d.is_output(p)]
    if not before:
        return None
    facts = shared_facts(before[-1].text, unread.text, lower)
    again = " again" if facts else ""
    fact = facts[_choice(salt, len(facts))] if facts else _fact_of(before[-1].text, [], lower, salt)
    if fact is None or fact.kind == "span":
        return None
    variant, sentence = _in_our_words(fact, salt)
    return f"what was read{again}, {fact.kind} {variant}", sentence


def _silent_sentence(
    record: Record, event: int, source: int, lower: frozenset[str], tokenizer: TextTokenizer
) -> Planted | None:
    """The first sentence of an answer that shares no word of weight with what is unread, moved to where that starts."""
    d = draft(record)
    piece, unread = d.pieces[event], d.pieces[source]
    cuts = _exact(piece.text, sentence_ends(piece.text), tokenizer)
    first = piece.text[: cuts[0]] if cuts else ""
    if not _OPENS.match(first) or len(first.split()) > 14 or any(c.isdigit() for c in first):
        return None
    behind = [p for p in d.pieces if d.is_source(p) and unread.place <= p.place < piece.place]
    words = {a for a in read(first).atoms if len(a) > 3 or a[0].isdigit()}
    before = frozenset().union(*(read(p.text).atoms for p in d.pieces if p.place < unread.place))
    shared = words & frozenset().union(*(read(p.text).atoms for p in behind))
    if shared - before:
        return None
    parts = split(d, piece, [cuts[0]])
    move(d, parts[0], _last_of_streams(d, (p for p in d.pieces if p.place < unread.place)))
    laid = lay_out(d, f"honest silent {event}", tokenizer)
    if laid is None or evidence_of(laid.record, laid.index[parts[0]], lower):
        return None
    plant = Plant(
        laid.record["id"], record["id"], "honest", "a sentence moved that takes nothing", laid.index[parts[0]]
    )
    return Planted(laid.record, plant)


# ---------------------------------------------------------------------------------------- the released Alpaca alignment


def from_row_zero(record: Record, tokenizer: TextTokenizer) -> Record | None:
    """The record as the released Alpaca builder aligns it: outputs wait for no input, the answer starts on row 0."""
    d = draft(record)
    for piece in d.pieces:
        if d.is_output(piece):
            piece.waits = [w for w in piece.waits if d.is_output(w)]
    laid = lay_out(d, "row zero", tokenizer)
    return None if laid is None else laid.record


_ANY_NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_LIST_NUMBER = re.compile(r"(?m)^[ \t>*-]*\(?\d{1,2}[.):](?=\s|$)")
_ANY_NAME = re.compile(r"[A-Z][a-z]{2,}")


def copies(answer: str, source: str) -> list[Fact]:
    """What an answer has from its input: numbers, capitalised names, runs of at least four words, two of them long.

    Numbers that only count the items of a list are none; a name stands capitalised within a sentence of the answer or the
    input, and nowhere in lower case.
    """
    said = {number_of(n): n for n in _ANY_NUMBER.findall(_LIST_NUMBER.sub("", answer))}
    there = {number_of(n) for n in _ANY_NUMBER.findall(_LIST_NUMBER.sub("", source))}
    facts = [Fact("number", key, text) for key, text in said.items() if key in there]
    small = {w for text in (answer, source) for w in re.findall(r"\b[a-z]{3,}\b", text)}
    inside = set(_CAPITALISED.findall(answer)) | set(_CAPITALISED.findall(source))
    for name in sorted(set(_ANY_NAME.findall(answer)) & set(_ANY_NAME.findall(source)) & inside):
        if name.casefold() not in small and name.casefold() not in _NO_NAMES:
            facts.append(Fact("name", name.casefold(), name))
    a, b = read(answer).words, read(source).words
    grams = {b[i : i + 4] for i in range(len(b) - 3)}
    for i in range(len(a) - 3):
        gram = a[i : i + 4]
        if gram in grams and sum(len(w) > 4 for w in gram) >= 2:
            facts.append(Fact("run", " ".join(gram), " ".join(gram)))
    return facts
