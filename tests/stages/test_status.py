"""``multistream status``: says of each stage how far it is and why, of real builds of which one thing was changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.asked import RECORD
from pipeline.build import build
from pipeline.claim import claimed
from pipeline.cli import app
from pipeline.config import load_config
from pipeline.errors import PipelineError
from pipeline.manifest import Result
from pipeline.packaged import model_dir
from tests.synth.endpoint import Endpoint
from tests.synth.scripted import speak
from tests.training.synthetic_grids import tiny_llama

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIG = """\
name: st
title: A build
sources:
  - {path: "in/*.jsonl", corpus: ex}
ingest: {shard_units: 10}
convert: {align: turns}
"""
STAGES = ("ingest", "convert", "dataset")


class Silent:
    """A watcher that keeps which stages were skipped."""

    def __init__(self, stop_at_step: int = 0) -> None:
        self.skipped: dict[str, bool] = {}
        self._steps = stop_at_step

    def stage(self, name: str) -> None:
        self._stage = name

    def progress(self, done: int, what: str) -> None:
        if self._stage == "checkpoint" and self._steps:
            self._steps -= 1
            if not self._steps:
                raise KeyboardInterrupt

    def finished(self, result: Result) -> None:
        self.skipped[result.directory.name] = result.skipped


def run_build(place: Path, *overrides: str, stop_at_step: int = 0) -> dict[str, bool]:
    """Builds ``place/c.yaml`` into ``place/out``; which stages were skipped."""
    watcher = Silent(stop_at_step)
    config = place / "c.yaml"
    build(load_config(config, overrides), place, place / "out", watcher, 1, path=config, overrides=overrides)
    return watcher.skipped


def told(place: Path, *arguments: str) -> dict[str, Any]:
    """What ``status --json`` says; its exit code must agree, and nothing on disk may change."""
    before = tree(place)
    done = CliRunner().invoke(app, ["status", str(place / "out"), "--json", *arguments])
    assert tree(place) == before
    assert not done.exception or isinstance(done.exception, SystemExit), done.exception
    value: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == (0 if value["done"] else 1)
    return value


def states(value: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """State and reasons of each stage."""
    return {stage["stage"]: (stage["state"], *stage["reasons"]) for stage in value["stages"]}


def tree(place: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(place).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(place.rglob("*"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    (place / "in").mkdir()
    for name in ("math_qa", "think_tagged"):
        shutil.copy(EXAMPLES / "conversations" / f"{name}.jsonl", place / "in")
    (place / "c.yaml").write_text(CONFIG)
    run_build(place)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished build, its inputs and its configuration."""
    shutil.copytree(finished, tmp_path / "b")
    record = json.loads((tmp_path / "b" / "out" / RECORD).read_text())
    moved = {"config": str(tmp_path / "b" / "c.yaml"), "base": str(tmp_path / "b")}
    (tmp_path / "b" / "out" / RECORD).write_text(json.dumps(record | moved))
    return tmp_path / "b"


def first(place: Path, pattern: str) -> Path:
    return min((place / "out").glob(pattern))


def test_a_finished_build_is_done(place: Path) -> None:
    value = told(place)
    assert value["done"]
    assert value["note"] is None
    assert states(value) == dict.fromkeys(STAGES, ("done",))
    assert [stage["counters"]["in"] > 0 for stage in value["stages"]] == [True] * 3
    assert told(place, "--quick")["done"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("title=Another", {}),
        ("convert.max_rejected_fraction=0.5", {}),
        ("seed=4", {"dataset": ("stale", "seed was 0, is 4")}),
        (
            "shards.test_fraction=0.3",
            {"dataset": ("stale", "shards.test_fraction was 0.1, is 0.3")},
        ),
        (
            "convert.align=auto",
            {
                "convert": ("stale", 'convert.align was "turns", is "auto"'),
                "dataset": ("stale", "waits for convert"),
            },
        ),
        (
            "ingest.shard_units=9",
            {
                "ingest": ("stale", "ingest.shard_units was 10, is 9"),
                "convert": ("stale", "waits for ingest"),
                "dataset": ("stale", "waits for convert"),
            },
        ),
        (
            "sources=[{path: in/*.jsonl, corpus: ex, license: MIT}]",
            {
                "ingest": ("stale", 'sources: license was null, is "MIT" (2 files)'),
                "convert": ("stale", "waits for ingest"),
                "dataset": ("stale", "waits for convert"),
            },
        ),
    ],
)
def test_a_changed_key_is_named_and_only_what_is_stale_is_redone(
    place: Path, change: str, expected: dict[str, tuple[str, ...]]
) -> None:
    value = told(place, "--config", str(place / "c.yaml"), "--set", change)
    assert states(value) == dict.fromkeys(STAGES, ("done",)) | expected
    assert states(told(place, "--set", change)) == states(value)
    assert run_build(place, change) == {name: name not in expected for name in STAGES}
    assert told(place)["done"]
    assert all(run_build(place, change).values())


