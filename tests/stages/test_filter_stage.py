"""The filter stage: what filters take is left out of the data set, booked, and told; the rest is untouched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.stages.filter as filter_module
from pipeline.convert import ConvertConfig
from pipeline.errors import ConservationError, PipelineError
from pipeline.filters import parse_filters
from pipeline.leftout import book_of, recount
from pipeline.manifest import Result
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.filter import filter_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.statistics.rejects import left_out_of
from pipeline.validate import validate

#: Answers of so many words, from 1 on; every fifth ends in an open block of code.
TALKS = 40
SHORT = {"length": {"min_output_characters": 30}}


def _answer(i: int) -> str:
    return " ".join(["word"] * i) + ("\n```python\nprint(1)" if i % 5 == 0 else ".")


def _lines() -> list[dict[str, Any]]:
    spoken = [
        {"messages": [{"role": "user", "content": f"Say {i} words."}, {"role": "assistant", "content": _answer(i)}]}
        for i in range(1, TALKS + 1)
    ]
    silent = [{"messages": [{"role": "user", "content": f"Nobody answers {i}."}]} for i in range(3)]
    return [*spoken, *silent]


@pytest.fixture
def converted(tmp_path: Path) -> Result:
    return _convert(tmp_path)


def _convert(tmp_path: Path, max_cells: int = 8192) -> Result:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _lines()))
    out = tmp_path / "out"
    config = IngestConfig(shard_units=10)
    ingest = ingest_stage([InputSource(path=str(tmp_path / "in"))], Path(), out / "ingest", config)
    return convert_stage(ingest, out / "convert", ConvertConfig(max_cells=max_cells), workers=1)


def _filter(converted: Result, filters: Any, **more: Any) -> Result:
    return filter_stage(
        [converted], converted.directory.parent / "filter", parse_filters(filters), **{"workers": 1, **more}
    )


def _dataset(converted: Result, left_out: Sequence[Result]) -> Result:
    out = converted.directory.parent / "dataset"
    return dataset_stage([converted], out, ShuffleConfig(test_fraction=0.2), left_out=left_out)


def _ids(stage: Result, table: str) -> list[str]:
    return [i for p in stage.manifest.paths(stage.directory, table) for i in pq.read_table(p)["id"].to_pylist()]


def _digests(stage: Result) -> dict[str, str]:
    return {o.path: o.sha256 for o in stage.manifest.outputs}


def _expected(limit: int = 30) -> int:
    return sum(len("".join(_answer(i).split())) < limit for i in range(1, TALKS + 1))


def test_what_is_taken_is_left_out_booked_and_told(converted: Result) -> None:
    stage = _filter(converted, [SHORT, {"truncated": {"action": "flag"}}])
    taken = _expected()
    counters = stage.manifest.counters
    assert (counters["in"], counters["out"], counters["filtered"]) == (TALKS + 3, TALKS + 3 - taken, taken)
    assert counters["filters"]["length"] == {
        "action": "drop", "seen": TALKS + 3, "taken": taken, "reasons": {"too_little_output": taken},
    }  # fmt: skip
    open_code = sum(i % 5 == 0 and len("".join(_answer(i).split())) >= 30 for i in range(1, TALKS + 1))
    assert counters["flagged"] == counters["filters"]["truncated"]["taken"] == open_code > 0
    assert counters["filters"]["truncated"]["seen"] == TALKS + 3 - taken

    dataset = _dataset(converted, [stage])
    gone, flagged = set(_ids(stage, "filtered-")), set(_ids(stage, "flagged-"))
    assert set(_ids(dataset, "records-")) == set(_ids(converted, "records-") + _ids(converted, "input-only-")) - gone
    assert set(_ids(dataset, "tokens-")) == set(_ids(converted, "records-")) - gone
    assert flagged < set(_ids(dataset, "records-"))
    assert dataset.manifest.counters["filters"] == {"length": {"too_little_output": taken}}
    told = {(r.stage, r.code): r.count for r in left_out_of(dataset.directory)}
    assert told == {("filtered", "length: too_little_output"): taken, ("flagged", "truncated: open_code"): open_code}
    assert validate(converted.directory.parent).ok


def test_the_order_of_filters_is_that_of_the_configuration(converted: Result) -> None:
    length = {"length": {"min_output_characters": 60}}
    first = _filter(converted, [length, "truncated"]).manifest.counters["filters"]
    second = _filter(converted, ["truncated", length]).manifest.counters["filters"]
    assert list(first) == list(reversed(second)) == ["length", "truncated"]
    assert first["length"]["taken"] > second["length"]["taken"]
    assert sum(f["taken"] for f in first.values()) == sum(f["taken"] for f in second.values())


def test_conversations_without_an_answer_are_judged_too(converted: Result) -> None:
    stage = _filter(converted, [{"length": {"min_rows": 10_000}}])
    assert stage.manifest.counters["out"] == 0
    silent = pq.read_table(book_of(stage.directory, converted.directory / "input-only-00004.parquet"))
    assert silent["stage"].to_pylist() == ["input_only"] * 3
    assert silent["corpus"].to_pylist() == ["in"] * 3
    with pytest.raises(PipelineError, match=r"the filters leave no record .*\(length took 43\)"):
        _dataset(converted, [stage])


def test_all_segments_of_a_conversation_go_together(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    turns = [
        {"role": role, "content": f"{role} says {i} " + "word " * 20}
        for i in range(8)
        for role in ("user", "assistant")
    ]
    long = {"messages": [*turns, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "```\nopen"}]}
    (tmp_path / "in" / "long.jsonl").write_text(json.dumps(long) + "\n" + json.dumps(_lines()[8]) + "\n")
    ingest = ingest_stage([InputSource(path=str(tmp_path / "in"))], Path(), tmp_path / "ingest", IngestConfig())
    converted = convert_stage(ingest, tmp_path / "convert", ConvertConfig(max_cells=128), workers=1)
    stage = filter_stage([converted], tmp_path / "filter", parse_filters(["truncated"]), workers=1)
    books = [pq.read_table(p) for p in stage.manifest.paths(stage.directory, "filtered-")]
    gone = [i for book in books for i in book["id"].to_pylist()]
    records = pq.read_table(converted.manifest.paths(converted.directory, "records-")[0])
    conversations = dict(zip(records["id"].to_pylist(), records["conversation_id"].to_pylist(), strict=True))
    assert len(gone) == len(conversations) - 1 > 3
    assert len({conversations[i] for i in gone}) == 1
    assert {d for book in books for d in book["detail"].to_pylist()} == {"ends with '```\\nopen'"}


def test_one_worker_and_two_and_a_run_that_was_cut_off_write_the_same_bytes(
    converted: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _filter(converted, [SHORT, "truncated"])
    with monkeypatch.context() as patched:
        patched.setattr(filter_module, "FEW", 0)
        assert _digests(_filter(converted, [SHORT, "truncated"], workers=2, fresh=True)) == _digests(whole)

    def cut_off(*args: Any) -> None:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return judge(*args)

    done: list[int] = []
    judge = filter_module.judge_shard
    monkeypatch.setattr(filter_module, "judge_shard", cut_off)
    with pytest.raises(KeyboardInterrupt):
        _filter(converted, [SHORT, "truncated"], fresh=True)
    resumed = _filter(converted, [SHORT, "truncated"])
    shards = len(whole.manifest.outputs) // 2
    assert len(done) == 3 + shards - 2, "two shards were finished, and are not judged again"
    assert _digests(resumed) == _digests(whole)
    assert not (whole.directory / "finished").exists()


def test_another_threshold_judges_again_and_converts_nothing(converted: Result) -> None:
    before = _digests(converted)
    first = _filter(converted, [SHORT])
    assert _filter(converted, [SHORT]).skipped
    second = _filter(converted, [{"length": {"min_output_characters": 60}}])
    assert not second.skipped
    assert second.manifest.counters["filtered"] == _expected(60) > first.manifest.counters["filtered"]
    paths = list(converted.directory.glob("*.parquet"))
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths} == before


def test_books_that_name_other_records_are_found(converted: Result) -> None:
    stage = _filter(converted, [SHORT])
    _dataset(converted, [stage])
    shards = sorted(converted.directory.glob("records-*.parquet"))
    book = book_of(stage.directory, shards[0])
    assert recount(shards[0], stage.directory)["filtered"] > 0
    other = pq.read_table(shards[1]).column("id")[0].as_py()
    table = pq.read_table(book)
    pq.write_table(table.set_column(0, table.schema.field(0), [[other] * len(table)]), book)
    with pytest.raises(ConservationError, match=r"names .* records that records-00000\.parquet does not hold"):
        recount(shards[0], stage.directory)
    assert not validate(converted.directory.parent).ok
