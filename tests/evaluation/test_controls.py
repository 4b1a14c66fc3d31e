from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.latency import Event, RecordEvents
from pipeline.evaluation.turns import TurnsCounters, by_cells, by_events, turns_grids
from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.training.control import shuffled_inputs
from pipeline.training.grid import Stream, TokenGrid, check_grid
from tests.training.synthetic_grids import ASSISTANT, EOM, METADATA, THOUGHT, USER, echo_grids, grids, make_grid

TOOLS = tuple(Stream(f"tool/{slot}", "tool", slot, "input") for slot in (0, 1))


def said(grid: TokenGrid, stream: int) -> list[int]:
    return grid.token_ids[grid.token_streams == stream].tolist()


def places(grid: TokenGrid) -> list[tuple[int, int]]:
    return list(zip(grid.token_rows.tolist(), grid.token_streams.tolist(), strict=True))


def test_permuted_inputs_keep_rows_ends_and_outputs_and_take_another_records_tokens() -> None:
    records = echo_grids(5)
    for grid, other in zip(records, shuffled_inputs(records, eom_id=EOM), strict=True):
        assert (other.id, other.rows, other.streams) == (grid.id, grid.rows, grid.streams)
        assert places(other) == places(grid)
        assert said(other, 1) == said(grid, 1)
        assert said(other, 0) in [said(each, 0) for each in records if each.id != grid.id]
        np.testing.assert_array_equal(other.token_ids == EOM, grid.token_ids == EOM)


def test_a_shorter_donor_is_repeated_and_ends_of_messages_stay() -> None:
    long = make_grid([(row, 0, EOM if row in (2, 6) else 1, 0) for row in range(7)], 8, id="long")
    short = make_grid([(0, 0, 4, 0), (1, 0, 5, 0), (2, 0, EOM, 0)], 8, id="short")
    first, second = shuffled_inputs([long, short], eom_id=EOM)
    assert said(first, 0) == [4, 5, EOM, 4, 5, 4, EOM]
    assert said(second, 0) == [1, 1, EOM]


def test_tokens_come_from_the_same_role_and_the_same_slot_if_it_can_be() -> None:
    streams = (USER, *TOOLS)
    asks = make_grid([(0, 0, 1, 0), (1, 1, 2, 0), (1, 2, 3, 0)], 4, streams, id="a")
    both = make_grid([(0, 0, 11, 0), (1, 1, 12, 0), (1, 2, 13, 0)], 4, streams, id="b")
    one = make_grid([(0, 0, 21, 0), (1, 1, 22, 0)], 4, streams[:2], id="c")
    assert [said(next(shuffled_inputs([asks, both], eom_id=EOM)), s) for s in range(3)] == [[11], [12], [13]]
    assert [said(next(shuffled_inputs([asks, one], eom_id=EOM)), s) for s in range(3)] == [[21], [22], [22]]


def test_a_record_without_a_neighbour_of_another_group_keeps_only_the_ends_of_its_inputs() -> None:
    grid, twin = (make_grid([(0, 0, 1, 0), (1, 0, EOM, 0), (2, 1, 3, 1)], 4, id=id, group="g") for id in "ab")
    for alone in shuffled_inputs([grid, twin], eom_id=EOM):
        assert (said(alone, 0), said(alone, 1)) == ([EOM], [3])


def test_the_last_record_of_a_split_takes_from_the_batch_before() -> None:
    records = echo_grids(5)
    *_, last = shuffled_inputs(records, batch_size=2, eom_id=EOM)
    assert said(last, 0) in [said(each, 0) for each in records[2:4]]