def test_an_edited_configuration_file_is_compared_as_it_is_now(place: Path) -> None:
    (place / "c.yaml").write_text(CONFIG.replace("turns", "thinking"))
    assert states(told(place))["convert"] == ("stale", 'convert.align was "turns", is "thinking"')


def test_what_was_set_on_the_command_line_is_remembered(place: Path) -> None:
    run_build(place, "seed=4")
    assert told(place)["done"]
    assert not told(place, "--config", str(place / "c.yaml"))["done"]


def test_changed_added_and_removed_inputs_are_named(place: Path) -> None:
    with (place / "in" / "math_qa.jsonl").open("a") as file:
        file.write((place / "in" / "math_qa.jsonl").read_text().splitlines()[0] + "\n")
    (place / "in" / "think_tagged.jsonl").rename(place / "in" / "other.jsonl")
    lines = ("input ex/math_qa.jsonl changed", "input ex/other.jsonl added", "input ex/think_tagged.jsonl removed")
    found = states(told(place))
    assert found["ingest"] == ("stale", *lines)
    assert found["convert"] == ("stale", "waits for ingest")
    assert states(told(place, "--quick"))["ingest"] == ("stale", *lines[1:])


def test_inputs_that_are_not_there_are_a_failure_in_one_line(place: Path) -> None:
    shutil.rmtree(place / "in")
    found = states(told(place))
    assert found["ingest"][0] == "failed"
    assert "no file matches" in found["ingest"][1]
    assert found["dataset"] == ("stale", "waits for convert")


