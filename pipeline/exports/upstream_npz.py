"""The samples that sections 5 and 6 of the paper train on (arXiv 2605.12460): a ``.npz`` each, and ``index.json``.

Stream after stream, with two-dimensional positions. docs/exports.md says where the facts come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.conversation import RecordError
from pipeline.exports.channels import all_channels, channels_of
from pipeline.exports.targets import Books, Facts, Job, Shard, Target
from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET
from pipeline.training.grid import GridMetadata, TokenGrid
from pipeline.training.masks import IGNORE, MaskKind, dense_mask, first_visible_row, record_targets

#: Samples in one folder.
FOLDER = 1000

Sample = dict[str, Any]


def write(job: Job) -> None:
    """Writes ``IIIIII/sample_NNNNNN.npz`` and, last, ``index.json``."""
    facts = job.facts
    make = partial(sample_of, metadata=_metadata(facts), channels=_channels(facts), masks=facts.options.masks)
    with job.file("index.json") as index:
        index.write(b'{"version": "multistream-1", "config": ' + orjson.dumps(_config(facts)) + b', "sample_files": [')
        for _, grids in job.parts("tokens"):
            for grid in grids:
                number = job.books.written
                sample = job.made(lambda g, books: make(g, books), grid)
                if sample is None:
                    continue
                name = f"{number // FOLDER:06d}/sample_{number:06d}.npz"
                if number % FOLDER == 0:
                    (job.folder / name).parent.mkdir()
                with (job.folder / name).open("wb") as file:  # no fsync for each: the manifest has their digests
                    np.savez_compressed(file, **sample)
                entry = {
                    "file": name, "sample_idx": number, "seq_length": int(sample["seq_length"]),
                    "num_heads": int(sample["num_heads"]), "sample_id": grid.id,
                }  # fmt: skip
                index.write(b",\n" if number else b"\n")
                index.write(orjson.dumps(entry))
        index.write(b'\n], "total_samples": ' + str(job.books.written).encode() + b"}\n")


def sample_of(
    grid: TokenGrid, books: Books, *, metadata: GridMetadata, channels: dict[str, int], masks: bool
) -> Sample:
    """The arrays of one sample of S cells: spoken ones, and a silent query before each onset of an output that is trained.

    ``input_ids`` and ``labels`` int32[S] (the label of a cell is its own token, or −100: the trainer shifts by one cell, and
    the cell before a label is the same stream's, one row earlier); ``position_ids`` int32[S, 2]: channel and row + 1;
    ``attention_mask`` bool[S, S] with ``masks``. Raises RecordError ``empty`` where nothing is spoken.
    """
    if not len(grid.token_ids):
        raise RecordError("empty", "the record has no spoken cell")
    targets = record_targets(grid, metadata.silence_id)
    onset_row, onset_output = np.nonzero(
        targets.silent_query & targets.trained & (targets.target != metadata.silence_id)
    )
    row = np.concatenate([grid.token_rows, onset_row.astype(np.int32) - 1])
    stream = np.concatenate([grid.token_streams, targets.outputs[onset_output]]).astype(np.int64)
    token = np.concatenate([grid.token_ids, np.full(len(onset_row), metadata.silence_id, np.int32)])
    spoken = np.arange(len(token)) < len(grid.token_ids)
    output = np.array([s.direction == "output" for s in grid.streams])
    loss = np.concatenate([grid.token_loss, np.zeros(len(onset_row), np.uint8)])
    place = channels_of(grid, channels)
    order = np.lexsort((row, place[stream]))
    row, stream, token, spoken, loss = row[order], stream[order], token[order], spoken[order], loss[order]
    trained = spoken & output[stream] & ((loss & LOSS_TARGET) != 0)
    boundaries = _boundaries(grid, place, stream, spoken, token, metadata.eom_id)
    silence = targets.trained & (targets.target == metadata.silence_id)
    books.lose("silence_targets", int(np.count_nonzero(silence)))
    books.lose("interrupted", int(np.count_nonzero(grid.token_loss & LOSS_END_UNTRAINED)))
    sample: Sample = {
        "input_ids": token.astype(np.int32),
        "labels": np.where(trained, token, IGNORE).astype(np.int32),
        "position_ids": np.stack([place[stream], row + 1], axis=1).astype(np.int32),
        "num_heads": np.int16(len(boundaries["all_heads"])),
        "seq_length": np.int32(len(token)),
        "boundaries_json": np.array(orjson.dumps(boundaries).decode()),
    }
    if masks:
        document = np.zeros(len(row), np.int32)
        kind: MaskKind = "strict" if metadata.lag else "same_row"
        visible = first_visible_row(row.astype(np.int32), spoken, kind)
        sample["attention_mask"] = dense_mask(document, row.astype(np.int32), visible)
    return sample


def _boundaries(
    grid: TokenGrid,
    place: npt.NDArray[np.int64],
    stream: npt.NDArray[np.int64],
    spoken: npt.NDArray[np.bool_],
    token: npt.NDArray[np.int32],
    eom_id: int,
) -> dict[str, Any]:
    """Where each stream's cells lie: what the loader calls heads, in the order of their channels."""
    heads: list[dict[str, Any]] = []
    answering: list[int] = []
    for s in sorted(np.unique(stream).tolist(), key=lambda s: int(place[s])):
        found = np.flatnonzero(stream == s)
        start, end = int(found[0]), int(found[-1]) + 1
        content = start + int(not spoken[start])
        on = grid.streams[s]
        if on.direction == "output":
            answering.append(len(heads))
        ends = bool(token[end - 1] == eom_id)
        heads.append(
            {
                "role": "assistant" if on.direction == "output" else on.role,
                "stream": on.name, "block_start": start, "block_end": end, "prefix_start": start, "prefix_end": content,
                "content_start": content, "content_end": end - ends, "original_length": end - ends - content,
                "real_content_end": end - ends, "im_end_pos": end - 1 if ends else -1, "pad_start": end, "pad_end": end,
                "assistant_solution_start": content,
            }
        )  # fmt: skip
    return {"all_heads": heads, "assistant_head_indices": answering}


def _metadata(facts: Facts) -> GridMetadata:
    assert facts.metadata is not None
    return facts.metadata


def _channels(facts: Facts) -> dict[str, int]:
    sides = {side: {name for name, direction in facts.streams if direction == side} for side in ("input", "output")}
    return all_channels(sides["input"], sides["output"])


def _config(facts: Facts) -> dict[str, Any]:
    outputs = {name for name, direction in facts.streams if direction == "output"}
    return {
        "fixed_heads": len(outputs), "position_ids_2d": True, "channels": _channels(facts),
        "attention_mask": facts.options.masks, **_metadata(facts).to_json(),
    }  # fmt: skip


def _warn(facts: Facts, shards: Sequence[Shard]) -> str | None:
    """The size of the masks: one byte for every pair of cells, before compression."""
    size = 0
    for shard in shards:
        if shard.tokens is not None:
            for batch in pq.ParquetFile(shard.tokens).iter_batches(columns=["token_ids"]):
                lengths = pc.list_value_length(batch.column(0)).cast("int64")
                size += pc.sum(pc.multiply(lengths, lengths)).as_py() or 0
    much = f"at least {_bytes(size)} before compression"
    if facts.options.masks:
        return f"attention masks of N×N cells are written: {much}"
    return f"no attention masks are written, which the paper's own loader reads from every sample: --masks adds them ({much})"


def _bytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _notes(facts: Facts) -> list[str]:
    named = ", ".join(f"{number} {name}" for name, number in sorted(_channels(facts).items(), key=lambda item: item[1]))
    return [
        f"channels: {named}",
        "positions are rows, so gaps are kept; the cell before an answer's first token is a silent query of id "
        f"{_metadata(facts).silence_id}, which nothing attends to",
        "only cells: events, edges, weights, verdicts, sources and licences are not in this form; the ids lead back to them",
    ]


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/sample_*.npz"))


TARGET = Target(
    "upstream-npz",
    "the paper's sections 5 and 6: a .npz per record and index.json",
    "tokens",
    write,
    _count,
    {
        "silence_targets": "rows in which staying silent is a target here: this form has no cell for them",
        "interrupted": "outputs that were cut off: nothing says so there",
    },
    _notes,
    lambda facts: {"channels": _channels(facts), "metadata": _metadata(facts).to_json()},
    _warn,
)
