"""The books are recounted from the files on disk: one row too few anywhere is found and named."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.conservation import recount_convert, recount_dataset
from pipeline.convert import ConvertConfig
from pipeline.errors import ConservationError, PipelineError
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.validate import validate

LINES = (
    '{"question": "How many are 2 and 3?", "answer": "2+3 = <<2+3=5>>5\\n#### 5"}',
    '{"question": "How many are 4 and 4?", "answer": "4+4 = <<4+4=8>>8\\n#### 8"}',
    '{"question": "no final answer", "answer": "I do not know"}',
    "this is no JSON",
    '{"question": "How many are 7 less 1?", "answer": "7-1 = <<7-1=6>>6\\n#### 6"}',
    '["an", "array"]',
    *(f'{{"question": "What is {i} and 1?", "answer": "{i}+1 = {i + 1}\\n#### {i + 1}"}}' for i in range(20)),
)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    source = tmp_path / "math.jsonl"
    source.write_text("\n".join(LINES) + "\n")
    out = tmp_path / "out"
    ingest = ingest_stage(
        [InputSource(path=str(source), corpus="math")], Path(), out / "ingest", IngestConfig(shard_units=9)
    )
    converted = convert_stage(ingest, out / "convert", ConvertConfig(), max_rejected_fraction=0.5, workers=1)
    dataset_stage([converted], out / "dataset", ShuffleConfig(shard_rows=5))
    return out


def drop_row(path: Path, row: int = 0) -> None:
    """Takes one row out of a Parquet file."""
    table = pq.read_table(path)
    keep = [i for i in range(table.num_rows) if i != row % table.num_rows]
    pq.write_table(table.take(pa.array(keep, pa.int64())), path)


def test_every_unit_is_accounted_for_with_its_reason(built: Path) -> None:
    counts = recount_convert(built / "ingest", built / "convert")
    assert counts == {"in": 26, "converted": 23, "rejected": 3, "records": 23}
    rows = [r for p in sorted((built / "convert").glob("rejects-*.parquet")) for r in pq.read_table(p).to_pylist()]
    assert [(r["index"], r["code"]) for r in rows] == [(2, "missing_answer"), (3, "not_json"), (5, "wrong_type")]
    assert [r["raw"].decode() for r in rows] == [LINES[2], LINES[3], LINES[5]]
    assert all(
        r["corpus"] == "math" and r["path"] == "math.jsonl" and r["stage"] == "convert" and r["message"] for r in rows
    )


@pytest.mark.parametrize("name", ["records-00001", "tokens-smollm2-00001", "ledger-00001", "rejects-00000"])
def test_a_row_that_is_gone_from_a_converted_shard_is_found(built: Path, name: str) -> None:
    drop_row(built / "convert" / f"{name}.parquet")
    with pytest.raises(ConservationError, match=r"shard [01]"):
        recount_convert(built / "ingest", built / "convert")
    report = validate(built)
    assert report.failures["conservation"] == 1
    assert report.failures["files"] == 1


def test_a_shard_that_is_gone_is_found(built: Path) -> None:
    (built / "convert" / "ledger-00002.parquet").unlink()
    with pytest.raises(ConservationError, match="the ledger is missing"):
        recount_convert(built / "ingest", built / "convert")


@pytest.mark.parametrize("table", ["records", "tokens-smollm2"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_that_is_gone_from_the_data_set_is_found(built: Path, table: str, split: str) -> None:
    inputs = [("convert", sorted((built / "convert").glob("records-*.parquet")))]
    recount_dataset(inputs, built / "dataset")
    drop_row(next((built / "dataset" / split).glob(f"{table}-*.parquet")))
    with pytest.raises(ConservationError, match="23 records in, 22"):
        recount_dataset(inputs, built / "dataset")
    assert not validate(built).ok


def test_a_record_that_was_swapped_for_another_is_found_though_the_count_is_right(built: Path) -> None:
    inputs = [("convert", sorted((built / "convert").glob("records-*.parquet")))]
    path = max((built / "dataset" / "train").glob("records-*.parquet"), key=lambda p: pq.read_metadata(p).num_rows)
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([0, *range(table.num_rows - 1)])), path)
    with pytest.raises(ConservationError, match="not those that came in"):
        recount_dataset(inputs, built / "dataset")


def test_more_rejects_than_allowed_stop_the_run_with_the_reasons(tmp_path: Path) -> None:
    source = tmp_path / "math.jsonl"
    source.write_text("\n".join(LINES) + "\n")
    ingest = ingest_stage([InputSource(path=str(source))], Path(), tmp_path / "ingest", IngestConfig())
    with pytest.raises(
        PipelineError, match=r"3 of 26 units were rejected \(1 missing_answer, 1 not_json, 1 wrong_type\)"
    ):
        convert_stage(ingest, tmp_path / "convert", ConvertConfig(), workers=1)
    assert not (tmp_path / "convert" / "manifest.json").exists()
    assert len(pq.read_table(tmp_path / "convert" / "rejects-00000.parquet")) == 3


def test_conversations_without_an_answer_are_kept_apart_and_are_no_rejects(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    source.write_text(
        '{"messages": [{"role": "user", "content": "Anyone there?"}]}\n'
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
    )
    ingest = ingest_stage([InputSource(path=str(source))], Path(), tmp_path / "ingest", IngestConfig())
    converted = convert_stage(ingest, tmp_path / "convert", ConvertConfig(), workers=1)
    assert recount_convert(tmp_path / "ingest", tmp_path / "convert") == {
        "in": 2,
        "input_only": 1,
        "converted": 1,
        "records": 1,
    }
    assert converted.manifest.counters["rejected"] == 0
    kept = pq.read_table(tmp_path / "convert" / "input-only-00000.parquet").to_pylist()
    assert [e["text"] for e in kept[0]["events"]] == ["Anyone there?"]


def test_a_group_is_never_on_both_sides_of_the_split(tmp_path: Path) -> None:
    source = tmp_path / "math.jsonl"
    source.write_text("".join(f'{{"question": "Q{i % 7}?", "answer": "step {i}\\n#### {i}"}}\n' for i in range(70)))
    ingest = ingest_stage([InputSource(path=str(source))], Path(), tmp_path / "ingest", IngestConfig(shard_units=8))
    converted = convert_stage(ingest, tmp_path / "convert", ConvertConfig(), workers=1)
    dataset_stage([converted], tmp_path / "dataset", ShuffleConfig(test_fraction=0.4, shard_rows=9))
    groups = {
        split: {
            g
            for p in (tmp_path / "dataset" / split).glob("records-*.parquet")
            for g in pq.read_table(p)["group"].to_pylist()
        }
        for split in ("train", "test")
    }
    assert groups["train"]
    assert groups["test"]
    assert not groups["train"] & groups["test"]


def test_a_small_data_set_still_has_a_test_group(tmp_path: Path) -> None:
    source = tmp_path / "math.jsonl"
    source.write_text("".join(f'{{"question": "Q{i}?", "answer": "step\\n#### {i}"}}\n' for i in range(3)))
    ingest = ingest_stage([InputSource(path=str(source))], Path(), tmp_path / "ingest", IngestConfig())
    converted = convert_stage(ingest, tmp_path / "convert", ConvertConfig(), workers=1)
    counters = dataset_stage([converted], tmp_path / "dataset", ShuffleConfig(test_fraction=0.0001)).manifest.counters
    assert (counters["train"], counters["test"]) == (2, 1)


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_a_file_that_cannot_be_read_any_more_is_a_failure_with_its_name(built: Path, harm: str) -> None:
    for path in sorted(built.rglob("*-00000*.parquet")):
        data = path.read_bytes()
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2] if harm == "cut" else b"")
        report = validate(built)
        named = [f"{where} {message}" for found in report.offenders.values() for where, message in found]
        assert any(path.name in text for text in named), path
        path.write_bytes(data)
    assert validate(built).ok


@pytest.mark.parametrize("command", ["stats", "validate"])
def test_a_damaged_file_is_no_traceback(
    built: Path, command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    for path in [*built.glob("dataset/train/records-*.parquet"), *built.glob("convert/rejects-*.parquet")]:
        path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.setattr(sys, "argv", ["multistream", command, str(built)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "parquet" in "".join(capfd.readouterr()).lower()