def test_another_version_of_a_stage_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import convert

    monkeypatch.setattr(convert, "VERSION", convert.VERSION + 1)
    assert states(told(place))["convert"] == ("stale", f"version {convert.VERSION - 1} → {convert.VERSION}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_and_a_changed_file_are_named(place: Path, stage: str) -> None:
    gone, *_, other = sorted((place / "out" / stage).rglob("*.parquet"))
    content = bytearray(other.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    folder = place / "out" / stage
    changed = f"{other.relative_to(folder).as_posix()} has changed since it was written"
    expected = dict.fromkeys(STAGES, ("done",))
    assert states(told(place)) == expected | {stage: ("broken", changed)}
    assert told(place, "--quick")["done"], "its size is the same"
    gone.unlink()
    missing = f"{gone.relative_to(folder).as_posix()} is missing"
    assert states(told(place)) == expected | {stage: ("broken", missing, changed)}
    assert states(told(place, "--quick"))[stage] == ("broken", missing)
    assert run_build(place) == {name: name != stage for name in STAGES}
    assert told(place)["done"]


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"stage": "conv', "manifest.json is cut off or no JSON"), ("", "manifest.json is cut off"), ("\xff", "no JSON")],
)
def test_a_manifest_that_is_cut_off_is_named(place: Path, content: str, said: str) -> None:
    (place / "out" / "convert" / "manifest.json").write_bytes(content.encode("latin-1"))
    found = states(told(place))
    assert found["convert"][0] == "broken"
    assert said in found["convert"][1]
    assert found["dataset"] == ("stale", "waits for convert")
    assert run_build(place) == {"ingest": True, "convert": False, "dataset": True}


def test_json_that_is_no_manifest_is_named(place: Path) -> None:
    (place / "out" / "convert" / "manifest.json").write_text("[1]")
    assert states(told(place))["convert"][:2] == ("broken", "manifest.json is not what a stage writes")


def test_finished_shards_are_counted_and_the_missing_ones_named(place: Path) -> None:
    total = len(list((place / "out" / "convert" / "shards").glob("*.json")))
    assert total >= 3
    (place / "out" / "convert" / "manifest.json").unlink()
    (place / "out" / "convert" / "shards" / "00001.json").unlink()
    value = told(place)
    assert states(value)["convert"] == ("partial", f"{total - 1} of {total} shards are finished; missing: 1")
    parts = {"what": "shards are finished", "done": total - 1, "total": total, "missing": [1]}
    assert value["stages"][1]["parts"] == parts
    first(place, "convert/records-*.parquet").unlink()
    assert "missing: 0-1" in states(told(place))["convert"][1]
    found = states(told(place, "--set", "convert.align=auto"))["convert"]
    assert found[0] == "partial"
    assert "nothing of it can be kept" in found[1]


def test_a_stage_that_was_cut_off_or_not_begun(place: Path) -> None:
    shutil.rmtree(place / "out" / "dataset")
    (place / "out" / "ingest" / "manifest.json").unlink()
    found = states(told(place))
    assert found["ingest"] == ("partial", "was cut off, nothing of it can be kept")
    assert found["convert"] == ("stale", "waits for ingest")
    assert found["dataset"] == ("not begun", "waits for convert")


def test_a_run_that_holds_a_stage_is_seen(place: Path) -> None:
    script = "import sys; from pathlib import Path; from pipeline.claim import claimed\n"
    script += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    folder = place / "out" / "convert"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        found = states(told(place))
        assert found["convert"][0] == "running"
        with pytest.raises(PipelineError, match="another run is writing"):
            run_build(place, "seed=9")
        assert json.loads((place / "out" / RECORD).read_text())["overrides"] == []
        holder.stdin.close()
    assert told(place)["done"]
    with claimed(folder):
        assert states(told(place))["convert"][0] == "running"


def test_why_a_run_failed_is_told_until_it_is_run_again(place: Path) -> None:
    with (place / "in" / "math_qa.jsonl").open("a") as file:
        file.writelines('{"messages": 5}\n' for _ in range(20))
    with pytest.raises(PipelineError, match="were rejected"):
        run_build(place)
    found = states(told(place))["convert"]
    assert found[0] == "failed"
    assert "more than max_rejected_fraction = 0.05" in found[1]
    assert "shards" in found[2]
    run_build(place, "convert.max_rejected_fraction=0.9")
    assert told(place)["done"]
    found = states(told(place, "--config", str(place / "c.yaml")))["convert"]
    assert found[0] == "failed"
    assert "max_rejected_fraction = 0.05" in found[1]


def test_without_its_configuration_file_a_build_is_compared_with_what_was_written_down(place: Path) -> None:
    (place / "c.yaml").unlink()
    value = told(place)
    assert value["done"]
    assert "c.yaml is gone" in value["note"]
    (place / "in" / "math_qa.jsonl").unlink()
    assert states(told(place))["ingest"] == ("stale", "input ex/math_qa.jsonl removed")


@pytest.mark.parametrize("content", [None, '{"config": ', "{}"])
def test_without_any_configuration_it_says_what_it_cannot_tell(place: Path, content: str | None) -> None:
    (place / "out" / RECORD).unlink()
    if content is not None:
        (place / "out" / RECORD).write_text(content)
    (place / "in" / "math_qa.jsonl").unlink()
    value = told(place)
    assert value["done"]
    assert "what is stale cannot be told" in value["note"]
    first(place, "dataset/*/records-*.parquet").unlink()
    assert states(told(place))["dataset"][0] == "broken"
    run_build(place, "sources=[{path: in/think_tagged.jsonl, corpus: ex}]")
    shutil.copytree(place / "out" / "ingest", place / "older")
    run_build(place, "sources=[{path: in/think_tagged.jsonl, corpus: other}]")
    shutil.rmtree(place / "out" / "ingest")
    (place / "older").rename(place / "out" / "ingest")
    (place / "out" / RECORD).unlink()
    assert states(told(place))["convert"] == ("stale", "input ingest changed")


def test_a_stage_that_is_not_asked_for_any_more(place: Path) -> None:
    shutil.copytree(place / "out" / "convert", place / "out" / "synth")
    value = told(place)
    assert value["done"]
    assert states(value)["synth"] == ("unused", "the configuration does not ask for it")


def test_the_table_for_people(place: Path) -> None:
    (place / "c.yaml").write_text(CONFIG.replace("turns", "auto"))
    done = CliRunner().invoke(app, ["status", str(place / "out")])
    assert done.exit_code == 1
    assert 'convert: stale: convert.align was "turns", is "auto"' in done.stdout.splitlines()
    assert "dataset: stale: waits for convert" in done.stdout.splitlines()


def test_a_converted_corpus_knows_what_it_was_asked_for(place: Path) -> None:
    inputs = str(place / "in" / "math_qa.jsonl")
    done = CliRunner().invoke(app, ["convert", inputs, "--out", str(place / "out"), "--align", "turns"])
    assert done.exit_code == 0, done.output
    value = told(place)
    assert value["done"]
    assert value["configuration"] is None
    (place / "in" / "math_qa.jsonl").write_text((place / "in" / "think_tagged.jsonl").read_text())
    assert states(told(place))["ingest"] == ("stale", "input in/math_qa.jsonl changed")


def synthesis(url: str) -> str:
    engine = {"kind": "openai", "url": url, "retries": 0, "concurrency": 4, "backoff": 0.01}
    scenarios = [str(EXAMPLES / "scenarios" / "*.yaml")]
    section = {"generator": "concurrent", "samples": 8, "model": "m", "engine": engine, "scenarios": scenarios}
    return f"synth={json.dumps(section)}"


def test_stored_answers_of_a_run_that_was_broken_off_are_counted(place: Path) -> None:
    with Endpoint(reply=speak) as endpoint:
        endpoint.fail(status=503, times=None, after=6)
        with pytest.raises(PipelineError, match="what was answered is kept"):
            run_build(place, synthesis(endpoint.url))
        found = states(told(place))
        assert found["synth"][0] == "failed"
        assert found["synth"][2] == "6 answers are stored"
        assert found["dataset"] == ("stale", "waits for synth")
        kill_between_answers(place / "out" / "synth" / "answers.sqlite")
        assert states(told(place))["synth"][2] == "7 answers are stored"
        endpoint.faults.clear()
        run_build(place, synthesis(endpoint.url))
    assert told(place)["done"], "the server is not asked"
    assert states(told(place))["synth"] == ("done",)


def kill_between_answers(path: Path) -> None:
    """Stores one more answer in a process that ends at once, so that it is in SQLite's log alone."""
    script = (
        "import os, sys; from pathlib import Path; from synth.engines import Completion\n"
        "from synth.engines.cache import AnswerCache\n"
        "AnswerCache(Path(sys.argv[1])).keep(b'k', Completion('x', 'stop', 1, 1)); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.with_name(f"{path.name}-wal").stat().st_size


def run_build_until_the_gate(place: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(PipelineError, match="the evaluation's gate failed"):  # three steps teach nothing
        run_build(place, *overrides)


@pytest.mark.slow
def test_training_tells_its_saved_step_and_what_is_stale(place: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_llama(vocab_size=json.loads((model_dir() / "config.json").read_text())["vocab_size"]).save_pretrained(base)
    train = {"model": str(base), "steps": 3, "packs_per_step": 1, "max_cells": 256, "device": "cpu", "save_every": 1}
    evaluate = {"control": True, "max_cells": 256, "generate_records": 0, "gate": None}
    overrides = (f"train={json.dumps(train)}", f"evaluate={json.dumps(evaluate)}")
    with pytest.raises(KeyboardInterrupt):
        run_build(place, *overrides, stop_at_step=2)
    found = states(told(place))
    assert found["checkpoint"] == ("partial", "1 of 3 steps are saved")
    assert states(told(place, "--set", "train.save_every=2"))["checkpoint"] == found["checkpoint"]
    other = states(told(place, "--set", "train.learning_rate=3e-3"))["checkpoint"]
    assert other == ("partial", "was cut off, nothing of it can be kept")
    assert found["report"] == ("not begun", "waits for checkpoint and control")
    run_build_until_the_gate(place, overrides)
    found = states(told(place))
    assert {found[name] for name in ("checkpoint", "control")} == {("done",)}
    assert found["report"][0] == "failed"
    assert found["report"][1].startswith("the gate: ")
    found = states(told(place, "--set", "train.learning_rate=2e-3", "--set", "train.save_every=2"))
    assert found["checkpoint"] == ("stale", "train.learning_rate was 1e-05, is 0.002")
    assert found["report"] == ("stale", "waits for checkpoint and control")
    found = states(told(place, "--set", "evaluate.generate_rows=7"))
    assert found["report"][:2] == ("stale", "evaluate.generate_rows was 512, is 7")
    with pytest.raises(PipelineError, match="training: ") as error:
        run_build(place, *overrides, "train.learning_rate=1e30")
    value = told(place)
    assert states(value)["checkpoint"] == (
        "failed", str(error.value), "train.learning_rate was 1e-05, is 1e+30", *states(value)["checkpoint"][3:],
    )  # fmt: skip
    assert states(value)["report"] == ("stale", "waits for checkpoint and control")
    with (place / "in" / "math_qa.jsonl").open("a") as file:
        file.write((place / "in" / "math_qa.jsonl").read_text().splitlines()[0] + "\n")
    changed = states(told(place))["ingest"]
    assert changed == ("stale", "input ex/math_qa.jsonl changed", f"the last run stopped: {error.value}")
    run_build_until_the_gate(place, overrides)
    weights = next(base.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found = states(told(place))
    assert found["checkpoint"][:2] == ("stale", "input model changed")
    assert found["checkpoint"][2].startswith("the last run stopped: the evaluation's gate failed")
    assert states(told(place, "--quick"))["checkpoint"] == ("done",)
    os.truncate(place / "out" / "control" / "model.safetensors", 10)
    assert states(told(place, "--quick"))["control"][0] == "broken"
