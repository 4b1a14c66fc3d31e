"""Evaluation sets: their items from files or the Hub, and an index of their runs of words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from pipeline.containers import read_container
from pipeline.containers.units import Unit
from pipeline.decontamination.grams import grams_of
from pipeline.errors import InputError
from pipeline.listing import InputSource, list_files
from pipeline.word_hashes import I64, U64

#: Where well-known sets are, for those who have access to the Hub.
KNOWN = {
    "gsm8k": "hub:openai/gsm8k,config=main,split=test",
    "pubmedqa": "hub:qiaojin/PubMedQA,config=pqa_labeled,split=train",
    "bfcl": "hf://datasets/gorilla-llm/Berkeley-Function-Calling-Leaderboard",
    "gaia": "hub:gaia-benchmark/GAIA,config=2023_all,split=validation",
}

#: Bytes that one item may take.
_LIMIT = 32 << 20

#: Values of these keys are no text that a model would be asked or would answer.
_NO_TEXT = frozenset(("id", "_id", "task_id", "url", "source", "date", "license", "tools", "function"))


@dataclass(frozen=True, slots=True)
class Index:
    """The runs of words of evaluation sets.

    ``keys``: all of them, ascending and different; ``starts`` and ``owners``: the texts that have each key, those of key i from
    ``starts[i]`` to ``starts[i + 1]``; ``sizes``: how many keys each text has; ``names``: the item of each text (``SET #0``).
    """

    keys: U64
    starts: I64
    owners: I64
    sizes: I64
    names: tuple[str, ...]


def place_of(name: str, place: str) -> str:
    """Where a set is; ``hub`` stands for the known place of a set of this name. Raises InputError."""
    if place != "hub":
        return place
    if name not in KNOWN:
        raise InputError(f"no set is known by the name {name!r}: say where it is, or name one of {', '.join(KNOWN)}")
    return KNOWN[name]


def read_set(name: str, place: str) -> Iterator[Unit]:
    """The items of a set: JSON values, from a path, a folder, a glob, a URL or ``hub:OWNER/NAME,…``. Raises InputError."""
    from pipeline.config import source_of
    from pipeline.ingest import hub_units

    source = InputSource(**source_of(place_of(name, place)))
    if source.dataset is not None:
        yield from hub_units(source.dataset, source.config, source.split, source.revision)
        return
    for file in list_files(source, Path()):
        yield from read_container(file.path, _LIMIT)


@lru_cache(maxsize=32)
def digest_of(name: str, place: str, stamp: tuple[int, ...]) -> str:
    """sha256 (hex) of a set's items: what the outcome depends on, wherever the set lies. ``stamp``: see ``stamp_of``."""
    digest = hashlib.sha256()
    for unit in read_set(name, place):
        digest.update(unit.sha256.encode())
    return digest.hexdigest()


def stamp_of(place: str) -> tuple[int, ...]:
    """What tells that a local file has changed since its digest was taken."""
    path = Path(place)
    if not path.exists():
        return ()
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def texts_of(value: Any, fields: frozenset[str] = frozenset()) -> Iterator[str]:
    """The texts of an item: all strings in it; only those of ``fields``, where some are named."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if fields and key not in fields and isinstance(inner, str):
                continue
            if fields or key not in _NO_TEXT:
                yield from texts_of(inner, fields)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_of(inner, fields)


def build_index(sets: Sequence[tuple[str, str]], size: int, min_words: int, fields: Sequence[str] = ()) -> Index:
    """The index of sets (name and place of each). Texts of fewer than ``min_words`` words are left out, as too common.

    Raises InputError where a set is not there, or holds no text of so many words.
    """
    texts: list[str] = []
    names: list[str] = []
    wanted = frozenset(fields)
    for name, place in sets:
        before = len(texts)
        for number, unit in enumerate(read_set(name, place)):
            found = list(texts_of(_value(unit), wanted))
            texts += found
            names += [f"{name} #{number}"] * len(found)
        if len(texts) == before:
            raise InputError(f"the set {name} ({place}) holds no text" + (f" in {', '.join(fields)}" if fields else ""))
    grams = grams_of(pl.Series(texts, dtype=pl.String), size)
    enough = (grams.words.list.len().to_numpy() >= min_words)[grams.text]
    keys, owners = grams.keys[enough], grams.text[enough]
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    own = np.ones(len(keys), bool)
    own[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    keys, owners = keys[own], owners[own]
    distinct, starts = np.unique(keys, return_index=True)
    sizes = np.bincount(owners, minlength=len(names))
    return Index(distinct, np.append(starts, len(keys)).astype(np.int64), owners, sizes.astype(np.int64), tuple(names))


def _value(unit: Unit) -> Any:
    try:
        return msgspec.json.decode(unit.raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"an item of an evaluation set is no JSON: {error}") from error
