"""``import multistream``: a data set for PyTorch in three lines; and the folder as the Hub's library loads it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import multistream
from pipeline.errors import InputError
from pipeline.records import to_json
from pipeline.shards import TableWriter
from pipeline.tables import RECORDS, TOKENS
from pipeline.training.grid import iter_grids
from pipeline.training.packing import pack_grids

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example conversations, converted, with a card; the train split cut into three shards of small row groups."""
    out = tmp_path_factory.mktemp("facade") / "build"
    run("convert", "examples/conversations", "--out", str(out), "--license", "Apache-2.0", "--test-fraction", "0.2")
    run("card", str(out))
    return out


@pytest.fixture(scope="module")
def cut(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The train split in three shards, row groups of three and of four rows."""
    folder = tmp_path_factory.mktemp("cut")
    for name, schema, rows in (("records", RECORDS, 3), ("tokens-smollm2", TOKENS, 4)):
        (path,) = (build / "dataset" / "train").glob(f"{name}-*.parquet")
        table = pq.read_table(path)
        bounds = [0, 5, 5, table.num_rows]
        for i in range(3):
            target = folder / "train" / f"{name}-{i:05d}-of-00003.parquet"
            target.parent.mkdir(exist_ok=True)
            writer = TableWriter(target, schema.with_metadata(table.schema.metadata))
            for at in range(bounds[i], bounds[i + 1], rows):
                writer.write(table.slice(at, min(rows, bounds[i + 1] - at)))
                writer._flush()
            writer.close()
    return folder


def stored(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    paths = sorted((folder / split).glob("records-*.parquet"))
    return [record for path in paths for record in to_json(pq.read_table(path))]


def test_a_loop_gives_the_records_as_json_in_stored_order(build: Path, cut: Path) -> None:
    expected = stored(build / "dataset")
    assert list(multistream.load(build, split="train")) == expected
    assert list(multistream.load(cut)) == expected
    assert json.loads(json.dumps(next(iter(multistream.load(cut))))) == expected[0]
    both = [r["id"] for r in multistream.load(build)]
    assert len(both) == len(expected) + len(stored(build / "dataset", "test"))


def test_a_record_is_reached_by_its_index_with_its_cells(cut: Path) -> None:
    expected = stored(cut)
    data = multistream.load(cut)
    grids = list(iter_grids(sorted((cut / "train").glob("tokens-*.parquet"))))
    assert len(data) == len(expected) == len(grids)
    for index in [*range(len(expected) - 1, -1, -1), -1]:
        assert data[index] == expected[index]
        cells = data[index].tokens
        assert cells["id"] == grids[index].id
        assert np.array_equal(cells["token_ids"], grids[index].token_ids)
    assert data[2:5] == expected[2:5]
    with pytest.raises(IndexError):
        data[len(expected)]


def test_tokens_are_in_the_order_of_the_records(cut: Path) -> None:
    data = multistream.tokens(cut, split="train")
    assert [item["id"] for item in data] == [r["id"] for r in multistream.load(cut)]
    for item, grid in zip(data, iter_grids(sorted((cut / "train").glob("tokens-*.parquet"))), strict=True):
        for name in ("token_ids", "token_rows", "token_streams", "token_loss"):
            assert np.array_equal(item[name], getattr(grid, name))
    assert np.array_equal(data[7]["token_rows"], list(data)[7]["token_rows"])


def test_an_epoch_in_a_random_order_reads_each_row_group_once(cut: Path) -> None:
    data = multistream.load(cut)
    order = data.shuffled(seed=3, epoch=1)
    assert sorted(order) == list(range(len(data)))
    assert order != data.shuffled(seed=3, epoch=2)
    assert order == multistream.load(cut).shuffled(seed=3, epoch=1)
    group = [index // 3 if index < 3 else (index - 5) // 3 + 10 if index >= 5 else 1 for index in order]
    changes = sum(a != b for a, b in pairwise(group))
    assert changes == len(set(group)) - 1


def test_it_pickles_small_and_works_afterwards(cut: Path) -> None:
    data = multistream.load(cut)
    expected = data[6]
    data[0].tokens  # noqa: B018
    pickled = pickle.dumps(data)
    assert len(pickled) < 4000
    again = pickle.loads(pickled)
    assert again[6] == expected
    assert pickle.loads(pickle.dumps(expected)).tokens["id"] == expected["id"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["load", "tokens"])
def test_pytorch_batches_it_in_three_lines(kind: str, workers: int, cut: Path) -> None:
    from torch.utils.data import DataLoader

    list(multistream.load(cut))  # what the parent has done before must not stop its workers
    data = getattr(multistream, kind)(cut, split="train")
    loader = DataLoader(data, batch_size=4, collate_fn=multistream.collate, num_workers=workers)
    grids = iter_grids(sorted((cut / "train").glob("tokens-*.parquet")))
    for batch in loader:
        for i in range(len(batch["names"])):
            grid, n = next(grids), int(batch["lengths"][i])
            assert batch["names"][i] == grid.id
            assert [s["role"] for s in batch["streams_of"][i]] == [s.role for s in grid.streams]
            assert batch["ids"][i, :n].tolist() == grid.token_ids.tolist()
            assert batch["rows"][i, :n].tolist() == grid.token_rows.tolist()
            assert batch["streams"][i, :n].tolist() == grid.token_streams.tolist()
            assert batch["loss"][i, :n].tolist() == ((grid.token_loss & 1) != 0).tolist()
            assert set(batch["rows"][i, n:].tolist()) <= {-1}
            assert not batch["loss"][i, n:].any()
    assert next(grids, None) is None


def test_packs_are_those_of_training(cut: Path) -> None:
    from torch.utils.data import DataLoader

    data = multistream.tokens(cut)
    pack = multistream.packs(data, max_cells=700)
    batches = list(DataLoader(data, batch_size=5, collate_fn=pack))
    grids = list(iter_grids(sorted((cut / "train").glob("tokens-*.parquet"))))
    left = []
    for number, batch in enumerate(batches):
        some = grids[5 * number : 5 * number + 5]
        expected = list(pack_grids(some, data.metadata, pack.roles, mask="same_row", max_cells=700, pad=True))
        assert batch["token"].shape == (len(expected), 700)
        for i, one in enumerate(expected):
            for name in ("token", "row", "role", "slot", "document", "visible_from", "is_key", "target", "weight"):
                assert np.array_equal(batch[name][i].numpy(), getattr(one, name))
            assert batch["names"][i] == one.records
        left += batch["left_out"]
    packed = {r for batch in batches for names in batch["names"] for r in names}
    assert packed | set(left) == {grid.id for grid in grids}
    assert not packed & set(left)
    with pytest.raises(InputError, match="lag >= 1"):
        multistream.packs(data, mask="strict")


def test_what_is_not_there_is_said_in_one_line(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records of the split 'test'"):
        multistream.load(cut, split="test")
    with pytest.raises(InputError, match="is not there"):
        multistream.load(tmp_path / "nothing")
    (tmp_path / "train").mkdir()
    name = "records-00000-of-00003.parquet"
    (tmp_path / "train" / name).write_bytes((cut / "train" / name).read_bytes())
    bare = multistream.load(tmp_path)
    assert len(bare) == 5
    with pytest.raises(InputError, match="no token shard beside"):
        multistream.collate([bare[0]])
    with pytest.raises(InputError, match="holds no tokens"):
        multistream.tokens(tmp_path)


def test_shards_that_do_not_fit_each_other_are_found_out(cut: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name, other in (("records", "records"), ("tokens-smollm2", "tokens-smollm2")):
        source = cut / "train" / f"{other}-0000{0 if name == 'records' else 2}-of-00003.parquet"
        (tmp_path / "train" / f"{name}-00000-of-00001.parquet").write_bytes(source.read_bytes())
    with pytest.raises(InputError, match="in their order"):
        multistream.collate([multistream.load(tmp_path)[0]])


def test_tokenizers_are_told_apart_whatever_hyphens_their_names_have(cut: Path, tmp_path: Path) -> None:
    """The shards of the second tokenizer have other tokens: those of the first, each one higher."""
    (tmp_path / "train").mkdir()
    for path in sorted((cut / "train").glob("*.parquet")):
        if path.name.startswith("records-"):
            shutil.copy(path, tmp_path / "train")
            continue
        table = pq.read_table(path)
        place = table.schema.get_field_index("token_ids")
        ids = table.column(place).to_pylist()
        for name, more in (("my", 0), ("my-tok", 1)):
            column = pa.array([[i + more for i in of] for of in ids], table.schema.field(place).type)
            renamed = path.name.replace("smollm2", name)
            pq.write_table(table.set_column(place, table.schema.field(place), column), tmp_path / "train" / renamed)
    first = list(multistream.tokens(cut))
    for name, more in (("my", 0), ("my-tok", 1)):
        found = list(multistream.tokens(tmp_path, tokenizer=name))
        assert [item["id"] for item in found] == [item["id"] for item in first]
        assert all(np.array_equal(a["token_ids"], b["token_ids"] + more) for a, b in zip(found, first, strict=True))
        assert np.array_equal(multistream.load(tmp_path, tokenizer=name)[0].tokens["token_ids"], found[0]["token_ids"])
    with pytest.raises(InputError, match="several tokenizers: name one"):
        multistream.tokens(tmp_path)
    with pytest.raises(InputError, match="no tokens of the tokenizer 'tok'"):
        multistream.tokens(tmp_path, tokenizer="tok")


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, multistream; print([m for m in ('torch', 'pyarrow', 'polars', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Hub's library without the Hub."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_OFFLINE", True)
    library.disable_progress_bars()
    return library


def rows_of(data: Any) -> Iterator[dict[str, Any]]:
    yield from data


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("config", "schema"), [("records", RECORDS), ("tokens-smollm2", TOKENS)])
def test_load_dataset_gives_typed_features_and_the_values_of_the_shards(
    config: str, schema: pa.Schema, streaming: bool, build: Path, tmp_path: Path, datasets: Any
) -> None:
    place = build / "dataset"
    assert set(datasets.get_dataset_config_names(str(place))) >= {"records", "tokens-smollm2"}
    loaded = datasets.load_dataset(str(place), config, streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    for split, data in loaded.items():
        table = pa.concat_tables([pq.read_table(p) for p in sorted((place / split).glob(f"{config}-*.parquet"))])
        assert data.features is not None
        assert list(data.features) == schema.names
        expected = datasets.Features.from_arrow_schema(schema)
        assert data.features == expected
        found = list(rows_of(data))
        assert found == table.to_pylist()
        assert len(found) == table.num_rows > 0


def test_the_first_config_is_records(build: Path, tmp_path: Path, datasets: Any) -> None:
    data = datasets.load_dataset(str(build / "dataset"), split="test", cache_dir=str(tmp_path / "cache"))
    assert data.column_names == RECORDS.names
