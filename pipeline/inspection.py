"""What inputs are, and what will become of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pipeline.conversation import RecordError
from pipeline.errors import InputError
from pipeline.ingest import read_units, sniff
from pipeline.stages.ingest import SAMPLE, IngestConfig, InputSource, list_files
from pipeline.timeline import spans_of


def inspect_inputs(path: Path) -> list[dict[str, Any]]:
    """Per file: format, how many of a sample convert, the streams they will have, and the first problem."""
    return [{"file": str(file.path), **_inspect(file.path)} for file in list_files(InputSource(path=str(path)), Path())]


def _inspect(path: Path) -> dict[str, Any]:
    from converters import CONVERTERS, detect_format

    found: dict[str, Any] = {"format": None, "sampled": 0, "convertible": 0, "streams": [], "problem": ""}
    try:
        units = list(itertools.islice(read_units(path, IngestConfig().max_unit_bytes), SAMPLE))
    except InputError as error:
        return {**found, "problem": str(error)}
    values = sniff(units)
    found["sampled"] = len(units)
    format_ = detect_format(values)
    if format_ is None:
        return {**found, "problem": "no known format"}
    found["format"] = format_
    streams: dict[str, None] = {}
    for value in values:
        try:
            for conversation in CONVERTERS[format_].convert(value):
                streams.update(dict.fromkeys(s.name for s in spans_of(conversation)[0]))
            found["convertible"] += 1
        except RecordError as error:
            found["problem"] = found["problem"] or f"{error.code}: {error}"
    return {**found, "streams": list(streams)}
