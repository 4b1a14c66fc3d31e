"""Companion files: the records of one file joined to those of another by a key (a "join" format's ``JOIN``)."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.containers.places import Place
from pipeline.errors import InputError
from pipeline.ingest import Unit, read_units
from pipeline.listing import InputFile, beside

Pointer = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is there and may be the companion of another, in a format; ``listed`` where it is an input itself."""

    format: str
    place: Place
    pointer: Pointer
    listed: InputFile | None


def find_candidates(files: Sequence[InputFile]) -> dict[Pointer, list[Candidate]]:
    """For every file that may be of a "join" format, the companions that are there: among the inputs, else beside it."""
    from converters import CONVERTERS

    joins: dict[str, Any] = {name: module for name, module in CONVERTERS.items() if module.UNIT == "join"}
    by_pointer = {(id(f.source), f.corpus, f.pointer): f for f in files}
    by_place = {_key(f.path): f for f in files}
    found: dict[Pointer, list[Candidate]] = {}
    for file in files:
        wanted = file.source.format.partition(":")[0]
        for name in joins if wanted == "auto" else joins.keys() & {wanted}:
            for relative in joins[name].companions(file.path.name):
                pointer = posixpath.normpath(posixpath.join(posixpath.dirname(file.pointer), relative))
                place: Place | None = None
                listed = by_pointer.get((id(file.source), file.corpus, pointer))
                if listed is None and (place := beside(file, relative)) is not None:
                    listed = by_place.get(_key(place))
                if listed is file or (listed is None and place is None):
                    continue
                candidate = (
                    Candidate(name, listed.path, (listed.corpus, listed.pointer), listed)
                    if listed is not None
                    else Candidate(name, place, (file.corpus, pointer), None)  # type: ignore[arg-type]
                )
                found.setdefault((file.corpus, file.pointer), []).append(candidate)
                break
    return found


def _key(place: Place) -> str:
    return os.path.abspath(place) if isinstance(place, Path) else str(place)


class Companion:
    """The records of a companion file by key, held in memory, and which of them were asked for."""

    def __init__(self, candidate: Candidate, key: str, limit: int) -> None:
        """Reads the file. Raises InputError, also where its records together are larger than ``limit``."""
        self.pointer = candidate.pointer
        #: Records that cannot be joined: with a code and a message.
        self.unusable: list[tuple[Unit, str, str]] = []
        self._used: set[int] = set()
        self._records: dict[Any, Unit] = {}
        size = 0
        for unit in read_units(candidate.place, limit):
            size += len(unit.raw)
            if size > limit or unit.too_large:
                raise InputError(
                    f"{candidate.place}, a companion file, holds more than {limit} bytes: raise max_unit_bytes"
                )
            found = key_of(unit, key)
            if isinstance(found, tuple):
                self.unusable.append((unit, *found))
            elif found in self._records:
                first = self._records[found].index
                self.unusable.append(
                    (unit, "duplicate_key", f"{key} {found:.80} is that of record {first}, which is used")
                )
            else:
                self._records[found] = unit

    def record(self, key: str) -> Unit | None:
        """The record of a key."""
        return self._records.get(key)

    def use(self, unit: Unit) -> bool:
        """Marks a record as joined; whether it is for the first time."""
        first = unit.index not in self._used
        self._used.add(unit.index)
        return first

    def unmatched(self) -> Iterator[Unit]:
        """The records that were not asked for."""
        return (unit for unit in self._records.values() if unit.index not in self._used)


def key_of(unit: Unit, key: str) -> str | tuple[str, str]:
    """The JSON text of a record's key; or the code and message of why it has none."""
    if unit.code:
        return unit.code, unit.message
    try:
        value = msgspec.json.decode(unit.raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return "not_json", f"not JSON: {error}"
    except RecursionError:
        return "too_deep", "the JSON is nested too deeply"
    if not isinstance(value, Mapping) or value.get(key) is None:
        return "unmatched", f'the record has no "{key}"'
    return msgspec.json.encode(value[key]).decode()


def joined(unit: Unit, other: Unit | None) -> bytes:
    """The raw bytes of a unit of two records."""
    return b'{"unit":' + unit.raw + b',"joined":' + (b"null" if other is None else other.raw) + b"}"
