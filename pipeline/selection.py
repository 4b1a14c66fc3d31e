"""Which records become the data set: those that no stage left out (``pipeline.leftout``), and that the marks which people
gave in the viewer (``pipeline.viewer.marks``) do not take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.leftout import book_of, ids_in
from pipeline.tables import FILTERED
from pipeline.viewer.marks import MARKS, Mark, read_marks

#: What marks do: nothing, leave out what is marked bad, or take only what is marked good.
Rule = Literal["ignore", "drop-bad", "only-good"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A rule with the marks that it goes by, by record id; and the directories of the stages that leave records out.

    ``joined``: groups that are to be on one side of the split with others, by the name of all of them.
    """

    rule: Rule = "ignore"
    marks: Mapping[str, Mark] = field(default_factory=dict)
    stages: tuple[Path, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)

    def groups(self, table: pa.Table) -> list[str]:
        """The group of each row, by which the split goes: those that share a cluster of copies are one."""
        names: list[str] = table.column("group").to_pylist()
        return [self.joined.get(name, name) for name in names] if self.joined else names

    @property
    def all(self) -> bool:
        """Whether every record is kept, whatever it is."""
        return self.rule == "ignore" and not self.stages

    def digest(self) -> str:
        """sha256 (hex) of what the rule depends on: the ids that it names, not the notes."""
        return hashlib.sha256("\n".join(self._named()).encode()).hexdigest()

    def keep(self, table: pa.Table, shard: Path) -> pa.Table:
        """The rows that are kept of a shard of records, tokens or input-only records; the table has a column ``id``."""
        if self.all:
            return table
        ids = table.column("id")
        kept = pc.invert(pc.is_in(ids, value_set=self._left_out(shard)))
        return table.filter(kept if self.rule == "ignore" else pc.and_(kept, self._marked(ids)))

    def filtered(self, paths: Sequence[Path], stage: str) -> Iterator[pa.Table]:
        """The rows of ``FILTERED`` for what is left out of record shards of a stage."""
        for path in paths:
            for book in self._books(path):
                yield pq.read_table(book, schema=FILTERED)
            if self.rule == "ignore":
                continue
            gone = self._left_out(path)
            for batch in pq.ParquetFile(path).iter_batches(8192, columns=["id", "conversation_id", "sources"]):
                ids = batch.column("id")
                taken = pc.and_(pc.invert(self._marked(ids)), pc.invert(pc.is_in(ids, value_set=gone)))
                left = pa.Table.from_batches([batch]).filter(taken)
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
            "corpus": [sources[0]["corpus"] if sources else "" for sources in left.column("sources").to_pylist()],
            "stage": [stage] * len(ids),
            "filter": ["marks"] * len(ids),
            "reason": ["marked bad" if mark and mark.mark == "bad" else "not marked good" for mark in found],
            "detail": [""] * len(ids),  # notes are for those who review, not for those who get the data
        }
        return pa.table(columns, schema=FILTERED)

    def _marked(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Which of the records the marks keep, as booleans."""
        named = pc.is_in(ids, value_set=pa.array(self._named(), pa.string()))
        return named if self.rule == "only-good" else pc.invert(named)

    def _books(self, shard: Path) -> list[Path]:
        return [book for stage in self.stages if (book := book_of(stage, shard)).exists()]

    def _left_out(self, shard: Path) -> pa.Array:
        books = self._books(shard)
        return _ids(tuple((book, book.stat().st_mtime_ns) for book in books))

    def _named(self) -> list[str]:
        wanted = "good" if self.rule == "only-good" else "bad"
        return sorted(id_ for id_, mark in self.marks.items() if mark.mark == wanted)


@lru_cache(maxsize=4)
def _ids(books: tuple[tuple[Path, int], ...]) -> pa.Array:
    found = [chunk for book, _ in books for chunk in ids_in(book).chunks]
    return pa.concat_arrays(found) if found else pa.array([], pa.string())


def select(rule: Rule, out: Path, stages: Sequence[Path] = ()) -> Selection:
    """The selection of a build in ``out`` by its marks, and by stages that leave out. Raises InputError where the marks cannot
    be read."""
    joined: dict[str, str] = {}
    for stage in stages:
        for path in sorted(stage.glob("groups-*.parquet")):
            table = pq.read_table(path)
            joined.update(zip(table.column("group").to_pylist(), table.column("joined").to_pylist(), strict=True))
    return Selection(rule, {} if rule == "ignore" else read_marks(out / MARKS), tuple(stages), joined)
