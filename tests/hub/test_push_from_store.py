"""A build that is kept in an object store is pushed like one on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.card import write_card
from pipeline.cli.places import to_read
from pipeline.convert import ConvertConfig
from pipeline.hub.checks import refusals
from pipeline.hub.files import gather
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from tests.hub.hub_client import REPO
from tests.stages.store_server import BUCKET, environment, store


@pytest.mark.slow
def test_the_package_of_a_store_is_that_of_a_disk(build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store() as door:
        for name, value in {**environment(door), storage.WORK: str(tmp_path / "work")}.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/{tmp_path.name}"
        out = storage.open_folder(url)
        source = tmp_path / "sums.jsonl"
        lines = (f'{{"question": "What is {i} and {7 * i}?", "answer": "#### {8 * i}"}}\n' for i in range(40))
        source.write_text("".join(lines))
        config = InputSource(path=str(source), corpus="sums", license="MIT")
        ingest = ingest_stage([config], Path(), out / "ingest", IngestConfig())
        convert = convert_stage(ingest, out / "convert", ConvertConfig(), workers=1)
        dataset_stage([convert], out / "dataset", ShuffleConfig(shard_rows=10))
        write_card(out, "Sums")
        storage._MOUNTS.clear()
        try:
            package = gather(to_read(url), REPO)
            assert refusals(package) == []
            parquet = [(u.path, u.sha256) for u in package.uploads if u.path.endswith((".parquet", ".svg"))]
            there = [(u.path, u.sha256) for u in gather(build, REPO).uploads if u.path.endswith((".parquet", ".svg"))]
            assert parquet == there
            assert any(path.endswith(".svg") for path, _ in parquet)
        finally:
            storage._MOUNTS.clear()
