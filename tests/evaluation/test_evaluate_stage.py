from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
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


def evaluate_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, list[str]]:
    """The exit code of ``multistream evaluate`` and what it says of errors."""
    monkeypatch.setattr(sys, "argv", ["multistream", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), capfd.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gate={min_valid: 1}", "--set gate.min_improvement="),
        ("gate=nonsense", "--set gate.min_improvement="),
        ("gate.min_valid=high", "min_valid is 'high', it must be a finite number or null"),
        ("gate.min_improvement=null", "min_improvement is None, it must be a finite number"),
        ("generate_records=2.5", "generate_records is 2.5, it must be a whole number"),
    ],
)
def test_wrong_settings_are_one_line_with_key_and_value(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    setting: str,
    says: str,
) -> None:
    places = (trained / "checkpoint", trained / "data", "--out", tmp_path / "out")
    code, err = evaluate_command(monkeypatch, capfd, *places, "--set", setting)
    assert (code, len(err)) == (2, 1)
    assert says in err[0]


def test_a_folder_that_is_no_checkpoint_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    places = stage(trained / "data"), stage(trained / "checkpoint")
    evaluate_stage(*places, str(trained / "base"), tmp_path / "report", CONFIG)
    report, data = tmp_path / "report", trained / "data"
    code, err = evaluate_command(monkeypatch, capfd, report, data, "--out", tmp_path / "out")
    assert (code, len(err)) == (1, 1)
    assert "is not a checkpoint of `multistream train`" in err[0]


def test_the_tokenizer_is_the_datas_own_or_none(tmp_path: Path) -> None:
    known = load_tokenizer("smollm2")
    metadata = replace(METADATA, tokenizer="smollm2", tokenizer_sha256=known.sha256)
    codec = text_codec(tmp_path, metadata)
    assert codec is not None
    assert codec.decode(codec.encode("Say <|im_end|> twice.")) == "Say <|im_end|> twice."
    assert text_codec(tmp_path, replace(metadata, tokenizer_sha256="0" * 64)) is None
    assert text_codec(tmp_path, replace(metadata, tokenizer="nowhere")) is None
