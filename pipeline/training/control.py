"""The control: records whose input tokens were taken from other records, row by row in the place of their own.

A model trained and tested on it can learn everything but what the inputs say about the outputs: when somebody speaks, how
long, where messages end, and what outputs look like. If it is not worse than the model proper, the words of the input
streams carry no information.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from pipeline.training.grid import IntArray, Stream, TokenGrid


def shuffled_inputs(grids: Iterable[TokenGrid], batch_size: int = 64, *, eom_id: int) -> Iterator[TokenGrid]:
    """Permute input tokens between records; which cells are spoken stays as it is.

    Every input stream gets the tokens of a stream of the same role in another record: the next one of another group among
    ``batch_size`` records (cyclically, then the batch before) that says anything on such a stream, on the same slot if it
    can be. They are repeated where they are too few. Cells that hold ``eom_id`` stay where they are. A stream for which
    there is no other record loses its tokens and keeps its ends of messages: rather silent than telling. Holds two
    batches in memory.
    """
    remaining = iter(grids)
    before: list[TokenGrid] = []
    while batch := list(islice(remaining, batch_size)):
        for index, grid in enumerate(batch):
            others = (*batch[index + 1 :], *batch[:index], *before)
            yield with_tokens_of(grid, [other for other in others if other.group != grid.group], eom_id)
        before = batch


def with_tokens_of(grid: TokenGrid, donors: Sequence[TokenGrid], eom_id: int) -> TokenGrid:
    """``grid`` with the tokens of its input streams replaced by those of the first donor that has any of the same role."""
    ids = grid.token_ids.copy()
    kept = np.ones(len(ids), np.bool_)
    is_word = grid.token_ids != eom_id
    for index, stream in enumerate(grid.streams):
        places = np.flatnonzero(is_word & (grid.token_streams == index))
        if stream.direction != "input" or not len(places):
            continue
        words = next((words for donor in donors if len(words := _words(donor, stream, eom_id))), None)
        if words is None:
            kept[places] = False
        else:
            ids[places] = np.resize(words, len(places))
    return replace(
        grid,
        token_ids=ids[kept],
        token_rows=grid.token_rows[kept],
        token_streams=grid.token_streams[kept],
        token_loss=grid.token_loss[kept],
    )


def _words(donor: TokenGrid, stream: Stream, eom_id: int) -> IntArray:
    """The tokens that a record says on an input stream of a role; of its slot, else of the first slot that speaks."""
    is_word = donor.token_ids != eom_id
    alike = [
        (other.slot != stream.slot, other.slot, index)
        for index, other in enumerate(donor.streams)
        if (other.role, other.direction) == (stream.role, "input")
    ]
    said = (donor.token_ids[is_word & (donor.token_streams == index)] for *_, index in sorted(alike))
    return next((words for words in said if len(words)), donor.token_ids[:0])
