"""Memory that is free but was not given back to the system: a process that works for days must not grow by it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import pyarrow as pa


def give_back() -> None:
    """Gives the system what Arrow's pool and the C library keep for later. Takes milliseconds; call it between shards."""
    pa.default_memory_pool().release_unused()
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None where the C library has none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda pad: int(trim(ctypes.c_size_t(pad)))
