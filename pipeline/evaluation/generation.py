"""Free-running generation on held-out records: is what the model writes on its own well-formed, and how soon does it speak?

The model reads every record's inputs at their own rows and writes the output streams itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from pipeline.evaluation.intervals import Bootstrap, Estimate, share
from pipeline.training.grid import GridMetadata, TokenGrid
from pipeline.training.masks import MaskKind
from pipeline.training.model import MultistreamModel

#: A run of at least so many cells that repeats one n-gram of at most ``LONGEST_NGRAM`` cells counts as endless.
ENDLESS_CELLS = 32
LONGEST_NGRAM = 16

#: Rows of silence that end a record once its own rows are over. Few: what comes after its end no record has taught.
PATIENCE = 4

#: What can be wrong with a generated record, in the order in which it is reported.
PROBLEMS = ("silent", "no_end", "repetition", "bad_call")


@dataclass(frozen=True)
class TextCodec:
    """A tokenizer, as far as evaluation needs one: texts to ids without special tokens, and back."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class FirstOutput:
    """Rows to the first output of one record, as generated and in the data; None where no output stream speaks."""

    generated: int | None
    data: int | None


@dataclass(frozen=True)
class Generation:
    """What was generated on ``records`` records; ``passed_over`` came before them and were too long.

    ``problems``: for each of ``PROBLEMS`` the number of records that have it; a record without any is ``valid``. Calls
    are counted where texts can be read, in the generated streams and in the data's: ``parsed`` ones are a name and a JSON
    object. ``silence``: mean share of silent output cells over the data's rows. ``pairs``: the data's grid and the
    generated one, of every record.
    """

    records: int
    passed_over: int
    valid: int
    valid_share: Estimate | None
    problems: dict[str, int]
    calls: int
    parsed: int
    data_calls: int
    data_parsed: int
    silence: float | None
    data_silence: float | None
    first_output: tuple[FirstOutput, ...]
    pairs: tuple[tuple[TokenGrid, TokenGrid], ...] = field(repr=False)

    @property
    def median_first_output(self) -> FirstOutput:
        """Medians over the records in which an output stream speaks, rounded to rows."""

        def middle(rows: Iterable[int | None]) -> int | None:
            there = [row for row in rows if row is not None]
            return round(median(there)) if there else None

        return FirstOutput(middle(f.generated for f in self.first_output), middle(f.data for f in self.first_output))


def chosen_records(grids: Iterable[TokenGrid], count: int, max_rows: int) -> tuple[list[TokenGrid], int]:
    """The first ``count`` records of at most ``max_rows`` rows with an output cell, and how many before are longer."""
    chosen: list[TokenGrid] = []
    longer = 0
    for grid in grids:
        if len(chosen) == count:
            break
        if grid.rows > max_rows:
            longer += 1
        elif len(output_cells(grid)):
            chosen.append(grid)
    return chosen, longer


def generated(
    model: MultistreamModel,
    metadata: GridMetadata,
    mask: MaskKind,
    grids: Sequence[TokenGrid],
    progress: Callable[[int], None] | None = None,
) -> Iterator[TokenGrid]:
    """The records with outputs that the model wrote, greedily; ``progress`` gets the number of records done."""
    from pipeline.decoding import Sampling, generate

    made = generate(model, metadata, mask, grids, sampling=Sampling(), patience=PATIENCE)
    for number, grid in enumerate(made, start=1):
        if progress is not None:
            progress(number)
        yield grid


def examine(
    pairs: Sequence[tuple[TokenGrid, TokenGrid]],
    eom_id: int,
    bootstrap: Bootstrap,
    *,
    passed_over: int = 0,
    text: TextCodec | None = None,
) -> Generation:
    """What is right and wrong with generated records; ``pairs`` are the data's and the generated grid."""
    found = [problems(data, made, eom_id, text) for data, made in pairs]
    groups = [data.group for data, _ in pairs]
    calls, data_calls = ([call for pair in pairs for call in read_calls(pair[which], eom_id, text)] for which in (1, 0))
    shares = [
        (silence_share(made, data.rows), silence_share(data, data.rows))
        for data, made in pairs
        if data.rows and len(outputs(data))
    ]
    return Generation(
        records=len(pairs),
        passed_over=passed_over,
        valid=sum(not each for each in found),
        valid_share=share(groups, [not each for each in found], bootstrap.confidence),
        problems={name: sum(name in each for each in found) for name in PROBLEMS},
        calls=len(calls),
        parsed=sum(map(parses, calls)),
        data_calls=len(data_calls),
        data_parsed=sum(map(parses, data_calls)),
        silence=float(np.mean([own for own, _ in shares])) if shares else None,
        data_silence=float(np.mean([own for _, own in shares])) if shares else None,
        first_output=tuple(FirstOutput(_first(made), _first(data)) for data, made in pairs),
        pairs=tuple(pairs),
    )


