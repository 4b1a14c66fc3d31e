"""A whole build, killed with all its processes in one stage after the other: the short form of ``benchmarks/kill.py``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import kill, landing
from benchmarks.victim import Size, Victim
from pipeline import folders
from pipeline.card import write_card
from pipeline.convert import ConvertConfig
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

AIMS = (folders.INGEST, folders.CONVERT, folders.SYNTH, folders.DATASET, folders.CHECKPOINT, folders.REPORT)
SMALL = Size(units=600, shard_units=60, shard_rows=60, samples=8, steps=8, heldout=4, control=False)


def test_what_a_killed_run_left_of_a_card_goes_with_the_next_one(tmp_path: Path) -> None:
    source = tmp_path / "math.jsonl"
    source.write_text("".join(f'{{"question": "What is {i} and 1?", "answer": "#### {i + 1}"}}\n' for i in range(4)))
    ingest = ingest_stage([InputSource(path=str(source))], Path(), tmp_path / "out" / "ingest", IngestConfig())
    convert = convert_stage(ingest, tmp_path / "out" / "convert", ConvertConfig(), workers=1)
    dataset_stage([convert], tmp_path / "out" / "dataset", ShuffleConfig())
    (tmp_path / "out" / "dataset" / ".README.md.7.tmp").write_text("# Half a ca")
    card = write_card(tmp_path / "out", "Sums")
    assert "# Sums" in card.read_text()
    assert landing.remains(tmp_path / "out", folders.STAGES) == []


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with Victim(tmp_path_factory.mktemp("killed") / "kill", SMALL) as victim:
        victim.measure()
        yield victim


@pytest.mark.slow
def test_killed_in_every_stage_a_build_ends_like_one_that_nothing_disturbed(victim: Victim) -> None:
    kills = kill.killed_build(victim, random.Random(8), 0, AIMS)
    assert [k.wrong for k in kills] == [[] for _ in kills]
    assert all(k.identical and not k.redone and not k.asked_again for k in kills)
    assert len(kills) >= len(AIMS) - 1
    assert len({k.stage for k in kills}) >= 4
    assert kills[-1].finished > kills[0].finished


@pytest.mark.slow
def test_what_the_kill_test_looks_for_is_found_where_it_is(victim: Victim) -> None:
    out = victim.whole
    assert landing.remains(out, victim.stages) == []
    stray = [out / "dataset" / ".README.md.7.tmp", out / "convert" / "records-99999.parquet", out / "synth" / "scratch"]
    for path in stray:
        path.touch()
    try:
        assert landing.remains(out, victim.stages) == sorted(p.relative_to(out).as_posix() for p in stray)
    finally:
        for path in stray:
            path.unlink()
