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
from synth.finish import Placed
from synth.scenes import Scene, Utterance, broken_off, told

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


SCENE = Scene(
    STREAMS,
    tuple(
        Utterance(row, stream, cell)
        for row, cells in enumerate(ROWS)
        for stream, cell in enumerate(cells)
        if cell is not None
    ),
)


def record_of(scene: Scene) -> tuple[pa.Table, pa.Table]:
    conversation, timeline = told(scene, (), "group", {})
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([timeline], tokenizer)
    tables = build_tables(
        [Document(conversation, timeline, Placed("synth/test", "{}"))], Clock(tokenizer), encoded, first
    )
    assert not tables.failed
    assert token_violations(tables.records, tables.tokens, tokenizer) == []
    return tables.records, tables.tokens


@pytest.fixture(scope="module")
def built() -> tuple[pa.Table, pa.Table]:
    return record_of(SCENE)


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


CALLING = (
    Stream("user", "user", 0, "input"),
    Stream("assistant", "assistant", 0, "output"),
    Stream("call", "call", 0, "output"),
    Stream("tool/0", "tool", 0, "input"),
    Stream("tool/1", "tool", 1, "input"),
)


def test_calls_and_results_are_laid_out_as_those_of_converted_records() -> None:
    scene = Scene(
        CALLING,
        (
            Utterance(0, 0, "What is the weather in Oslo and Rome?"),
            Utterance(1, 1, "I will look"),
            Utterance(1, 2, 'weather\n{"city": "Oslo"}', "tool_call", 0, "weather"),
            Utterance(2, 1, "both up."),
            Utterance(2, 2, 'weather\n{"city": "Rome"}', "tool_call", 1, "weather"),
            Utterance(3, 4, "19 degrees", "tool_result", 1, "weather"),
            Utterance(4, 1, "Rome has 19 degrees."),
            Utterance(4, 3, "4 degrees", "tool_result", 0, "weather"),
            Utterance(5, 1, "Oslo has 4."),
        ),
    )
    records, _ = record_of(scene)
    assert record_violations(records) == []
    assert list(violations("stream_record", to_json(records))) == []
    assert [f for f in lexical(records) if f.verdict != "clear"] == []
    (record,) = to_json(records)
    headers = [(e["text"], e["call"], e["weight"]) for e in record["events"] if e["kind"] == "header"]
    assert headers == [("weather#1", 1, 0.0), ("weather#0", 0, 0.0)]
    calls = {e["call"]: e for e in record["events"] if e["kind"] == "tool_call"}
    results = {e["call"]: e for e in record["events"] if e["kind"] == "tool_result"}
    assert all(results[call]["start"] >= calls[call]["end"] for call in (0, 1))
    assert results[1]["end"] <= results[0]["start"]


def test_what_names_a_later_result_is_a_leak() -> None:
    scene = Scene(
        CALLING[:1] + CALLING[1:2],
        (
            Utterance(0, 0, "My locker has"),
            Utterance(1, 0, "the code 48213."),
            Utterance(1, 1, "So it is 48213."),
        ),
    )
    (finding,) = [f for f in lexical(record_of(scene)[0]) if f.verdict == "leak"]
    assert finding.evidence[0][0] == "48213"


def test_an_output_that_was_broken_off_has_no_end_of_message() -> None:
    scene = Scene(
        CALLING[:2],
        (
            Utterance(0, 0, "Tell me more."),
            Utterance(1, 1, "The first of the"),
            Utterance(2, 0, "Stop."),
            Utterance(2, 1, "many reasons for", cut=True),
            Utterance(4, 1, "Yes?"),
        ),
    )
    (record,) = to_json(record_of(scene)[0])
    said = [(e["text"].strip(), e["final"], e["interrupted"]) for e in record["events"] if e["stream"] == 1]
    assert said == [
        ("The first of the", False, False),
        ("many reasons for", False, True),
        ("Yes?", True, False),
    ]


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


def test_words_at_the_very_end_are_not_broken_off_and_others_are() -> None:
    def scene(more: tuple[Utterance, ...]) -> Scene:
        said = (
            Utterance(0, 0, "Goodbye then,"),
            Utterance(1, 1, "Take care and"),
            Utterance(2, 1, "see you tomorrow"),
            Utterance(2, 0, "Bye"),
        )
        return broken_off(Scene(CALLING[:2], said + more))

    assert not any(u.cut for u in scene(()).utterances)
    assert [u.text for u in scene((Utterance(3, 0, "for now."),)).utterances if u.cut] == ["see you tomorrow"]


def test_pieces_in_scripts_without_spaces_are_joined_by_nothing() -> None:
    said = (Utterance(0, 0, "今天天气"), Utterance(1, 0, "很好。"), Utterance(2, 1, "Yes, it"), Utterance(3, 1, "is."))
    conversation, timeline = told(Scene(CALLING[:2], said), (), "group", {})
    assert [message.parts[0].text for message in conversation.messages] == ["今天天气很好。", "Yes, it is."]
    assert timeline.chunk_end == [4, 7, 7, 11]
