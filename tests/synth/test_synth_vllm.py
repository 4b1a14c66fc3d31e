from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.checks import record_violations
from pipeline.leaks import lexical
from synth.config import SynthConfig, VllmOptions
from synth.engines import Completion, Message, Request
from synth.engines.open import open_engine
from synth.engines.vllm_engine import VllmEngine
from synth.errors import SynthError
from synth.models import adapter_rank, weights
from synth.stage import synthesize_stage

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["word", "count"],
    "additionalProperties": False,
}


def chat(text: str, seed: int = 0, *, temperature: float = 1.0, max_tokens: int = 4, schema: Any = None) -> Request:
    return Request((Message("user", text),), schema, seed, temperature, 1.0, max_tokens)


def in_order(engine: VllmEngine, requests: Sequence[Request]) -> list[Completion]:
    found = dict(engine.answers(requests))
    return [found[place] for place in range(len(requests))]


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
        list(loaded.answers([]))


@pytest.mark.slow
@needs_vllm
def test_structured_answers_follow_their_schema_and_their_seeds(engine: VllmEngine) -> None:
    requests = [chat("Name a bird and a number, in JSON.", seed, schema=SCHEMA, max_tokens=60) for seed in range(6)]
    answers = in_order(engine, requests)
    for answer in answers:
        assert answer.finish_reason == "stop"
        assert set(json.loads(answer.text)) == {"word", "count"}
        assert 0 < answer.completion_tokens <= 60
        assert answer.prompt_tokens == answers[0].prompt_tokens > 9
    assert len({answer.text for answer in answers}) > 1


@pytest.mark.slow
@needs_vllm
def test_answers_come_as_they_end(engine: VllmEngine) -> None:
    requests = [chat("Tell me a long story.", seed, max_tokens=n) for seed, n in enumerate((60, 2, 30))]
    assert [place for place, _ in engine.answers(requests)] == [1, 2, 0]


@pytest.mark.slow
@needs_vllm
def test_closing_early_aborts_the_rest(engine: VllmEngine) -> None:
    answers = engine.answers([chat("Tell me a long story.", seed, max_tokens=n) for seed, n in enumerate((3000, 2))])
    assert next(answers)[0] == 1
    answers.close()  # type: ignore[attr-defined]
    assert [place for place, _ in engine.answers([chat("Hello.")])] == [0]


@pytest.mark.slow
@needs_vllm
def test_what_prompts_begin_with_is_computed_once(engine: VllmEngine) -> None:
    start = "The streams speak in turn, one slice after the other. " * 60
    first, second = (in_order(engine, [chat(start + end, 1)])[0] for end in ("It rains.", "The sun shines."))
    assert first.cached_tokens < 0.1 * first.prompt_tokens
    assert second.cached_tokens >= 0.9 * second.prompt_tokens - 32
    assert engine.describe()["prefix_caching"] is True
    # The second's beginning is the first's: what was kept answers as what is computed does.
    again = [in_order(engine, [chat(start, 1, temperature=0.0, max_tokens=12)])[0] for _ in range(2)]
    assert again[0].text == again[1].text
    assert again[1].cached_tokens > 0


@pytest.mark.slow
@needs_vllm
def test_seeded_requests_survive_more_prompt_than_fits_one_step(engine: VllmEngine) -> None:
    """vLLM's CPU build dies where the prefill of a seeded request is split over two steps."""
    requests = [chat(f"{n}: " + f"Count the birds in garden {n}, please. " * 150, n) for n in range(8)]
    completions = in_order(engine, requests)
    assert [c.completion_tokens for c in completions] == [4] * 8
    assert sum(c.prompt_tokens for c in completions) > 2 * 4096


