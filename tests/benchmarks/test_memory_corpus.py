"""The corpus of the memory benchmark holds no record twice, and what it tells of a run counts all that the run started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.memory import disk, originals, perturbed, watched, write_copies
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

TALK = {"id": "a", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]}


def test_a_record_gets_another_id_and_another_question_and_keeps_the_rest() -> None:
    assert perturbed({"ID": 7, "question": "Why?", "answer": "So."}, "w") == {
        "ID": "7-w",
        "question": "Why? (w)",
        "answer": "So.",
    }
    changed = perturbed(TALK, "w")
    assert changed == {"id": "a-w", "messages": [TALK["messages"][0], {"role": "user", "content": "Q (w)"}]}
    assert TALK["messages"][1] == {"role": "user", "content": "Q"}
    with pytest.raises(SystemExit, match="no question"):
        perturbed({"said": "Q"}, "w")


def test_copies_are_as_many_different_records_as_asked_for_in_the_formats_of_the_originals(tmp_path: Path) -> None:
    found = originals([])
    whole = sum(map(len, found.values()))
    size = write_copies(found, tmp_path / "in", whole * 2 + 15)
    lines = [line for path in sorted((tmp_path / "in").rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    assert len(set(lines)) == len(lines) == whole * 2 + 15
    assert size == disk(tmp_path / "in")
    counters = ingest_stage([InputSource(path=str(tmp_path / "in"))], Path(), tmp_path / "out", IngestConfig()).manifest
    assert (counters.counters["out"], counters.counters["rejected"]) == (whole * 2 + 15, 0)
    formats = {Path(name).name: format_ for name, format_ in counters.notes["formats"].items()}
    alone = ingest_stage(
        [InputSource(path="examples/conversations")], Path(__file__).parents[2], tmp_path / "alone", IngestConfig()
    ).manifest
    assert formats == {f"conversations-{Path(name).name}": f for name, f in alone.notes["formats"].items()}


def test_the_memory_of_a_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    inner = "import time; held = b'x' * (80 << 20); time.sleep(1)"
    outer = f"import subprocess, sys; held = b'x' * (40 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    watch = watched([sys.executable, "-c", outer], tmp_path / "out", tmp_path, every=0.02)
    peak = watch.peaks["ingest"]
    assert 80 << 20 < peak.children == peak.process < 120 << 20
    assert peak.tree > 120 << 20
    assert watch.kernel >= peak.process


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no luck"):
        watched([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "out", tmp_path)


def test_a_stage_is_over_when_its_manifest_is_there(tmp_path: Path) -> None:
    done = tmp_path / "out" / "ingest" / "manifest.json"
    done.parent.mkdir(parents=True)
    done.touch()
    watch = watched([sys.executable, "-c", "import time; time.sleep(0.2)"], tmp_path / "out", tmp_path, every=0.02)
    assert [name for name, peak in watch.peaks.items() if peak.samples] == ["convert"]
