"""Stages resume by content: nothing finished is repeated, nothing changed is trusted, and a killed run ends the same."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import lanes
from pipeline.convert import ConvertConfig
from pipeline.manifest import Result
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "conversations"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every Parquet file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.parquet"))
    }


def build(
    out: Path, workers: int = 1, shard_units: int = 10, config: ConvertConfig | None = None
) -> tuple[Result, Result, Result]:
    """The three stages of a data set of the examples."""
    ingest = ingest_stage(
        [InputSource(path=str(EXAMPLES))], Path(), out / "ingest", IngestConfig(shard_units=shard_units)
    )
    converted = convert_stage(ingest, out / "convert", config or ConvertConfig(), workers=workers)
    dataset = dataset_stage([converted], out / "dataset", ShuffleConfig(seed=3, shard_rows=20))
    return ingest, converted, dataset


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    build(out)
    return out


def test_a_second_run_skips_every_stage(tmp_path: Path) -> None:
    assert [r.skipped for r in build(tmp_path)] == [False, False, False]
    before = digests(tmp_path)
    assert [r.skipped for r in build(tmp_path)] == [True, True, True]
    assert digests(tmp_path) == before


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path, undisturbed: Path) -> None:
    build(tmp_path, workers=2)
    assert digests(tmp_path) == digests(undisturbed)


def test_processes_that_are_replaced_after_two_shards_write_the_same_bytes(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: set[int] = set()
    lane_submit = lanes._Lane.submit

    def watched(self: Any, item: Any) -> Any:
        future = lane_submit(self, item)
        assert self._pool is not None
        workers.update(self._pool._processes)
        return future

    monkeypatch.setattr(lanes, "SHARDS_OF_A_PROCESS", 2)
    monkeypatch.setattr(lanes._Lane, "submit", watched)
    _, converted, _ = build(tmp_path, workers=2)
    assert digests(tmp_path) == digests(undisturbed)
    shards = sum(o.path.startswith("ledger-") for o in converted.manifest.outputs)
    assert len(workers) >= shards / 2
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


def test_the_final_shards_do_not_depend_on_how_the_input_was_sharded(tmp_path: Path, undisturbed: Path) -> None:
    build(tmp_path, shard_units=33)
    assert digests(tmp_path / "dataset") == digests(undisturbed / "dataset")
    assert digests(tmp_path / "convert") != digests(undisturbed / "convert")


def test_another_configuration_runs_again_and_leaves_no_file_of_the_old_one(tmp_path: Path) -> None:
    build(tmp_path, shard_units=10)
    ingest, converted, dataset = build(tmp_path, shard_units=40, config=ConvertConfig(align="turns"))
    assert [ingest.skipped, converted.skipped, dataset.skipped] == [False, False, False]
    named = {
        f"{stage}/{o.path}"
        for stage, r in zip(("ingest", "convert", "dataset"), (ingest, converted, dataset), strict=True)
        for o in r.manifest.outputs
    }
    assert set(digests(tmp_path)) == named


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x")], ids=["lost", "changed"]
)
@pytest.mark.parametrize("stage", [0, 1, 2], ids=["ingest", "convert", "dataset"])
def test_a_harmed_output_is_made_again(
    tmp_path: Path, undisturbed: Path, stage: int, harm: Callable[[Path], object]
) -> None:
    result = build(tmp_path)[stage]
    harm(result.directory / result.manifest.outputs[0].path)
    assert [r.skipped for r in build(tmp_path)][stage] is False
    assert digests(tmp_path) == digests(undisturbed)


def test_a_manifest_that_is_no_json_is_as_good_as_none(tmp_path: Path, undisturbed: Path) -> None:
    _, converted, _ = build(tmp_path)
    (converted.directory / "manifest.json").write_text("{")
    assert build(tmp_path)[1].skipped is False
    assert digests(tmp_path) == digests(undisturbed)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_run_killed_between_shards_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: Path, after: int
) -> None:
    script = (
        "import sys; sys.path[0:0] = sys.argv[3:]\n"
        "from pathlib import Path\n"
        "from test_resume import build\n"
        "build(Path(sys.argv[1]), workers=int(sys.argv[2]))\n"
    )
    here = Path(__file__).resolve()
    command = [sys.executable, "-c", script, str(tmp_path), "1", str(here.parent), str(here.parents[2])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "convert" / "shards").glob("*.json"))) < after and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.002)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    _, error = process.communicate()
    assert b"Traceback" not in error
    finished = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "convert" / "shards").glob("*.json")}
    assert len(finished) >= after
    _, converted, _ = build(tmp_path)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "convert" / "shards").glob("*.json")}
    assert finished.items() <= kept.items(), "a finished shard was converted again"
    assert digests(tmp_path) == digests(undisturbed)
    assert not list(tmp_path.rglob(".*.tmp"))
    assert converted.manifest.counters["units"] == 72


def test_the_manifest_names_no_path_of_the_run_and_its_fingerprint_no_time(tmp_path: Path, undisturbed: Path) -> None:
    build(tmp_path)
    for stage in ("ingest", "convert", "dataset"):
        mine, other = (json.loads((out / stage / "manifest.json").read_text()) for out in (tmp_path, undisturbed))
        assert str(tmp_path) not in json.dumps(mine)
        assert {**mine, "seconds": 0} == {**other, "seconds": 0}


def test_excluded_ids_are_booked_and_leave_no_record(tmp_path: Path) -> None:
    import multistream

    _, first, _ = build(tmp_path / "a")
    gone = next(iter(multistream.load(tmp_path / "a")))
    _, second, _ = build(tmp_path / "b", config=ConvertConfig(exclude_ids=(gone["conversation_id"],)))
    assert gone["id"] not in {r["id"] for r in multistream.load(tmp_path / "b")}
    counters = second.manifest.counters
    assert (counters["excluded"], counters["records"]) == (1, first.manifest.counters["records"] - 1)
