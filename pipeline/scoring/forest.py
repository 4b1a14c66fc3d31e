"""Token sequences as a forest: what sequences share from their start on stands there once and is computed once.

A sequence that leaves the others becomes a *run* of tokens behind the tokens that it shares with them. Every token is thus
computed after exactly the tokens of its own sequence, at its own position, as in a plain forward pass of that sequence. A
prompt with branches (one per prefix, each with its own ending) is the common case: the prompt is the first run, each
branch a run that forks off where its prefix ends.

A *plan* cuts the tokens that are still to be computed into *waves*, one forward pass each, and the attention of a wave
into *blocks* of queries that look back on much the same keys. Keys and values that later waves need are kept in *slots*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.training.masks import BoolArray, Int32Array, Int64Array, dense_tree_mask, tree_labels

#: Queries of one attention block at most: more of them look back on more keys that only some of them see.
BLOCK_TOKENS = 192
#: Two blocks become one where that adds no more entries than this to the attention matrix: what a call costs in itself.
_CALL_ENTRIES = 8192
_NO_RUN = -1
_NO_SLOT = _NO_PLACE = -1


@dataclass(frozen=True, slots=True)
class Labels:
    """What the mask needs to know of keys or queries: ``masks.tree_labels`` of each."""

    order: Int32Array
    until: Int32Array


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Queries ``[low, high)`` of a wave; their keys: ``slots`` of the cache, then places ``fresh`` of the wave.

    ``visible``: bool [queries, keys].
    """

    low: int
    high: int
    slots: Int64Array
    fresh: Int64Array
    visible: BoolArray


@dataclass(frozen=True, eq=False, slots=True)
class Wave:
    """One forward pass over W tokens.

    ``tokens`` int64[W]: their indices in the forest; ``ids`` and ``positions`` int64[W]. ``keep``: places of the wave
    whose keys and values go to ``keep_slots`` of the cache. ``slots``: all slots that its blocks look at, ``stored``
    their labels, ``labels`` those of the wave itself.
    """

    tokens: Int64Array
    ids: Int64Array
    positions: Int64Array
    blocks: tuple[Block, ...]
    keep: Int64Array
    keep_slots: Int64Array
    slots: Int64Array
    stored: Labels
    labels: Labels


@dataclass(frozen=True, slots=True)
class _Run:
    parent: int
    fork: int
    depth: int
    start: int
    ids: Int32Array


@dataclass(slots=True)
class _Draft:
    """A block to be: places ``[low, high)`` of the wave; per run, how many of its tokens are keys."""

    low: int
    high: int
    keys: dict[int, int]

    def entries(self) -> int:
        return (self.high - self.low) * sum(self.keys.values())


