"""A key-value cache that holds BOS and spoken cells only.

The cells of a forward pass are written behind a dialogue's length, spoken ones first. After the pass the length advances
by the spoken ones, so that the keys of silent queries are overwritten by the next cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from pipeline.training.masks import Int64Array

#: Capacity and the window that is attended to are multiples of this, so that attention kernels meet few shapes.
BLOCK = 64


@dataclass(frozen=True, eq=False)
class Window:
    """Where the S cells of the next forward pass are written, in dialogues ``first`` to ``last`` (excluded), n of them.

    ``places`` int64 [n, S]; ``width``: the keys at places below it are attended to; ``capacity`` of the cache.
    """

    first: int
    last: int
    places: torch.Tensor
    width: int
    capacity: int


class SpokenLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: two tensors [dialogues, key heads, capacity, head size]."""

    def __init__(self, cache: SpokenCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Takes form and type from the first states."""
        shape = (self._cache.dialogues, key_states.shape[1], self._cache.window.capacity)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes states [n, heads, S, d] into the window; returns views [n, heads, width, d], nothing is copied."""
        window = self._cache.window
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        elif self.keys.shape[2] < window.capacity:
            self.keys, self.values = (_grown(old, window.capacity) for old in (self.keys, self.values))
        keys, values = (stored[window.first : window.last] for stored in (self.keys, self.values))
        dialogue = torch.arange(len(keys), device=keys.device)[:, None]
        keys.transpose(1, 2)[dialogue, window.places] = key_states.transpose(1, 2)
        values.transpose(1, 2)[dialogue, window.places] = value_states.transpose(1, 2)
        return keys[:, :, : window.width], values[:, :, : window.width]

    def get_seq_length(self) -> int:
        """The longest dialogue, in cells."""
        return int(self._cache.lengths.max(initial=0))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that are attended to, from place 0."""
        return self._cache.window.width, 0

    def get_max_length(self) -> int:
        """There is none: the layer grows."""
        return -1


class SpokenCache(Cache):  # type: ignore[misc]
    """The cache of a batch. ``lengths`` int64 [dialogues]: cells of each, BOS included."""

    def __init__(self, layers: int, dialogues: int, device: torch.device) -> None:
        self.dialogues = dialogues
        self.lengths: Int64Array = np.zeros(dialogues, np.int64)
        self.window = Window(0, dialogues, torch.zeros((dialogues, 0), dtype=torch.long, device=device), 0, 0)
        super().__init__(layers=[SpokenLayer(self) for _ in range(layers)])

    def open(self, first: int, last: int, places: torch.Tensor, cells: int) -> Window:
        """Prepares a forward pass of ``cells`` cells of dialogues ``first`` to ``last``: capacity doubles where needed.

        ``places`` int64 [n, cells] are ``lengths`` + 0, 1, … of each dialogue, on the device.
        """
        needed = int(self.lengths[first:last].max()) + cells
        capacity = self.window.capacity
        if needed > capacity:
            capacity = max(2 * capacity, _blocks(needed))
        self.window = Window(first, last, places, min(_blocks(needed), capacity), capacity)
        return self.window

    def advance(self, first: int, last: int, spoken: Int64Array) -> None:
        """Keeps the first ``spoken`` int64 [n] cells of the pass; what lies behind them will be overwritten."""
        self.lengths[first:last] += spoken

    def clear(self, dialogue: int) -> None:
        """Forgets a dialogue."""
        self.lengths[dialogue] = 0


def _blocks(cells: int) -> int:
    return -(-cells // BLOCK) * BLOCK


def _grown(stored: torch.Tensor, capacity: int) -> torch.Tensor:
    larger = stored.new_zeros((stored.shape[0], stored.shape[1], capacity, stored.shape[3]))
    larger[:, :, : stored.shape[2]] = stored
    return larger
