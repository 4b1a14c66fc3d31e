"""Killed anywhere, started again: the same bytes. And books that cannot be made to balance by hand."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.conservation import recount_convert, recount_dataset
from pipeline.convert import ConvertConfig
from pipeline.errors import ConservationError, PipelineError
from pipeline.manifest import Result, damaged, need_manifest, publish, run_stage
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.validate import validate

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "name": "killed",
    "sources": [{"path": str(ROOT / "examples" / "conversations")}],
    "ingest": {"shard_units": 5},
    "shards": {"shard_rows": 7, "test_fraction": 0.2},
}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every Parquet file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.parquet"))
    }


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """A build in a process of its own."""
    config = folder / "c.yaml"
    config.write_text(json.dumps(CONFIG))
    arguments = ["build", str(config), "--out", str(folder / "out"), "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
    )


def finish(folder: Path, workers: int) -> str:
    process = start(folder, workers)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return errors.decode()


def tables(out: Path) -> int:
    """How many tables a build has published. Folders may go while they are counted."""
    names = [name for _, _, files in os.walk(out) for name in files]
    return sum(name.endswith(".parquet") and not name.startswith(".") for name in names)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed build."""
    folder = tmp_path_factory.mktemp("calm")
    finish(folder, workers=1)
    return folder / "out"


@pytest.mark.parametrize(("workers", "instants"), [(1, (0.6,)), (2, (0.1, 0.5, 0.8, 0.95))])
def test_a_build_killed_at_any_instant_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, calm: Path, workers: int, instants: tuple[float, ...]
) -> None:
    for part in instants:
        process = start(tmp_path, workers)
        while tables(tmp_path / "out") < part * tables(calm):
            assert process.poll() is None, "the build was over before it could be killed"
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        for path in (tmp_path / "out").rglob("*.parquet"):
            if not path.name.startswith("."):
                pq.read_metadata(path)  # what has its final name is whole
    finish(tmp_path, workers)
    assert digests(tmp_path / "out") == digests(calm)
    assert len(digests(calm)) > 50
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") or p.name == "scratch"]
    assert finish(tmp_path, workers).count("skipped, finished before") == 3


LINES = [f'{{"question": "What is {i} and 1?", "answer": "{i}+1 = {i + 1}\\n#### {i + 1}"}}' for i in range(12)]


def math_stages(
    folder: Path, lines: list[str], config: ConvertConfig | None = None, limit: float = 0.5
) -> tuple[Result, Result]:
    (folder / "math.jsonl").write_text("\n".join(lines) + "\n")
    source = InputSource(path=str(folder / "math.jsonl"), corpus="math")
    ingest = ingest_stage([source], Path(), folder / "out" / "ingest", IngestConfig(shard_units=4))
    return ingest, convert_stage(ingest, folder / "out" / "convert", config or ConvertConfig(), limit, workers=1)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    _, convert = math_stages(folder, [*LINES, "no JSON", '{"question": "Why?"}'])
    dataset_stage([convert], folder / "out" / "dataset", ShuffleConfig(shard_rows=4))
    return folder / "out"


