"""Masks and targets of stream training: the one place where they are defined (multi-stream models, arXiv 2605.12460).

A record of R rows becomes one sequence of cells, row-major:

* row −1: one BOS cell, and one silent query per output stream;
* rows 0..R−1: the spoken cells, and silent queries of output streams (rows up to R−2).

*Position* = row + 1. *Visibility*: a query at row t sees the spoken cells of rows ≤ t (``same_row``) or < t
(``strict``), BOS, and itself. A silent cell is a key of nothing but itself, so leaving one out changes no other cell.

*Target* of the cell (t, s), s an output stream and t ≤ R−2: the token at (t+1, s), or silence where no cell is there.
Not trained are

* tokens whose ``token_loss`` lacks ``LOSS_TARGET``;
* silence after a cell with ``LOSS_END_UNTRAINED`` (a message that was cut off), up to the stream's next spoken cell
  or the end of the record: all that time the message hangs in the air, and staying silent would be learnt as its end.
  The next spoken cell is a target again, by its own ``LOSS_TARGET``;
* input streams (their bits are ignored), BOS, and the last row.

*Silent queries*: those whose target is a token (onsets) are all kept; those whose target is silence are kept at rate
p and weigh 1/p. Where speech ends, the query is the last spoken cell, which is always there (weight 1). A silent
query without a trained target is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.training.grid import GridMetadata, Stream, TokenGrid, TrainingError

if TYPE_CHECKING:
    import torch

MaskKind = Literal["same_row", "strict"]
MASK_KINDS: tuple[str, ...] = get_args(MaskKind)

#: Target of a cell that is not trained; the value torch's cross entropy ignores by default.
IGNORE = -100
#: ``first_visible_row`` of a cell that is no key.
NEVER = int(np.iinfo(np.int32).max)
#: A record is read at most this often to spread its silent queries.
MAX_PIECES = 16
#: ``stream`` of BOS, ``document`` of padding.
NO_STREAM = NO_DOCUMENT = -1

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


class OverBudgetError(TrainingError):
    """A record whose spoken cells do not fit into one sequence."""


@dataclass(frozen=True, eq=False)
class Cells:
    """One training sequence of S cells, row-major.

    ``token`` int64[S] input ids; ``row`` int32[S] from −1; ``stream`` int32[S] index into ``streams``, −1 for BOS;
    ``is_key`` bool[S]: BOS and spoken cells; ``target`` int64[S], ``IGNORE`` where none; ``weight`` float32[S] of the
    target's loss, 0 where none; ``silence_count``: trained silence targets before sampling, those of a split record
    shared out evenly over its pieces.
    """

    token: Int64Array
    row: Int32Array
    stream: Int32Array
    is_key: BoolArray
    target: Int64Array
    weight: npt.NDArray[np.float32]
    silence_count: int
    streams: tuple[Stream, ...]

    def __len__(self) -> int:
        return len(self.token)


@dataclass(frozen=True, eq=False)
class Targets:
    """Dense targets of a record's output streams: arrays [R, O], the query at row i−1 of output stream ``outputs[o]``.

    ``target`` int64: a token or silence; ``trained`` bool; ``silent_query`` bool: no cell is spoken at the query.
    """

    outputs: Int32Array
    target: Int64Array
    trained: BoolArray
    silent_query: BoolArray


def check_mask(mask: str, lag: int) -> None:
    """Raise TrainingError where data laid out with ``lag`` rows is not causal under ``mask``.

    Under ``strict`` the query of an answer's first token does not see the row before it, so that data of lag 0 hides
    the last word of the question.
    """
    if mask not in MASK_KINDS:
        raise TrainingError(f"mask is {mask!r}, choose one of {', '.join(MASK_KINDS)}")
    if mask == "strict" and lag < 1:
        raise TrainingError("mask 'strict' needs data laid out with lag >= 1, this has lag 0; use mask 'same_row'")


def record_targets(grid: TokenGrid, silence_id: int) -> Targets:
    """Targets of every query of a record, spoken and silent, by the rules in the module's docstring."""
    outputs = np.array([i for i, stream in enumerate(grid.streams) if stream.direction == "output"], np.int32)
    column = np.full(len(grid.streams), len(outputs), np.int32)
    column[outputs] = np.arange(len(outputs), dtype=np.int32)
    row, col = grid.token_rows + 1, column[grid.token_streams]  # the extra column takes the input streams

    token = np.full((grid.rows + 1, len(outputs) + 1), silence_id, np.int64)
    loss = np.zeros(token.shape, np.uint8)
    spoken = np.zeros(token.shape, np.bool_)
    token[row, col], loss[row, col], spoken[row, col] = grid.token_ids, grid.token_loss, True
    token, loss, spoken = token[:, :-1], loss[:, :-1], spoken[:, :-1]

    last_spoken = np.maximum.accumulate(np.where(spoken, np.arange(grid.rows + 1)[:, None], 0), axis=0)
    cut_off = (np.take_along_axis(loss, last_spoken, axis=0) & LOSS_END_UNTRAINED) != 0
    trained = np.where(spoken[1:], (loss[1:] & LOSS_TARGET) != 0, ~cut_off[:-1])
    return Targets(outputs, token[1:], trained, ~spoken[:-1])


