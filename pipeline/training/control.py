"""The control: records whose input streams were taken from other records.

A model trained and tested on it can learn everything but what the inputs say about the outputs; if it is not worse than
the model proper, the input streams carry no information.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from pipeline.training.grid import TokenGrid


def shuffled_inputs(grids: Iterable[TokenGrid], batch_size: int = 64) -> Iterator[TokenGrid]:
    """Give each record the inputs of the next one of another group among ``batch_size`` records, cyclically.

    A record without such a neighbour loses its inputs. Holds one batch in memory.
    """
    remaining = iter(grids)
    while batch := list(islice(remaining, batch_size)):
        for index, grid in enumerate(batch):
            others = (*batch[index + 1 :], *batch[:index])
            yield with_inputs_of(grid, next((other for other in others if other.group != grid.group), None))


def with_inputs_of(grid: TokenGrid, donor: TokenGrid | None) -> TokenGrid:
    """``grid`` with the input cells of ``donor`` in the place of its own, by role and slot.

    Rows and streams stay those of ``grid``: donor cells in later rows or on streams that ``grid`` lacks are left out.
    """
    is_input = np.array([stream.direction == "input" for stream in grid.streams], np.bool_)
    own = np.flatnonzero(~is_input[grid.token_streams])
    columns = [(grid.token_ids[own], grid.token_rows[own], grid.token_streams[own], grid.token_loss[own])]
    if donor is not None:
        places = {
            (stream.role, stream.slot): index
            for index, stream in enumerate(grid.streams)
            if stream.direction == "input"
        }
        place = np.array(
            [places.get((s.role, s.slot), -1) if s.direction == "input" else -1 for s in donor.streams], np.int32
        )[donor.token_streams]
        taken = np.flatnonzero((place >= 0) & (donor.token_rows < grid.rows))
        columns.append(
            (
                donor.token_ids[taken],
                donor.token_rows[taken],
                place[taken].astype(np.uint8),
                donor.token_loss[taken],
            )
        )
    ids, rows, streams, loss = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.lexsort((streams, rows))
    return replace(
        grid, token_ids=ids[order], token_rows=rows[order], token_streams=streams[order], token_loss=loss[order]
    )
