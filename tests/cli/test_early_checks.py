"""What a configuration names is looked for before anything runs, and its paths are relative to its file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import folders
from pipeline.asked import asked_of
from pipeline.build import build
from pipeline.cli.live import watching
from pipeline.config import ConfigError, load_config
from pipeline.located import located_name
from pipeline.manifest import Manifest, Result
from pipeline.models import CHECKPOINT_FILE, name_of
from pipeline.plans import plan_stage
from pipeline.sections import check_sections, evaluate_config, train_config

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = str(ROOT / "examples" / "scenarios" / "translation.yaml")


def written(folder: Path, **sections: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = str(ROOT / "examples" / "conversations" / "math_qa.jsonl")
    path = folder / "build.yaml"
    value = {"name": "early", "sources": [{"path": source, "license": "MIT"}], **sections}
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


WRONG = [
    ({"train": {"model": 5}}, "train.model is 5"),
    ({"train": {"model": None}}, "train.model is None"),
    ({"train": {"model": ""}}, "train.model is ''"),
    ({"train": {"model": "./nope"}}, "train.model: .*nope.* is not there"),
    ({"train": {"model": "nope"}}, "train.model: .*nope.* is not there"),
    ({"train": {"model": "empty"}}, "train.model: .*empty is no model folder"),
    ({"convert": {"tokenizer": "./nope"}}, "convert.tokenizer: .*nope.* is not there"),
    ({"convert": {"tokenizer": "tiktoken:nope"}}, "convert.tokenizer: .*nope.* is not there"),
    ({"convert": {"tokenizer": "garbage.json"}}, "convert.tokenizer: .* is no tokenizer.json"),
    ({"train": {}, "evaluate": {"control": "empty"}}, "evaluate.control: .*empty is no checkpoint"),
    ({"train": {}, "evaluate": {"control": 7}}, "evaluate.control is 7"),
    ({"train": {}, "evaluate": {"gate": 3}}, "evaluate.gate is 3"),
    ({"train": {}, "evaluate": {"gate": {3: 4}}}, "unknown key 'evaluate.gate.3'"),
    ({"evaluate": {"resample": 3}}, "unknown key 'evaluate.resample'.*resamples"),
    ({"evaluate": {"gate": {"min_valid": "x"}}}, "evaluate.gate: min_valid"),
    ({"synth": {"samples": 1, "scenarios": ["x.yaml"], "model": "./nope"}}, "synth.model: .*nope.* is not there"),
    (
        {"synth": {"samples": 1, "scenarios": ["x.yaml"], "engine": {"kind": "vllm", "lora": "empty"}}},
        "synth.engine.lora: .*empty holds no",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "says"), WRONG, ids=[json.dumps(wrong) for wrong, _ in WRONG])
def test_what_is_wrong_is_found_before_anything_runs(tmp_path: Path, sections: dict[str, Any], says: str) -> None:
    path = written(tmp_path, **sections)
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage.json").write_text("{]")
    with pytest.raises(ConfigError, match=says) as raised, watching((), True) as watcher:
        build(load_config(path), tmp_path, tmp_path / "out", watcher)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_on_the_hub_is_left_to_the_run(tmp_path: Path) -> None:
    sections = {"train": {"model": "owner/nosuch"}, "convert": {"tokenizer": "owner/nosuch"}}
    check_sections(load_config(written(tmp_path, **sections)))
    endpoint = {"kind": "openai", "url": "http://127.0.0.1:9/v1"}
    synth = {"samples": 1, "scenarios": ["x.yaml"], "model": "./what/the/endpoint/calls/it", "engine": endpoint}
    config = load_config(written(tmp_path, synth=synth))
    check_sections(config)
    assert (config.synth or {})["model"] == "./what/the/endpoint/calls/it"


def test_checking_loads_no_torch(tmp_path: Path) -> None:
    synth = {"samples": 1, "scenarios": ["x.yaml"], "judge": {}}
    path = written(tmp_path, train={"model": "smollm2"}, evaluate={"control": True}, synth=synth)
    code = (
        "import sys; from pathlib import Path; from pipeline.build import check_sections;"
        "from pipeline.config import load_config; check_sections(load_config(Path(sys.argv[1])));"
        "print([m for m in ('torch', 'transformers', 'vllm', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_file_of_a_checkpoint_has_one_name() -> None:
    from pipeline.training import model

    assert model.CHECKPOINT_FILE == CHECKPOINT_FILE


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model_in(tmp_path / "conf" / "models" / "m")
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / CHECKPOINT_FILE).write_text("{}")
    engine = {"kind": "vllm", "lora": "lora"}
    synth = {
        "samples": 1, "scenarios": ["x.yaml"], "model": "models/m", "engine": engine,
        "judge": {"model": "./models/m", "engine": engine},
    }  # fmt: skip
    (tmp_path / "conf" / "lora").mkdir()
    (tmp_path / "conf" / "lora" / "adapter_config.json").write_text("{}")
    sections = {"train": {"model": "./models/m"}, "evaluate": {"control": "../control"}, "synth": synth}
    config = load_config(written(tmp_path / "conf", **sections))
    check_sections(config)
    there = str(tmp_path / "conf" / "models" / "m")
    assert train_config(config)[0] == there
    assert evaluate_config(config).control == tmp_path / "control"
    found: dict[str, Any] = config.synth or {}
    assert (found["model"], found["judge"]["model"]) == (there, there)
    assert {found["engine"]["lora"], found["judge"]["engine"]["lora"]} == {str(tmp_path / "conf" / "lora")}
    assert load_config(written(tmp_path / "conf"), ["train.model=models/m"]).train == {"model": there}


def test_the_own_file_of_a_synthesis_names_its_models_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    own = {"scenarios": [SCENARIO], "samples": 2, "model": "./nowhere", "engine": {"kind": "vllm"}}
    (tmp_path / "conf" / "own.yaml").write_text(json.dumps(own))
    command = [sys.executable, "-m", "pipeline.cli", "synth", "conf/own.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"the model directory {tmp_path / 'conf' / 'nowhere'} does not exist" in done.stderr


def test_a_tokenizer_beside_the_file_is_loaded_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.packaged import tokenizer_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "own").mkdir(parents=True)
    shutil.copy(tokenizer_file(), tmp_path / "conf" / "own" / "tokenizer.json")
    for name in ("own", "./own", "own/tokenizer.json"):
        config = load_config(written(tmp_path / "conf", convert={"tokenizer": name}))
        check_sections(config)
        assert config.convert.tokenizer.startswith(str(tmp_path / "conf" / "own"))


@pytest.mark.parametrize(
    ("name", "is_path"),
    [("smollm2", False), ("owner/name", False), ("gpt2", False), ("http://x/y", False), ("here", True), ("./smollm2", True),
     ("../x", True), ("/x/y", True), (".", True)],
)  # fmt: skip
def test_what_is_a_path(tmp_path: Path, name: str, is_path: bool) -> None:
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "here").mkdir()
    assert Path(located_name(name, tmp_path)).is_absolute() == is_path
    assert (located_name(name, tmp_path) == name) == (not is_path or name.startswith("/"))


def test_a_build_that_is_moved_keeps_its_fingerprints(tmp_path: Path) -> None:
    synth = {
        "samples": 1, "scenarios": [SCENARIO], "model": "./m",
        "judge": {"model": "./m"}, "engine": {"kind": "vllm", "lora": "lora"},
    }  # fmt: skip
    first = written(tmp_path / "first", train={"model": "./m"}, synth=synth)
    model_in(tmp_path / "first" / "m")
    (tmp_path / "first" / "lora").mkdir()
    (tmp_path / "first" / "lora" / "adapter_config.json").write_text('{"r": 8}')
    shutil.copytree(tmp_path / "first", tmp_path / "second" / "deep")
    data = Result(tmp_path, Manifest("dataset", 1, "", {}, {}, (), {}, 0.0), skipped=True)
    plans = [
        {
            name: plan_stage(name, asked_of(path), {folders.DATASET: data})
            for name in (folders.CHECKPOINT, folders.SYNTH)
        }
        for path in (first, tmp_path / "second" / "deep" / "build.yaml")
    ]
    for name in (folders.CHECKPOINT, folders.SYNTH):
        assert plans[0][name].fingerprint == plans[1][name].fingerprint
        assert str(tmp_path) not in json.dumps(dict(plans[0][name].config), default=str)
    (tmp_path / "first" / "m" / "model.safetensors").write_bytes(b"others")
    for name in (folders.CHECKPOINT, folders.SYNTH):
        assert plan_stage(name, asked_of(first), {folders.DATASET: data}).fingerprint != plans[0][name].fingerprint


def test_a_folder_is_called_by_its_own_name() -> None:
    assert [name_of(n) for n in ("smollm2", "owner/name", "/a/b/c")] == ["smollm2", "owner/name", "c"]


def test_convert_looks_for_its_tokenizer_before_it_reads_anything(tmp_path: Path) -> None:
    source = str(ROOT / "examples" / "conversations" / "math_qa.jsonl")
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "convert",
        source,
        "--out",
        str(tmp_path / "out"),
        "--tokenizer",
        "./nope",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "convert.tokenizer" in done.stderr
    assert not (tmp_path / "out").exists()
