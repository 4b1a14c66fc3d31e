"""The rejects of a data set of any size: what could not be used and why, read as it is asked for."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.folders import DATASET
from pipeline.storage import shown
from pipeline.tables import REJECTS
from pipeline.viewer.filters import Filter, reject_columns, rejects_match, whole_reasons
from pipeline.viewer.rows import Rows
from pipeline.viewer.shards import reading


class Rejects:
    """Rejects numbered from 0 over all shards, in stored order."""

    def __init__(self, path: Path, shards: tuple[Path, ...]) -> None:
        self.path = path
        self.rows = Rows(shards, REJECTS.names)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> tuple[Path, int]:
        """The shard that holds a reject, and its row there. Raises IndexError."""
        return self.rows.where(index)

    def reject(self, index: int) -> dict[str, Any]:
        """A reject as JSON values (``schemas/rejection.schema.json``: ``raw`` is Base64). Raises IndexError, InputError."""
        with reading(self.where(index)[0]):
            row: dict[str, Any] = self.rows.row(index).to_pylist()[0]
        return {**row, "raw": base64.b64encode(row["raw"]).decode()}

    def text(self, index: int) -> str:
        """The first bytes of the rejected unit as text; what is no UTF-8 shows as U+FFFD. Raises IndexError, InputError."""
        raw: bytes = self.rows.row(index).column("raw")[0].as_py()
        return raw.decode("utf-8", errors="replace")

    def matching(self, filter_: Filter, progress: Callable[[int], None] | None = None) -> Iterator[int]:
        """The numbers of the rejects that a filter finds (``reason``, ``corpus``, words), as they are found.

        Raises InputError, also for what a filter asks that rejects do not have.
        """
        self.check(filter_)
        for first, shard, batch in self.rows.batches(reject_columns(filter_)):
            with reading(shard):
                found = rejects_match(filter_, batch)
            for row in np.flatnonzero(found).tolist():
                yield first + row
            if progress is not None:
                progress(first + batch.num_rows)

    @staticmethod
    def check(filter_: Filter) -> None:
        """Raises InputError where a filter asks for what rejects do not have."""
        if asked := filter_.asks("policy stream role pattern leaks overlap split mark"):
            raise InputError(f"filter: rejects have no {asked[0]}; they are found by reason, corpus and words")

    def reasons(self) -> Counter[str]:
        """How many rejects there are by ``stage: code``; only these columns are read."""
        counts: Counter[str] = Counter()
        for _, shard, batch in self.rows.batches(["stage", "code"], 1 << 16):
            with reading(shard):
                counts.update(whole_reasons(batch).to_pylist())
        return counts


def open_rejects(path: Path) -> Rejects:
    """The rejects of a build, a stage's folder or a ``rejects-*.parquet``; there may be none. Raises InputError."""
    if path.is_file():
        beside = path.name.startswith("rejects-")
        return Rejects(path, (path,) if beside else tuple(sorted(path.parent.glob("rejects-*.parquet"))))
    if not path.exists():
        raise InputError(f"{shown(path)} is not there")
    folder = path.parent if path.name == DATASET else path
    found = sorted([*folder.glob("rejects-*.parquet"), *folder.glob("*/rejects-*.parquet")])
    return Rejects(path, tuple(found))
