"""Free-running generation: records' inputs at their own rows, their outputs written by the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.decoding.decoder import Decoder
from pipeline.decoding.sampling import Sampling
from pipeline.training.grid import GridMetadata, TokenGrid, TrainingError
from pipeline.training.masks import MaskKind
from pipeline.training.model import MultistreamModel


@dataclass(eq=False)
class _Run:
    """One record on its way. ``given[row]``: its cells that are fed; ``cells``: (row, stream, token) so far."""

    number: int
    grid: TokenGrid
    limit: int
    given: dict[int, dict[int, int]]
    prefix: int
    row: int = 0
    silent_from: int = 0
    cells: list[tuple[int, int, int]] = field(default_factory=list)

    def record(self, spoken: dict[int, int], outputs: frozenset[int]) -> None:
        """Takes the cells of the next row."""
        self.cells.extend((self.row, stream, token) for stream, token in spoken.items())
        self.row += 1
        if outputs & spoken.keys():
            self.silent_from = self.row

    def is_done(self, patience: int) -> bool:
        quiet = self.row - self.silent_from >= patience
        return self.row >= self.limit or (self.row >= self.grid.rows and quiet)

    def result(self) -> TokenGrid:
        table = np.array(sorted(self.cells), np.int64).reshape(-1, 3)
        last = int(table[-1, 0]) + 1 if len(table) else 0
        return replace(
            self.grid,
            rows=max(min(self.grid.rows, self.limit), last),
            token_ids=table[:, 2].astype(np.int32),
            token_rows=table[:, 0].astype(np.int32),
            token_streams=table[:, 1].astype(np.uint8),
            token_loss=np.zeros(len(table), np.uint8),
        )


def generate(
    model: MultistreamModel,
    metadata: GridMetadata,
    mask: MaskKind,
    grids: Sequence[TokenGrid],
    *,
    sampling: Sampling | None = None,
    batch_size: int = 8,
    prefix_rows: int = 0,
    patience: int = 32,
    max_rows: int | None = None,
) -> Iterator[TokenGrid]:
    """Each record with its own input cells and output streams that the model wrote, in order; ``token_loss`` is 0.

    The first ``prefix_rows`` rows are those of the record. A record goes on for its own rows at least, and until all its
    output streams have been silent for ``patience`` rows, but never beyond ``max_rows`` rows (default: twice its own) or
    the model's positions. ``rows`` of the result is the record's own, or the end of the last cell where that is later.
    ``batch_size`` records run together; what becomes of one does not depend on the others (but for rounding). Raises
    TrainingError for a record that is longer than the model's positions, and as ``Decoder`` does.
    """
    if batch_size < 1 or prefix_rows < 0 or patience < 0 or (max_rows is not None and max_rows < 1):
        raise TrainingError("batch_size and max_rows must be at least 1, prefix_rows and patience not negative")
    runs = [_run(number, grid, prefix_rows, max_rows, model.max_rows) for number, grid in enumerate(grids)]
    if not runs:
        return
    waiting = iter(runs)
    places: list[_Run | None] = [next(waiting) for _ in range(min(batch_size, len(runs)))]
    decoder = Decoder(model, metadata, mask, [run.grid.streams for run in places if run], sampling=sampling)
    for place, run in enumerate(places):
        _begin(decoder, place, run)
    finished: dict[int, TokenGrid] = {}
    yielded = 0
    while True:
        for place, run in enumerate(places):
            while run is not None and run.is_done(patience):
                finished[run.number] = run.result()
                places[place] = run = next(waiting, None)
                if run is None:
                    decoder.end(place)
                else:
                    decoder.reset(place, run.grid.streams)
                    _begin(decoder, place, run)
        while yielded in finished:
            yield finished.pop(yielded)
            yielded += 1
        if yielded == len(runs):
            return
        heard = [run.given.get(run.row, {}) if run else {} for run in places]
        for run, inputs, said in zip(places, heard, decoder.step(heard), strict=True):
            if run is not None:
                run.record({**inputs, **said}, _outputs(run.grid))


def _run(number: int, grid: TokenGrid, prefix_rows: int, max_rows: int | None, positions: int) -> _Run:
    limit = min(2 * grid.rows if max_rows is None else max_rows, positions)
    if grid.rows > positions and (max_rows is None or max_rows > positions):
        raise TrainingError(f"record {grid.id} has {grid.rows} rows, the model has positions for {positions}")
    outputs = _outputs(grid)
    given: dict[int, dict[int, int]] = {}
    for row, stream, token in zip(
        grid.token_rows.tolist(), grid.token_streams.tolist(), grid.token_ids.tolist(), strict=True
    ):
        if stream not in outputs or row < prefix_rows:
            given.setdefault(row, {})[stream] = token
    return _Run(number, grid, limit, given, min(prefix_rows, grid.rows, limit))


def _begin(decoder: Decoder, place: int, run: _Run | None) -> None:
    """Feeds the prefix of a record that has just taken its place."""
    if run is None or not run.prefix:
        return
    rows = [run.given.get(row, {}) for row in range(run.prefix)]
    decoder.prefill(place, rows)
    for spoken in rows:
        run.record(spoken, _outputs(run.grid))


def _outputs(grid: TokenGrid) -> frozenset[int]:
    return frozenset(i for i, stream in enumerate(grid.streams) if stream.direction == "output")
