"""Stored answers of a run whose folder is kept in an object store: copies of them are kept there too."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipeline import storage
from pipeline.claim import check_held
from synth.engines.cache import AnswerCache

#: Seconds between two copies: what was answered since the last one is asked again where the machine is lost.
EVERY = 60.0


class KeptAnswers:
    """Copies of SQLite files in the store of their folder; on a disk alone nothing is done."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [path for path in paths if storage.url_of(path) is not None]
        self._copied = time.monotonic()

    def restore(self) -> None:
        """Gets the files as the store has them, with what only those here know: another machine may have gone on meanwhile.

        Raises SynthError where one is damaged.
        """
        for path in self._paths:
            if not path.exists():
                storage.download(path)
                continue
            there = path.with_name(f".{path.name}.there.tmp")
            if not storage.download(path, there):
                continue
            with closing(AnswerCache(there)) as answers:
                answers.absorb(path)
            for ending in ("-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            there.replace(path)

    def forget(self) -> None:
        """Removes the copies."""
        for path in self._paths:
            storage.remove(path)

    def copy_now_and_then(self) -> None:
        """``copy``, if the last one is a while ago."""
        if self._paths and time.monotonic() - self._copied >= EVERY:
            self.copy()

    def copy(self) -> None:
        """Copies the files as they are between two answers, and uploads that."""
        for path in self._paths:
            if not path.exists():
                continue
            check_held(path.parent)
            copy = path.with_name(f".{path.name}.copy.tmp")
            try:
                with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                storage.send_as(copy, path)
            finally:
                copy.unlink(missing_ok=True)
        self._copied = time.monotonic()
