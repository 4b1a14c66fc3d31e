"""Conversations without an answer: a split of their own, text only, counted and checked; never in the training split."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.card import render_card
from pipeline.convert import ConvertConfig
from pipeline.folders import find_records
from pipeline.manifest import read_manifest
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.validate import validate


def build(tmp_path: Path, answered: range) -> Path:
    """A build of 12 conversations of which those in ``answered`` have an answer."""
    lines = []
    for i in range(12):
        answer = [{"role": "assistant", "content": f"It is {i}."}] if i in answered else []
        lines.append(json.dumps({"messages": [{"role": "user", "content": f"What is {i} and 0?"}, *answer]}))
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    source = InputSource(path=str(tmp_path / "chat.jsonl"), corpus="chat")
    ingest = ingest_stage([source], Path(), tmp_path / "ingest", IngestConfig())
    converted = convert_stage(ingest, tmp_path / "convert", ConvertConfig(), workers=1)
    dataset_stage([converted], tmp_path / "dataset", ShuffleConfig())
    return tmp_path


def split_indices(out: Path, split: str) -> list[int]:
    paths = sorted((out / "dataset" / split).glob("records-*.parquet"))
    return sorted(r["sources"][0]["index"] for p in paths for r in pq.read_table(p).to_pylist())


def test_unanswered_conversations_are_a_split_without_tokens(tmp_path: Path) -> None:
    out = build(tmp_path, range(5, 12))
    assert split_indices(out, "input_only") == [0, 1, 2, 3, 4]
    assert sorted(split_indices(out, "train") + split_indices(out, "test")) == [5, 6, 7, 8, 9, 10, 11]
    assert not list((out / "dataset" / "input_only").glob("tokens-*"))
    manifest = read_manifest(out / "dataset")
    assert manifest is not None
    assert (manifest.counters["in"], manifest.counters["out"], manifest.counters["input_only"]) == (12, 12, 5)
    report = validate(out)
    assert report.ok
    assert (report.checked["schema"], report.checked["tokens"]) == (12, 7)


def test_a_corpus_without_any_answer_makes_a_data_set_of_that_split_alone(tmp_path: Path) -> None:
    out = build(tmp_path, range(0))
    assert split_indices(out, "input_only") == list(range(12))
    assert not (out / "dataset" / "train").exists()
    assert validate(out).ok
    card = render_card(out, "Prompts")
    assert "split: input_only" in card
    assert "split: train" not in card


def test_they_come_last_and_are_left_out_of_statistics(tmp_path: Path) -> None:
    files = find_records(build(tmp_path, range(5, 12)))
    assert [p.parent.name for p in files.records][-1] == "input_only"
    assert {p.parent.name for p in files.answered} <= {"train", "test"}


def test_an_unanswered_record_that_is_gone_is_found(tmp_path: Path) -> None:
    out = build(tmp_path, range(5, 12))
    (path,) = (out / "dataset" / "input_only").glob("records-*.parquet")
    pq.write_table(pq.read_table(path).take(pa.array([0, 1, 2])), path)
    assert validate(out).failures["conservation"] == 1


@pytest.mark.parametrize(("media", "outcome"), [("placeholder", "input_only"), ("reject", "rejected")])
def test_an_image_is_a_placeholder_with_its_reference_or_a_reject(tmp_path: Path, media: str, outcome: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/kiln.png"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": content}]}))
    ingest = ingest_stage([InputSource(path=str(tmp_path / "m.jsonl"))], Path(), tmp_path / "i", IngestConfig())
    config = ConvertConfig(media=media)  # type: ignore[arg-type]
    convert_stage(ingest, tmp_path / "c", config, max_rejected_fraction=1.0, workers=1)
    assert pq.read_table(tmp_path / "c" / "ledger-00000.parquet").column("outcome").to_pylist() == [outcome]
    if media == "reject":
        (row,) = pq.read_table(tmp_path / "c" / "rejects-00000.parquet").to_pylist()
        assert (row["code"], "kiln.png" in row["message"]) == ("media", True)
        return
    (record,) = pq.read_table(tmp_path / "c" / "input-only-00000.parquet").to_pylist()
    assert [(e["kind"], e["text"]) for e in record["events"]] == [("message", "What is this?"), ("note", "[image]")]
    (labelled,) = json.loads(record["labels"])["media"]
    assert (labelled["message"], labelled["part"], json.loads(labelled["reference"])) == (0, 1, image)
    assert [p["added"] for p in record["parts"]] == ["", "[image]"]
