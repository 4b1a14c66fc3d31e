"""Schedules, adapters, metrics, and what goes wrong."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.training.grid import TrainingError, find_shards
from pipeline.training.loop import TrainConfig, train
from pipeline.training.metrics import StepLog
from pipeline.training.model import load_checkpoint
from pipeline.training.state import state_path
from tests.training.synthetic_grids import (
    ASSISTANT,
    THOUGHT,
    USER,
    echo_grids,
    make_grid,
    save_tiny_llama,
    tiny_llama,
    write_dataset,
    write_shard,
)
from tests.training.train_runs import REFUSED, in_processes, run_train

CONFIG = TrainConfig(
    steps=6, packs_per_step=2, max_cells=128, learning_rate=3e-3, embedding_learning_rate=1e-2, device="cpu"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", echo_grids(40), echo_grids(8, seed=1))


def test_the_schedule_warms_up_and_follows_a_cosine_down(tmp_path: Path, base: Path, dataset: Path) -> None:
    config = replace(CONFIG, steps=8, schedule="cosine", warmup_steps=2)
    rates = [step.learning_rate / 3e-3 for step in train(dataset, base, tmp_path / "out", config).log]
    assert rates == pytest.approx([0, 0.5, *((1 + math.cos(math.pi * i / 6)) / 2 for i in range(6))])
    constant = train(dataset, base, tmp_path / "other", replace(config, schedule="constant")).log
    assert [step.learning_rate / 3e-3 for step in constant] == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 1])


def test_training_ends_when_enough_tokens_were_trained(tmp_path: Path, base: Path, dataset: Path) -> None:
    result = train(dataset, base, tmp_path / "out", replace(CONFIG, steps=100, max_tokens=500))
    assert result.tokens >= 500 > result.log[-2].tokens
    assert len(result.log) < 10


def test_gradient_checkpointing_changes_no_weight_to_speak_of(tmp_path: Path, base: Path, dataset: Path) -> None:
    for name, on in (("a", False), ("b", True)):
        train(dataset, base, tmp_path / name, replace(CONFIG, gradient_checkpointing=on))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=0)


def test_an_adapter_is_merged_and_kept_and_the_stream_embeddings_are_trained(
    tmp_path: Path, base: Path, dataset: Path
) -> None:
    config = replace(CONFIG, lora_rank=4, steps=8)
    result = train(dataset, base, tmp_path / "out", config)
    assert result.log[-1].text_loss < result.log[0].text_loss
    trained = load_checkpoint(tmp_path / "out", torch.device("cpu"))
    assert trained.streams.role.weight.any()
    before = dict(tiny_llama().named_parameters())
    changed = {name for name, p in trained.causal_lm.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "proj" in name}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "out/adapter")).eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, trained.causal_lm.eval()(tokens).logits)


def test_the_log_tells_the_streams_apart(tmp_path: Path, base: Path) -> None:
    records = [
        make_grid(
            [(0, 0, 1, 0), (1, 1, 2, 1), (2, 1, 3, 1), *([(3, 2, 4, 1)] if i % 2 else [])],
            6,
            (USER, ASSISTANT, THOUGHT),
            id=str(i),
        )
        for i in range(12)
    ]
    data = write_dataset(tmp_path / "data", records, records[:1])
    result = train(data, base, tmp_path / "out", replace(CONFIG, silence_rate=1.0, steps=2))
    step = result.log[0]
    assert set(step.streams) == {"assistant", "thought"}
    lines = [json.loads(line) for line in (tmp_path / "out/train_log.jsonl").read_text().splitlines()]
    assert lines[0]["streams"] == step.streams
    texts = {role: losses[0] for role, losses in step.streams.items()}
    assert min(v for v in texts.values() if v) <= step.text_loss <= max(v for v in texts.values() if v)
    # all 12 records are in one pack, twice a step: 24 targets of the answer, 6 of the thought, per pack
    assert step.text_loss == pytest.approx((24 * (texts["assistant"] or 0) + 6 * (texts["thought"] or 0)) / 30)
    assert step.gradient_norm > 0
    assert result.log[1].tokens == 2 * step.tokens
    assert 0.5 < result.packing_efficiency <= 1


def test_a_step_is_one_short_line() -> None:
    line = str(StepLog(3, 1.0, 2.0, 55.5, streams={"assistant": [1.0, None]}))
    assert line == "step 3: text 1.0000, silence 2.0000 nats/token, 56 tokens/s"


def test_tensorboard_has_the_curves(tmp_path: Path, base: Path, dataset: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(dataset, base, tmp_path / "out", replace(CONFIG, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "out/tensorboard"))
    events.Reload()
    for name, values in (
        ("text_loss", [step.text_loss for step in result.log]),
        ("streams/assistant/silence_loss", [step.streams["assistant"][1] for step in result.log]),
    ):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(values)
    train(dataset, base, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out/tensorboard").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "linear"},
        {"warmup_steps": -1},
        {"max_tokens": 0},
        {"lora_rank": -1},
        {"lora_alpha": 0.0},
        {"lora_dropout": 1.0},
        {"workers": -1},
        {"save_every": -1},
        {"keep_checkpoints": 0},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        TrainConfig(**change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": "3"}, "steps is '3', it must be a whole number"),
        ({"steps": 1.5}, "steps is 1.5, it must be a whole number"),
        ({"steps": True}, "steps is True, it must be a whole number"),
        ({"learning_rate": True}, "learning_rate is True, it must be a finite number"),
        ({"learning_rate": "1e-5"}, "learning_rate is '1e-5', it must be a finite number"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5, it must be a whole number or null"),
        ({"shuffle_inputs": "no"}, "shuffle_inputs is 'no', it must be true or false"),
        ({"tensorboard": 1}, "tensorboard is 1, it must be true or false"),
        ({"mask": ["same_row"]}, r"mask is \['same_row'\], it must be one of same_row, strict"),
        ({"seed": None}, "seed is None, it must be a whole number"),
        ({"seed": 2**63}, "seed must not be negative, and less than"),
        ({"device": "meta"}, "device must be auto, cpu, cuda or cuda:N, not 'meta'"),
        ({"device": "cuda:x"}, "device must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_settings_of_another_type_are_refused_by_name_and_value(change: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        TrainConfig(**change)


def test_a_whole_number_is_good_for_a_float_and_none_for_no_limit() -> None:
    assert TrainConfig(lora_alpha=32, max_tokens=None, device="cuda:1", seed=2**63 - 1) == TrainConfig(
        lora_alpha=32.0, device="cuda:1", seed=2**63 - 1
    )
    assert type(TrainConfig(lora_alpha=32).lora_alpha) is float


def test_flex_attention_is_not_trained_on_the_cpu(tmp_path: Path, base: Path, dataset: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be trained on the CPU"):
        train(dataset, base, tmp_path / "out", replace(CONFIG, attention="flex_attention"))


def test_the_weight_of_silence_is_what_the_gradient_goes_by(tmp_path: Path, base: Path, dataset: Path) -> None:
    """At the first step the losses are the same; what is learnt of silence is not."""
    config = replace(CONFIG, silence_rate=1.0, steps=10)
    runs = {
        weight: train(dataset, base, tmp_path / f"{weight}", replace(config, silence_weight=weight)).log
        for weight in (0.0, 1.0)
    }
    assert runs[0.0][0].silence_loss == runs[1.0][0].silence_loss
    assert runs[0.0][0].gradient_norm != runs[1.0][0].gradient_norm
    assert runs[1.0][-1].silence_loss < runs[1.0][0].silence_loss - 0.5
    assert runs[0.0][-1].silence_loss > runs[1.0][-1].silence_loss + 0.5


def test_records_beyond_the_positions_of_the_model_are_left_out(tmp_path: Path, dataset: Path) -> None:
    tiny_llama(max_positions=14).save_pretrained(tmp_path / "base")
    write_shard(
        dataset / "dataset/train/tokens-00002.parquet", [make_grid([(0, 0, 1, 0), (20, 1, 2, 1)], 22, id="high")]
    )
    result = train(dataset, tmp_path / "base", tmp_path / "out", replace(CONFIG, steps=12, shuffle_buffer=1))
    assert result.over_budget > 1
    assert result.over_budget_ids == ("high",)


def test_a_loss_that_is_not_finite_names_the_step_and_the_records(tmp_path: Path, dataset: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[20] = math.nan
    model.save_pretrained(tmp_path / "base")
    bad = make_grid([(0, 0, 20, 0), (1, 1, 2, 1)], 3, id="the-bad-one")
    write_shard(dataset / "dataset/train/tokens-00002.parquet", [bad])
    config = replace(CONFIG, packs_per_step=1, max_cells=16, steps=200)
    with pytest.raises(TrainingError, match=r"loss is not finite at step \d+, with records .*the-bad-one") as raised:
        train(dataset, tmp_path / "base", tmp_path / "out", config)
    assert "\n" not in str(raised.value)


def limited_train(limit: int, *arguments: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run_train(*arguments)


@pytest.mark.parametrize(
    ("limit", "changes"),
    [(20_000, {}), (20_000, {"save_every": 2}), (20_000, {"lora_rank": 2}), (500, {"steps": 20})],
    ids=["checkpoint", "state", "adapter", "log"],
)
def test_a_full_disk_is_an_error_of_one_line_and_leaves_the_earlier_checkpoint(
    tmp_path: Path, base: Path, dataset: Path, limit: int, changes: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    train(dataset, base, out, replace(CONFIG, steps=1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = tmp_path / "message"
    arguments = (dataset, base, out, replace(CONFIG, **changes), None, message)
    assert in_processes(1, limited_train, limit, *arguments) == [REFUSED]
    assert "cannot write" in message.read_text()
    assert "File too large" in message.read_text()
    assert "\n" not in message.read_text()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not state_path(out).exists()
    message.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_a_target_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path, base: Path, dataset: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write"):
        train(dataset, base, tmp_path / "file/out", CONFIG)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, base: Path, dataset: Path) -> None:
    write_shard(dataset / "dataset/train/tokens-00002.parquet", echo_grids(2), tokenizer="another")
    with pytest.raises(TrainingError, match="tokenizer is 'another' not 'synthetic'"):
        train(dataset, base, tmp_path / "out", CONFIG)
    for shard in find_shards(dataset, "train"):
        write_shard(shard, echo_grids(2), vocab_size=64)
    with pytest.raises(TrainingError, match="needs 64 ids, the model embeds 32"):
        train(dataset, base, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_what_is_optional_is_asked_for_where_it_is_missing(
    tmp_path: Path, base: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install peft"):
        train(dataset, base, tmp_path / "out", replace(CONFIG, lora_rank=2))
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        train(dataset, base, tmp_path / "out", replace(CONFIG, tensorboard=True))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
