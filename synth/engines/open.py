"""Opens the engine that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from synth.config import EngineOptions, OpenAIOptions
from synth.engines import Engine


@contextmanager
def open_engine(model: str, options: EngineOptions, batch_size: int, seed: int, cache: Path | None) -> Iterator[Engine]:
    """The engine, closed at the end. ``batch_size``: sequences that vLLM in process computes at once; ``seed``: its own.

    ``cache``: file of the answers that are kept; several engines may share it. None: nothing is kept.

    Raises:
        SynthError: the engine cannot be had, or the file is none of ours.
    """
    with ExitStack() as stack:
        kept = None
        if cache is not None:
            from synth.engines.cache import AnswerCache, CachedEngine

            kept = stack.enter_context(closing(AnswerCache(cache)))
        engine: Engine
        if isinstance(options, OpenAIOptions):
            from synth.engines.openai_engine import OpenAIEngine

            engine = OpenAIEngine(model, options)
        else:
            from synth.engines.vllm_engine import VllmEngine

            engine = VllmEngine(model, options, batch_size=batch_size, seed=seed)
        stack.enter_context(closing(engine))
        yield engine if kept is None else CachedEngine(engine, kept)
