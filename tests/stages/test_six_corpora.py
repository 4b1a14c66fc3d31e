"""The six corpora of the main job, where they stand beside the project: converted, valid, every record accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.validate import validate

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

#: How many units a corpus has, and its format.
SIX = {
    "math-gsm8k": (800, "math_qa"),
    "openai-tau-bench-airline": (79, "openai_messages"),
    "sharegpt-glaive-toolcall": (320, "sharegpt"),
    "alpaca-gpteacher": (1000, "alpaca"),
    "think-skythought-math": (150, "think_tagged"),
    "rc-pubmedqa": (250, "context_qa"),
}


def convert_corpus(corpus: str, out: Path, *options: str) -> dict[str, dict[str, int]]:
    """Converts a corpus through the command line; the counters of its stages."""
    command = [sys.executable, "-m", "pipeline.cli", "convert", str(CORPORA / corpus), "--out", str(out), "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stages: dict[str, dict[str, int]] = json.loads(done.stdout)["stages"]
    return stages


@pytest.fixture(scope="module", params=SIX)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, dict[str, int]]]:
    """One corpus, converted by one command."""
    if not (CORPORA / request.param).is_dir():
        pytest.skip("the corpora are not beside the project")
    out = tmp_path_factory.mktemp(request.param)
    stages = convert_corpus(request.param, out)
    return request.param, out, stages


def test_every_record_of_a_corpus_is_accounted_for(converted: tuple[str, Path, dict[str, dict[str, int]]]) -> None:
    name, out, stages = converted
    units, format_ = SIX[name]
    convert = stages["convert"]
    assert stages["ingest"]["in"] == stages["ingest"]["out"] == convert["in"] == units
    assert convert["converted"] + convert["rejected"] + convert["input_only"] + convert["excluded"] == units
    assert convert["rejected"] == 0
    manifest = json.loads((out / "ingest" / "manifest.json").read_text())
    assert set(manifest["notes"]["formats"].values()) == {format_}


def test_a_converted_corpus_is_valid_and_has_no_leak(converted: tuple[str, Path, dict[str, dict[str, int]]]) -> None:
    _, out, stages = converted
    report = validate(out)
    assert report.ok, report.offenders
    assert report.records == stages["dataset"]["out"] == report.checked["leaks"] == report.checked["schema"]
    assert report.tokens == stages["convert"]["tokens"]
    assert report.notes == []


@pytest.mark.parametrize(
    ("policy", "corpus"),
    [
        ("thinking", "think-star1"),
        ("evidence", "openai-tau-bench-airline"),
        ("tools_async", "openai-tau-bench-airline"),
    ],
)
def test_each_policy_alone_overlaps_ten_records_where_turns_overlaps_none(
    policy: str, corpus: str, tmp_path: Path
) -> None:
    if not (CORPORA / corpus).is_dir():
        pytest.skip("the corpora are not beside the project")
    assert len(overlapped_records(corpus, policy, tmp_path / policy)) >= 10
    assert overlapped_records(corpus, "turns", tmp_path / "turns") == []


def overlapped_records(corpus: str, align: str, out: Path) -> list[str]:
    """Ids of the records of one corpus that take fewer rows than they have cells, under one policy."""
    import multistream

    convert_corpus(corpus, out, "--align", align)
    return [
        record["id"]
        for record in multistream.load(out)
        if sum(event["end"] - event["start"] for event in record["events"]) > record["rows"]
    ]
