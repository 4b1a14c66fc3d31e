"""The mix stage: which conversations are left out so that each source has its share. The records stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.leftout import FILTERED, RECORD_SHARDS, book_of, ids_in, part_of, reasons_in, record_shards, recount
from pipeline.manifest import Manifest, Output, Result, balance, output_of, run_stage
from pipeline.mixing import MixConfig, Places, Share, places, shares
from pipeline.plan import Plan
from pipeline.shards import TableWriter
from pipeline.tables import FILTERED as COLUMNS

STAGE, VERSION = "mix", 1


def plan(inputs: Sequence[Manifest], config: MixConfig, seed: int) -> Plan:
    """What the mix depends on. ``inputs``: of conversion and synthesis, and of the stages before that leave records out."""
    settings = {**config.model_dump(mode="json"), "seed": seed}
    return Plan(STAGE, VERSION, settings, {m.stage: m.digest() for m in inputs})


def mix_stage(
    inputs: Sequence[Result],
    directory: Path,
    config: MixConfig,
    seed: int = 0,
    left_out: Sequence[Result] = (),
    fresh: bool = False,
) -> Result:
    """Draws conversations by corpus; writes the tables of ``pipeline.leftout``.

    What the stages ``left_out`` took is not counted. A conversation is taken with all its records, also where several shards
    have it. Memory: 8 bytes per conversation. Raises PipelineError.
    """
    planned = plan([r.manifest for r in [*inputs, *left_out]], config, seed)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        for result in inputs:
            for prefix in RECORD_SHARDS:
                result.fetch(prefix)
        for result in left_out:
            result.fetch(f"{FILTERED}-")
        shards = record_shards(inputs)
        before = [result.directory for result in left_out]
        found: dict[str, list[Places]] = {}
        for shard in shards:
            for table in _kept(shard, before):
                for corpus, drawn in _drawn(table, seed).items():
                    found.setdefault(corpus, []).append(drawn)
        drawn_by = shares({c: np.unique(np.concatenate(drawn)) for c, drawn in found.items()}, config)
        total: Counter[str] = Counter()
        outputs = []
        for shard in shards:
            book = book_of(directory, shard)
            with TableWriter.several({book: COLUMNS}) as write:
                for table in _kept(shard, before):
                    write(book, _taken(table, drawn_by, seed, part_of(shard)))
            total.update(recount(shard, directory))
            total["earlier"] += sum(len(ids_in(book_of(stage, shard))) for stage in before)
            outputs.append(output_of(book, directory, pq.read_metadata(book).num_rows))
        records, out = total["in"] - total["earlier"], total["out"] - total["earlier"]
        balance(STAGE, total=records, out=out, filtered=total[FILTERED])
        counters: dict[str, Any] = {"in": records, "out": out, "rejected": 0, FILTERED: total[FILTERED]}
        counters["filters"] = {
            name: dict(reasons) for name, reasons in reasons_in([book_of(directory, s) for s in shards]).items()
        }
        counters["corpora"] = {corpus: {"there": s.there, "taken": s.taken} for corpus, s in drawn_by.items()}
        return outputs, counters, {}

    return run_stage(directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh)


def _kept(shard: Path, before: Sequence[Path]) -> Any:
    """The ids, conversations and corpora of the records that earlier stages keep, in batches."""
    gone = pa.concat_arrays(
        [c for stage in before for c in ids_in(book_of(stage, shard)).chunks] or [pa.array([], pa.string())]
    )
    for batch in pq.ParquetFile(shard).iter_batches(8192, columns=["id", "conversation_id", "sources"]):
        table = pa.Table.from_batches([batch])
        corpora = [sources[0]["corpus"] if sources else "" for sources in table.column("sources").to_pylist()]
        table = table.drop_columns("sources").append_column("corpus", pa.array(corpora, pa.string()))
        yield table.filter(pc.invert(pc.is_in(table.column("id"), value_set=gone)))


def _drawn(table: pa.Table, seed: int) -> dict[str, Places]:
    drawn = places(table.column("conversation_id").to_pylist(), seed)
    corpora = np.array(table.column("corpus").to_pylist(), dtype=object)
    return {corpus: np.unique(drawn[corpora == corpus]) for corpus in set(corpora.tolist())}


def _taken(table: pa.Table, drawn_by: Mapping[str, Share], seed: int, part: str) -> pa.Table:
    """The rows of ``COLUMNS`` for what is not drawn."""
    corpora = table.column("corpus").to_pylist()
    drawn = places(table.column("conversation_id").to_pylist(), seed).tolist()
    out = [place >= drawn_by[corpus].limit for place, corpus in zip(drawn, corpora, strict=True)]
    gone = table.filter(pa.array(out, pa.bool_()))
    named = [drawn_by[corpus] for corpus, left in zip(corpora, out, strict=True) if left]
    columns = {
        "id": gone.column("id"),
        "conversation_id": gone.column("conversation_id"),
        "corpus": gone.column("corpus"),
        "stage": [part] * len(gone),
        "filter": [STAGE] * len(gone),
        "reason": [share.why for share in named],
        "detail": [f"{share.taken:,} of {share.there:,} conversations are taken" for share in named],
    }
    return pa.table(columns, schema=COLUMNS)