def record_cells(
    grid: TokenGrid,
    metadata: GridMetadata,
    *,
    silence_rate: float = 1.0,
    rng: np.random.Generator | None = None,
    max_cells: int | None = None,
) -> list[Cells]:
    """The training sequences of a record: one, or several where its silent queries exceed ``max_cells``.

    A silent query is kept with probability ``silence_rate`` in (0, 1] if its target is silence (``rng`` is needed below
    1). A record of more than ``max_cells`` cells is split: every piece holds all spoken cells and a run of the silent
    queries, all runs of one length but for one cell, and only the first trains the spoken cells' targets, so that all
    pieces together equal the whole. Pieces share its ``silence_count`` evenly: were it counted by what lies between the
    queries drawn, a piece would be filled up to a query that was drawn, and a step's mean would be too high.

    Raises OverBudgetError where more than ``MAX_PIECES`` pieces would be needed, or the spoken cells alone do not fit. That
    goes by the expected number of silent queries, so that no draw decides whether a record is trained on.
    """
    targets = record_targets(grid, metadata.silence_id)
    is_silence = targets.target == metadata.silence_id
    candidate_row, candidate_col = np.nonzero(targets.silent_query & targets.trained)
    sampled = is_silence[candidate_row, candidate_col]
    if silence_rate < 1.0:
        if rng is None:
            raise TrainingError("silence_rate below 1 needs a random generator")
        kept = np.flatnonzero(~sampled | (rng.random(len(sampled)) < silence_rate))
    else:
        kept = np.arange(len(sampled))

    onsets = int(np.count_nonzero(~sampled))
    expected = onsets + silence_rate * (len(sampled) - onsets)
    bounds = _piece_bounds(len(grid.token_ids) + 1, expected, len(kept), max_cells, grid.id)
    spoken = _spoken_cells(grid, metadata, targets)
    silence = int(np.count_nonzero(spoken.target == metadata.silence_id)) + int(np.count_nonzero(sampled))
    share, rest = divmod(silence, len(bounds))
    pieces = []
    for number, (start, stop) in enumerate(bounds):
        chosen = kept[start:stop]
        row, col = candidate_row[chosen], candidate_col[chosen]
        pieces.append(
            _merge(
                spoken if number == 0 else _untrained(spoken),
                row=(row - 1).astype(np.int32),
                stream=targets.outputs[col],
                target=targets.target[row, col],
                weight=np.where(sampled[chosen], 1.0 / silence_rate, 1.0).astype(np.float32),
                silence_count=share + (number < rest),
                silence_id=metadata.silence_id,
            )
        )
    return pieces


def first_visible_row(row: Int32Array, is_key: BoolArray, mask: MaskKind) -> Int32Array:
    """The first query row that sees each cell as a key: int32[S]; BOS (the key of row −1): −1; no key: ``NEVER``."""
    visible_from = np.where(row < 0, -1, row + (1 if mask == "strict" else 0))
    return np.where(is_key, visible_from, NEVER).astype(np.int32)


def dense_mask(document: Int32Array, row: Int32Array, visible_from: Int32Array) -> BoolArray:
    """Boolean attention mask [S, S] (query, key), True where the query sees the key, for SDPA.

    ``document`` int32[S] separates packed records, ``row`` int32[S], ``visible_from`` as of ``first_visible_row``.
    """
    allowed: BoolArray = (document[:, None] == document[None, :]) & (visible_from[None, :] <= row[:, None])
    np.fill_diagonal(allowed, True)
    return allowed


