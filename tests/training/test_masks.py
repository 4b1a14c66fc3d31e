from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.training.grid import TokenGrid, TrainingError
from pipeline.training.masks import (
    IGNORE,
    MAX_PIECES,
    Cells,
    MaskKind,
    OverBudgetError,
    check_mask,
    dense_mask,
    first_visible_row,
    mask_mod,
    record_cells,
)
from tests.training.synthetic_grids import ASSISTANT, BOS, METADATA, SILENCE, USER, grids, make_grid

MASKS = st.sampled_from(["same_row", "strict"])
GRIDS = settings(max_examples=60, deadline=None)


def cells_mask(cells: Cells, mask: MaskKind) -> np.ndarray:
    document = np.zeros(len(cells), np.int32)
    return dense_mask(document, cells.row, first_visible_row(cells.row, cells.is_key, mask))


def expected_target(grid: TokenGrid, row: int, stream: int) -> int | None:
    """The trained target of the cell (row, stream) by the definition, or None."""
    if grid.streams[stream].direction == "input" or row >= grid.rows - 1:
        return None
    spoken = {
        (int(r), int(s)): (int(token), int(loss))
        for r, s, token, loss in zip(grid.token_rows, grid.token_streams, grid.token_ids, grid.token_loss, strict=True)
    }
    if (row + 1, stream) in spoken:
        token, loss = spoken[row + 1, stream]
        return token if loss & LOSS_TARGET else None
    earlier = [loss for (r, s), (_, loss) in sorted(spoken.items()) if s == stream and r <= row]
    return None if earlier and earlier[-1] & LOSS_END_UNTRAINED else SILENCE


@GRIDS
@given(grids(), MASKS)
def test_the_mask_is_the_definition(grid: TokenGrid, mask: MaskKind) -> None:
    (cells,) = record_cells(grid, METADATA)
    seen = cells_mask(cells, mask)
    for query in range(len(cells)):
        for key in range(len(cells)):
            spoken = cells.token[key] != SILENCE
            earlier = cells.row[key] <= cells.row[query] if mask == "same_row" else cells.row[key] < cells.row[query]
            bos = cells.token[key] == BOS
            assert seen[query, key] == (query == key or bos or (spoken and earlier))


@GRIDS
@given(grids(), MASKS)
def test_the_flex_mask_is_the_dense_mask_over_packed_documents(grid: TokenGrid, mask: MaskKind) -> None:
    (cells,) = record_cells(grid, METADATA)
    document = np.repeat(np.array([0, 1, -1], np.int32), len(cells))
    row = np.tile(cells.row, 3)
    visible = np.tile(first_visible_row(cells.row, cells.is_key, mask), 3)
    arrays = map(torch.from_numpy, (document, row, visible))
    flex = create_mask(mask_mod(*arrays), 1, 1, len(row), len(row), device="cpu")[0, 0]
    dense = dense_mask(document, row, visible)
    np.testing.assert_array_equal(flex.numpy(), dense)
    assert not dense[document[:, None] != document[None, :]].any()


@GRIDS
@given(grids())
def test_every_cell_and_target_is_the_definition(grid: TokenGrid) -> None:
    (cells,) = record_cells(grid, METADATA)
    found = {(int(row), int(stream)): i for i, (row, stream) in enumerate(zip(cells.row, cells.stream, strict=True))}
    assert len(found) == len(cells)
    assert list(found) == sorted(found)
    assert cells.token[found.pop((-1, -1))] == BOS
    assert cells.target[0] == IGNORE
    spoken = set(zip(grid.token_rows.tolist(), grid.token_streams.tolist(), strict=True))
    silence_count = 0
    for row in range(-1, grid.rows):
        for stream in range(len(grid.streams)):
            target = expected_target(grid, row, stream)
            index = found.pop((row, stream), None)
            if index is None:
                assert (row, stream) not in spoken
                assert target is None
                continue
            assert cells.is_key[index] == ((row, stream) in spoken) == (cells.token[index] != SILENCE)
            assert cells.target[index] == (IGNORE if target is None else target)
            assert cells.weight[index] == (target is not None)
            silence_count += target == SILENCE
    assert not found
    assert cells.silence_count == silence_count


@GRIDS
@given(grids())
def test_targets_decode_back_to_the_text_of_the_output_streams(grid: TokenGrid) -> None:
    (cells,) = record_cells(grid, METADATA)
    text = defaultdict(list)
    for row, stream, target in zip(cells.row, cells.stream, cells.target, strict=True):
        if target not in (IGNORE, SILENCE):
            text[int(stream)].append((int(row) + 1, int(target)))
    for index, stream in enumerate(grid.streams):
        trained = (grid.token_streams == index) & ((grid.token_loss & LOSS_TARGET) != 0)
        expected = list(zip(grid.token_rows[trained].tolist(), grid.token_ids[trained].tolist(), strict=True))
        assert text[index] == (expected if stream.direction == "output" else [])


