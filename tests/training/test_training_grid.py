from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tables import TOKENS
from pipeline.training.grid import (
    TrainingError,
    find_roles,
    find_shards,
    iter_grids,
    read_metadata,
)
from tests.training.synthetic_grids import METADATA, SILENCE, THOUGHT, USER, echo_grids, make_grid, write_shard


def test_records_come_back_as_written_across_batches_and_shards(tmp_path: Path) -> None:
    records = [*echo_grids(5), make_grid([], 3, id="silent"), make_grid([(1, 0, 4, 0)], 2, (USER, THOUGHT), id="two")]
    write_shard(tmp_path / "dataset/test/tokens-0.parquet", records[:4])
    write_shard(tmp_path / "dataset/test/tokens-1.parquet", records[4:])
    shards = find_shards(tmp_path, "test")
    assert shards == find_shards(tmp_path / "dataset", "test")
    assert read_metadata(shards) == METADATA
    assert find_roles(shards) == ("assistant", "thought", "user")
    for batch_size in (1, 3, 64):
        read = list(iter_grids(shards, batch_size))
        assert [grid.id for grid in read] == [grid.id for grid in records]
        for expected, grid in zip(records, read, strict=True):
            assert (grid.rows, grid.streams, grid.group) == (expected.rows, expected.streams, expected.group)
            for name in ("token_ids", "token_rows", "token_streams", "token_loss"):
                np.testing.assert_array_equal(getattr(grid, name), getattr(expected, name))
                assert getattr(grid, name).dtype == getattr(expected, name).dtype


def test_missing_shards_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no token shards"):
        find_shards(tmp_path, "train")


def test_shards_without_records_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "tokens-0.parquet", [])
    with pytest.raises(TrainingError, match="hold no records"):
        read_metadata([tmp_path / "tokens-0.parquet"])


def test_a_file_that_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokens-0.parquet").write_bytes(b"not parquet")
    with pytest.raises(TrainingError, match="not a readable Parquet file"):
        read_metadata([tmp_path / "tokens-0.parquet"])


def test_a_foreign_table_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "tokens-0.parquet")
    with pytest.raises(TrainingError, match="not a token shard"):
        read_metadata([tmp_path / "tokens-0.parquet"])


def test_a_shard_without_metadata_is_an_error(tmp_path: Path) -> None:
    pq.write_table(TOKENS.empty_table(), tmp_path / "tokens-0.parquet")
    with pytest.raises(TrainingError, match="no token_grid metadata"):
        read_metadata([tmp_path / "tokens-0.parquet"])


def test_an_unknown_grid_schema_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "tokens-0.parquet", echo_grids(1), schema="token-grid/2")
    with pytest.raises(TrainingError, match="token-grid/2"):
        read_metadata([tmp_path / "tokens-0.parquet"])


def test_shards_of_different_tokenizers_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "tokens-0.parquet", echo_grids(1))
    write_shard(tmp_path / "tokens-1.parquet", echo_grids(1), tokenizer="other")
    with pytest.raises(TrainingError, match="tokenizer is 'other' not 'synthetic'"):
        read_metadata(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([(2, 0, 1, 0)], "token_rows outside"),
        ([(0, 2, 1, 0)], "token_streams outside"),
        ([(0, 0, 32, 0)], "token_ids outside"),
        ([(0, 0, 1, 0), (0, 0, 2, 0)], "row-major"),
        ([(0, 0, SILENCE, 0)], "silence or BOS"),
    ],
)
def test_cells_that_are_no_grid_are_an_error(
    tmp_path: Path, cells: list[tuple[int, int, int, int]], fault: str
) -> None:
    write_shard(tmp_path / "tokens-0.parquet", [make_grid(cells, 2)])
    with pytest.raises(TrainingError, match=f"record record: .*{fault}"):
        list(iter_grids([tmp_path / "tokens-0.parquet"]))
