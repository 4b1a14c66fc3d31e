"""What a target is given and what it gives back: records and token grids of one split, files, and the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conversation import RecordError
from pipeline.errors import InputError
from pipeline.manifest import publish
from pipeline.records import to_json
from pipeline.training.grid import GridMetadata, TokenGrid, TrainingError, iter_grids

#: Rows that are read at a time.
BATCH = 256


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose. ``masks``: write dense attention masks (``upstream-npz``). ``silence``: what stands in silent
    cells (``upstream-grid``): the token that the paper trains with, or the id that text never encodes to. ``tokenizer``: the
    spec of the token shards' tokenizer, where their own name for it is no spec."""

    masks: bool = False
    silence: Literal["hyphen", "reserved"] = "hyphen"
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """A record shard, and the token shard with the same records in the same order, where there is one."""

    records: Path
    tokens: Path | None

    @property
    def rows(self) -> int:
        """Records that it holds, from its footer."""
        return int(pq.read_metadata(self.records).num_rows)


@dataclass(slots=True)
class Books:
    """What became of the records of a split. ``lost`` counts what the form cannot hold, by the target's own names."""

    read: int = 0
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def lose(self, what: str, count: int = 1) -> None:
        """Counts something that the form cannot hold."""
        if count:
            self.lost[what] += int(count)


@dataclass(frozen=True, slots=True)
class Facts:
    """What all splits share. ``streams``: by name and direction, the number of records that have the stream; ``metadata``:
    of the token shards, None where the target does not read them."""

    streams: Mapping[tuple[str, str], int]
    metadata: GridMetadata | None
    options: Options


@dataclass(frozen=True, slots=True)
class Job:
    """One split to be written to ``folder``, which nobody else reads yet. ``limit``: records to take at most."""

    shards: Sequence[Shard]
    folder: Path
    facts: Facts
    books: Books
    limit: int | None = None
    advance: Callable[[int], None] = lambda n: None

    def parts(self, reads: Literal["records", "tokens", "both"]) -> Iterator[tuple[int, Iterator[Any]]]:
        """Number and contents of each shard: records as JSON, token grids, or pairs of both; up to ``limit`` in all.

        The contents of a shard are read as they are asked for; ask for all of them before the next shard.
        """
        for number, shard in enumerate(self.shards):
            left = None if self.limit is None else self.limit - self.books.read
            if left is None or left > 0:
                yield number, self._counted(islice(_contents(shard, reads), left))

    def _counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.books.read += 1
            yield item
            self.advance(1)

    def made(self, make: Callable[..., Any], *arguments: Any) -> Any | None:
        """What ``make`` makes of a record; None, and a line in the books, where it raises RecordError."""
        try:
            made = make(*arguments, self.books)
        except RecordError as error:
            self.books.refused[error.code] += 1
            return None
        self.books.written += 1
        return made

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the split, published whole."""
        with publish(self.folder / name) as temporary, temporary.open("wb") as file:
            yield file


@dataclass(frozen=True, slots=True)
class Target:
    """A form of data.

    ``write`` writes a split. ``count`` recounts the records of a written split from its files. ``lost`` says in a sentence
    what each name in ``Books.lost`` counts; ``notes`` what the form never holds and, by the facts, what its reader must
    know; ``describe`` what a program must know. ``warn``: what a user should hear before anything is written.
    """

    name: str
    summary: str
    reads: Literal["records", "tokens", "both"]
    write: Callable[[Job], None]
    count: Callable[[Path], int]
    lost: Mapping[str, str]
    notes: Callable[[Facts], list[str]]
    describe: Callable[[Facts], dict[str, Any]] = lambda facts: {}
    warn: Callable[[Facts, Sequence[Shard]], str | None] = lambda facts, shards: None
    version: int = 1


def _contents(shard: Shard, reads: str) -> Iterator[Any]:
    if reads == "records":
        yield from read_records(shard.records)
    elif reads == "tokens":
        yield from read_grids(shard)
    elif shard.tokens is None:
        yield from ((record, None) for record in read_records(shard.records))
    else:
        grids = read_grids(shard)
        for record in read_records(shard.records):
            grid = next(grids, None)
            if grid is None or grid.id != record["id"]:
                raise InputError(f"{shard.tokens} does not hold the records of {shard.records} in their order")
            yield record, grid


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a shard as JSON values."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            yield from to_json(pa.Table.from_batches([batch]))


def read_grids(shard: Shard) -> Iterator[TokenGrid]:
    """The token grids of a shard. Raises InputError where there are none, or they are damaged."""
    if shard.tokens is None:
        raise InputError(f"there are no token shards beside {shard.records}: this form is made of them")
    try:
        yield from iter_grids([shard.tokens], BATCH)
    except TrainingError as error:
        raise InputError(str(error)) from error


def count_lines(folder: Path) -> int:
    """Lines of all JSON Lines files of a split."""
    total = 0
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            total += sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))
    return total
