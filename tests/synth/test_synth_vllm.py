from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from synth.config import SynthConfig
from synth.engines import Message, Request
from synth.engines.vllm_engine import VllmEngine
from synth.errors import SynthError
from synth.generate import synthesize_tables

EXAMPLES = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    psutil = pytest.importorskip("psutil")
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with VllmEngine("smollm2", batch_size=8) as loaded:
        started = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        assert any(process.name().startswith("VLLM") for process in started)
        yield loaded
    left = [process for process in started if process.is_running()]
    assert [process.name() for process in left if process.name().startswith("VLLM")] == []
    with pytest.raises(SynthError, match="closed"):
        loaded.generate([])


@pytest.mark.slow
@needs_vllm
def test_real_tables_are_counted_one_by_one(engine: VllmEngine) -> None:
    config = SynthConfig(scenarios=[EXAMPLES], samples=4, seed=1, max_tokens=300)
    tables, rejects, counters = synthesize_tables(config, engine)
    assert sorted([t.index for t in tables] + [r.index for r in rejects]) == [0, 1, 2, 3]
    assert counters.requested == 4 == counters.accepted + sum(counters.rejected.values())
    assert (len(tables), len(rejects)) == (counters.accepted, 4 - counters.accepted)
    assert 0 < counters.completion_tokens <= 4 * 300
    assert counters.prompt_tokens > 4 * 200
    assert counters.seconds > 0
    assert counters.engine["engine"] == "vllm"
    assert counters.engine["version"]
    structural = {"not_json", "duplicate_key", "wrong_shape", "wrong_columns", "wrong_type", "too_long", "wrong_timing"}
    assert structural.isdisjoint(counters.rejected), "the grammar rules these out"


@pytest.mark.slow
@needs_vllm
def test_seeded_requests_survive_more_prompt_than_fits_one_step(engine: VllmEngine) -> None:
    """vLLM's CPU build dies where the prefill of a seeded request is split over two steps."""
    chats = [Message("user", f"{n}: " + f"Count the birds in garden {n}, please. " * 150) for n in range(8)]
    requests = [Request((chat,), None, seed, 1.0, 1.0, 4) for seed, chat in enumerate(chats)]
    completions = engine.generate(requests)
    assert [c.completion_tokens for c in completions] == [4] * 8
    assert sum(c.prompt_tokens for c in completions) > 2 * 4096


@pytest.mark.slow
@needs_vllm
def test_a_prompt_that_does_not_fit_is_an_error_in_one_line(engine: VllmEngine) -> None:
    with pytest.raises(SynthError, match="max_model_len 4096"):
        engine.generate([Request((Message("user", "hi"),), None, 0, 1.0, 1.0, 4096)])


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SynthError, match="install `vllm`"):
        VllmEngine("smollm2")
