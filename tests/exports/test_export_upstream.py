"""The paper's layouts: arrays as its loaders read them, the cells come back, and what its loss cannot say is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_cases import lines

from pipeline.errors import InputError
from pipeline.exports import Options
from pipeline.exports.channels import TEN_NAMES, ten_channels
from pipeline.exports.running import Wanted, export
from pipeline.exports.upstream_grid import read_grid
from pipeline.training.grid import TokenGrid, iter_grids, read_metadata
from pipeline.training.masks import record_targets


def grids_of(folder: Path) -> list[TokenGrid]:
    return list(iter_grids(sorted((folder / "train").glob("tokens-*.parquet"))))


def cells_of(grid: TokenGrid) -> list[tuple[int, str, int]]:
    names = [stream.name for stream in grid.streams]
    rows, streams, ids = grid.token_rows.tolist(), grid.token_streams.tolist(), grid.token_ids.tolist()
    return [(r, names[s], i) for r, s, i in zip(rows, streams, ids, strict=True)]


@pytest.mark.parametrize("silence", ["hyphen", "reserved"])
def test_every_cell_of_ten_streams_comes_back_from_the_grid(tens: Path, tmp_path: Path, silence: str) -> None:
    options = Options(silence="reserved" if silence == "reserved" else "hyphen")
    result = export(tens, tmp_path / "out", Wanted("upstream-grid", options=options))
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["channels"] == {name: number for number, name in enumerate(TEN_NAMES)}
    back = list(read_grid(tmp_path / "out" / "train", about["channels"], about["silence_id"]))
    for grid, (id_, cells) in zip(grids_of(tens), back, strict=True):
        assert id_ == grid.id
        assert sorted(cells) == sorted(cells_of(grid))
    assert result.manifest.counters["lost"] == {}


def test_the_grid_is_what_the_papers_loader_flattens(tens: Path, tmp_path: Path) -> None:
    export(tens, tmp_path / "out", Wanted("upstream-grid", ("train",)))
    for sample in lines(tmp_path / "out" / "train"):
        assert len(sample["token_ids"]) == 10
        assert {len(column) for column in sample["token_ids"]} == {sample["num_rows"]}
        assert all(isinstance(i, int) for column in sample["token_ids"] for i in column)


def test_a_hyphen_that_the_grid_cannot_tell_from_silence_is_counted(chats: Path, tmp_path: Path) -> None:
    counted = export(chats, tmp_path / "a", Wanted("upstream-grid")).manifest.counters["lost"]
    reserved = Wanted("upstream-grid", options=Options(silence="reserved"))
    exact = export(chats, tmp_path / "b", reserved)
    assert counted["silence_clashes"] > 0
    assert "silence_clashes" not in exact.manifest.counters["lost"]
    about = json.loads((tmp_path / "b" / "export.json").read_text())
    back = dict(read_grid(tmp_path / "b" / "train", about["channels"], about["silence_id"]))
    for grid in grids_of(chats):
        assert sorted(back[grid.id]) == sorted(cells_of(grid))
    assert any("--lag 1" in note for note in exact.manifest.notes["notes"])


def test_channels_keep_the_papers_places_and_go_to_the_most_frequent() -> None:
    names = {"assistant": 9, "user": 9, "synthesis": 1, **{f"tool/{i}": 8 - i for i in range(8)}}
    channels = ten_channels(names)
    assert (channels["user"], channels["assistant"], channels["synthesis"]) == (0, 1, 9)
    assert [channels.get(f"tool/{i}") for i in range(8)] == [2, 3, 4, 5, 6, 7, 8, None]


def test_an_unknown_tokenizer_is_named(tens: Path, tmp_path: Path) -> None:
    wanted = Wanted("upstream-grid", options=Options(tokenizer=str(tmp_path)))
    with pytest.raises(InputError, match="--silence reserved"):
        export(tens, tmp_path / "out", wanted)


@pytest.mark.parametrize("data", ["chats", "tens"])
def test_numpy_reads_the_samples_and_their_cells_are_the_records(
    data: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Path = request.getfixturevalue(data)
    said: list[str] = []
    wanted = Wanted("upstream-npz", ("train",), options=Options(masks=True))
    export(place, tmp_path / "out", wanted, say=said.append)
    assert "N×N" in said[0]
    folder = tmp_path / "out" / "train"
    index = json.loads((folder / "index.json").read_text())
    grids = grids_of(place)
    shards = sorted((place / "train").glob("tokens-*.parquet"))
    metadata = read_metadata(shards)
    names = {number: name for name, number in index["config"]["channels"].items()}
    assert index["total_samples"] == len(grids) == len(index["sample_files"])
    for grid, entry in zip(grids, index["sample_files"], strict=True):
        with np.load(folder / entry["file"], allow_pickle=False) as sample:
            ids, labels, where = sample["input_ids"], sample["labels"], sample["position_ids"]
            mask, heads = sample["attention_mask"], json.loads(str(sample["boundaries_json"]))
            assert int(sample["seq_length"]) == len(ids) == entry["seq_length"]
            assert int(sample["num_heads"]) == len(heads["all_heads"])
        spoken = ids != metadata.silence_id
        cells = [(y - 1, names[c], i) for (c, y), i, s in zip(where.tolist(), ids.tolist(), spoken, strict=True) if s]
        assert sorted(cells) == sorted(cells_of(grid))
        # the cell before a label is the same stream's, one row earlier: what the trainer's shift by one needs
        trained = np.flatnonzero(labels != -100)
        assert (labels[trained] == ids[trained]).all()
        assert (where[trained, 0] == where[trained - 1, 0]).all()
        assert (where[trained, 1] == where[trained - 1, 1] + 1).all()
        targets = record_targets(grid, metadata.silence_id)
        assert len(trained) == np.count_nonzero(targets.trained & (targets.target != metadata.silence_id))
        sees = where[:, 1][:, None] - where[:, 1][None, :] >= metadata.lag
        expected = (sees & spoken[None, :]) | np.eye(len(ids), dtype=bool)
        assert (mask == expected).all()
        for number in heads["assistant_head_indices"]:
            head = heads["all_heads"][number]
            span = slice(head["content_start"], head["content_end"])
            assert len(set(where[span, 0].tolist())) == 1
            assert head["im_end_pos"] == -1 or ids[head["im_end_pos"]] == metadata.eom_id


def test_masks_are_not_written_unless_asked_for(tens: Path, tmp_path: Path) -> None:
    said: list[str] = []
    export(tens, tmp_path / "out", Wanted("upstream-npz", limit=1), say=said.append)
    assert "--masks" in said[0]
    with np.load(tmp_path / "out" / "train" / "000000" / "sample_000000.npz") as sample:
        assert "attention_mask" not in sample.files
