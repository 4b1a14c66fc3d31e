"""Ingest and the shuffle, cut off: files that were finished are kept as they are, and nothing else is."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.convert import ConvertConfig
from pipeline.manifest import MANIFEST, Result, need_manifest
from pipeline.notes import FOLDER, Notes
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

ROOT = Path(__file__).resolve().parents[2]
INGEST, SHUFFLE = IngestConfig(shard_units=4), ShuffleConfig(shard_rows=4, test_fraction=0.3)
LINES = [f'{{"question": "What is {i} and 1?", "answer": "{i}+1 = {i + 1}\\n#### {i + 1}"}}' for i in range(30)]

#: A run of ingest that kills itself, as kill -9 does, after so many units.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
left = int(sys.argv[3])
def progress(count):
    global left
    left -= count
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sources = [InputSource(path=sys.argv[1], corpus="math")]
ingest_stage(sources, Path(), Path(sys.argv[2]), IngestConfig(shard_units=4), progress=progress)
"""


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the last change of every table."""
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*.parquet")
    }


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.parquet")
    }


def ingest(folder: Path, name: str = "ingest") -> Result:
    source = folder / "math.jsonl"
    source.write_text("\n".join([*LINES, "no JSON"]) + "\n")
    return ingest_stage([InputSource(path=str(source), corpus="math")], Path(), folder / name, INGEST)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("converted")
    return convert_stage(ingest(folder), folder / "convert", ConvertConfig(), workers=1)


def test_a_killed_ingest_keeps_the_shards_that_it_has_finished(tmp_path: Path) -> None:
    whole = ingest(tmp_path, "whole")
    killed = tmp_path / "ingest"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "math.jsonl"), str(killed), "18"], cwd=ROOT, timeout=60
    )
    assert process.returncode == -signal.SIGKILL
    before = stamps(killed)
    finished = [name for name in before if name.startswith("units-")]
    assert len(finished) == 4
    ingest(tmp_path)
    after = stamps(killed)
    assert {name: after[name] for name in finished} == {name: before[name] for name in finished}
    assert digests(killed) == digests(whole.directory)
    assert not (killed / FOLDER).exists()


def cut_off(stage: Result, keep: Callable[[int], bool]) -> set[str]:
    """Makes a finished stage one that was killed: no manifest, notes of the kept files, the others gone. Their names."""
    manifest = need_manifest(stage.directory)
    notes = Notes(stage.directory, manifest.fingerprint)
    (stage.directory / MANIFEST).unlink()
    kept = set()
    for number, output in enumerate(manifest.outputs):
        path = stage.directory / output.path
        if keep(number):
            notes.remember(path, output.rows or 0)
            kept.add(output.path)
        else:
            path.unlink()
    return kept


@pytest.mark.parametrize(
    "keep", [lambda n: n % 2 == 0, lambda n: n < 3, lambda n: True], ids=["every other", "first", "all"]
)
def test_a_shuffle_that_was_cut_off_keeps_what_it_has_finished(
    tmp_path: Path, converted: Result, keep: Callable[[int], bool]
) -> None:
    stage = dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    whole, manifest = digests(stage.directory), need_manifest(stage.directory)
    kept = cut_off(stage, keep)
    before = stamps(stage.directory)
    again = dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    after = stamps(stage.directory)
    assert {name for name in after if after[name] == before.get(name)} == kept
    assert digests(stage.directory) == whole
    assert again.manifest.outputs == manifest.outputs
    assert again.manifest.counters == manifest.counters
    assert not (stage.directory / FOLDER).exists()


def test_notes_of_another_configuration_or_of_a_changed_file_keep_nothing(tmp_path: Path, converted: Result) -> None:
    stage = dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    whole = digests(stage.directory)
    cut_off(stage, lambda n: True)
    damaged = sorted(stage.directory.rglob("records-*.parquet"))[0]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    assert digests(stage.directory) == whole

    cut_off(stage, lambda n: True)
    other = ShuffleConfig(seed=1, shard_rows=4, test_fraction=0.3)
    dataset_stage([converted], tmp_path / "dataset", other)
    assert digests(stage.directory) == digests(dataset_stage([converted], tmp_path / "other", other).directory)
    assert digests(stage.directory) != whole


def test_a_fresh_run_writes_every_file_again(tmp_path: Path, converted: Result) -> None:
    stage = dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    whole = digests(stage.directory)
    cut_off(stage, lambda n: True)
    before = stamps(stage.directory)
    dataset_stage([converted], tmp_path / "dataset", SHUFFLE, fresh=True)
    after = stamps(stage.directory)
    assert not [name for name in after if after[name] == before[name]]
    assert digests(stage.directory) == whole


def test_notes_that_a_kill_right_after_the_manifest_left_go_with_the_next_run(
    tmp_path: Path, converted: Result
) -> None:
    stage = dataset_stage([converted], tmp_path / "dataset", SHUFFLE)
    output = stage.manifest.outputs[0]
    Notes(stage.directory, stage.manifest.fingerprint).remember(stage.directory / output.path, output.rows or 0)
    assert dataset_stage([converted], tmp_path / "dataset", SHUFFLE).skipped
    assert not (stage.directory / FOLDER).exists()
    assert os.listdir(stage.directory)
