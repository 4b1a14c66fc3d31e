"""Which records become the data set, by the marks that people gave them in the viewer (``pipeline.viewer.marks``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.tables import FILTERED
from pipeline.viewer.marks import MARKS, Mark, read_marks

#: What marks do: nothing, leave out what is marked bad, or take only what is marked good.
Rule = Literal["ignore", "drop-bad", "only-good"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A rule with the marks that it goes by, by record id."""

    rule: Rule = "ignore"
    marks: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def all(self) -> bool:
        """Whether every record is kept, whatever it is."""
        return self.rule == "ignore"

    def digest(self) -> str:
        """sha256 (hex) of what the rule depends on: the ids that it names, not the notes."""
        return hashlib.sha256("\n".join(self._named()).encode()).hexdigest()

    def kept(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Which of the records are kept, as booleans."""
        named = pc.is_in(ids, value_set=pa.array(self._named(), pa.string()))
        return named if self.rule == "only-good" else pc.invert(named)

    def keep(self, table: pa.Table) -> pa.Table:
        """The rows that are kept; the table has a column ``id``."""
        return table if self.all else table.filter(self.kept(table.column("id")))

    def filtered(self, paths: Sequence[Path], stage: str) -> Iterator[pa.Table]:
        """The rows of ``FILTERED`` for what is left out of record shards of a stage."""
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(8192, columns=["id", "conversation_id"]):
                left = pa.Table.from_batches([batch]).filter(pc.invert(self.kept(batch.column("id"))))
                if left.num_rows:
                    yield self._told(left, stage)

    def unknown(self, paths: Sequence[Path]) -> int:
        """How many of the marks that the rule goes by name no record of the shards."""
        wanted = set(self._named())
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(8192, columns=["id"]):
                wanted.difference_update(batch.column("id").to_pylist())
        return len(wanted)

    def _told(self, left: pa.Table, stage: str) -> pa.Table:
        ids = left.column("id").to_pylist()
        found = [self.marks.get(id_) for id_ in ids]
        columns = {
            "id": ids,
            "conversation_id": left.column("conversation_id").to_pylist(),
            "stage": [stage] * len(ids),
            "filter": ["marks"] * len(ids),
            "reason": ["marked bad" if mark and mark.mark == "bad" else "not marked good" for mark in found],
            "detail": [""] * len(ids),  # notes are for those who review, not for those who get the data
        }
        return pa.table(columns, schema=FILTERED)

    def _named(self) -> list[str]:
        wanted = "good" if self.rule == "only-good" else "bad"
        return sorted(id_ for id_, mark in self.marks.items() if mark.mark == wanted)


def select(rule: Rule, out: Path) -> Selection:
    """The selection of a build in ``out`` by its marks. Raises InputError where they cannot be read."""
    return Selection(rule) if rule == "ignore" else Selection(rule, read_marks(out / MARKS))
