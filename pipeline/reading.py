"""Reading inputs: their values become units as their format wants them, or items that say why they cannot be used.

A unit is one value of a file, all values of it in a list, or a value joined with that of a companion file
(``converters.Format.UNIT``). Ingest writes what is read here; inspection looks at it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.companions import Candidate, Companion, joined, key_of
from pipeline.containers.archives import Archive, ArchiveError
from pipeline.containers.units import RAW_LIMIT, Unit, unit_of
from pipeline.errors import InputError
from pipeline.ingest import hub_units, read_units, sniff
from pipeline.listing import InputFile, InputSource

#: Units that are looked at to tell a file's format.
SAMPLE = 64

Pointer = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Input:
    """A file or a Hub data set. ``alone``: the user named just that, so what is wrong with it is an error."""

    corpus: str
    pointer: str
    source: InputSource
    license: str | None
    units: Callable[[], Iterator[Unit]]
    alone: bool
    archive: Archive | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def name(self) -> str:
        """Its pointer with its corpus."""
        return f"{self.corpus}/{self.pointer}"


def input_of_file(file: InputFile, license: str | None, candidates: Sequence[Candidate], max_unit_bytes: int) -> Input:
    """The input that a file is."""
    return Input(
        file.corpus, file.pointer, file.source, license, lambda: read_units(file.path, max_unit_bytes),
        file.alone, file.archive, tuple(candidates),
    )  # fmt: skip


def input_of_hub(source: InputSource) -> Input:
    """The input that a Hub data set is."""
    assert source.dataset is not None
    dataset, corpus = source.dataset, source.corpus or source.dataset.replace("/", "__")
    return Input(
        corpus, source.split, source, source.license,
        lambda: hub_units(dataset, source.config, source.split, source.revision), alone=True,
    )  # fmt: skip


class Item(msgspec.Struct, frozen=True, gc=False):
    """A unit of an input, or with a ``code`` what cannot be used of it.

    ``values`` of the input are in it, one of a companion file more where ``joined``, which an earlier unit may have had
    too (``again``).
    """

    input: Input
    unit: Unit
    format: str = ""
    code: str = ""
    message: str = ""
    values: int = 1
    joined: bool = False
    again: bool = False


class Reader:
    """Reads inputs in their order. ``formats`` and ``companions`` tell what was found, by the names of inputs."""

    def __init__(self, inputs: Sequence[Input], max_unit_bytes: int) -> None:
        self.formats: dict[str, str] = {}
        self._limit = max_unit_bytes
        self._claims = _claims(inputs)
        self._claimed = {candidate.pointer for candidate in self._claims.values()}
        self._users = Counter(candidate.pointer for candidate in self._claims.values())
        self._loaded: dict[Pointer, Companion] = {}
        #: Companions whose questions were not all read, so that nothing is to be said of records without one.
        self._partly: set[Pointer] = set()
        self._last = {id(thing.archive): thing for thing in inputs}
        self._next = 0

    @property
    def companions(self) -> dict[str, str]:
        """The companion of each input that has one."""
        return {"/".join(pointer): "/".join(candidate.pointer) for pointer, candidate in self._claims.items()}

    def read(self, thing: Input) -> Iterator[Item]:
        """The units of an input, and what cannot be used of it; nothing of a companion file.

        Raises InputError where the user named just this input and it cannot be read, or is of no known format.
        """
        pointer = (thing.corpus, thing.pointer)
        if pointer not in self._claimed:
            yield from self._read(thing, self._claims.get(pointer))
        if thing.archive is not None and self._last[id(thing.archive)] is thing:
            thing.archive.close()

    def _read(self, thing: Input, claim: Candidate | None) -> Iterator[Item]:
        self._next = 0
        try:
            with closing(thing.units()) as units:  # type: ignore[type-var]
                yield from self._items(thing, units, claim)
        except InputError as error:
            if thing.alone and (thing.archive is None or isinstance(error, ArchiveError)):
                raise
            yield Item(thing, unit_of(self._next, b""), code="unreadable", message=str(error))
        if claim is not None:
            yield from self._release(thing, claim)

    def _items(self, thing: Input, units: Iterator[Unit], claim: Candidate | None) -> Iterator[Item]:
        from converters import CONVERTERS, parse_format

        limit = thing.source.limit
        head = list(itertools.islice(units, SAMPLE if limit is None else min(SAMPLE, limit)))
        format_ = thing.source.format if thing.source.format != "auto" else detect(head)
        every = itertools.chain(head, units)
        if format_ is None:
            why = unknown_format(head)
            if thing.alone and thing.archive is None:
                raise InputError(f"{thing.name}: {why}; name one with --format: {', '.join(CONVERTERS)}")
            return self._unknown(thing, itertools.islice(every, limit), why)
        self.formats[thing.name] = format_
        module: Any = CONVERTERS[parse_format(format_)[0]]
        if module.UNIT == "file":
            return self._whole_file(thing, every, format_)
        if module.UNIT == "join":
            return self._joins(thing, every, format_, module.JOIN, claim)
        return self._records(thing, itertools.islice(every, limit), format_)

    def _unknown(self, thing: Input, units: Iterator[Unit], why: str) -> Iterator[Item]:
        self.formats[thing.name] = "unknown"
        for unit in units:
            self._next = unit.index + 1
            yield self._bad(thing, unit) or Item(thing, unit, code="unknown_format", message=why)

    def _records(self, thing: Input, units: Iterator[Unit], format_: str) -> Iterator[Item]:
        for unit in units:
            self._next = unit.index + 1
            if unit.code or unit.too_large:
                yield self._bad(thing, unit)  # type: ignore[misc]
            else:
                yield Item(thing, unit, format_)

    def _bad(self, thing: Input, unit: Unit, values: int = 1) -> Item | None:
        """What is wrong with a unit, as far as its container can tell."""
        if unit.too_large:
            message = f"{unit.too_large} bytes, the limit is {self._limit}"
            return Item(thing, unit, code="too_large", message=message, values=values)
        if unit.code:
            return Item(thing, unit, code=unit.code, message=unit.message, values=values)
        return None

    def _whole_file(self, thing: Input, units: Iterator[Unit], format_: str) -> Iterator[Item]:
        """One unit of all values, as they are, in a list."""
        whole = _Whole(self._limit)
        for unit in units:
            whole.add(unit)
        unit = whole.unit()
        yield self._bad(thing, unit, whole.values) or Item(thing, unit, format_, values=whole.values)

    def _joins(
        self, thing: Input, units: Iterator[Unit], format_: str, key: str, claim: Candidate | None
    ) -> Iterator[Item]:
        """Units of two records each, the second one from the companion file, or null."""
        companion = None if claim is None else self._companion(claim, key)
        for unit in itertools.islice(units, thing.source.limit):
            self._next = unit.index + 1
            found = key_of(unit, key)
            if bad := self._bad(thing, unit):
                yield bad
            elif isinstance(found, tuple) and found[0] != "unmatched":
                yield Item(thing, unit, code=found[0], message=found[1])
            else:
                other = companion.record(found) if companion is not None and isinstance(found, str) else None
                again = companion is not None and other is not None and not companion.use(other)
                both = unit_of(unit.index, joined(unit, other), unit.key)
                yield Item(thing, both, format_, joined=other is not None, again=again)
        if claim is not None and next(units, None) is not None:
            self._partly.add(claim.pointer)

    def _companion(self, claim: Candidate, key: str) -> Companion:
        if claim.pointer not in self._loaded:
            self._loaded[claim.pointer] = Companion(claim, key, self._limit)
        return self._loaded[claim.pointer]

    def _release(self, thing: Input, claim: Candidate) -> Iterator[Item]:
        """Lets go of a companion that no other input needs; what nobody asked for cannot be used."""
        self._users[claim.pointer] -= 1
        if self._users[claim.pointer] or (companion := self._loaded.pop(claim.pointer, None)) is None:
            return
        owner = Input(*claim.pointer, thing.source, thing.license, thing.units, thing.alone)
        for unit, code, message in companion.unusable:
            yield Item(owner, unit, code=code, message=message)
        if claim.pointer not in self._partly:
            for unit in companion.unmatched():
                yield Item(owner, unit, code="unmatched", message=f"no record of {thing.name} has its key")


def _claims(inputs: Sequence[Input]) -> dict[Pointer, Candidate]:
    """The companion of every file that is of a "join" format and has one; a companion is no input of its own."""
    claims: dict[Pointer, Candidate] = {}
    claimed: set[Pointer] = set()
    for thing in inputs:
        pointer = (thing.corpus, thing.pointer)
        if not thing.candidates or pointer in claimed:
            continue
        wanted: str | None = thing.source.format
        if wanted == "auto":
            try:
                with closing(thing.units()) as units:  # type: ignore[type-var]
                    wanted = detect(list(itertools.islice(units, SAMPLE)))
            except InputError:
                continue
        name = (wanted or "").partition(":")[0]
        chosen = next((c for c in thing.candidates if c.format == name and c.pointer not in claims), None)
        if chosen is not None:
            claims[pointer] = chosen
            claimed.add(chosen.pointer)
    return claims


def detect(head: Sequence[Unit]) -> str | None:
    """The format that the first units of an input look like; None where none does."""
    from converters import detect_format

    values = sniff(head)
    return detect_format(values) if values else None


def unknown_format(head: Sequence[Unit]) -> str:
    """Why ``detect`` found no format, in words."""
    values = sniff(head)
    if not values:
        return _unusable(head)
    first = values[0]
    shape = f"keys {', '.join(list(first)[:12])}" if isinstance(first, dict) else f"a {type(first).__name__}"
    near = _nearest(first)
    return f"no known format (its first record has {shape}{'; nearest: ' + ', '.join(near) if near else ''})"


def _unusable(head: Sequence[Unit]) -> str:
    first = head[0]
    message = f"{first.too_large} bytes, more than max_unit_bytes" if first.too_large else _problem(first)[1]
    return f"none of its first {len(head)} records is JSON that can be used; the first: {message}"


def _nearest(value: Any) -> list[str]:
    """The formats whose example shares most keys with a record, best first."""
    from converters import CONVERTERS

    if not isinstance(value, dict):
        return []
    shared = {}
    for name, module in CONVERTERS.items():
        example = module.EXAMPLE
        example = example[0] if isinstance(example, list) and example else example
        example = example.get("unit") if module.UNIT == "join" else example
        if isinstance(example, dict) and (common := len(example.keys() & value.keys())):
            shared[name] = common / len(example.keys() | value.keys())
    return sorted(shared, key=lambda name: -shared[name])[:3]


class _Whole:
    """The values of a file as one JSON list, or why they make none. Over the limit only its beginning is held.

    A last value that is no JSON, as the line that a log's writer was stopped at, stands in the list as a JSON string.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()
        self._digest = hashlib.sha256()
        self._size = 0
        self.values = 0
        self._problem = ("", "")
        self._cut: tuple[bytes, str] | None = None

    def add(self, unit: Unit) -> None:
        """Adds the next value."""
        if self._cut is not None:
            self._problem = self._problem if self._problem[0] else ("not_json", self._cut[1])
            self._put(self._cut[0], len(self._cut[0]))
            self._cut = None
        code, message = _problem(unit)
        message = f"value {self.values} of the file: {message}" if code else ""
        self._put(b"," if self.values else b"[", 1)
        self.values += 1
        if code == "not_json" and self.values > 1:
            self._cut = (unit.raw, message)
            return
        if not self._problem[0]:
            self._problem = (code, message)
        self._put(unit.raw, unit.too_large or len(unit.raw))

    def _put(self, piece: bytes, size: int) -> None:
        self._digest.update(piece)
        self._size += size
        if self._size <= self._limit or len(self._held) < RAW_LIMIT:
            self._held += piece
        elif len(self._held) > RAW_LIMIT:
            del self._held[RAW_LIMIT:]

    def unit(self) -> Unit:
        """The unit. Of a file with a value over the limit the digest is of what was kept of that value."""
        if self._cut is not None:
            text = json.dumps(self._cut[0].decode(errors="backslashreplace")).encode()
            self._put(text, len(text))
        self._put(b"]", 1)
        code, message = self._problem
        too_large = self._size if self._size > self._limit else 0
        return Unit(0, bytes(self._held), self._digest.hexdigest(), None, too_large, code, message)


def _problem(unit: Unit) -> tuple[str, str]:
    """The code and message of why a value is no JSON; "" if it is."""
    if unit.code or unit.too_large:
        return unit.code, unit.message
    try:
        msgspec.json.decode(unit.raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return "not_json", f"not JSON: {error}"
    except RecursionError:
        return "too_deep", "the JSON is nested too deeply"
    return "", ""
