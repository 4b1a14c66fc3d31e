"""An engine that answers from what is stored, and opens the one that it stands for only where an answer is missing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from typing import Any

from synth.config import EngineOptions, OpenAIOptions
from synth.engines import Closing, Completion, Engine, Request
from synth.engines.cache import KEPT, AnswerCache, CachedEngine, key_of
from synth.models import weights

#: What vLLM computes in where the options leave it open.
_DTYPES = ("bfloat16", "float16", "float32")
#: What adds up over the descriptions of engines.
_SUMS = ("asked", "from_cache", "retries", "given_up", "seconds_waited")


def identities(model: str, options: EngineOptions) -> list[dict[str, Any]]:
    """What the engine of these options may call itself (``Engine.identity``), as far as can be told without it."""
    if isinstance(options, OpenAIOptions):
        return [{"engine": "openai", "model": model, "structured": options.structured}]
    adapter = None if options.lora is None else weights(options.lora)
    known = {"engine": "vllm", "model": weights(model), "adapter": adapter}
    return [known | {"dtype": dtype} for dtype in ((options.dtype,) if options.dtype else _DTYPES)]


class StoredFirst(Closing):
    """An engine that need not be there.

    ``store``: where answers are kept and looked up; ``others``: files where they are also looked up. ``known``: what it may
    call itself. ``failed``: what an engine said, by key, to requests that it had no answer to; such requests are not asked
    again. ``before``: descriptions of engines that have asked for it. ``open_``: opens the engine.

    ``asked`` and ``from_cache``: requests that went to the engine, and that did not. ``failures``: ``failed``, and what the
    engine had no answer to here.
    """

    def __init__(
        self,
        store: AnswerCache,
        others: Sequence[AnswerCache],
        known: Iterable[Mapping[str, Any]],
        open_: Callable[[], AbstractContextManager[Engine]],
        failed: Mapping[bytes, Completion] | None = None,
        before: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._store, self._stores = store, [*others, store]
        self._known = [dict(one) for one in known]
        self._open, self._stack = open_, ExitStack()
        self._engine: Engine | None = None
        self._before = list(before)
        self.failures = dict(failed or {})
        self.asked = self.from_cache = 0

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """What is stored, then what the engine answers, each committed before it is given. Raises SynthError."""
        missing: list[int] = []
        for place, request in enumerate(requests):
            found = self._find(request)
            if found is None:
                missing.append(place)
            else:
                self.from_cache += 1
                yield place, found
        if not missing:
            return
        engine = self._opened()
        left = []
        for place in missing:  # the engine may call itself otherwise than was thought
            found = self._find(requests[place])
            if found is None:
                left.append(place)
            else:
                self.from_cache += 1
                yield place, found
        if left:
            yield from self._ask(engine, requests, left)

    def _ask(
        self, engine: Engine, requests: Sequence[Request], places: Sequence[int]
    ) -> Generator[tuple[int, Completion], None, None]:
        cached = CachedEngine(engine, self._store)
        identity = engine.identity()
        with closing(cached.answers([requests[place] for place in places])) as answers:
            for at, completion in answers:
                if completion.finish_reason not in KEPT:
                    self.failures[key_of(identity, requests[places[at]])] = completion
                self.asked += not completion.stored
                self.from_cache += completion.stored
                yield places[at], completion

    def _find(self, request: Request) -> Completion | None:
        for number, identity in enumerate(self._known):
            key = key_of(identity, request)
            found = next((kept for store in self._stores if (kept := store.get(key)) is not None), None)
            if found is None and key in self.failures:
                found = replace(self.failures[key], stored=True)
            if found is not None:
                self._known.insert(0, self._known.pop(number))
                return found
        return None

    def _opened(self) -> Engine:
        if self._engine is None:
            self._engine = self._stack.enter_context(self._open())
            identity = self._engine.identity()
            self._known = [identity, *(one for one in self._known if one != identity)]
        return self._engine

    def identity(self) -> dict[str, Any]:
        """The engine's own; before it is opened what was found last."""
        return dict(self._known[0])

    def describe(self) -> dict[str, Any]:
        """What ran, here and before, with ``asked`` and ``from_cache``; what is stored from before is counted once."""
        own = self.identity() if self._engine is None else self._engine.describe()
        own |= {"asked": self.asked, "from_cache": 0 if self._before else self.from_cache}
        if self._engine is None and self._before:
            return merged(self._before)
        return merged([*self._before, own])

    def close(self) -> None:
        """Ends the engine, if it was opened, and closes the files; safe to call twice."""
        try:
            self._stack.close()
        finally:
            for store in self._stores:
                store.close()


def merged(descriptions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One description of several engines: counts are added, what differs is listed."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in descriptions for key in one):
        values = [one[key] for one in descriptions if key in one]
        if key in _SUMS:
            found[key] = round(sum(values), 2)
        elif key == "failures":
            found[key] = {n: sum(v.get(n, 0) for v in values) for n in sorted({n for v in values for n in v})}
        elif key == "startup_seconds":
            found[key] = max(values)
        else:
            different = [value for at, value in enumerate(values) if value not in values[:at]]
            found[key] = different[0] if len(different) == 1 else different
    return found
