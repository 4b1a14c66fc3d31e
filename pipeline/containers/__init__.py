"""Containers: files in which records stand. One module per kind; see docs/formats/containers.md.

What a file is is told by its first bytes where they say it, else by its name. Memory is bounded by the limit of a unit.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any

from pipeline.containers.archives import is_archive_name
from pipeline.containers.packing import DAMAGED, plain_suffix, unpacked
from pipeline.containers.places import Place, open_place
from pipeline.containers.units import CHUNK, Unit, in_one_line
from pipeline.errors import InputError
from pipeline.storage import StoreError

#: Suffixes by which the data files of a folder are known, plain or compressed; archives beside.
DATA_SUFFIXES = (
    ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".csv", ".tsv", ".yaml", ".yml", ".traj",
)  # fmt: skip

KNOWN = "JSON Lines, JSON, Parquet, Arrow, CSV, TSV, YAML, zip and tar"


def is_data_name(name: str) -> bool:
    """Whether a file's name says that it holds records, or that it is an archive that may."""
    return plain_suffix(name) in DATA_SUFFIXES or is_archive_name(name)


def read_container(place: Place, limit: int) -> Iterator[Unit]:
    """The values of a file in their order. ``limit`` is what one value may take in bytes.

    Raises InputError; StoreError where the file is at a URL and may be read another time.
    """
    try:
        with open_place(place) as outer:
            if not outer.peek(1):
                raise InputError(f"{place} is empty")
            empty = True
            for unit in _read(place, unpacked(outer), limit):
                empty = False
                yield unit
            if empty:
                raise InputError(f"{place} holds no records")
    except StoreError:
        raise
    except FileNotFoundError:
        raise InputError(f"{place} is not there") from None
    except IsADirectoryError:
        raise InputError(f"{place} is a folder; name its files") from None
    except DAMAGED as error:
        raise InputError(f"{place} is cut short or damaged: {in_one_line(error)}") from error
    except OSError as error:
        raise InputError(f"{place} cannot be read: {in_one_line(error)}") from error


def _read(place: Place, stream: io.BufferedReader[Any], limit: int) -> Iterator[Unit]:
    from pipeline.containers import tables

    head = stream.peek(CHUNK)[:CHUNK]
    if head.startswith(tables.PARQUET):
        return tables.read_parquet(place, stream, limit)
    if head.startswith((tables.ARROW_FILE, tables.ARROW_STREAM)):
        return tables.read_arrow(place, stream, limit)
    if head.startswith(tables.FEATHER_1):
        raise InputError(f"{place} is Feather version 1, which Arrow gave up: write it anew as version 2")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or head[257:262] == b"ustar":
        raise InputError(f"{place} is an archive within another file: unpack it first")
    return _read_text(place, stream, head, limit)


def _read_text(place: Place, stream: io.BufferedReader[Any], head: bytes, limit: int) -> Iterator[Unit]:
    from pipeline.containers import delimited, json_lines, json_values, yaml_documents

    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        while data := stream.read(CHUNK).removeprefix(codecs.BOM_UTF8):
            if data.strip():
                raise InputError(f"{place} starts with more than {CHUNK} bytes of white space")
        raise InputError(f"{place} is empty")
    suffix = plain_suffix(place.name)
    is_lines = start[:1] != b"[" and json_lines.looks_like_lines(start)
    if suffix in (".jsonl", ".ndjson") or (is_lines and start[:1] == b"{"):
        return json_lines.read_lines(stream, limit)
    if suffix in delimited.DELIMITERS:
        return delimited.read_delimited(place, stream, delimited.DELIMITERS[suffix], limit)
    if suffix in yaml_documents.SUFFIXES:
        return yaml_documents.read_yaml(place, stream, limit)
    if is_lines:
        return json_lines.read_lines(stream, limit)
    if start[:1] == b"[":
        return json_values.read_elements(place, stream, limit, keyed=False)
    if start[:1] == b"{":
        return json_values.read_object(place, stream, limit)
    raise InputError(f"{place} is no JSON: it starts with {start[:20]!r}; known: {KNOWN}")
