"""Advances many dialogues at once: what all of them ask now is one batch for the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from synth.engines import Completion, Engine, Request
from synth.errors import SynthError
from synth.generators import Dialogue, Maker, Outcome

#: How many dialogues that are finished may wait for an earlier one, per dialogue that is open.
_AHEAD = 4

#: Called after every batch.
Watch = Callable[["Usage"], None]


@dataclass(slots=True)
class Usage:
    """What a run has asked and got: ``requests`` and their tokens; ``new_tokens``, those of completions that were not there
    from before; ``seconds`` in the engine; dialogues ``open`` and ``finished``."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    open: int = 0
    finished: int = 0

    def add(self, completions: Sequence[Completion], seconds: float) -> None:
        """Books one batch."""
        self.requests += len(completions)
        self.prompt_tokens += sum(c.prompt_tokens for c in completions)
        self.cached_tokens += sum(c.cached_tokens for c in completions)
        self.completion_tokens += sum(c.completion_tokens for c in completions)
        self.new_tokens += sum(c.completion_tokens for c in completions if not c.stored)
        self.seconds += seconds

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of new completions per second in the engine; None where nothing was new."""
        return self.new_tokens / self.seconds if self.new_tokens and self.seconds else None


@dataclass(slots=True)
class _Open:
    dialogue: Dialogue
    requests: Sequence[Request]


def outcomes(maker: Maker, engine: Engine, at_once: int, usage: Usage, watch: Watch | None = None) -> Iterator[Outcome]:
    """What becomes of every dialogue, in the order of their indices; at most ``at_once`` are open at a time.

    Raises:
        SynthError: the engine cannot go on.
    """
    open_: dict[int, _Open] = {}
    finished: dict[int, Outcome] = {}
    started = told = 0
    while told < maker.count:
        while started < maker.count and len(open_) < at_once and started - told < _AHEAD * at_once:
            dialogue = maker.dialogue(started)
            _advance(started, dialogue, None, open_, finished)
            started += 1
        batch = [request for one in open_.values() for request in one.requests]
        if batch:
            begun = time.monotonic()
            completions = answer(engine, batch)
            usage.add(completions, time.monotonic() - begun)
            at = 0
            for index, one in list(open_.items()):
                mine = completions[at : at + len(one.requests)]
                at += len(one.requests)
                _advance(index, one.dialogue, mine, open_, finished)
        usage.open, usage.finished = len(open_), started - len(open_)
        if watch is not None:
            watch(usage)
        while told in finished:
            yield finished.pop(told)
            told += 1


def answer(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """The completions of a batch, in order. Raises SynthError."""
    found = dict(engine.answers(requests))
    if len(found) < len(requests):
        raise SynthError(f"the engine gave {len(found)} answers to {len(requests)} requests")
    return [found[place] for place in range(len(requests))]


def _advance(
    index: int,
    dialogue: Dialogue,
    completions: Sequence[Completion] | None,
    open_: dict[int, _Open],
    finished: dict[int, Outcome],
) -> None:
    try:
        requests = next(dialogue) if completions is None else dialogue.send(completions)
    except StopIteration as stop:
        open_.pop(index, None)
        finished[index] = stop.value
    else:
        open_[index] = _Open(dialogue, requests)
