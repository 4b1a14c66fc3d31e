"""Written tables as records: causal by their rows, exact in their text, booked whether accepted or not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.checks import record_violations, token_violations
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.timeline import Stream
from pipeline.tokenization import load_tokenizer
from schemas import violations
from synth.generators import Table
from synth.stage import TablePolicy, table_timeline

STREAMS = (
    Stream("user", "user", 0, "input"),
    Stream("thought", "thought", 0, "output"),
    Stream("assistant", "assistant", 0, "output"),
)
ROWS = (
    ("The meeting moved to", None, None),
    ("Thursday at nine.", "A meeting moved.", None),
    (None, "Thursday, nine.", "So Thursday,"),
    (None, None, "nine o'clock."),
    ("Right.", None, None),
    (None, None, "Noted."),
)


@pytest.fixture(scope="module")
def built() -> tuple[pa.Table, pa.Table]:
    conversation, timeline = table_timeline(Table("test", STREAMS, ROWS, "0" * 64, 1, 0))
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([timeline], tokenizer)
    tables = build_tables([Document(conversation, timeline, TablePolicy())], Clock(tokenizer), encoded, first)
    assert not tables.failed
    assert token_violations(tables.records, tables.tokens, tokenizer) == []
    return tables.records, tables.tokens


def test_a_table_is_a_valid_record_without_leaks(built: tuple[pa.Table, pa.Table]) -> None:
    records, _ = built
    assert record_violations(records) == []
    assert list(violations("stream_record", to_json(records))) == []
    assert [f for f in lexical(records) if f.verdict != "clear"] == []


def test_a_cell_starts_after_everything_of_earlier_rows_has_ended(built: tuple[pa.Table, pa.Table]) -> None:
    (record,) = to_json(built[0])
    row_of = {cell: i for i, cells in enumerate(ROWS) for cell in cells if cell}
    events = [(row_of[e["text"].strip()], e["start"], e["end"]) for e in record["events"]]
    assert len(events) == len(row_of)
    for row, start, _ in events:
        assert all(end <= start for other, _, end in events if other < row)


def test_what_a_stream_says_without_a_pause_is_one_message(built: tuple[pa.Table, pa.Table]) -> None:
    (record,) = to_json(built[0])
    said: dict[tuple[str, int], str] = {}
    for event in record["events"]:
        key = (record["streams"][event["stream"]]["name"], event["message"])
        said[key] = said.get(key, "") + event["text"]
    assert sorted((name, text) for (name, _), text in said.items()) == [
        ("assistant", "Noted."),
        ("assistant", "So Thursday, nine o'clock."),
        ("thought", "A meeting moved. Thursday, nine."),
        ("user", "Right."),
        ("user", "The meeting moved to Thursday at nine."),
    ]
    assert sum(event["final"] for event in record["events"]) == 5


def config(tmp_path: Path, **synth: object) -> Path:
    examples = Path(__file__).parents[2] / "examples"
    value = {
        "name": "tiny",
        "sources": [{"path": str(examples / "conversations" / "math_qa.jsonl")}],
        "synth": {"scenarios": [str(examples / "scenarios" / "*.yaml")], "samples": 2, "batch_size": 2, **synth},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.slow
def test_nothing_accepted_shows_as_nothing_accepted_and_the_build_goes_on(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    pytest.importorskip("vllm")
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "build",
        str(config(tmp_path, max_tokens=16)),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    synth = stages["synth"]
    assert (synth["in"], synth["out"], synth["rejected"]) == (2, 0, 2)
    assert synth["reject_reasons"] == {"truncated": 2}
    assert synth["acceptance"] == 0
    assert 0 < synth["completion_tokens"] <= 32
    manifest = json.loads((tmp_path / "out" / "synth" / "manifest.json").read_text())
    assert manifest["notes"]["engine"]["engine"] == "vllm"
    assert manifest["notes"]["engine"]["version"]
    assert (stages["dataset"]["in_convert"], stages["dataset"]["in_synthesize"]) == (12, 0)
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert json.loads(again.stdout)["skipped"] == ["ingest", "convert", "synth", "dataset"]
