from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.evaluation.evaluate import EvaluateConfig
from pipeline.evaluation.gate import GateConfig
from pipeline.manifest import Manifest, Result
from pipeline.stages.evaluate import evaluate_stage, text_codec
from pipeline.tokenization import load_tokenizer
from pipeline.training.loop import TrainConfig, train
from tests.training.synthetic_grids import METADATA, echo_grids, save_tiny_llama, write_dataset

CONFIG = EvaluateConfig(device="cpu", controls=(), generate_records=0, resamples=200)


def stage(folder: Path) -> Result:
    return Result(folder, Manifest("stage", 1, "", {}, {}, (), {}, 0.0), skipped=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base``, ``data``, ``checkpoint`` and two controls."""
    folder = tmp_path_factory.mktemp("stage")
    data = write_dataset(folder / "data", echo_grids(20), echo_grids(4, seed=1))
    base = save_tiny_llama(folder / "base")
    config = TrainConfig(steps=2, packs_per_step=1, max_cells=128, learning_rate=3e-3, device="cpu")
    train(data, base, folder / "checkpoint", config)
    for name in ("one", "two"):
        train(data, base, folder / name, replace(config, shuffle_inputs=True))
    weights = folder / "two/model.safetensors"
    weights.write_bytes((folder / "checkpoint/model.safetensors").read_bytes())
    return folder


def test_another_control_is_another_report(trained: Path, tmp_path: Path) -> None:
    def run(config: EvaluateConfig) -> Result:
        places = stage(trained / "data"), stage(trained / "checkpoint")
        return evaluate_stage(*places, str(trained / "base"), tmp_path / "report", config)

    first = run(CONFIG)
    assert (first.skipped, run(CONFIG).skipped) == (False, True)
    assert {"in": 4, "out": 4, "rejected": 0}.items() <= first.manifest.counters.items()
    assert first.manifest.notes["tokenizer_found"] is False
    runs = [run(replace(CONFIG, control=trained / name)) for name in ("one", "one", "two")]
    assert [each.skipped for each in runs] == [False, True, False]


def test_the_gates_failures_are_in_the_manifest(trained: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, gate=GateConfig(min_speak_f1=1.0, min_improvement=-99, stream_tolerance=99))
    places = stage(trained / "data"), stage(trained / "checkpoint")
    result = evaluate_stage(*places, str(trained / "base"), tmp_path / "report", config)
    assert [failure["code"] for failure in result.manifest.notes["gate_failures"]] == ["turn_taking_low"]


def test_the_tokenizer_is_the_datas_own_or_none(tmp_path: Path) -> None:
    known = load_tokenizer("smollm2")
    metadata = replace(METADATA, tokenizer="smollm2", tokenizer_sha256=known.sha256)
    codec = text_codec(tmp_path, metadata)
    assert codec is not None
    assert codec.decode(codec.encode("Say <|im_end|> twice.")) == "Say <|im_end|> twice."
    assert text_codec(tmp_path, replace(metadata, tokenizer_sha256="0" * 64)) is None
    assert text_codec(tmp_path, replace(metadata, tokenizer="nowhere")) is None
