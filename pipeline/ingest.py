"""Source units: the values of a file or of a Hub data set, verbatim, with their index and digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from pipeline.containers import read_container
from pipeline.containers.places import Place
from pipeline.containers.units import RAW_LIMIT as RAW_LIMIT
from pipeline.containers.units import Unit as Unit
from pipeline.containers.units import in_one_line
from pipeline.errors import InputError
from pipeline.faults import client_errors, told


def read_units(place: Place, max_unit_bytes: int) -> Iterator[Unit]:
    """The units of a file, in order; those over ``max_unit_bytes`` cut and marked. Raises InputError.

    ``place`` is a path, or what ``InputFile.path`` is for a URL or an archive's member. Memory is bounded by the limit,
    but for what must be held whole to be read, up to ``WHOLE`` times that.
    """
    for unit in read_container(place, max_unit_bytes):
        if len(unit.raw) > max_unit_bytes and not unit.too_large:
            yield replace(unit, raw=unit.raw[:RAW_LIMIT], too_large=len(unit.raw))
        else:
            yield unit


def hub_units(dataset: str, config: str | None, split: str, revision: str | None) -> Iterator[Unit]:
    """The rows of a Hub data set (or of a folder that ``datasets`` can load), streamed.

    Raises InputError; StoreError where the Hub may answer another time.
    """
    import pyarrow as pa
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    from pipeline.containers.rows import row_unit

    try:
        rows: Iterable[dict[str, Any]] = load_dataset(
            dataset, config, split=split, revision=revision, streaming=True
        ).decode(False)  # images and sounds stay the bytes they are: nothing is decoded that is then refused
        for index, row in enumerate(rows):
            yield row_unit(index, row)
    except (
        DatasetNotFoundError, DatasetGenerationError, pa.ArrowException, *client_errors()
    ) as error:  # fmt: skip
        raise told(
            error, f"Hub data set {dataset!r} ({split}) cannot be read: {in_one_line(error)}", InputError
        ) from error


def sniff(units: Sequence[Unit]) -> list[Any]:
    """The parsed values of those units that are JSON, for format detection."""
    values = []
    for unit in units:
        if unit.code or unit.too_large:
            continue
        try:
            values.append(msgspec.json.decode(unit.raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return values
