"""Channels of the paper's layouts: every stream name of a data set gets one number, the same in all records."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from converters.stream_table import TEN
from pipeline.training.grid import TokenGrid

#: What the paper's ten channels are called here, in their order.
TEN_NAMES = tuple("assistant" if name == "Output" else name.lower() for name in TEN)


def ten_channels(names: Mapping[str, int]) -> dict[str, int]:
    """A channel from 0 to 9 for each stream name, as far as there are ten.

    ``names``: how many records have the stream. The ten names of the paper keep their places, the user's and the assistant's
    are never given away, and of the other names the most frequent take the places that are left, in the order of the
    alphabet. A name without a place is not in the result.
    """
    given = {name: TEN_NAMES.index(name) for name in sorted(names) if name in TEN_NAMES}
    free = [number for number in range(2, len(TEN_NAMES)) if number not in given.values()]
    frequent = sorted((name for name in names if name not in TEN_NAMES), key=lambda name: (-names[name], name))
    rest = sorted(frequent[: len(free)])
    return {**given, **dict(zip(rest, free, strict=False))}


def all_channels(inputs: Collection[str], outputs: Collection[str]) -> dict[str, int]:
    """A channel for each stream name, from 0 on: the system, the user, the assistant, other outputs, other inputs."""
    first = ["system", "user", "assistant"]
    rest = [*sorted(set(outputs) - set(first)), *sorted(set(inputs) - set(outputs) - set(first))]
    return {name: number for number, name in enumerate([*first, *rest])}


def channels_of(grid: TokenGrid, channels: dict[str, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The channel of each stream of a record, −1 where its name has none: int64[streams]."""
    return np.array([channels.get(stream.name, -1) for stream in grid.streams], np.int64)