def mask_mod(
    document: torch.Tensor, row: torch.Tensor, visible_from: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """``dense_mask`` as a ``mask_mod`` for FlexAttention's ``create_block_mask``; tensors [S] on its device."""

    def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        seen = (document[query] == document[key]) & (visible_from[key] <= row[query])
        return seen | (query == key)

    return visible


def tree_labels(parent: Int32Array, fork: Int32Array, length: Int32Array) -> tuple[Int32Array, Int32Array]:
    """Preorder numbers of a forest's tokens, and the end of each token's subtree: int32[S] each, runs one after another.

    Run ``i`` of ``length[i]`` tokens follows the first ``fork[i]`` tokens of run ``parent[i]`` < i (−1: nothing, a root).
    What forks off before a token comes before it, so that all tokens of a run have subtrees that end together.
    """
    runs = len(length)
    size = length.astype(np.int64)
    for run in range(runs - 1, -1, -1):
        if parent[run] >= 0:
            size[parent[run]] += size[run]
    first = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    children: list[list[int]] = [[] for _ in range(runs + 1)]
    for run in range(runs):
        children[parent[run]].append(run)  # the roots are those of the last list, number -1
    base = np.zeros(runs, np.int64)
    order, until = np.empty(first[-1], np.int64), np.empty(first[-1], np.int64)
    next_root = 0
    for run in children[-1]:
        base[run], next_root = next_root, next_root + int(size[run])
    for run in range(runs):
        forked_before = np.zeros(length[run] + 1, np.int64)
        before = 0
        for child in sorted(children[run], key=lambda child: int(fork[child])):
            base[child] = base[run] + fork[child] + before
            forked_before[fork[child]] += size[child]
            before += int(size[child])
        tokens = slice(first[run], first[run + 1])
        order[tokens] = base[run] + np.arange(length[run]) + np.cumsum(forked_before)[:-1]
        until[tokens] = base[run] + size[run]
    return order.astype(np.int32), until.astype(np.int32)


def dense_tree_mask(query_order: Int32Array, key_order: Int32Array, key_until: Int32Array) -> BoolArray:
    """Boolean attention mask [Q, K] of a forest, True where the query sees the key; labels as of ``tree_labels``."""
    query = query_order[:, None]
    allowed: BoolArray = (key_order[None, :] <= query) & (query < key_until[None, :])
    return allowed


def tree_mask_mod(
    query_order: torch.Tensor, key_order: torch.Tensor, key_until: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """``dense_tree_mask`` as a ``mask_mod`` for FlexAttention; tensors [Q], [K], [K] on its device."""

    def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key_order[key] <= query_order[query]) & (query_order[query] < key_until[key])

    return visible


def _piece_bounds(
    spoken: int, expected: float, silent: int, max_cells: int | None, record: str
) -> list[tuple[int, int]]:
    """Runs [start, stop) of ``silent`` queries, one per piece; ``expected`` decides whether the record is too long."""
    if max_cells is None:
        return [(0, silent)]
    room = max_cells - spoken
    if room < 0 or expected > room * MAX_PIECES:
        raise OverBudgetError(
            f"record {record}: {spoken} spoken cells and {round(expected)} silent queries, budget {max_cells} cells"
        )
    pieces = max(-(-silent // room), 1) if room else 1
    return [(silent * i // pieces, silent * (i + 1) // pieces) for i in range(pieces)]


def _spoken_cells(grid: TokenGrid, metadata: GridMetadata, targets: Targets) -> Cells:
    """BOS and the spoken cells, in order, with their targets."""
    row = np.concatenate([[-1], grid.token_rows]).astype(np.int32)
    stream = np.concatenate([[NO_STREAM], grid.token_streams]).astype(np.int32)
    target = np.full(len(row), IGNORE, np.int64)
    column = np.full(len(grid.streams) + 1, -1, np.int32)
    column[targets.outputs] = np.arange(len(targets.outputs), dtype=np.int32)
    queries = np.flatnonzero((column[stream] >= 0) & (row < grid.rows - 1))
    at = row[queries] + 1, column[stream[queries]]
    target[queries] = np.where(targets.trained[at], targets.target[at], IGNORE)
    return Cells(
        token=np.concatenate([[metadata.bos_id], grid.token_ids]).astype(np.int64),
        row=row,
        stream=stream,
        is_key=np.ones(len(row), np.bool_),
        target=target,
        weight=(target != IGNORE).astype(np.float32),
        silence_count=0,
        streams=grid.streams,
    )


def _untrained(cells: Cells) -> Cells:
    target = np.full_like(cells.target, IGNORE)
    weight = np.zeros_like(cells.weight)
    return Cells(cells.token, cells.row, cells.stream, cells.is_key, target, weight, 0, cells.streams)


def _merge(
    spoken: Cells,
    *,
    row: Int32Array,
    stream: Int32Array,
    target: Int64Array,
    weight: npt.NDArray[np.float32],
    silence_count: int,
    silence_id: int,
) -> Cells:
    """Spoken cells and silent queries in row-major order."""
    rows, streams = np.concatenate([spoken.row, row]), np.concatenate([spoken.stream, stream])
    order = np.lexsort((streams, rows))
    return Cells(
        token=np.concatenate([spoken.token, np.full(len(row), silence_id, np.int64)])[order],
        row=rows[order],
        stream=streams[order],
        is_key=np.concatenate([spoken.is_key, np.zeros(len(row), np.bool_)])[order],
        target=np.concatenate([spoken.target, target])[order],
        weight=np.concatenate([spoken.weight, weight])[order],
        silence_count=silence_count,
        streams=spoken.streams,
    )
