from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pipeline.training.grid import Stream, TokenGrid, TrainingError
from pipeline.training.masks import Cells, MaskKind, record_cells
from pipeline.training.model import (
    Checkpoint,
    MultistreamModel,
    check_vocabulary,
    choose_device,
    load_base,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from pipeline.training.packing import Pack, PackCounters, make_pack, pack_grids
from tests.training.synthetic_grids import METADATA, echo_grids, grids, make_grid, save_tiny_llama, tiny_llama

ROLES = ("role0", "role1", "assistant", "user")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> MultistreamModel:
    """A random model whose stream embeddings are not zero."""
    model = MultistreamModel(tiny_llama(), ROLES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in (model.streams.role, model.streams.slot):
            table.weight[1:] = torch.randn(table.weight[1:].shape, generator=generator)
    return model.eval()


def spoken_only(cells: Cells) -> Cells:
    kept = {
        name: getattr(cells, name)[cells.is_key] for name in ("token", "row", "stream", "is_key", "target", "weight")
    }
    return replace(cells, **kept)


def pack_logits(model: MultistreamModel, pack: Pack) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(pack))


MODEL = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("mask", ["same_row", "strict"])
def test_silent_cells_change_no_other_cell(model: MultistreamModel, mask: MaskKind) -> None:
    @MODEL
    @given(grids())
    def check(grid: TokenGrid) -> None:
        (cells,) = record_cells(grid, METADATA)
        with_silence = pack_logits(model, make_pack([cells], model.role_index, mask))
        without = pack_logits(model, make_pack([spoken_only(cells)], model.role_index, mask))
        torch.testing.assert_close(with_silence[torch.from_numpy(cells.is_key)], without, atol=1e-5, rtol=1e-5)

    check()


@pytest.mark.parametrize("mask", ["same_row", "strict"])
def test_packed_logits_are_unpacked_logits(model: MultistreamModel, mask: MaskKind) -> None:
    @MODEL
    @given(grids(), grids())
    def check(first: TokenGrid, second: TokenGrid) -> None:
        documents = [record_cells(grid, METADATA)[0] for grid in (first, second)]
        apart = [pack_logits(model, make_pack([cells], model.role_index, mask)) for cells in documents]
        packed = pack_logits(model, make_pack(documents, model.role_index, mask, pad_to=100))
        size = sum(map(len, documents))
        torch.testing.assert_close(packed[:size], torch.cat(apart), atol=1e-5, rtol=1e-5)
        assert torch.isfinite(packed).all()
        assert len(packed) == max(100, size)

    check()


def test_a_cell_is_its_token_plus_its_role_and_slot_and_bos_has_neither(model: MultistreamModel) -> None:
    streams = [Stream(f"tool/{slot}", role, slot, "output") for role, slot in (("role1", 0), ("role1", 7), ("new", 7))]
    (cells,) = record_cells(make_grid([(0, stream, 3, 1) for stream in range(3)], 1, streams), METADATA)
    pack = make_pack([cells], model.role_index, "same_row", pad_to=len(cells) + 1)
    role, slot = model.streams.role.weight, model.streams.slot.weight
    expected = torch.stack([role[2] + slot[1], role[2] + slot[8], slot[8]])
    embedded = model.streams(torch.from_numpy(pack.role), torch.from_numpy(pack.slot))
    torch.testing.assert_close(embedded, torch.cat([torch.zeros(1, 32), expected, expected, torch.zeros(1, 32)]))


@pytest.mark.parametrize("mask", ["same_row", "strict"])
def test_no_query_hears_the_future(model: MultistreamModel, mask: MaskKind) -> None:
    """A changed token changes the logits of later rows and its own; under same_row also the other cells' of its row."""
    cells = [(row, stream, row + stream, 1) for row in range(5) for stream in range(2)]
    changed = [(row, stream, 9 if (row, stream) == (3, 0) else token, 1) for row, stream, token, _ in cells]
    (first,), (second,) = (record_cells(make_grid(each, 5), METADATA) for each in (cells, changed))
    before, after = (pack_logits(model, make_pack([each], model.role_index, mask)) for each in (first, second))
    moved = (before - after).abs().amax(-1) > 1e-6
    reached = (first.row > 3) | ((first.row == 3) & ((mask == "same_row") | (first.stream == 0)))
    np.testing.assert_array_equal(moved.numpy(), reached)


def test_an_untrained_model_is_the_base_model_on_one_causal_stream() -> None:
    llama = tiny_llama()
    fresh = MultistreamModel(llama, ROLES).eval()
    (grid,) = echo_grids(1)
    user_only = replace(
        grid, **{name: getattr(grid, name)[:4] for name in ("token_ids", "token_rows", "token_streams", "token_loss")}
    )
    cells = spoken_only(record_cells(user_only, METADATA)[0])
    with torch.no_grad():
        expected = llama(torch.from_numpy(cells.token)[None]).logits[0]
    torch.testing.assert_close(pack_logits(fresh, make_pack([cells], fresh.role_index, "same_row")), expected)


def test_packs_hold_every_record_once_within_the_budget() -> None:
    records = echo_grids(40)
    counters = PackCounters()
    packs = list(
        pack_grids(records, METADATA, {"user": 1, "assistant": 2}, mask="same_row", max_cells=64, counters=counters)
    )
    assert all(len(pack) <= 64 for pack in packs)
    assert sum(len(np.unique(pack.document)) for pack in packs) == len(records) == counters.records
    assert sum(int((pack.token == METADATA.bos_id).sum()) for pack in packs) == len(records)
    assert all((pack.row[np.flatnonzero(np.diff(pack.document, prepend=-1))] == -1).all() for pack in packs)
    assert sum(map(len, packs)) / len(packs) > 40


def test_records_beyond_the_budget_are_counted() -> None:
    long = make_grid([(row, 0, 1, 0) for row in range(99)], 99, id="long")
    counters = PackCounters()
    packs = list(pack_grids([long, *echo_grids(2)], METADATA, {}, mask="same_row", max_cells=64, counters=counters))
    assert sum(len(np.unique(pack.document)) for pack in packs) == 2
    assert (counters.records, counters.over_budget, counters.over_budget_ids) == (3, 1, ["long"])


def test_a_checkpoint_round_trip_keeps_weights_and_description(tmp_path: Path, model: MultistreamModel) -> None:
    described = Checkpoint(ROLES, METADATA, "strict", "/models/base", {"steps": 3})
    save_checkpoint(tmp_path, model, described)
    assert read_checkpoint(tmp_path) == described
    loaded = load_checkpoint(tmp_path, CPU)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_roles_unseen_in_training_get_zero_embeddings(tmp_path: Path, model: MultistreamModel) -> None:
    save_checkpoint(tmp_path, model, Checkpoint(ROLES, METADATA, "same_row", "/models/base", {}))
    loaded = load_checkpoint(tmp_path, CPU, extra_roles=["tool"])
    assert loaded.roles == (*ROLES, "tool")
    assert not loaded.streams.role.weight[len(ROLES) + 1].any()
    torch.testing.assert_close(loaded.streams.role.weight[: len(ROLES) + 1], model.streams.role.weight)


def test_a_directory_that_is_no_checkpoint_or_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not a checkpoint"):
        read_checkpoint(tmp_path)
    with pytest.raises(TrainingError, match=r"neither config\.json nor exactly one"):
        load_base(tmp_path, ROLES, CPU)
    with pytest.raises(TrainingError, match="no model directory"):
        load_base(tmp_path / "absent", ROLES, CPU)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(TrainingError, match="gpt2 model, none of llama, mistral"):
        load_base(tmp_path, ROLES, CPU)


def test_a_damaged_checkpoint_description_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "multistream.json").write_text('{"schema": "multistream-checkpoint/1", "mask": "strict"}')
    with pytest.raises(TrainingError, match="damaged"):
        read_checkpoint(tmp_path)


def test_token_ids_beyond_the_embedding_are_an_error(tmp_path: Path) -> None:
    small = load_base(save_tiny_llama(tmp_path, vocab_size=16), ROLES, CPU)
    with pytest.raises(TrainingError, match="needs 32 ids, the model embeds 16"):
        check_vocabulary(METADATA, small)


def test_records_of_more_rows_than_the_model_has_positions_are_counted() -> None:
    assert MultistreamModel(tiny_llama(max_positions=12), ROLES).max_rows == 11
    counters = PackCounters()
    records = [*echo_grids(1), make_grid([(10, 1, 1, 1)], 11, id="short")]
    (pack,) = pack_grids(records, METADATA, {}, mask="same_row", max_cells=64, max_rows=11, counters=counters)
    assert pack.row.max() == 10
    assert counters.over_budget_ids == [records[0].id]


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:x", ""])
def test_a_device_that_is_none_is_an_error(device: str) -> None:
    with pytest.raises(TrainingError, match="device must be"):
        choose_device(device)
