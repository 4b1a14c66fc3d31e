"""JSON Lines: every line that holds more than white space is a value."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.containers.units import CHUNK, RAW_LIMIT, Unit, unit_of


def looks_like_lines(start: bytes) -> bool:
    """Whether the first line is a JSON value of its own and more follows it."""
    first, newline, rest = start.partition(b"\n")
    if not newline or not rest.strip():
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return True


def read_lines(stream: io.BufferedReader[Any], limit: int) -> Iterator[Unit]:
    """The lines as they are, without their ends; of one over the limit the digest and the beginning."""
    index = 0
    while line := stream.readline(limit + 1):
        if index == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > limit and not line.endswith(b"\n"):
            digest, size = hashlib.sha256(line), len(line)
            while rest := stream.readline(CHUNK):
                digest.update(rest)
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield Unit(index, line[:RAW_LIMIT], digest.hexdigest(), too_large=size)
        elif line.strip():
            yield unit_of(index, line.rstrip(b"\r\n"))
        else:
            continue
        index += 1