@settings(max_examples=50, deadline=None)
@given(st.lists(grids(), min_size=2, max_size=5))
def test_permuted_records_are_token_grids(records: list[TokenGrid]) -> None:
    records = [replace(grid, group=str(index // 2)) for index, grid in enumerate(records)]
    for grid, other in zip(records, shuffled_inputs(records, eom_id=EOM), strict=True):
        assert check_grid(other, METADATA) is None
        assert set(places(other)) <= set(places(grid))
        own = [index for index, stream in enumerate(grid.streams) if stream.direction == "output"]
        assert [said(other, stream) for stream in own] == [said(grid, stream) for stream in own]


# ------------------------------------------------------------------------------------------------------------- turns


def overlapping() -> TokenGrid:
    """The user speaks on rows 0–5, the assistant on rows 2–3 and, after a pause, 7; a tail of two silent rows."""
    user = [(row, 0, row + 1, 0) for row in range(5)] + [(5, 0, EOM, 0)]
    return make_grid([*user, (2, 1, 11, 1), (3, 1, 12, 1), (7, 1, EOM, 1)], 10, id="r")


def test_turns_by_cells_lays_messages_one_after_the_other() -> None:
    laid = by_cells(overlapping(), 1, EOM)
    assert said(laid, 0) == [1, 2, 3, 4, 5, EOM]
    assert places(laid) == [(row, 0) for row in range(6)] + [(row, 1) for row in (7, 8, 9)]
    assert (laid.rows, said(laid, 1)) == (12, [11, 12, EOM])


def test_of_messages_that_begin_together_the_input_comes_first() -> None:
    grid = make_grid([(0, 0, 1, 1), (0, 1, 2, 0), (1, 0, EOM, 1), (1, 1, EOM, 0)], 3, (ASSISTANT, USER))
    assert places(by_cells(grid, 0, EOM)) == [(0, 1), (1, 1), (2, 0), (3, 0)]


def test_a_message_that_was_cut_off_ends_where_it_was_cut() -> None:
    cut = make_grid([(0, 1, 1, LOSS_TARGET | LOSS_END_UNTRAINED), (1, 0, 2, 0), (2, 0, EOM, 0), (3, 1, 3, 1)], 4)
    assert places(by_cells(cut, 0, EOM)) == [(0, 1), (1, 0), (2, 0), (3, 1)]


def test_turns_by_events_is_the_layout_that_latency_is_measured_against() -> None:
    question, early, rest = (
        Event(0, False, 0, 0, 0, 6, ()),
        Event(1, True, 1, 0, 2, 4, ()),
        Event(1, True, 1, 0, 7, 8, ()),
    )
    laid = by_events(overlapping(), (question, early, rest), 0)
    assert laid is not None
    assert places(laid) == [(row, 0) for row in range(6)] + [(row, 1) for row in (6, 7, 8)]
    assert by_events(overlapping(), (question, early), 0) is None


def test_records_in_real_time_are_left_out_and_unknown_ones_are_laid_out_by_their_cells() -> None:
    events = (Event(0, False, 0, 0, 0, 6, ()), Event(1, True, 1, 0, 2, 4, ()), Event(1, True, 1, 0, 7, 8, ()))
    counters = TurnsCounters()
    records = [RecordEvents("r", "p", 0, real_time, events) for real_time in (False, True)]
    three = turns_grids([overlapping()] * 3, records, lag=0, eom_id=EOM, counters=counters)
    assert len(list(three)) == 2
    assert (counters.by_events, counters.by_cells, counters.real_time) == (1, 1, 1)


@settings(max_examples=100, deadline=None)
@given(grids(max_rows=12), st.integers(0, 2))
def test_turns_keeps_every_token_in_order_and_nothing_overlaps(grid: TokenGrid, lag: int) -> None:
    laid = by_cells(grid, lag, EOM)
    assert check_grid(laid, METADATA) is None
    for stream in range(len(grid.streams)):
        own, other = grid.token_streams == stream, laid.token_streams == stream
        assert laid.token_ids[other].tolist() == grid.token_ids[own].tolist()
        assert laid.token_loss[other].tolist() == grid.token_loss[own].tolist()
    assert len(set(laid.token_rows.tolist())) == len(laid.token_rows)
    assert laid.rows - laid.token_rows.max(initial=-1) == grid.rows - grid.token_rows.max(initial=-1)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_thought_is_laid_out_before_the_answer_that_begins_later(lag: int) -> None:
    grid = make_grid([(0, 0, 1, 0), (1, 1, 2, 1), (2, 1, EOM, 1), (2, 2, 3, 1)], 4, (USER, THOUGHT, ASSISTANT))
    assert [stream for _, stream in places(by_cells(grid, lag, EOM))] == [0, 1, 1, 2]
