"""Free-running generation: what the model writes beside the records' inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.decoding import Decoder, Sampling, generate
from pipeline.training.grid import TokenGrid, TrainingError, check_grid
from pipeline.training.model import MultistreamModel
from tests.decoding.echo_task import LAG, answers, dialogue, echo_model, heard_at, random_dialogue
from tests.training.synthetic_grids import ASSISTANT, EOM, METADATA, THOUGHT, USER, make_grid, tiny_llama


@pytest.fixture(scope="module")
def model() -> MultistreamModel:
    return echo_model()


@pytest.fixture(scope="module")
def chatty() -> MultistreamModel:
    """Random weights: it speaks almost always."""
    model = MultistreamModel(tiny_llama(), ("assistant", "thought", "user")).eval()
    with torch.no_grad():
        for table in (model.streams.role, model.streams.slot):
            table.weight[1:] = torch.randn(table.weight[1:].shape, generator=torch.Generator().manual_seed(1))
    return model


def said(grid: TokenGrid, stream: int) -> dict[int, int]:
    own = grid.token_streams == stream
    return dict(zip(grid.token_rows[own].tolist(), grid.token_ids[own].tolist(), strict=True))


def columns(grids: Sequence[TokenGrid]) -> list[tuple[object, ...]]:
    return [
        (g.id, g.rows, g.token_ids.tolist(), g.token_rows.tolist(), g.token_streams.tolist(), g.token_loss.tolist())
        for g in grids
    ]


def unanswered(grid: TokenGrid) -> TokenGrid:
    """The record without what its outputs say."""
    return make_grid([(row, 0, token, 0) for row, token in said(grid, 0).items()], grid.rows, id=grid.id)


def test_a_model_that_has_learnt_to_echo_says_what_the_user_said(model: MultistreamModel) -> None:
    rng = np.random.default_rng(11)
    records = [random_dialogue(rng, f"r{i}") for i in range(12)]
    written = list(generate(model, METADATA, "same_row", [unanswered(each) for each in records], batch_size=5))
    for record, own in zip(records, written, strict=True):
        assert (own.id, own.streams, own.rows) == (record.id, record.streams, record.rows)
        assert said(own, 0) == said(record, 0)
        assert said(own, 1) == said(record, 1) == answers(said(record, 0))
        assert not own.token_loss.any()
        assert check_grid(own, METADATA) is None


def test_the_model_is_interrupted_by_a_user_who_cuts_in(model: MultistreamModel) -> None:
    """What will be heard is not known before: the second message is fed once the answer to the first has begun."""
    decoder = Decoder(model, METADATA, "same_row", [(USER, ASSISTANT)])
    heard = heard_at(2, seed=1)
    spoken: dict[int, int] = {}
    for row in range(30):
        if row - 1 in spoken and len(spoken) == 1:
            heard |= heard_at(row, seed=2)
        (own,) = decoder.step([{0: heard[row]} if row in heard else {}])
        if own:
            spoken[row] = own[1]
    assert len(heard) == 8
    assert spoken == answers(heard)
    first_answer = [row for row in spoken if row <= 2 + 3 + LAG]
    assert len(first_answer) == 2, "the answer to the first message breaks off"
    assert [spoken[row + LAG] for row in sorted(heard)[4:]] == [heard[row] for row in sorted(heard)[4:]]


def test_batches_of_one_and_of_many_say_the_same(model: MultistreamModel, chatty: MultistreamModel) -> None:
    rng = np.random.default_rng(12)
    records = [random_dialogue(rng, f"r{i}") for i in range(6)]
    mixed = [
        make_grid([(0, 0, 3, 0), (2, 0, EOM, 0)], 9, (USER, ASSISTANT, THOUGHT), id="three"),
        make_grid([(1, 0, 4, 0)], 5, (USER, ASSISTANT), id="two"),
        make_grid([], 12, (THOUGHT,), id="one"),
        make_grid([(3, 1, 2, 0)], 7, (ASSISTANT, USER), id="swapped"),
    ]
    for who, grids in ((model, records), (chatty, mixed)):
        one, many = (list(generate(who, METADATA, "same_row", grids, batch_size=size)) for size in (1, 3))
        assert columns(one) == columns(many)
        assert [grid.id for grid in many] == [grid.id for grid in grids]


def test_the_seed_decides_what_is_sampled(chatty: MultistreamModel) -> None:
    grids = [make_grid([(0, 0, i, 0)], 10, id=str(i)) for i in range(5)]

    def written(seed: int, size: int) -> list[tuple[object, ...]]:
        return columns(
            list(generate(chatty, METADATA, "same_row", grids, sampling=Sampling(1.0, seed=seed), batch_size=size))
        )

    assert written(0, 2) == written(0, 2) == written(0, 5)
    assert written(0, 2) != written(1, 2)


def test_the_prefix_is_the_records_own(chatty: MultistreamModel) -> None:
    grids = [make_grid([(0, 0, 1, 0), *((row, 1, row, 1) for row in range(1, 8))], 8, id=str(i)) for i in range(3)]
    free, forced, whole = (
        list(generate(chatty, METADATA, "same_row", grids, prefix_rows=rows, max_rows=8, batch_size=2))
        for rows in (0, 5, 20)
    )
    for record, own in zip(grids, forced, strict=True):
        assert {r: t for r, t in said(own, 1).items() if r < 5} == {r: t for r, t in said(record, 1).items() if r < 5}
    assert columns(forced) != columns(free)
    assert [said(own, 1) for own in whole] == [said(record, 1) for record in grids]


def test_it_ends_after_the_records_rows_and_silence(model: MultistreamModel, chatty: MultistreamModel) -> None:
    heard = heard_at(3, seed=4)
    record = dialogue(heard, 7)
    assert len(said(record, 1)) == 0
    (patient,) = generate(model, METADATA, "same_row", [record], max_rows=60)
    assert said(patient, 1) == answers(heard)
    assert patient.rows == max(answers(heard)) + 1
    (hasty,) = generate(model, METADATA, "same_row", [record], patience=0)
    assert hasty.rows == 7
    assert said(hasty, 1) == {}
    (default,) = generate(chatty, METADATA, "same_row", [record])
    assert default.rows == 14
    (capped,) = generate(chatty, METADATA, "same_row", [record], max_rows=4)
    assert capped.rows == 4
    assert set(said(capped, 0)) == {3}


def test_records_longer_than_the_models_positions_are_named(chatty: MultistreamModel) -> None:
    long = make_grid([], 300, id="long")
    with pytest.raises(TrainingError, match="record long has 300 rows, the model has positions for 255"):
        list(generate(chatty, METADATA, "same_row", [long]))
    near = make_grid([], 250, (USER,), id="near")
    assert [grid.rows for grid in generate(chatty, METADATA, "same_row", [near])] == [250]
    assert list(generate(chatty, METADATA, "same_row", [])) == []
    with pytest.raises(TrainingError, match="batch_size"):
        list(generate(chatty, METADATA, "same_row", [near], batch_size=0))
