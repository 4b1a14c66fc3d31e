"""Incremental decoding is the full forward pass, for every model, mask and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding import Decoder, Sampling
from pipeline.decoding.cache import BLOCK
from pipeline.decoding.sampling import choose
from pipeline.training.grid import Stream, TokenGrid, TrainingError
from pipeline.training.masks import IGNORE, MASK_KINDS, NO_STREAM, Cells, MaskKind
from pipeline.training.model import MODEL_TYPES, MultistreamModel
from pipeline.training.packing import make_pack
from tests.training.synthetic_grids import (
    ASSISTANT,
    BOS,
    EOM,
    METADATA,
    SILENCE,
    THOUGHT,
    USER,
    VOCAB,
    grids,
    make_grid,
)
from tests.training.test_model_types import load, save_tiny

FEW = settings(max_examples=8, deadline=None)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=MODEL_TYPES)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultistreamModel:
    return load(save_tiny(tmp_path_factory.mktemp("tiny"), request.param))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultistreamModel:
    return load(save_tiny(tmp_path_factory.mktemp("tiny"), "llama"))


def outputs_of(grid: TokenGrid) -> list[int]:
    return [i for i, stream in enumerate(grid.streams) if stream.direction == "output"]


def rows_of(grid: TokenGrid) -> list[dict[int, int]]:
    rows: list[dict[int, int]] = [{} for _ in range(grid.rows)]
    columns = (grid.token_rows, grid.token_streams, grid.token_ids)
    for row, stream, token in zip(*(column.tolist() for column in columns), strict=True):
        rows[row][stream] = token
    return rows


def full_logits(model: MultistreamModel, grid: TokenGrid, mask: MaskKind) -> torch.Tensor:
    """[rows + 1, O, V]: the logits of the output cells of rows −1 … rows − 1 from one pass over all cells."""
    outputs, rows = outputs_of(grid), rows_of(grid)
    cells = [(-1, NO_STREAM, BOS, True)]
    for row, spoken in enumerate([{}, *rows], start=-1):
        cells += [(row, stream, token, True) for stream, token in spoken.items()]
        cells += [(row, stream, SILENCE, False) for stream in outputs if stream not in spoken]
    row, stream, token, is_key = (np.array(column) for column in zip(*cells, strict=True))
    packed = Cells(
        token=token.astype(np.int64),
        row=row.astype(np.int32),
        stream=stream.astype(np.int32),
        is_key=is_key,
        target=np.full(len(row), IGNORE, np.int64),
        weight=np.zeros(len(row), np.float32),
        silence_count=0,
        streams=grid.streams,
    )
    with torch.no_grad():
        logits = model.logits(model.hidden(make_pack([packed], model.role_index, mask)))
    places = [[np.flatnonzero((row == r) & (stream == o))[0] for o in outputs] for r in range(-1, grid.rows)]
    return logits[torch.tensor(places, dtype=torch.long).reshape(grid.rows + 1, len(outputs))]


def step_through(decoder: Decoder, batch: Sequence[TokenGrid]) -> list[torch.Tensor]:
    """Feeds and forces all rows of every grid side by side; the logits of each as of ``full_logits``."""
    logits = [[each] for each in decoder.logits]
    rows = [rows_of(grid) for grid in batch]
    for row in range(max(grid.rows for grid in batch)):
        for b, grid in enumerate(batch):
            if row == grid.rows:
                decoder.end(b)
        going = [rows[b][row] if row < grid.rows else {} for b, grid in enumerate(batch)]
        inputs, forced = [], []
        for grid, spoken in zip(batch, going, strict=True):
            outputs = outputs_of(grid)
            inputs.append({stream: token for stream, token in spoken.items() if stream not in outputs})
            forced.append({stream: spoken.get(stream) for stream in outputs} if row < grid.rows else {})
        decoder.step(inputs, forced)
        for b, grid in enumerate(batch):
            if row < grid.rows:
                logits[b].append(decoder.logits[b])
    return [torch.stack(each) for each in logits]


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_stepping_with_the_cache_is_the_full_forward_pass(any_model: MultistreamModel, mask: MaskKind) -> None:
    @FEW
    @given(st.lists(grids(), min_size=1, max_size=3))
    def check(batch: list[TokenGrid]) -> None:
        decoder = Decoder(any_model, METADATA, mask, [grid.streams for grid in batch])
        for grid, logits in zip(batch, step_through(decoder, batch), strict=True):
            torch.testing.assert_close(logits, full_logits(any_model, grid, mask), **CLOSE)

    check()


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_prefill_is_stepping(any_model: MultistreamModel, mask: MaskKind) -> None:
    @FEW
    @given(grids(), grids(), st.data())
    def check(first: TokenGrid, second: TokenGrid, data: st.DataObject) -> None:
        decoder = Decoder(any_model, METADATA, mask, [first.streams, second.streams])
        for b, grid in enumerate((first, second)):
            rows, cut = rows_of(grid), data.draw(st.integers(0, grid.rows))
            full = full_logits(any_model, grid, mask)
            decoder.prefill(b, rows[:cut])
            torch.testing.assert_close(decoder.logits[b], full[cut], **CLOSE)
            decoder.prefill(b, rows[cut:])
            torch.testing.assert_close(decoder.logits[b], full[-1], **CLOSE)
        assert decoder.cache.lengths.tolist() == [1 + len(grid.token_ids) for grid in (first, second)]

    check()


def long_grid(rows: int, seed: int = 0) -> TokenGrid:
    rng = np.random.default_rng(seed)
    streams = (USER, THOUGHT, ASSISTANT)
    spoken = [(row, s, int(rng.integers(0, EOM - 1)), 1) for row in range(rows) for s in range(3) if rng.random() < 0.6]
    return make_grid(spoken, rows, streams)


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_the_cache_grows_past_its_blocks_and_a_prefill_past_folded_queries(tmp_path: Path, attention: Any) -> None:
    """More cells than two blocks; whatever attention the model was loaded with stays."""
    folder = save_tiny(tmp_path, "llama")
    grid = long_grid(110)
    assert len(grid.token_ids) > 2 * BLOCK
    full = full_logits(load(folder), grid, "same_row")
    model = load(folder, attention)
    decoder = Decoder(model, METADATA, "same_row", [grid.streams])
    (stepped,) = step_through(decoder, [grid])
    torch.testing.assert_close(stepped, full, **CLOSE)
    prefilled = Decoder(model, METADATA, "same_row", [grid.streams])
    prefilled.prefill(0, rows_of(grid))
    torch.testing.assert_close(prefilled.logits[0], full[-1], **CLOSE)
    assert model.causal_lm.config._attn_implementation == attention


def test_it_runs_under_autocast_as_evaluation_does(any_model: MultistreamModel) -> None:
    grid = long_grid(30)
    exact = full_logits(any_model, grid, "same_row")
    with torch.autocast("cpu", torch.bfloat16):
        decoder = Decoder(any_model, METADATA, "same_row", [grid.streams, grid.streams])
        for logits in step_through(decoder, [grid, grid]):
            torch.testing.assert_close(logits.float(), exact, atol=2e-2, rtol=0)
    assert decoder.cache.layers[0].values.dtype == torch.bfloat16


def test_the_cache_holds_bos_and_spoken_cells_and_never_moves_between_rows(model: MultistreamModel) -> None:
    grid = long_grid(20)
    decoder = Decoder(model, METADATA, "same_row", [grid.streams, grid.streams])
    assert decoder.cache.lengths.tolist() == [1, 1]
    place = decoder.cache.layers[0].keys.data_ptr()
    spoken = 1
    for row in rows_of(grid):
        inputs = {stream: token for stream, token in row.items() if stream == 0}
        decoder.step([inputs, {}], [{s: row.get(s) for s in (1, 2)}, {1: None, 2: None}])
        spoken += len(row)
        assert decoder.cache.lengths.tolist() == [spoken, 1]
    assert decoder.cache.layers[0].keys.data_ptr() == place
    assert decoder.cache.layers[0].keys.shape[2] == BLOCK


def test_a_dialogue_takes_the_place_of_an_ended_one(model: MultistreamModel) -> None:
    long, short, next_one = long_grid(30, 1), long_grid(10, 2), make_grid([(1, 0, 3, 0), (4, 1, 5, 1)], 6)
    decoder = Decoder(model, METADATA, "same_row", [long.streams, short.streams])
    rows = [rows_of(long), rows_of(short)]
    for row in range(10):
        decoder.step(
            [{0: each[row][0]} if 0 in each[row] else {} for each in rows],
            [{s: each[row].get(s) for s in (1, 2)} for each in rows],
        )
    decoder.end(1)
    assert decoder.logits[1].shape == (0, VOCAB)
    with pytest.raises(TrainingError, match="has ended"):
        decoder.prefill(1, [{}])
    decoder.reset(1, next_one.streams)
    decoder.prefill(1, rows_of(next_one))
    decoder.prefill(0, rows[0][10:])
    assert decoder.rows == [30, 6]
    for b, grid in enumerate((long, next_one)):
        torch.testing.assert_close(decoder.logits[b], full_logits(model, grid, "same_row")[-1], **CLOSE)


def test_what_is_said_is_the_likeliest_of_the_row_before(model: MultistreamModel) -> None:
    decoder = Decoder(model, METADATA, "same_row", [(USER, ASSISTANT, THOUGHT)])
    for _ in range(12):
        logits = decoder.logits[0].clone()
        logits[:, BOS] = float("-inf")
        likeliest = dict(zip((1, 2), logits.argmax(-1).tolist(), strict=True))
        assert decoder.step([{}]) == [{stream: token for stream, token in likeliest.items() if token != SILENCE}]


def test_bos_and_ids_beyond_the_vocabulary_are_never_said_and_bias_silences(model: MultistreamModel) -> None:
    metadata = replace(METADATA, vocab_size=10, bos_id=1, eom_id=2, silence_id=3)
    hot = Sampling(temperature=50.0, silence_bias=-1e4)
    decoder = Decoder(model, metadata, "same_row", [(USER, ASSISTANT, THOUGHT)] * 8, sampling=hot)
    said = [token for _ in range(25) for row in decoder.step([{}] * 8) for token in row.values()]
    assert set(said) == set(range(10)) - {1, 3}
    assert len(said) == 25 * 8 * 2
    silenced = Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)], sampling=Sampling(1.0, silence_bias=1e4))
    assert [silenced.step([{}]) for _ in range(5)] == [[{}]] * 5


def test_sampling_follows_temperature_and_nucleus(model: MultistreamModel) -> None:
    """Shares of what is said first, over many dialogues, are the probabilities; of a nucleus, those of its tokens."""
    count = 4000
    for sampling in (Sampling(0.7), Sampling(0.7, top_p=0.6)):
        decoder = Decoder(model, METADATA, "same_row", [(ASSISTANT,)] * count, sampling=sampling)
        logits = decoder.logits[0][0].double()
        logits[BOS] = float("-inf")
        probability, order = (logits / 0.7).softmax(-1).sort(descending=True)
        inside = probability.cumsum(-1) - probability < sampling.top_p
        expected = (
            torch.zeros(VOCAB).double().scatter(0, order[inside], probability[inside] / probability[inside].sum())
        )
        said = [row.get(0, SILENCE) for row in decoder.step([{}] * count)]
        shares = np.bincount(said, minlength=VOCAB) / count
        np.testing.assert_allclose(shares, expected.numpy(), atol=4 * 0.5 / np.sqrt(count))
        assert (shares[expected.numpy() == 0] == 0).all()


def test_forced_rows_leave_the_draws_of_later_rows_as_they_are(model: MultistreamModel) -> None:
    """Teacher-forced by steps or by prefill, and beside others or alone, a dialogue says the same from there."""
    grid, sampling = long_grid(6), Sampling(temperature=1.0, seed=3)
    alone = Decoder(model, METADATA, "same_row", [grid.streams], sampling=sampling)
    alone.prefill(0, rows_of(grid))
    batch = Decoder(model, METADATA, "same_row", [grid.streams, (ASSISTANT,)], sampling=sampling)
    for row in rows_of(grid):
        inputs = {stream: token for stream, token in row.items() if stream == 0}
        batch.step([inputs, {}], [{s: row.get(s) for s in (1, 2)}, {}])
    assert [alone.step([{}])[0] for _ in range(20)] == [batch.step([{}, {}])[0] for _ in range(20)]


def test_roles_unknown_to_the_model_are_named_and_a_set_of_them_is_refused(model: MultistreamModel) -> None:
    tool, plan = Stream("tool/0", "tool", 0, "input"), Stream("plan", "plan", 0, "output")
    assert Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)]).untrained_roles == ()
    decoder = Decoder(model, METADATA, "same_row", [(USER, plan), (tool, ASSISTANT)])
    assert decoder.untrained_roles == ("plan", "tool")
    with pytest.raises(TrainingError, match="trained on none of the streams plan, tool, but on role0"):
        Decoder(model, METADATA, "same_row", [(tool, plan)])


def test_rows_end_with_the_models_positions(model: MultistreamModel) -> None:
    decoder = Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)])
    decoder.prefill(0, [{}] * (model.max_rows - 1))
    decoder.step([{}])
    with pytest.raises(TrainingError, match="255 rows are the most"):
        decoder.step([{}])
    with pytest.raises(TrainingError, match="positions for 0 to 255 rows"):
        Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)], max_rows=256)


@pytest.mark.parametrize(
    ("inputs", "forced", "says"),
    [
        ([{1: 3}], None, "stream assistant is an output, not an input"),
        ([{0: 3}], [{0: 3}], "stream user is an input, not an output"),
        ([{5: 3}], None, "no stream 5"),
        ([{0: SILENCE}], None, "reserved"),
        ([{0: VOCAB}], None, "outside the vocabulary"),
        ([{}, {}], None, "2 inputs"),
    ],
)
def test_cells_that_cannot_be_are_refused_and_change_nothing(
    model: MultistreamModel, inputs: Any, forced: Any, says: str
) -> None:
    decoder = Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)])
    with pytest.raises(TrainingError, match=says):
        decoder.step(inputs, forced)
    assert decoder.rows == [0]
    assert decoder.cache.lengths.tolist() == [1]


def test_what_does_not_go_together_is_refused(model: MultistreamModel) -> None:
    with pytest.raises(TrainingError, match="lag"):
        Decoder(model, replace(METADATA, lag=0), "strict", [(USER, ASSISTANT)])
    with pytest.raises(TrainingError, match="needs 99 ids"):
        Decoder(model, replace(METADATA, vocab_size=99), "same_row", [(USER, ASSISTANT)])
    with pytest.raises(TrainingError, match="at least one"):
        Decoder(model, METADATA, "same_row", [])


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"seed": -1},
        {"silence_bias": float("inf")},
    ],
)
def test_sampling_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(values))):
        Sampling(**values)


@pytest.mark.parametrize("temperature", [1e-310, 1e-300, 1e-3])
def test_next_to_no_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = torch.randn(6, VOCAB + 4, generator=torch.Generator().manual_seed(0)) * 100
    logits[:, METADATA.bos_id] = float("-inf")
    logits[:, METADATA.vocab_size :] = float("-inf")
    draws = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.999999])
    for sampling in (Sampling(temperature), Sampling(temperature, top_p=0.5)):
        assert choose(logits.clone(), METADATA, sampling, draws) == logits.argmax(-1).tolist()