@pytest.mark.slow
@needs_vllm
def test_what_does_not_fit_is_refused_and_the_rest_answered(engine: VllmEngine) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=never)("}}}
    long, odd, good = in_order(engine, [chat("hi", max_tokens=4096), chat("hi", schema=bad), chat("hi")])
    assert (long.finish_reason, long.completion_tokens) == ("refused", 0)
    assert "max_model_len 4096" in long.text
    assert odd.finish_reason == "refused"
    assert odd.text
    assert "\n" not in odd.text
    assert (good.finish_reason, good.completion_tokens) == ("length", 4)


@pytest.mark.slow
@needs_vllm
def test_an_engine_says_what_it_is(engine: VllmEngine) -> None:
    assert engine.identity()["model"] == {"name": "smollm2"}
    told = engine.describe()
    assert engine.identity().items() <= told.items()
    assert json.loads(json.dumps(told)) == told
    assert told["deterministic"] is False
    assert told["note"]
    assert told["version"]


def adapter(folder: Path, rank: int) -> Path:
    """A LoRA adapter in PEFT's format that turns the queries of the packaged model's first layers upside down."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(8):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, 576, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(576, rank, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    given = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(given | {"base_model_name_or_path": "smollm2"}))
    return folder


@pytest.mark.slow
@needs_vllm
def test_an_adapter_speaks_in_the_place_of_its_model(engine: VllmEngine, tmp_path: Path) -> None:
    requests = [chat("Which birds sing at night?", temperature=0.0, max_tokens=16)]
    (plain,) = in_order(engine, requests)
    options = VllmOptions(lora=str(adapter(tmp_path / "adapter", 12)), max_model_len=512, prefix_caching=False)
    with open_engine("smollm2", options, 4, 0, tmp_path / "answers.sqlite") as other:
        ((_, adapted),) = other.answers(requests)
        assert other.identity()["adapter"]["name"] == "adapter"
        assert other.describe()["prefix_caching"] is False
    assert adapted.text != plain.text
    assert adapted.prompt_tokens == plain.prompt_tokens


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SynthError, match="install `vllm`"):
        VllmEngine("smollm2")


def test_a_folder_that_was_trained_again_is_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    before = weights(str(folder))
    assert weights(str(folder)) == before
    assert before["name"] == "checkpoint"
    assert str(tmp_path) not in json.dumps(before)
    (folder / "model.safetensors").write_bytes(b"two")
    assert weights(str(folder)) != before
    assert weights("smollm2") == {"name": "smollm2"}


def test_a_folder_without_an_adapter_is_an_error_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match="holds no LoRA adapter"):
        VllmEngine("smollm2", VllmOptions(lora=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    assert adapter_rank(str(tmp_path)) == 12


SCENARIOS = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")
QUESTIONS = str(Path(__file__).parents[2] / "examples" / "conversations" / "*.jsonl")


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize(
    "settings",
    [
        {"generator": "table", "scenarios": [SCENARIOS], "samples": 4, "max_tokens": 300},
        {"generator": "concurrent", "scenarios": [SCENARIOS], "samples": 4, "max_tokens": 60},
        {"generator": "teacher", "conversations": [QUESTIONS], "samples": 4, "max_tokens": 60},
    ],
    ids=lambda settings: settings["generator"],
)
def test_a_real_model_writes_a_batch_for_every_generator(
    engine: VllmEngine, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = SynthConfig.model_validate({"seed": 1, "temperature": 1.0, **settings})
    counters = synthesize_stage(config, tmp_path, engine=engine).manifest.counters
    records, rejects = (pq.read_table(tmp_path / f"{name}-00000.parquet") for name in ("records", "rejects"))
    assert counters["in"] == 4 == records.num_rows + rejects.num_rows
    assert counters["requests"] >= counters["in"] - counters["reject_reasons"].get("nothing_to_rewrite", 0)
    assert counters["completion_tokens"] > 0
    assert record_violations(records) == []
    assert [f for f in lexical(records) if f.verdict == "leak"] == []
    structural = {"not_json", "duplicate_key", "wrong_shape", "wrong_columns", "wrong_type", "wrong_timing"}
    assert structural.isdisjoint(counters["reject_reasons"]), "the grammar rules these out"
    assert all(reject["message"] for reject in rejects.to_pylist())


@pytest.mark.slow
@needs_vllm
def test_later_slices_of_concurrent_dialogues_are_mostly_kept_from_the_former(
    engine: VllmEngine, tmp_path: Path
) -> None:
    config = SynthConfig(generator="concurrent", scenarios=[SCENARIOS], samples=2, max_tokens=40, seed=3)
    counters = synthesize_stage(config, tmp_path, engine=engine).manifest.counters
    assert counters["prefix_hit_rate"] > 0.4
