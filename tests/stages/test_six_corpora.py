"""The six corpora of the main job, where they stand beside the project: converted, valid, every record accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.validate import validate

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

#: Units, and records with an output that speaks while something is still being read: none is asked of the others.
SIX = {
    "math-gsm8k": (800, "math_qa"),
    "openai-tau-bench-airline": (79, "openai_messages"),
    "sharegpt-glaive-toolcall": (320, "sharegpt"),
    "alpaca-gpteacher": (1000, "alpaca"),
    "think-skythought-math": (150, "think_tagged"),
    "rc-pubmedqa": (250, "context_qa"),
}


@pytest.fixture(scope="module", params=SIX)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, dict[str, int]]]:
    """One corpus, converted by one command."""
    if not (CORPORA / request.param).is_dir():
        pytest.skip("the corpora are not beside the project")
    out = tmp_path_factory.mktemp(request.param)
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "convert",
        str(CORPORA / request.param),
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return request.param, out, json.loads(done.stdout)["stages"]


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


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not beside the project")
def test_the_policies_find_overlap_in_at_least_ten_records(tmp_path_factory: pytest.TempPathFactory) -> None:
    import multistream

    roots = [p.parent.parent for p in tmp_path_factory.getbasetemp().glob("*/dataset/train")]
    overlapped = [
        record["id"]
        for root in roots
        for record in multistream.load(root)
        if sum(event["end"] - event["start"] for event in record["events"]) > record["rows"]
    ]
    assert len(overlapped) >= 10
