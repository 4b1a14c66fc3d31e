"""Whole conversations as columns: what filters, deduplication and decontamination look at.

A record is a segment of a conversation; what it repeats of earlier ones (system text, tool definitions) is taken once. Text is
that of the source, to the character: the chunks of a part, joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

#: Records that are read at a time; a conversation's own records always come together.
BATCH_RECORDS = 1024

#: The columns of record shards that are looked at.
COLUMNS = [
    "id",
    "conversation_id",
    "group",
    "rows",
    "segment",
    "streams",
    "events",
    "sources",
    "alignment",
    "extra",
    "labels",
]

#: Events of these kinds are the pipeline's own words, not the conversation's.
_OURS = ("header",)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a conversation is taken. ``reason``: a code, the same for all of its kind; ``detail``: what was found, in words."""

    reason: str
    detail: str = ""


class Talks:
    """A batch of whole conversations.

    ``conversations``: a row each, in the order of the shard: ``talk`` (0 to n - 1), ``conversation_id``, ``ids`` (a list: of
    its records), ``rows`` (of all its records), ``corpus`` and ``format`` (of its first source), ``licenses`` (a list: of all
    its sources, null where none is known), ``group``, ``extra`` (JSON text).

    ``parts``: a row per part of a message that says something, in the conversation's order: ``talk``, ``message`` (null: tool
    definitions), ``part``, ``role``, ``stream`` (its name), ``output`` (whether the model says it), ``kind``, ``text``,
    ``trained`` (whether a loss is taken), ``interrupted``, ``tokens`` (cells).
    """

    def __init__(self, records: pa.Table) -> None:
        self.records = records

    def __len__(self) -> int:
        return self.conversations.height

    @cached_property
    def _frame(self) -> pl.DataFrame:
        frame = pl.from_arrow(self.records.select(COLUMNS))
        assert isinstance(frame, pl.DataFrame)
        first = pl.col("sources").list.first().struct
        k = pl.col("segment").struct.field("k")
        begins = (pl.col("conversation_id") != pl.col("conversation_id").shift()) | (k <= k.shift())
        return frame.with_columns(
            talk=begins.fill_null(value=False).cum_sum().cast(pl.UInt32),
            k=k,
            corpus=first.field("corpus"),
            format=first.field("format"),
            licenses=pl.col("sources").list.eval(pl.element().struct.field("license")),
        )

    @cached_property
    def conversations(self) -> pl.DataFrame:
        """See the class."""
        return self._frame.group_by("talk", maintain_order=True).agg(
            pl.col("conversation_id").first(),
            ids=pl.col("id"),
            rows=pl.col("rows").sum().cast(pl.Int64),
            corpus=pl.col("corpus").first(),
            format=pl.col("format").first(),
            licenses=pl.col("licenses").first(),
            group=pl.col("group").first(),
            extra=pl.col("extra").first(),
        )

    @cached_property
    def parts(self) -> pl.DataFrame:
        """See the class."""
        streams = pl.col("streams").list.get(pl.col("stream").cast(pl.Int64)).struct
        events = (
            self._frame.select("talk", "k", "streams", "events")
            .explode("events")
            .unnest("events")
            .filter(pl.col("kind").is_in(_OURS).not_())
            .with_columns(
                role=streams.field("role"), name=streams.field("name"), output=streams.field("direction") == "output"
            )
        )
        whole = events.group_by("talk", "message", "part", "k", maintain_order=True).agg(
            pl.col("role").first(),
            stream=pl.col("name").first(),
            output=pl.col("output").first(),
            kind=pl.col("kind").first(),
            text=pl.col("text").str.join(""),
            trained=(pl.col("weight") > 0).any() & pl.col("output").any(),
            interrupted=pl.col("interrupted").any(),
            tokens=(pl.col("end") - pl.col("start")).sum().cast(pl.Int64),
        )
        # Segments repeat the system's messages and the tool definitions; a long result that is cut over segments goes on.
        repeats = pl.col("message").is_null() | (pl.col("role") == "system")
        once = pl.when(repeats.not_()).then("k").alias("once")
        own = whole.unique(["talk", "message", "part", once], keep="first", maintain_order=True)
        keys = ["talk", "message", "part"]
        return (
            own.group_by(keys, maintain_order=True)
            .agg(
                pl.col("role", "stream", "output", "kind").first(),
                pl.col("text").str.join(""),
                pl.col("trained", "interrupted").last(),
                pl.col("tokens").sum(),
            )
            .sort(keys, nulls_last=False, maintain_order=True)
        )

    def texts(self, where: pl.Expr | None = None, between: str = "\n") -> list[str]:
        """The text of each conversation: its parts joined by ``between``; only those of ``where``."""
        chosen = self.parts if where is None else self.parts.filter(where)
        joined = chosen.group_by("talk").agg(pl.col("text").str.join(between))
        found = self.conversations.select("talk").join(joined, on="talk", how="left", maintain_order="left")
        return found["text"].fill_null("").to_list()

    def spoken(self) -> list[str]:
        """What the model says in each conversation, a part a line or more."""
        return self.texts(pl.col("output"))

    def without(self, talks: set[int]) -> Talks:
        """The others, numbered anew."""
        keep = self._frame["talk"].is_in(list(talks)).not_()
        return Talks(self.records.filter(keep.to_arrow()))


def read_talks(path: Path) -> Iterator[Talks]:
    """The conversations of a shard of records, in batches of about ``BATCH_RECORDS`` records."""
    waiting: list[pa.Table] = []
    for batch in pq.ParquetFile(path).iter_batches(BATCH_RECORDS, columns=COLUMNS):
        table = pa.Table.from_batches([batch])
        ids = table.column("conversation_id").to_pylist()
        last = len(ids)
        while last and ids[last - 1] == ids[-1]:
            last -= 1
        if last == 0 and waiting and waiting[-1].column("conversation_id")[-1].as_py() == ids[-1]:
            waiting.append(table)
            continue
        # What waits is one conversation; it goes on in this batch or ends before it.
        yield_now = [*waiting, table.slice(0, last)]
        waiting = [table.slice(last)]
        whole = pa.concat_tables(yield_now)
        if whole.num_rows:
            yield Talks(whole)
    if waiting:
        yield Talks(pa.concat_tables(waiting))