def problems(data: TokenGrid, made: TokenGrid, eom_id: int, text: TextCodec | None = None) -> tuple[str, ...]:
    """What is wrong with a generated record, of ``PROBLEMS``.

    ``silent``: nothing is said where the data says something; ``no_end``: the last message of an output stream has no
    end; ``repetition``: a message repeats one n-gram without end; ``bad_call``: a call is no name and JSON object.
    """
    streams = [made.token_ids[made.token_streams == stream] for stream in outputs(made)]
    wrong = {
        "silent": not any(map(len, streams)) and len(output_cells(data)) > 0,
        "no_end": any(len(ids) and int(ids[-1]) != eom_id for ids in streams),
        "repetition": any(repeats(ids) for ids in streams),
        "bad_call": not all(map(parses, read_calls(made, eom_id, text))),
    }
    return tuple(name for name in PROBLEMS if wrong[name])


def repeats(ids: Sequence[int] | np.ndarray) -> bool:
    """Whether ``ENDLESS_CELLS`` cells or more, one after the other, repeat one n-gram of at most ``LONGEST_NGRAM``."""
    tokens = np.asarray(ids)
    for period in range(1, min(LONGEST_NGRAM, len(tokens) - 1) + 1):
        same = np.concatenate([[False], tokens[period:] == tokens[:-period], [False]])
        edges = np.flatnonzero(np.diff(same.astype(np.int8)))
        longest = int((edges[1::2] - edges[::2]).max(initial=0))
        if longest and longest + period >= ENDLESS_CELLS:
            return True
    return False


def messages(grid: TokenGrid, stream: int, eom_id: int) -> list[np.ndarray]:
    """The ids of each message of a stream, without its end."""
    ids = grid.token_ids[grid.token_streams == stream]
    ends = np.flatnonzero(ids == eom_id)
    parts = np.split(ids, ends + 1)
    said = [part[:-1] if len(part) and part[-1] == eom_id else part for part in parts]
    return [part for part, whole in zip(said, parts, strict=True) if len(whole)]


def read_calls(grid: TokenGrid, eom_id: int, text: TextCodec | None) -> list[str]:
    """The texts of the messages on output streams of the role ``call``; none without a tokenizer."""
    if text is None:
        return []
    calls = [index for index in outputs(grid) if grid.streams[index].role == "call"]
    return [text.decode(message.tolist()) for index in calls for message in messages(grid, index, eom_id)]


def parses(call: str) -> bool:
    """Whether a call is a name, a newline and a JSON object."""
    name, _, arguments = call.partition("\n")
    try:
        return bool(name.strip()) and isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def silence_share(grid: TokenGrid, rows: int) -> float:
    """The share of silent cells among the output cells of the first ``rows`` rows."""
    own = output_cells(grid)
    return 1.0 - int(np.count_nonzero(grid.token_rows[own] < rows)) / (rows * len(outputs(grid)))


def outputs(grid: TokenGrid) -> list[int]:
    """The indices of the output streams."""
    return [index for index, stream in enumerate(grid.streams) if stream.direction == "output"]


def output_cells(grid: TokenGrid) -> np.ndarray:
    """The indices of the cells on output streams."""
    return np.flatnonzero(np.isin(grid.token_streams, outputs(grid)))


def select(grid: TokenGrid, kept: np.ndarray) -> TokenGrid:
    """The record with only the cells that ``kept`` bool [N] names."""
    return replace(
        grid,
        token_ids=grid.token_ids[kept],
        token_rows=grid.token_rows[kept],
        token_streams=grid.token_streams[kept],
        token_loss=grid.token_loss[kept],
    )


def _first(grid: TokenGrid) -> int | None:
    rows = grid.token_rows[output_cells(grid)]
    return int(rows.min()) if len(rows) else None
