"""Files in a build's folder that are somebody else's, and stages of other data that an earlier build left there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import folders
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import Manifest, Output, read_manifest, write_manifest
from pipeline.stats import stats_of
from pipeline.together import manifests_of
from tests.stages.test_resume import build


def test_files_of_other_names_stay_where_they_are(tmp_path: Path) -> None:
    ours = [tmp_path / "dataset" / "train", tmp_path / "dataset" / "raw", tmp_path / "convert" / "shards"]
    for folder in ours:
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
        (folder / "mine.parquet").write_bytes(b"mine")
    (tmp_path / "convert" / "shards" / "._00000.json").write_text("{}")
    build(tmp_path)
    assert all((folder / name).read_bytes() == b"mine" for folder in ours for name in ("notes.txt", "mine.parquet"))


def test_a_folder_with_the_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ingest").mkdir()
    (tmp_path / "ingest" / "manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(PipelineError, match="that no stage wrote"):
        build(tmp_path)
    assert "web application" in (tmp_path / "ingest" / "manifest.json").read_text()


def test_a_manifest_of_another_shape_counts_as_none(tmp_path: Path) -> None:
    build(tmp_path)
    path = tmp_path / "convert" / "manifest.json"
    path.write_text(path.read_text().replace('"counters": {', '"counters": null, "was": {', 1))
    assert read_manifest(tmp_path / "convert") is None
    assert [r.skipped for r in build(tmp_path)] == [True, False, True]


def test_tables_of_something_else_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "records-00000.parquet")
    with pytest.raises(InputError, match=r"records-00000\.parquet holds no records"):
        stats_of([tmp_path / "records-00000.parquet"])
    build(tmp_path / "out")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out" / "convert" / "ledger-00000.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "validate", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ledger-00000.parquet" in done.stdout + done.stderr


def test_a_report_of_other_data_is_no_part_of_the_build(tmp_path: Path) -> None:
    *_, dataset = build(tmp_path)
    for digest, named in (("of another data set", False), (dataset.manifest.digest(), True)):
        output = Output("report.md", "0" * 64, 1)
        counters = {"in": 1, "out": 1, "rejected": 0}
        report = Manifest("evaluate", 1, "f", {}, {"dataset": digest}, (output,), counters, 0.0)
        (tmp_path / folders.REPORT).mkdir(exist_ok=True)
        write_manifest(tmp_path / folders.REPORT, report)
        assert (folders.REPORT in manifests_of(tmp_path)) is named
    assert list(manifests_of(tmp_path)) == ["ingest", "convert", "dataset", "report"]
