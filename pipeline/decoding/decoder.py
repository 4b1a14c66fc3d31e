"""Decoding row by row: all output streams of all dialogues in one forward pass.

What is said at row t is chosen from the logits of the queries of row t − 1: an output stream's spoken cell there, or its
silent query. Row −1 holds BOS and one silent query per output stream (see ``pipeline.training.masks``, whose visibility
and positions hold here too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.decoding.attention import additive_mask, attending
from pipeline.decoding.cache import SpokenCache
from pipeline.decoding.sampling import Sampling, choose
from pipeline.training.grid import GridMetadata, Stream, TrainingError
from pipeline.training.masks import NEVER, NO_STREAM, Int64Array, MaskKind, check_mask, first_visible_row
from pipeline.training.model import MultistreamModel, check_vocabulary


@dataclass(eq=False)
class _Dialogue:
    """One place of the batch. ``role`` and ``slot`` int64 [streams + 1] index the embeddings, the last is BOS'."""

    streams: tuple[Stream, ...]
    outputs: tuple[int, ...]
    role: Int64Array
    slot: Int64Array
    rng: np.random.Generator
    row: int = 0
    ended: bool = False


@dataclass(eq=False)
class _Cells:
    """Cells of one dialogue in a forward pass, spoken ones first; ``queries``: where its outputs' last cells are."""

    token: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    stream: list[int] = field(default_factory=list)
    spoken: int = 0
    queries: list[int] = field(default_factory=list)

    def speak(self, row: int, stream: int, token: int) -> None:
        self.token.append(token)
        self.row.append(row)
        self.stream.append(stream)
        self.spoken += 1

    def ask(self, row: int, outputs: Sequence[int], silence_id: int) -> None:
        """Adds the silent queries of a row and finds the places of all its queries."""
        said = {s: i for i, (r, s) in enumerate(zip(self.row, self.stream, strict=True)) if r == row}
        for stream in outputs:
            if stream not in said:
                said[stream] = len(self.token)
                self.token.append(silence_id)
                self.row.append(row)
                self.stream.append(stream)
        self.queries = [said[stream] for stream in outputs]


