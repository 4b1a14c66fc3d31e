"""Deduplication gives the same however it is run, and counts what it did again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dedup_cases import deduplicated, edited, gone, rows, text
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.clusters import CLUSTERS_FILE, GROUPS_FILE
from pipeline.errors import ConservationError
from pipeline.leftout import FILTERED, record_shards, recount
from pipeline.manifest import Result
from pipeline.stages import dedup as stage


def digests(result: Result) -> dict[str, str]:
    return {o.path: o.sha256 for o in result.manifest.outputs}


def test_workers_and_sharding_change_nothing(mixed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = deduplicated(mixed, tmp_path / "one")
    monkeypatch.setattr(stage, "FEW", 0)
    assert digests(deduplicated(mixed, tmp_path / "two", workers=2)) == digests(one)
    again = _converted_again(mixed, tmp_path)
    other = deduplicated(again, tmp_path / "other")
    assert gone(again, other) == gone(mixed, one)
    for name in (CLUSTERS_FILE, GROUPS_FILE):
        assert (other.directory / name).read_bytes() == (one.directory / name).read_bytes()


def _converted_again(made: Result, folder: Path) -> Result:
    """The same records in a single shard, last ones first."""
    import pyarrow as pa

    from pipeline.manifest import Manifest, output_of
    from pipeline.tables import RECORDS

    table = pa.concat_tables([pq.read_table(p) for p in made.manifest.paths(made.directory, "records-")])
    target = folder / "convert"
    target.mkdir()
    path = target / "records-00000.parquet"
    pq.write_table(table.take(pa.array(np.arange(table.num_rows)[::-1])).cast(RECORDS), path)
    outputs = (output_of(path, target, table.num_rows),)
    return Result(target, Manifest("convert", 1, "f", {}, {}, outputs, {}, 0.0), skipped=False)


def test_bands_can_be_cut_into_buckets_and_pairs_into_pieces(
    mixed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = deduplicated(mixed, tmp_path / "one", differing=0)
    monkeypatch.setattr("pipeline.dedup.candidates.BUCKET_KEYS", 2)
    monkeypatch.setattr("pipeline.dedup.candidates.PAIRS", 2)
    monkeypatch.setattr("pipeline.dedup.clusters._ROWS", 2)
    monkeypatch.setattr("pipeline.dedup.sketches.OPEN", 1)
    assert digests(deduplicated(mixed, tmp_path / "two", differing=0)) == digests(one)


def test_a_run_that_was_cut_off_keeps_the_sketches_of_finished_shards(
    mixed: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = deduplicated(mixed, tmp_path / "whole")
    seen: list[Path] = []
    real = stage.sketch_shard

    def failing(shard: Path, *rest: Any) -> int:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(shard)
        return real(shard, *rest)

    monkeypatch.setattr(stage, "sketch_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        deduplicated(mixed, tmp_path / "cut")
    again: list[Path] = []
    monkeypatch.setattr(stage, "sketch_shard", lambda shard, *rest: again.append(shard) or real(shard, *rest))
    result = deduplicated(mixed, tmp_path / "cut")
    assert sorted([*seen, *again]) == sorted(record_shards([mixed]))
    assert digests(result) == digests(whole)
    assert deduplicated(mixed, tmp_path / "cut").skipped
    assert not (tmp_path / "cut" / "finished").exists()


def test_the_books_are_counted_again_from_the_files(mixed: Result, tmp_path: Path) -> None:
    result = deduplicated(mixed, tmp_path / "dedup")
    counts = [recount(shard, result.directory) for shard in record_shards([mixed])]
    assert sum(c["out"] for c in counts) + sum(c["filtered"] for c in counts) == sum(c["in"] for c in counts) == 11
    book = next(p for p in result.manifest.paths(result.directory, FILTERED) if pq.read_metadata(p).num_rows)
    table = pq.read_table(book)
    strange = table.set_column(0, table.schema.field("id"), [["not there"] * table.num_rows])
    pq.write_table(strange, book)
    with pytest.raises(ConservationError, match="does not hold"):
        _ = [recount(shard, result.directory) for shard in record_shards([mixed])]


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    from pipeline.manifest import Manifest

    (tmp_path / "convert").mkdir()
    empty = Result(tmp_path / "convert", Manifest("convert", 1, "f", {}, {}, (), {}, 0.0), skipped=False)
    result = deduplicated(empty, tmp_path / "dedup")
    assert (result.manifest.counters["in"], result.manifest.counters["clusters"]) == (0, 0)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_near_copies_are_those_of_all_pairs(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    from benchmarks.dedup import expected, write_records

    dice = np.random.default_rng(seed)
    talks = []
    for number in range(12):
        base = text(number, 120)
        for _ in range(dice.integers(1, 4)):
            changed = dice.choice(120, dice.integers(0, 6), replace=False).tolist()
            talks.append((text(100 + number, 30), edited(base, changed, f"n{number}e")))
    folder = tmp_path_factory.mktemp("random")
    write_records(talks, folder / "convert", shard=5)
    made = Result(folder / "convert", _manifest(folder / "convert"), skipped=False)
    result = deduplicated(made, folder / "dedup", differing=0, threshold=0.8)
    wanted, _ = expected(talks)
    assert {int(row["id"], 16) for row in rows(result)} == wanted


def _manifest(directory: Path) -> Any:
    from pipeline.manifest import need_manifest

    return need_manifest(directory)
