"""A search that tells what it has found while it goes on: the same for records and rejects. Runs in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

#: How often a search tells what it has found.
TELL_SECONDS = 0.1

#: Looks through everything: given a function to tell how far it has come, the numbers of what is found.
Matching = Callable[[Callable[[int], None]], Iterator[int]]
#: Takes what was found since the last time, how many were looked at, and whether that was all.
Tell = Callable[[list[int], int, bool], None]


def look(matching: Matching, is_cancelled: Callable[[], bool], tell: Tell) -> None:
    """Searches until the end, or until it is cancelled. The first find is told at once, the others in bunches."""
    found: list[int] = []
    looked_at = 0
    told_at = float("-inf")
    is_first = True

    def progress(count: int) -> None:
        nonlocal looked_at
        looked_at = count
        if is_cancelled():
            raise _CancelledError
        say()

    def say() -> None:
        nonlocal found, told_at, is_first
        if time.monotonic() - told_at > TELL_SECONDS or (found and is_first):
            is_first = is_first and not found
            bunch, found = found, []
            tell(bunch, looked_at, False)
            told_at = time.monotonic()

    try:
        for number in matching(progress):
            found.append(number)
            if is_cancelled():
                return
            say()
    except _CancelledError:
        return
    tell(found, looked_at, True)


class _CancelledError(Exception):
    """Nobody waits for it any more."""