class Forest:
    """Sequences of one model's tokens. Token ``i`` of the forest is ``i``-th by insertion; those below ``done`` have been
    computed. ``capacity``: slots of the cache that the plans so far need."""

    def __init__(self) -> None:
        self.size = 0
        self.done = 0
        self.capacity = 0
        self._runs: list[_Run] = []
        self._children: dict[tuple[int, int, int], int] = {}
        self._pinned: list[Int64Array] = []
        self._slot: Int32Array = np.zeros(0, np.int32)
        self._free: list[int] = []

    def add(self, ids: Int32Array, *, fresh_from: int | None = None, pinned: int = 0) -> Int64Array:
        """The forest's tokens of a sequence, int64 [len(ids)]; what is not there yet is added.

        From position ``fresh_from`` on no token that has been computed is taken: the sequence gets its own, whose hidden
        states the next plan yields. The first ``pinned`` tokens keep their slots for plans to come; what an earlier plan
        has computed and not kept is computed again.
        """
        fresh_from = len(ids) if fresh_from is None else fresh_from
        place = 0
        run, at = _NO_RUN, 0
        path: list[Int64Array] = []
        while place < len(ids):
            child = self._children.get((run, at, int(ids[place])))
            shared = 0 if child is None else self._shared(child, ids, place, fresh_from)
            if child is None or not shared:
                path.append(self._grow(run, at, place, ids[place:]))
                break
            start = self._runs[child].start
            path.append(np.arange(start, start + shared))
            run, at, place = child, shared, place + shared
        tokens = np.concatenate(path)
        if pinned:
            self._pinned.append(tokens[:pinned])
        return tokens

    def _shared(self, run: int, ids: Int32Array, place: int, fresh_from: int) -> int:
        """How many tokens of a run the sequence goes along from ``place`` on."""
        there = self._runs[run]
        length = min(len(there.ids), len(ids) - place)
        different = np.flatnonzero(there.ids[:length] != ids[place : place + length])
        shared = int(different[0]) if len(different) else length
        if there.start >= self.done:
            return shared
        shared = min(shared, max(fresh_from - place, 0))
        forgotten = np.flatnonzero(self._slot[there.start : there.start + shared] == _NO_SLOT)
        return int(forgotten[0]) if len(forgotten) else shared

    def _grow(self, parent: int, fork: int, depth: int, ids: Int32Array) -> Int64Array:
        run = len(self._runs)
        self._runs.append(_Run(parent, fork, depth, self.size, ids.copy()))
        self._children.setdefault((parent, fork, int(ids[0])), run)
        self.size += len(ids)
        return np.arange(self.size - len(ids), self.size)

    def plan(self, wave_tokens: int, block_tokens: int = BLOCK_TOKENS) -> Iterator[Wave]:
        """The waves that compute all tokens not computed yet, parents before children. Each must be run when it comes."""
        pending = self._in_order()
        if not len(pending):
            return
        waves = np.array_split(pending, -(-len(pending) // wave_tokens))
        drafts = [self._drafts(tokens, block_tokens) for tokens in waves]
        labels = self._labels()
        self._slot = np.concatenate([self._slot, np.full(self.size - len(self._slot), _NO_SLOT, np.int32)])
        last_use = self._last_use(waves, drafts)
        ids = np.concatenate([run.ids for run in self._runs]).astype(np.int64)
        depth = np.concatenate([run.depth + np.arange(len(run.ids)) for run in self._runs])
        self.done = self.size
        place = np.full(self.size, _NO_PLACE, np.int64)
        for number, (tokens, blocks) in enumerate(zip(waves, drafts, strict=True)):
            keep = np.flatnonzero(last_use[tokens] > number)
            keep_slots = self._take_slots(tokens[keep])
            place[tokens] = np.arange(len(tokens))
            finished = [self._finish(block, tokens, place, labels) for block in blocks]
            place[tokens] = _NO_PLACE
            stored = np.unique(np.concatenate([old for _, old in finished]))
            yield Wave(
                tokens=tokens,
                ids=ids[tokens],
                positions=depth[tokens],
                blocks=tuple(block for block, _ in finished),
                keep=keep,
                keep_slots=keep_slots,
                slots=self._slot[stored].astype(np.int64),
                stored=Labels(labels.order[stored], labels.until[stored]),
                labels=Labels(labels.order[tokens], labels.until[tokens]),
            )
            self._free_slots(np.flatnonzero(last_use == number))

    def _labels(self) -> Labels:
        columns = (
            [run.parent for run in self._runs],
            [run.fork for run in self._runs],
            [len(r.ids) for r in self._runs],
        )
        order, until = tree_labels(*(np.array(column, np.int32) for column in columns))
        return Labels(order, until)

    def _in_order(self) -> Int64Array:
        """The tokens still to be computed: a run, then what forks off it, nearest fork first, each with all behind it."""
        first_new = next((i for i, run in enumerate(self._runs) if run.start >= self.done), len(self._runs))
        children: dict[int, list[int]] = defaultdict(list)
        roots: list[int] = []
        for i in range(first_new, len(self._runs)):
            (children[self._runs[i].parent] if self._runs[i].parent >= first_new else roots).append(i)
        stack = sorted(roots, key=lambda i: (self._runs[i].parent, self._runs[i].fork), reverse=True)
        parts: list[Int64Array] = [np.zeros(0, np.int64)]
        while stack:
            i = stack.pop()
            run = self._runs[i]
            parts.append(np.arange(run.start, run.start + len(run.ids)))
            stack.extend(sorted(children[i], key=lambda child: self._runs[child].fork, reverse=True))
        return np.concatenate(parts)

    def _drafts(self, tokens: Int64Array, block_tokens: int) -> list[_Draft]:
        """The blocks of a wave: pieces of runs, merged with what comes before where the joint block is no dearer."""
        starts = np.array([run.start for run in self._runs])
        owner = np.searchsorted(starts, tokens, side="right") - 1
        cuts = np.flatnonzero(np.diff(owner)) + 1
        drafts: list[_Draft] = []
        for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(tokens)], strict=True):
            run = int(owner[low])
            for part in np.array_split(np.arange(low, high), -(-(high - low) // block_tokens)):
                upto = int(tokens[part[-1]]) - self._runs[run].start + 1
                draft = _Draft(int(part[0]), int(part[-1]) + 1, self._way(run, upto))
                if drafts and (merged := _merged(drafts[-1], draft, block_tokens)) is not None:
                    drafts[-1] = merged
                else:
                    drafts.append(draft)
        return drafts

    def _way(self, run: int, upto: int) -> dict[int, int]:
        """The runs on the way from a root to a token, each with how many of its tokens are on it."""
        way = {}
        while run != _NO_RUN:
            way[run] = upto
            run, upto = self._runs[run].parent, self._runs[run].fork
        return way

    def _last_use(self, waves: list[Int64Array], drafts: list[list[_Draft]]) -> Int32Array:
        """The last wave that looks at each token as a key of an earlier wave; −1 for none, beyond all for pinned ones."""
        wave_of = np.full(self.size, -1, np.int32)
        last_use = np.full(self.size, -1, np.int32)
        for number, (tokens, blocks) in enumerate(zip(waves, drafts, strict=True)):
            wave_of[tokens] = number
            for run, upto in {run: max(b.keys.get(run, 0) for b in blocks) for b in blocks for run in b.keys}.items():
                last_use[self._runs[run].start : self._runs[run].start + upto] = number
        last_use[last_use == wave_of] = -1
        held = np.flatnonzero(self._slot != _NO_SLOT)
        last_use[held] = np.maximum(last_use[held], 0)  # a slot that nothing looks at any more is given back
        for tokens in self._pinned:
            last_use[tokens] = len(drafts)
        return last_use

    def _take_slots(self, tokens: Int64Array) -> Int64Array:
        missing = len(tokens) - len(self._free)
        if missing > 0:
            self._free.extend(range(self.capacity, self.capacity + missing))
            self.capacity += missing
        slots = np.array([self._free.pop() for _ in range(len(tokens))], np.int64)
        self._slot[tokens] = slots
        return slots

    def _free_slots(self, tokens: Int64Array) -> None:
        tokens = tokens[self._slot[tokens] != _NO_SLOT]
        self._free.extend(self._slot[tokens].tolist())
        self._slot[tokens] = _NO_SLOT

    def _finish(self, draft: _Draft, tokens: Int64Array, place: Int64Array, labels: Labels) -> tuple[Block, Int64Array]:
        """The block with its keys looked up, and the tokens of those that come from the cache."""
        ranges = [np.arange(self._runs[run].start, self._runs[run].start + upto) for run, upto in draft.keys.items()]
        keys = np.sort(np.concatenate(ranges))
        old, new = keys[place[keys] == _NO_PLACE], keys[place[keys] != _NO_PLACE]
        keys = np.concatenate([old, new])
        queries = tokens[draft.low : draft.high]
        visible = dense_tree_mask(labels.order[queries], labels.order[keys], labels.until[keys])
        return Block(draft.low, draft.high, self._slot[old].astype(np.int64), place[new], visible), old


def _merged(first: _Draft, second: _Draft, block_tokens: int) -> _Draft | None:
    if second.high - first.low > block_tokens:
        return None
    keys = dict(first.keys)
    for run, upto in second.keys.items():
        keys[run] = max(keys.get(run, 0), upto)
    merged = _Draft(first.low, second.high, keys)
    return merged if merged.entries() <= first.entries() + second.entries() + _CALL_ENTRIES else None