def test_a_cut_off_message_trains_no_silence_until_the_stream_speaks_again() -> None:
    cut = LOSS_TARGET | LOSS_END_UNTRAINED
    grid = make_grid([(1, 1, 5, cut), (4, 1, 6, LOSS_TARGET), (7, 0, 1, 0)], 8)
    (cells,) = record_cells(grid, METADATA)
    targets = {
        int(row): int(target)
        for row, stream, target in zip(cells.row, cells.stream, cells.target, strict=True)
        if stream == 1
    }
    assert targets == {-1: SILENCE, 0: 5, 1: IGNORE, 3: 6, 4: SILENCE, 5: SILENCE, 6: SILENCE}


def test_an_unfinished_message_silences_its_own_stream_only() -> None:
    grid = make_grid([(0, 0, 5, LOSS_TARGET | LOSS_END_UNTRAINED)], 4, (ASSISTANT, ASSISTANT))
    (cells,) = record_cells(grid, METADATA)
    trained = {(int(r), int(s)) for r, s, t in zip(cells.row, cells.stream, cells.target, strict=True) if t != IGNORE}
    assert trained == {(-1, 0), (-1, 1), (0, 1), (1, 1), (2, 1)}


def test_strict_is_refused_on_lag_0() -> None:
    check_mask("strict", 1)
    check_mask("same_row", 0)
    with pytest.raises(TrainingError, match="lag"):
        check_mask("strict", 0)
    with pytest.raises(TrainingError, match="choose one of"):
        check_mask("causal", 1)


@GRIDS
@given(grids(), st.floats(0.05, 1.0), st.integers(0, 9))
def test_sampling_keeps_every_spoken_cell_and_onset_and_weighs_the_rest(
    grid: TokenGrid, rate: float, seed: int
) -> None:
    (full,) = record_cells(grid, METADATA)
    (cells,) = record_cells(grid, METADATA, silence_rate=rate, rng=np.random.default_rng(seed))
    assert cells.silence_count == full.silence_count
    places = set(zip(full.row.tolist(), full.stream.tolist(), strict=True))
    kept = set(zip(cells.row.tolist(), cells.stream.tolist(), strict=True))
    assert kept <= places
    for row, stream, key, target in zip(full.row, full.stream, full.is_key, full.target, strict=True):
        assert (int(row), int(stream)) in kept or (not key and target == SILENCE)
    sampled = ~cells.is_key & (cells.target == SILENCE)
    np.testing.assert_allclose(cells.weight[sampled], 1 / rate, rtol=1e-6)
    np.testing.assert_array_equal(cells.weight[~sampled], cells.target[~sampled] != IGNORE)


@GRIDS
@given(grids(), st.integers(0, 5), st.sampled_from([1.0, 0.5]))
def test_pieces_of_a_record_together_train_what_the_whole_trains(grid: TokenGrid, room: int, rate: float) -> None:
    (whole,) = record_cells(grid, METADATA, silence_rate=rate, rng=np.random.default_rng(1))
    budget = len(grid.token_ids) + 1 + room
    try:
        pieces = record_cells(grid, METADATA, silence_rate=rate, rng=np.random.default_rng(1), max_cells=budget)
    except OverBudgetError:
        (everything,) = record_cells(grid, METADATA)
        silent = everything.target[~everything.is_key] == SILENCE
        assert (~silent).sum() + rate * silent.sum() > MAX_PIECES * room
        return

    def trained(cells: Cells) -> list[tuple[float, ...]]:
        kept = cells.target != IGNORE
        columns = (array[kept].tolist() for array in (cells.row, cells.stream, cells.target, cells.weight))
        return list(zip(*columns, strict=True))

    assert sorted(item for piece in pieces for item in trained(piece)) == sorted(trained(whole))
    counts = [piece.silence_count for piece in pieces]
    assert sum(counts) == whole.silence_count
    assert max(counts) - min(counts) <= 1
    silent_queries = [np.count_nonzero(~piece.is_key) for piece in pieces]
    assert max(silent_queries) - min(silent_queries) <= 1
    for piece in pieces:
        assert len(piece) <= budget
        np.testing.assert_array_equal(piece.token[piece.is_key], whole.token[whole.is_key])


def test_spoken_cells_beyond_the_budget_are_an_error() -> None:
    grid = make_grid([(row, 0, 1, 0) for row in range(9)], 9, (USER, ASSISTANT))
    with pytest.raises(OverBudgetError, match="10 spoken cells"):
        record_cells(grid, METADATA, max_cells=9)