def edit(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Changes the rows of a Parquet file."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def forge_manifest(stage: Path, name: str) -> None:
    """Makes the stage's manifest name the file as it now is: only the books can tell."""
    value = json.loads((stage / "manifest.json").read_text())
    for output in value["outputs"]:
        if output["path"].endswith(name):
            data = (stage / output["path"]).read_bytes()
            output.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (stage / "manifest.json").write_text(json.dumps(value))


HARM: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = {
    "a record gone": ("convert/records-00001.parquet", lambda rows: rows.pop(), "shard 1: unit 7 of math/math.jsonl"),
    "a record twice": ("convert/records-00001.parquet", lambda rows: rows.append(rows[0]), "shard 1: unit 4"),
    "a grid gone": ("convert/tokens-smollm2-00001.parquet", lambda rows: rows.pop(), "tokens-smollm2-00001.parquet"),
    "a reject gone": ("convert/rejects-00003.parquet", lambda rows: rows.pop(), "shard 3: unit 13"),
    "a reject twice": ("convert/rejects-00003.parquet", lambda rows: rows.append(rows[0]), "shard 3: unit 12"),
    "a unit gone": ("ingest/units-00002.parquet", lambda rows: rows.pop(0), "shard 2: unit 8"),
    "a line of the ledger gone": ("convert/ledger-00000.parquet", lambda rows: rows.pop(0), "shard 0: unit 0"),
    "a line of the ledger twice": (
        "convert/ledger-00000.parquet",
        lambda rows: rows.append(rows[0]),
        "shard 0: unit 0",
    ),
    "a record and its booking gone": (
        "convert/ledger-00000.parquet",
        lambda rows: rows[1].update(records=0),
        "booked as converted",
    ),
    "a unit booked under an unknown name": (
        "convert/ledger-00000.parquet",
        lambda rows: rows[1].update(outcome="lost"),
        "booked as lost",
    ),
    "a reject booked as excluded": (
        "convert/ledger-00003.parquet",
        lambda rows: rows[0].update(outcome="excluded"),
        "shard 3: unit 12",
    ),
}


@pytest.mark.parametrize("what", HARM)
def test_the_recount_names_the_place_even_where_the_manifest_was_made_to_agree(
    converted: Path, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(converted, out)
    name, change, place = HARM[what]
    edit(out / name, change)
    assert not validate(out).ok
    stage, file = name.split("/")
    forge_manifest(out / stage, file)
    if "booked as converted" in place:
        edit(out / "convert" / "records-00000.parquet", lambda rows: rows.pop(1))
    with pytest.raises(ConservationError) as error:
        recount_convert(out / "ingest", out / "convert")
    assert place in str(error.value)
    report = validate(out)
    assert any(place in message for _, message in report.offenders["conservation"])


@pytest.mark.parametrize("table", ["records", "tokens"])
def test_a_final_shard_with_a_row_less_or_another_row_does_not_fit_what_came_in(
    converted: Path, tmp_path: Path, table: str
) -> None:
    inputs = [("convert", sorted((converted / "convert").glob("records-*.parquet")))]
    assert recount_dataset(inputs, converted / "dataset")["in_convert"] == 12
    for i, change in enumerate((lambda rows: rows.pop(), lambda rows: rows[0].update(id="0" * 32))):
        shutil.copytree(converted / "dataset", tmp_path / str(i))
        edit(next((tmp_path / str(i) / "train").glob(f"{table}-*.parquet")), change)
        with pytest.raises(ConservationError, match=table):
            recount_dataset(inputs, tmp_path / str(i))


def test_a_skipped_conversion_with_too_many_rejects_is_refused_like_a_fresh_one(tmp_path: Path) -> None:
    lines = [*LINES[:6], "no JSON", "neither"]
    _, first = math_stages(tmp_path, lines, limit=0.5)
    assert not first.skipped
    with pytest.raises(PipelineError, match=r"2 of 8 units were rejected \(2 not_json\)"):
        math_stages(tmp_path, lines, limit=0.1)
    assert math_stages(tmp_path, lines, limit=0.25)[1].skipped


def test_a_smaller_input_leaves_nothing_of_the_larger_one(tmp_path: Path) -> None:
    math_stages(tmp_path, LINES)
    _, again = math_stages(tmp_path, LINES[:3])
    assert again.manifest.counters["records"] == 3
    assert (
        len(list((tmp_path / "out").rglob("units-*.parquet")))
        == len(list((tmp_path / "out").rglob("ledger-*.parquet")))
        == 1
    )
    assert validate(tmp_path / "out" / "convert").ok


def test_another_tokenizer_leaves_no_grids_of_the_first(tmp_path: Path) -> None:
    from pipeline.packaged import tokenizer_file

    (tmp_path / "other").mkdir()
    shutil.copy(tokenizer_file(), tmp_path / "other" / "tokenizer.json")
    math_stages(tmp_path, LINES)
    math_stages(tmp_path, LINES, ConvertConfig(tokenizer=str(tmp_path / "other")))
    grids = {p.name.rsplit("-", 1)[0] for p in (tmp_path / "out" / "convert").glob("tokens-*.parquet")}
    assert grids == {"tokens-other"}


def test_units_over_the_limit_are_reject_rows_of_ingest_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "math.jsonl"
    source.write_text("\n".join([*LINES, *(f'{{"question": "{"x" * 5000}{i}"}}' for i in range(9))]) + "\n")
    result = ingest_stage(
        [InputSource(path=str(source))], Path(), tmp_path / "ingest", IngestConfig(max_unit_bytes=2000)
    )
    assert {k: result.manifest.counters[k] for k in ("in", "out", "rejected")} == {"in": 21, "out": 12, "rejected": 9}
    rows = pq.read_table(tmp_path / "ingest" / "rejects-00000.parquet").to_pylist()
    assert [(r["index"], r["code"], r["stage"]) for r in rows] == [(i, "too_large", "ingest") for i in range(12, 21)]
    assert not damaged(tmp_path / "ingest", need_manifest(tmp_path / "ingest").outputs)


# publishing


def test_a_file_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"

    def fail() -> None:
        with publish(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []
    with publish(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file.txt"]
    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "whole"


def test_a_stage_that_fails_leaves_no_manifest_that_calls_it_finished(tmp_path: Path) -> None:
    runs: list[int] = []

    def work(fail: bool) -> Any:
        runs.append(1)
        if fail:
            raise PipelineError("no")
        return [], {"in": 0}, {}

    run_stage(tmp_path, "s", 1, {"a": 1}, {}, lambda: work(False))
    with pytest.raises(PipelineError):
        run_stage(tmp_path, "s", 1, {"a": 2}, {}, lambda: work(True))
    assert not (tmp_path / "manifest.json").exists()
    assert not run_stage(tmp_path, "s", 1, {"a": 1}, {}, lambda: work(False)).skipped
    assert run_stage(tmp_path, "s", 1, {"a": 1}, {}, lambda: work(False)).skipped
    assert not run_stage(tmp_path, "s", 2, {"a": 1}, {}, lambda: work(False)).skipped
    assert not run_stage(tmp_path, "s", 2, {"a": 1}, {"in": "x"}, lambda: work(False)).skipped
    assert not run_stage(tmp_path, "s", 2, {"a": 1}, {"in": "x"}, lambda: work(False), fresh=True).skipped
    assert len(runs) == 6


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(PipelineError, match=f"{name} is no file"), publish(tmp_path / name):
            raise AssertionError("nothing is written")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]