class Decoder:
    """A batch of dialogues, each with its own streams and its own row, on one model.

    Dialogues are numbered from 0; ``rows[b]`` is the next row of dialogue b, ``untrained_roles`` are roles that the model
    has no embedding of (theirs is zero). It runs under the caller's autocast, without gradients; while a call lasts it
    changes the model's attention, so use a model from one thread at a time.
    """

    def __init__(
        self,
        model: MultistreamModel,
        metadata: GridMetadata,
        mask: MaskKind,
        dialogues: Sequence[tuple[Stream, ...]],
        *,
        sampling: Sampling | None = None,
        max_rows: int | None = None,
    ) -> None:
        """``max_rows``: rows that a dialogue may have, at most as many as the model has positions for.

        Raises TrainingError where mask, data, model and streams do not go together.
        """
        check_mask(mask, metadata.lag)
        check_vocabulary(metadata, model)
        if max_rows is not None and not 0 <= max_rows <= model.max_rows:
            raise TrainingError(f"max_rows is {max_rows}, the model has positions for 0 to {model.max_rows} rows")
        if not dialogues:
            raise TrainingError("a decoder needs at least one dialogue")
        self.model, self.metadata, self.mask = model, metadata, mask
        self.sampling = sampling or Sampling()
        self.max_rows = model.max_rows if max_rows is None else max_rows
        self.untrained_roles: tuple[str, ...] = ()
        self.cache = SpokenCache(model.causal_lm.config.num_hidden_layers, len(dialogues), model.device)
        self._started = 0
        self._dialogues = [self._new(streams) for streams in dialogues]
        self._logits: list[torch.Tensor] = [torch.empty(0)] * len(dialogues)
        self._forward(0, [self._first_cells(dialogue) for dialogue in self._dialogues])

    @property
    def rows(self) -> list[int]:
        """The next row of every dialogue."""
        return [dialogue.row for dialogue in self._dialogues]

    @property
    def logits(self) -> list[torch.Tensor]:
        """Per dialogue [O, V]: the logits of its output streams' cells in its last row, in the order of its streams."""
        return self._logits

    def reset(self, dialogue: int, streams: tuple[Stream, ...]) -> None:
        """A new dialogue takes the place of one. Its draws are those of the n-th dialogue begun, whatever the place."""
        self._dialogues[dialogue] = fresh = self._new(streams)
        self.cache.clear(dialogue)
        self._forward(dialogue, [self._first_cells(fresh)])

    def end(self, dialogue: int) -> None:
        """A dialogue takes no further rows; its place stays empty until ``reset``."""
        self._dialogues[dialogue].ended = True
        self._logits[dialogue] = self._logits[dialogue][:0]
        self.cache.clear(dialogue)

    def step(
        self,
        inputs: Sequence[Mapping[int, int]],
        forced: Sequence[Mapping[int, int | None]] | None = None,
    ) -> list[dict[int, int]]:
        """One row of every dialogue that has not ended, in one forward pass; returns {stream: token said} of each.

        ``inputs[b]``: {input stream: token heard at this row}. ``forced[b]``: {output stream: token, or None for
        silence}, said in the place of what the model chose. Raises TrainingError for a stream of the other direction,
        a reserved token, and a row beyond ``max_rows``.
        """
        forced = forced if forced is not None else [{}] * len(self._dialogues)
        if not len(inputs) == len(forced) == len(self._dialogues):
            raise TrainingError(f"{len(inputs)} inputs, {len(forced)} forced, {len(self._dialogues)} dialogues")
        for number, dialogue in enumerate(self._dialogues):
            self._check(number, dialogue, 0 if dialogue.ended else 1)
            self._check_cells(dialogue, inputs[number], "input")
            told = {stream: token for stream, token in forced[number].items() if token is not None}
            self._check_cells(dialogue, told, "output")
        chosen = iter(self._choose())
        said: list[dict[int, int]] = []
        cells: list[_Cells] = []
        for dialogue, heard, told_or_silent in zip(self._dialogues, inputs, forced, strict=True):
            own: dict[int, int] = {}
            passing = _Cells()
            if not dialogue.ended:
                wanted = {stream: next(chosen) for stream in dialogue.outputs}
                wanted |= {s: self.metadata.silence_id if t is None else t for s, t in told_or_silent.items()}
                own = {stream: token for stream, token in wanted.items() if token != self.metadata.silence_id}
                for stream, token in sorted({**heard, **own}.items()):
                    passing.speak(dialogue.row, stream, token)
                passing.ask(dialogue.row, dialogue.outputs, self.metadata.silence_id)
                dialogue.row += 1
            said.append(own)
            cells.append(passing)
        self._forward(0, cells)
        return said

    def prefill(self, dialogue: int, rows: Sequence[Mapping[int, int]]) -> None:
        """Many rows of one dialogue in one forward pass, as if stepped through with all streams given.

        ``rows[i]``: {stream: token} of the i-th row from here, inputs and outputs; who is not named is silent.
        """
        place = self._dialogues[dialogue]
        self._check(dialogue, place, len(rows))
        cells = _Cells()
        for row, spoken in enumerate(rows, start=place.row):
            self._check_cells(place, spoken)
            for stream, token in sorted(spoken.items()):
                cells.speak(row, stream, token)
        if rows:
            place.row += len(rows)
            cells.ask(place.row - 1, place.outputs, self.metadata.silence_id)
            if self.sampling.temperature:
                place.rng.random((len(rows), len(place.outputs)))
            self._forward(dialogue, [cells])

    def _new(self, streams: tuple[Stream, ...]) -> _Dialogue:
        roles = self.model.role_index
        unknown = sorted({stream.role for stream in streams} - roles.keys())
        if streams and all(stream.role in unknown for stream in streams):
            raise TrainingError(
                f"the model was trained on none of the streams {', '.join(unknown)}, but on {', '.join(self.model.roles)}"
            )
        if any(stream.direction not in ("input", "output") for stream in streams):
            raise TrainingError("a stream's direction is neither input nor output")
        self.untrained_roles = tuple(sorted({*self.untrained_roles, *unknown}))
        rng = np.random.default_rng([self.sampling.seed, self._started])
        self._started += 1
        return _Dialogue(
            streams=streams,
            outputs=tuple(i for i, stream in enumerate(streams) if stream.direction == "output"),
            role=np.array([*(roles.get(stream.role, 0) for stream in streams), 0], np.int64),
            slot=np.array([*(stream.slot + 1 for stream in streams), 0], np.int64),
            rng=rng,
        )

    def _first_cells(self, dialogue: _Dialogue) -> _Cells:
        cells = _Cells()
        cells.speak(-1, NO_STREAM, self.metadata.bos_id)
        cells.ask(-1, dialogue.outputs, self.metadata.silence_id)
        return cells

    def _check(self, number: int, dialogue: _Dialogue, rows: int) -> None:
        if dialogue.ended and rows:
            raise TrainingError(f"dialogue {number} has ended; reset it first")
        if dialogue.row + rows > self.max_rows:
            raise TrainingError(f"dialogue {number} is at row {dialogue.row}, {self.max_rows} rows are the most here")

    def _check_cells(self, dialogue: _Dialogue, cells: Mapping[int, int], direction: str | None = None) -> None:
        for stream, token in cells.items():
            if dialogue.ended or not 0 <= stream < len(dialogue.streams):
                raise TrainingError(f"there is no stream {stream} to take token {token}")
            known = dialogue.streams[stream]
            if direction is not None and known.direction != direction:
                raise TrainingError(f"stream {known.name} is an {known.direction}, not an {direction}")
            reserved = token in (self.metadata.bos_id, self.metadata.silence_id)
            if reserved or not 0 <= token < self.metadata.vocab_size:
                raise TrainingError(f"token {token} on stream {known.name} is reserved or outside the vocabulary")

    @torch.inference_mode()
    def _choose(self) -> list[int]:
        """Tokens of all output streams of the dialogues that go on, one after the other."""
        logits = torch.cat(self._logits).float()
        draws = np.zeros(len(logits))
        if self.sampling.temperature:
            drawn = [d.rng.random(len(d.outputs)) for d in self._dialogues if not d.ended]
            draws = np.concatenate(drawn) if drawn else draws
        return choose(logits, self.metadata, self.sampling, draws) if len(logits) else []

    @torch.inference_mode()
    def _forward(self, first: int, cells: Sequence[_Cells]) -> None:
        """One pass of the model over new cells of dialogues ``first``, ``first`` + 1, …; keeps logits and spoken keys."""
        size = max(len(each.token) for each in cells)
        if size == 0:
            return
        last = first + len(cells)
        model, device = self.model, self.model.device
        packed = self._packed(first, cells, size)
        token, row, role, slot, visible_from, places = torch.from_numpy(packed).to(device)
        window = self.cache.open(first, last, places, size)
        allowed = _allowed(row, visible_from, places, window.width)
        with attending(model.causal_lm):
            embeds = model.embed(token, role, slot)
            mask = additive_mask(allowed, embeds.dtype, model.causal_lm)
            hidden = model.states(embeds, row, mask, self.cache)
        self.cache.advance(first, last, np.array([each.spoken for each in cells], np.int64))
        asked = [(i, place) for i, each in enumerate(cells) for place in each.queries]
        index = torch.tensor(asked, dtype=torch.long).view(-1, 2).to(device)
        logits = model.logits(hidden[index[:, 0], index[:, 1]])
        self._logits[first:last] = torch.split(logits, [len(each.queries) for each in cells])

    def _packed(self, first: int, cells: Sequence[_Cells], size: int) -> Int64Array:
        """int64 [6, n, S]: token, row, role, slot, first visible row and place in the cache of every cell.

        Padding is cells of row −1 that are no keys.
        """
        packed = np.zeros((6, len(cells), size), np.int64)
        packed[1] = -1
        is_key = np.zeros((len(cells), size), np.bool_)
        for i, (each, dialogue) in enumerate(zip(cells, self._dialogues[first:], strict=False)):
            stream = np.array(each.stream, np.int64)
            filled = slice(len(stream))
            packed[0, i, filled], packed[1, i, filled] = each.token, each.row
            packed[2, i, filled], packed[3, i, filled] = dialogue.role[stream], dialogue.slot[stream]
            is_key[i, : each.spoken] = True
        packed[4] = first_visible_row(packed[1].astype(np.int32), is_key, self.mask)
        packed[5] = self.cache.lengths[first : first + len(cells), None] + np.arange(size)
        return packed


def _allowed(row: torch.Tensor, visible_from: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Who sees what, bool [n, S, width]: keys of earlier passes, new keys by the mask's rule, and every cell itself.

    ``row``, ``visible_from`` and ``places`` [n, S] of the new cells; all keys before their first place are of earlier rows.
    """
    key = torch.arange(width, device=row.device)
    window = torch.where(key < places[:, :1], -1, NEVER).scatter_(1, places, visible_from)
    itself = key == places[:, :, None]
    return (window[:, None, :] <= row[:, :, None]) | itself
