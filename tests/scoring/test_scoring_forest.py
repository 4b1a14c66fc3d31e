"""A forest computes every token after exactly the tokens of its own sequence, whatever is shared, kept and forgotten."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from pipeline.scoring.forest import Forest, Wave
from pipeline.scoring.forward import Session, TreeModel, _onednn_attention, _sdpa, use_onednn
from pipeline.training.masks import dense_tree_mask, tree_labels, tree_mask_mod
from tests.scoring.scoring_cases import plain_logp
from tests.training.synthetic_grids import tiny_llama

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)
TOKENS = 32


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Parents, forks and lengths of the runs of a forest."""
    parent, fork, length = [-1], [0], [draw(st.integers(1, 5))]
    for run in range(1, draw(st.integers(1, 8))):
        parent.append(draw(st.integers(-1, run - 1)))
        fork.append(draw(st.integers(1, length[parent[-1]])) if parent[-1] >= 0 else 0)
        length.append(draw(st.integers(1, 5)))
    return parent, fork, length


def arrays(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(values, np.int32) for values in lists]


@QUICK
@given(runs())
def test_a_query_sees_its_own_way_from_the_root(forest: tuple[list[int], list[int], list[int]]) -> None:
    parent, fork, length = forest
    order, until = tree_labels(*arrays(parent, fork, length))
    first = np.concatenate([[0], np.cumsum(length)])
    expected = np.zeros((first[-1], first[-1]), bool)
    for run in range(len(length)):
        for offset in range(length[run]):
            at, upto = run, offset + 1
            while at >= 0:
                expected[first[run] + offset, first[at] : first[at] + upto] = True
                at, upto = parent[at], fork[at]
    assert sorted(order) == list(range(first[-1]))
    np.testing.assert_array_equal(dense_tree_mask(order, order, until), expected)


@QUICK
@given(runs())
def test_the_flex_mask_is_the_dense_mask(forest: tuple[list[int], list[int], list[int]]) -> None:
    order, until = tree_labels(*arrays(*forest))
    query = order[: len(order) // 2 + 1]
    mask_mod = tree_mask_mod(*(torch.from_numpy(x) for x in (query, order, until)))
    flex = create_mask(mask_mod, 1, 1, len(query), len(order), device="cpu")[0, 0]
    np.testing.assert_array_equal(flex.numpy(), dense_tree_mask(query, order, until))


@QUICK
@given(SEQUENCES, st.integers(1, 9), st.integers(1, 6))
def test_the_waves_compute_every_shared_token_once_and_show_each_its_own_sequence(
    sequences: list[list[int]], wave_tokens: int, block_tokens: int
) -> None:
    forest = Forest()
    paths = [forest.add(np.array(ids, np.int32)) for ids in sequences]
    assert forest.size == len({tuple(ids[: i + 1]) for ids in sequences for i in range(len(ids))})
    way = {int(path[i]): [int(t) for t in path[: i + 1]] for path in paths for i in range(len(path))}
    computed: list[int] = []
    slots: dict[int, int] = {}
    for wave in forest.plan(wave_tokens, block_tokens):
        assert len(wave.tokens) <= wave_tokens
        for token, id_, position in zip(wave.tokens, wave.ids, wave.positions, strict=True):
            assert position == len(way[int(token)]) - 1
            assert any(
                path[position] == token and ids[position] == id_
                for path, ids in zip(paths, sequences, strict=True)
                if len(path) > position
            )
        assert seen_in(wave, slots) == {int(token): sorted(way[int(token)]) for token in wave.tokens}
        slots.update(zip(wave.keep_slots.tolist(), wave.tokens[wave.keep].tolist(), strict=True))
        computed.extend(wave.tokens.tolist())
    assert sorted(computed) == list(range(forest.size))
    assert forest.done == forest.size


def seen_in(wave: Wave, slots: dict[int, int]) -> dict[int, list[int]]:
    """The tokens that each token of a wave attends to; ``slots``: whose keys lie in each slot of the cache."""
    seen = {}
    for block in wave.blocks:
        keys = [*(slots[slot] for slot in block.slots.tolist()), *wave.tokens[block.fresh].tolist()]
        for query, visible in zip(range(block.low, block.high), block.visible, strict=True):
            seen[int(wave.tokens[query])] = sorted(keys[i] for i in np.flatnonzero(visible))
    return seen


@pytest.mark.parametrize(
    ("backend", "wave_tokens"),
    [("sdpa", 7), ("sdpa", 40), ("sdpa", 1000), ("flex_attention", 40), ("flex_attention", 1000)],
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_scores_are_those_of_plain_forward_passes_in_rounds_too(
    backend: Literal["sdpa", "flex_attention"], wave_tokens: int
) -> None:
    rng = np.random.default_rng(wave_tokens)
    reference, llama = tiny_llama(TOKENS), tiny_llama(TOKENS)
    use_onednn(llama)
    forest = Forest()
    session = Session(TreeModel(llama, backend), forest, wave_tokens)
    trunk = rng.integers(0, 4, 50)
    for _ in range(3 if backend == "sdpa" else 2):
        after, follows, expected = [], [], []
        for _ in range(6):
            ids = np.concatenate([trunk[: rng.integers(0, 50)], rng.integers(0, 4, rng.integers(2, 20))]).astype(
                np.int32
            )
            first = int(rng.integers(1, len(ids)))
            path = forest.add(ids[:-1], fresh_from=first - 1, pinned=int(rng.integers(0, first)))
            after.append(path[first - 1 :])
            follows.append(ids[first:].astype(np.int64))
            expected.append(plain_logp(reference, ids[:first].tolist(), ids[first:].tolist()))
        found = session.log_probabilities(np.concatenate(after), np.concatenate(follows))
        np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("keys", [5, 2000])
def test_attention_by_onednn_is_that_of_torch(keys: int) -> None:
    rng = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(heads, length, 8, generator=rng) for heads, length in ((6, 150), (2, keys), (2, keys)))
    bias = torch.zeros(150, keys).masked_fill(torch.rand(150, keys, generator=rng) < 0.5, float("-inf"))
    bias[:, 0] = 0.0
    for scale in (None, 0.3):
        found, expected = _onednn_attention(q, k, v, bias, scale), _sdpa(q, k, v, bias, scale)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_slots_are_used_again() -> None:
    forest = Forest()
    rng = np.random.default_rng(0)
    for _ in range(20):
        trunk = rng.integers(0, 1000, 50).astype(np.int32)
        for at in range(0, 50, 10):
            forest.add(np.concatenate([trunk[:at], rng.integers(0, 1000, 10).astype(np.int32)]))
        forest.add(trunk)
    for _ in forest.plan(64):
        pass
    assert forest.size > 1500
    assert forest.capacity <= 128
