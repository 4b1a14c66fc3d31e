"""Records of every corpus in ../shared/corpora are shown without error and without anything that a terminal obeys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.convert import ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.viewer.app import ViewerApp
from pipeline.viewer.plain import render
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.viewer.test_viewer_lanes import OBEYED
from tests.viewer.viewer_driving import press, screen_text, settle

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"
pytestmark = [
    pytest.mark.skipif(not CORPORA.is_dir(), reason="the folder ../shared/corpora is not here"),
    pytest.mark.slow,
]
#: Units of each corpus that are converted.
SAMPLE = 12


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first units of every corpus, converted."""
    out = tmp_path_factory.mktemp("viewer-corpora")
    sources = [InputSource(str(place), corpus=place.name) for place in sorted(CORPORA.iterdir()) if place.is_dir()]
    ingest = ingest_stage(sources, Path(), out / "ingest", IngestConfig())
    taken: dict[str, int] = defaultdict(int)
    kept: list[dict[str, Any]] = []
    for path in ingest.manifest.paths(ingest.directory, "units-"):
        for unit in pq.read_table(path).to_pylist():
            taken[unit["corpus"]] += 1
            if taken[unit["corpus"]] <= SAMPLE:
                kept.append(unit)
    assert len(taken) >= 36
    batch = Converter(ConvertConfig()).convert(kept)
    folder = out / "converted"
    folder.mkdir()
    pq.write_table(batch.records, folder / "records-00000.parquet", row_group_size=200)
    return folder


def test_every_record_is_printed_harmlessly(converted: Path) -> None:
    samples = open_samples(converted)
    seen = set()
    for batch in pq.ParquetFile(samples.shards[0]).iter_batches(200):
        for made in to_json(pa.Table.from_batches([batch])):
            seen.add(made["sources"][0]["corpus"])
            for line in render(made, 100):
                assert not OBEYED.search(line), made["id"]
    assert len(seen) >= 30


def test_a_record_of_every_corpus_is_shown_in_the_application(converted: Path) -> None:
    samples = open_samples(converted)
    first: dict[str, int] = {}
    for number in range(len(samples)):
        first.setdefault(samples.rows.row(number).column("sources")[0].as_py()[0]["corpus"], number)

    async def run() -> None:
        app = ViewerApp(samples, open_rejects(converted))
        async with app.run_test(size=(80, 24)) as pilot:
            await settle(pilot)
            for number in first.values():
                app.records.go(number)
                await settle(pilot)
                await press(pilot, "s", "end")
                assert app.records.record is not None
                assert app.records.record.number == number
                assert not OBEYED.search(screen_text(app))

    asyncio.run(run())
