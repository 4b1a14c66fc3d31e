"""The grid that section 7 of the paper trains on (arXiv 2605.12460): ``dataset.jsonl``, ``{"num_rows", "token_ids": [C][R]}``.

Ten channels, a token id in every cell. docs/exports.md says where the facts come from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.conversation import RecordError
from pipeline.errors import InputError
from pipeline.exports.channels import TEN_NAMES, channels_of, ten_channels
from pipeline.exports.targets import Books, Facts, Job, Target, count_lines
from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.training.grid import GridMetadata, TokenGrid

CHANNELS = len(TEN_NAMES)
FILE = "dataset.jsonl"


def write(job: Job) -> None:
    """Writes ``dataset.jsonl``: the loader reads one file of this name."""
    make = partial(line_of, channels=_channels(job.facts), silence=silence_of(job.facts))
    with job.file(FILE) as file:
        for _, grids in job.parts("tokens"):
            for grid in grids:
                line = job.made(lambda g, books: make(g, books), grid)
                if line is not None:
                    file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def line_of(grid: TokenGrid, books: Books, *, channels: dict[str, int], silence: int) -> dict[str, Any]:
    """One sample: ``token_ids`` int32[10][rows], ``silence`` where no token is.

    Raises RecordError ``no_channel``, ``empty``.
    """
    place = channels_of(grid, channels)
    used = np.unique(grid.token_streams)
    if (place[used] < 0).any():
        lacking = [grid.streams[s].name for s in used.tolist() if place[s] < 0]
        raise RecordError("no_channel", f"{CHANNELS} channels are too few for {', '.join(lacking)}")
    if not grid.rows:
        raise RecordError("empty", "a sample without rows is skipped by the loader")
    cells = np.full((CHANNELS, grid.rows), silence, np.int32)
    column = place[grid.token_streams]
    cells[column, grid.token_rows] = grid.token_ids
    output = np.array([stream.direction == "output" for stream in grid.streams])[grid.token_streams]
    target = (grid.token_loss & LOSS_TARGET) != 0
    books.lose("silence_clashes", _count(np.equal(grid.token_ids, silence)))
    books.lose("untrained_outputs", _count(output & ~target))
    books.lose("trained_inputs", _count(~output & (column != TEN_NAMES.index("user"))))
    books.lose("interrupted", _count(grid.token_loss & LOSS_END_UNTRAINED))
    books.lose("first_row", _count(output & target & (grid.token_rows == 0)))
    return {"id": grid.id, "num_rows": grid.rows, "token_ids": list(cells)}


def silence_of(facts: Facts) -> int:
    """The token id of a silent cell. Raises InputError where the tokenizer is not the one of the shards."""
    metadata = _metadata(facts)
    if facts.options.silence == "reserved":
        return metadata.silence_id
    from pipeline.tokenization import TokenizerError, load_tokenizer

    spec = facts.options.tokenizer or metadata.tokenizer
    try:
        tokenizer = load_tokenizer(spec)
    except TokenizerError as error:
        raise InputError(f"{error}; name it with --tokenizer, or take --silence reserved") from error
    if tokenizer.sha256 != metadata.tokenizer_sha256:
        raise InputError(f"tokenizer {spec} is not the one of the token shards: name theirs with --tokenizer")
    hyphen = tokenizer.encode([" -"]).ids
    return int(hyphen[0] if len(hyphen) == 1 else tokenizer.encode(["-"]).ids[0])


def read_grid(folder: Path, channels: dict[str, int], silence: int) -> Iterator[tuple[str, list[tuple[int, str, int]]]]:
    """The way back: id and cells (row, stream name, token id) of each sample of a split, by row, then channel."""
    names = {number: name for name, number in channels.items()}
    with (folder / FILE).open("rb") as file:
        for line in file:
            sample = orjson.loads(line)
            cells: npt.NDArray[np.int64] = np.array(sample["token_ids"], np.int64)
            spoken = cells != silence
            rows, columns = np.nonzero(spoken.T)
            yield (
                sample["id"],
                [(r, names[c], int(cells[c, r])) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)],
            )


def _count(cells: npt.NDArray[Any]) -> int:
    return int(np.count_nonzero(cells))


def _metadata(facts: Facts) -> GridMetadata:
    assert facts.metadata is not None
    return facts.metadata


def _channels(facts: Facts) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (name, _), count in facts.streams.items():
        counts[name] += count
    return ten_channels(counts)


def _describe(facts: Facts) -> dict[str, Any]:
    return {"channels": _channels(facts), "silence_id": silence_of(facts), "metadata": _metadata(facts).to_json()}


def _notes(facts: Facts) -> list[str]:
    named = ", ".join(f"{number} {name}" for name, number in sorted(_channels(facts).items(), key=lambda item: item[1]))
    notes = [
        f"channels: {named}",
        "only cells: events, edges, weights, verdicts, sources and licences are not in this form; the ids lead back to them",
    ]
    if facts.options.silence == "reserved":
        notes.append(
            f"silent cells hold id {_metadata(facts).silence_id}: the paper's trainer takes ' -' for silence, so set its "
            "silence_token_id"
        )
    if _metadata(facts).lag < 1:
        notes.append(
            "lag is 0: the paper's mask hides the row before from a query, so the first word of an answer misses the last one "
            "of its question; convert with --lag 1"
        )
    left = sorted({json.dumps(name) for name, _ in facts.streams} - {json.dumps(name) for name in _channels(facts)})
    if left:
        notes.append(f"streams without a channel, whose records are left out: {', '.join(left)}")
    return notes


TARGET = Target(
    "upstream-grid",
    "the paper's section 7: dataset.jsonl, ten channels of token ids",
    "tokens",
    write,
    count_lines,
    {
        "silence_clashes": "tokens of text with the id of silence, which the loader cannot tell from it (--silence reserved)",
        "untrained_outputs": "output tokens that are no targets here: the paper's loss takes every cell",
        "trained_inputs": "input tokens of other streams than the user's, which the paper's loss takes",
        "interrupted": "outputs that were cut off: the silence after them is a target there",
        "first_row": "targets in row 0, which no cell predicts there",
    },
    _notes,
    _describe,
)
