"""Synthetic records, shards and models for the tests of training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.tables import LOSS_END_UNTRAINED, LOSS_TARGET, TOKENS, TOKENS_SCHEMA_ID
from pipeline.training.grid import GridMetadata, Stream, TokenGrid

VOCAB = 32
BOS, EOM, SILENCE = 29, 30, 31
METADATA = GridMetadata(TOKENS_SCHEMA_ID, "synthetic", "ab" * 32, VOCAB, BOS, EOM, SILENCE, 1)

USER = Stream("user", "user", 0, "input")
ASSISTANT = Stream("assistant", "assistant", 0, "output")
THOUGHT = Stream("thought", "thought", 0, "output")

Cell = tuple[int, int, int, int]  # row, stream, token, loss bits


def make_grid(
    cells: Iterable[Cell],
    rows: int,
    streams: Sequence[Stream] = (USER, ASSISTANT),
    id: str = "record",
    group: str | None = None,
) -> TokenGrid:
    """A grid from (row, stream, token, loss bits) in any order."""
    table = np.array(sorted(cells), np.int64).reshape(-1, 4)
    return TokenGrid(
        id=id,
        conversation_id=f"conversation-{id}",
        group=group or id,
        rows=rows,
        streams=tuple(streams),
        token_ids=table[:, 2].astype(np.int32),
        token_rows=table[:, 0].astype(np.int32),
        token_streams=table[:, 1].astype(np.uint8),
        token_loss=table[:, 3].astype(np.uint8),
    )


@st.composite
def grids(draw: st.DrawFn, max_rows: int = 8) -> TokenGrid:
    """Random records: up to four streams of either direction, any subset of cells, any loss bits."""
    directions = draw(st.lists(st.sampled_from(["input", "output"]), min_size=1, max_size=4))
    streams = [Stream(f"s{i}", f"role{i % 2}", i, direction) for i, direction in enumerate(directions)]
    rows = draw(st.integers(1, max_rows))
    places = draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, len(streams) - 1))))
    bits = st.sampled_from([0, LOSS_TARGET, LOSS_END_UNTRAINED, LOSS_TARGET | LOSS_END_UNTRAINED])
    cells = [(row, stream, draw(st.integers(0, BOS - 1)), draw(bits)) for row, stream in sorted(places)]
    return make_grid(cells, rows, streams)


def echo_grid(rng: np.random.Generator, id: str) -> TokenGrid:
    """The user says three tokens and ends; the assistant repeats them, then both are silent for a while."""
    words = rng.integers(0, 8, 3).tolist()
    question = [(row, 0, token, 0) for row, token in enumerate([*words, EOM])]
    answer = [(row, 1, token, LOSS_TARGET) for row, token in enumerate([*words, EOM], start=5)]
    return make_grid(question + answer, 12, id=id)


def echo_grids(count: int, seed: int = 0) -> list[TokenGrid]:
    rng = np.random.default_rng(seed)
    return [echo_grid(rng, f"echo-{seed}-{index}") for index in range(count)]


def write_shard(path: Path, records: Sequence[TokenGrid], **changes: Any) -> None:
    """Write records as a token shard; ``changes`` override its ``token_grid`` metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {b"token_grid": json.dumps({**METADATA.to_json(), **changes}).encode()}
    rows = [
        {
            "id": grid.id,
            "conversation_id": grid.conversation_id,
            "group": grid.group,
            "rows": grid.rows,
            "streams": [vars(stream) for stream in grid.streams],
            "token_ids": grid.token_ids.tolist(),
            "token_rows": grid.token_rows.tolist(),
            "token_streams": grid.token_streams.tolist(),
            "token_loss": grid.token_loss.tolist(),
        }
        for grid in records
    ]
    pq.write_table(pa.Table.from_pylist(rows, TOKENS.with_metadata(metadata)), path)


def write_dataset(directory: Path, train: Sequence[TokenGrid], test: Sequence[TokenGrid], **changes: Any) -> Path:
    """Two training shards and one test shard under ``directory/dataset``."""
    half = len(train) // 2
    write_shard(directory / "dataset/train/tokens-00000.parquet", train[:half], **changes)
    write_shard(directory / "dataset/train/tokens-00001.parquet", train[half:], **changes)
    write_shard(directory / "dataset/test/tokens-00000.parquet", test, **changes)
    return directory


def tiny_llama(vocab_size: int = VOCAB, max_positions: int = 256, hidden_size: int = 32) -> LlamaForCausalLM:
    """Two layers, random weights, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=max_positions,
        )
        return LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()


def save_tiny_llama(directory: Path, vocab_size: int = VOCAB) -> Path:
    tiny_llama(vocab_size).save_pretrained(directory)
    return directory
