"""Marks of people decide what is in the data set; what they leave out is booked."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.convert import ConvertConfig
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import Result
from pipeline.selection import Rule
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.validate import validate
from pipeline.viewer.marks import add_mark
from pipeline.watching import books_of

SPOKEN = [f'{{"question": "What is {i} and 1?", "answer": "{i}+1 = {i + 1}\\n#### {i + 1}"}}' for i in range(20)]
SILENT = [json.dumps({"messages": [{"role": "user", "content": f"Nobody answers {i}."}]}) for i in range(3)]


@pytest.fixture
def converted(tmp_path: Path) -> Result:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "math.jsonl").write_text("\n".join(SPOKEN) + "\n")
    (tmp_path / "in" / "silent.jsonl").write_text("\n".join(SILENT) + "\n")
    out = tmp_path / "out"
    ingest = ingest_stage([InputSource(path=str(tmp_path / "in"))], Path(), out / "ingest", IngestConfig())
    return convert_stage(ingest, out / "convert", ConvertConfig(), workers=1)


def dataset(converted: Result, rule: Rule) -> Result:
    config = ShuffleConfig(test_fraction=0.2, marks=rule)
    return dataset_stage([converted], converted.directory.parent / "dataset", config)


def ids(stage: Result, table: str = "records-") -> list[str]:
    return sorted(
        id_ for p in stage.manifest.paths(stage.directory, table) for id_ in pq.read_table(p)["id"].to_pylist()
    )


def test_what_is_marked_bad_is_left_out_booked_and_told(converted: Result) -> None:
    out = converted.directory.parent
    whole = ids(dataset(converted, "ignore"))
    spoken = ids(converted)
    silent = ids(converted, "input-only-")
    assert whole == sorted([*spoken, *silent])
    bad = {spoken[3]: "wrong sum", spoken[7]: "", silent[1]: "nothing in it"}
    for id_, note in bad.items():
        add_mark(out / "marks.jsonl", id_, "bad", note)
    add_mark(out / "marks.jsonl", spoken[4], "good")
    add_mark(out / "marks.jsonl", spoken[5], "bad")
    add_mark(out / "marks.jsonl", spoken[5], None)

    assert dataset(converted, "ignore").skipped, "marks do nothing unless they are asked for"
    stage = dataset(converted, "drop-bad")
    assert ids(stage) == [id_ for id_ in whole if id_ not in bad]
    assert set(ids(stage, "tokens-")) == set(spoken) - bad.keys()
    assert (stage.manifest.counters["in"], stage.manifest.counters["out"]) == (23, 20)
    assert stage.manifest.counters["filtered"] == 3
    told = pq.read_table(stage.directory / "filtered-00000.parquet").to_pylist()
    assert {row["id"] for row in told} == set(bad)
    assert not any("wrong sum" in str(row) for row in told), "notes stay with those who wrote them"
    assert stage.manifest.counters["unknown_marks"] == 0
    assert {(row["filter"], row["reason"]) for row in told} == {("marks", "marked bad")}
    assert {row["stage"] for row in told} == {"convert", "input_only"}
    assert validate(out).ok
    assert dataset(converted, "drop-bad").skipped


def test_only_what_is_marked_good_is_taken(converted: Result) -> None:
    out = converted.directory.parent
    chosen = ids(converted)[2:9]
    for id_ in chosen:
        add_mark(out / "marks.jsonl", id_, "good")
    stage = dataset(converted, "only-good")
    assert ids(stage) == chosen
    assert stage.manifest.counters["filtered"] == 16
    assert validate(out).ok


def test_a_new_mark_makes_the_data_set_anew_and_a_note_or_a_good_mark_does_not(converted: Result) -> None:
    marks = converted.directory.parent / "marks.jsonl"
    first, second, *_ = ids(converted)
    add_mark(marks, first, "bad")
    assert not dataset(converted, "drop-bad").skipped
    add_mark(marks, first, "bad", "a reason")
    add_mark(marks, second, "good")
    assert dataset(converted, "drop-bad").skipped
    add_mark(marks, second, "bad")
    assert not dataset(converted, "drop-bad").skipped
    add_mark(marks, first, None)
    add_mark(marks, second, None)
    stage = dataset(converted, "drop-bad")
    assert stage.manifest.counters["filtered"] == 0
    assert not (stage.directory / "filtered-00000.parquet").exists()


@pytest.mark.parametrize("first", ["drop-bad", "only-good"])
def test_a_rule_that_is_taken_back_leaves_nothing_behind(converted: Result, first: Rule) -> None:
    whole = ids(dataset(converted, "ignore"))
    add_mark(converted.directory.parent / "marks.jsonl", ids(converted)[0], "bad")
    if first == "only-good":
        with pytest.raises(PipelineError, match="the marks leave no record"):
            dataset(converted, first)
    else:
        dataset(converted, first)
    stage = dataset(converted, "ignore")
    assert ids(stage) == whole
    assert not list(stage.directory.glob("filtered-*"))
    assert validate(converted.directory.parent).ok


def test_marks_of_records_that_there_are_not_are_counted(converted: Result) -> None:
    marks = converted.directory.parent / "marks.jsonl"
    for id_ in (ids(converted)[0], "f" * 32, "e" * 32):
        add_mark(marks, id_, "bad")
    counters = dataset(converted, "drop-bad").manifest.counters
    assert (counters["filtered"], counters["unknown_marks"]) == (1, 2)
    assert books_of(counters) == "23 in, 22 out, 0 rejected, 1 filtered, 2 marks of no record"


def test_marks_that_leave_nothing_or_cannot_be_read_are_told(converted: Result) -> None:
    with pytest.raises(PipelineError, match="the marks leave no record"):
        dataset(converted, "only-good")
    (converted.directory.parent / "marks.jsonl").write_text('{"id": "1", "mark": "bad"}\n{"id": 2}\n')
    with pytest.raises(InputError, match=r"marks\.jsonl, line 2"):
        dataset(converted, "drop-bad")


def test_a_record_that_no_filter_took_and_that_is_gone_is_found(converted: Result) -> None:
    out = converted.directory.parent
    add_mark(out / "marks.jsonl", ids(converted)[0], "bad")
    stage = dataset(converted, "drop-bad")
    path = stage.directory / "filtered-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 0), path)
    assert any(
        "20 records in, 0 filtered, 19 in records-*.parquet" in message
        for _, message in validate(out).offenders["conservation"]
    )
