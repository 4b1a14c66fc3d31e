"""An engine that says what a script has it say: of good or bad quality, written by us."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from synth.engines import Completion, Request

#: What to answer a request with: text, or a whole completion.
Script = Callable[[Request], str | Completion]


class ScriptedEngine:
    """Answers request after request by its script; ``batches`` and ``requests`` keep what was asked."""

    def __init__(self, script: Script | Sequence[str]) -> None:
        texts = iter(script if not callable(script) else ())
        self._script: Script = script if callable(script) else lambda _: next(texts)
        self.batches: list[int] = []
        self.requests: list[Request] = []

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        self.batches.append(len(requests))
        self.requests.extend(requests)
        for place, request in enumerate(requests):
            said = self._script(request)
            yield place, said if isinstance(said, Completion) else Completion(said, "stop", 10, 5)

    def identity(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "version": "1", "deterministic": True}

    def close(self) -> None:
        pass
