"""Marks and rejects: what people think of records, and what could not be used."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.selection import select
from pipeline.viewer.filters import parse_filter
from pipeline.viewer.marks import Mark, add_mark, marks_file, read_marks
from pipeline.viewer.rejects import open_rejects
from tests.viewer.viewer_records import write_rejects

ROOT = Path(__file__).resolve().parents[2]


def test_the_last_line_of_an_id_counts_and_null_takes_a_mark_back(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    assert read_marks(path) == {}
    add_mark(path, "a", "good", "fine")
    add_mark(path, "b", "bad", 'line\nbreak \u2028 \x85 "quoted" \x1b[31m')
    add_mark(path, "a", "bad")
    assert read_marks(path) == {"a": Mark("bad"), "b": Mark("bad", 'line\nbreak \u2028 \x85 "quoted" \x1b[31m')}
    add_mark(path, "a", None)
    assert set(read_marks(path)) == {"b"}
    assert path.read_bytes().count(b"\n") == 4


def test_a_mark_is_appended_on_a_line_of_its_own_after_one_that_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text('{"id": "a", "mark": "good"}', encoding="utf-8")
    add_mark(path, "b", "bad")
    assert read_marks(path) == {"a": Mark("good"), "b": Mark("bad")}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": 1, "mark": "good"}', '{"id": "a", "mark": "fine"}', '{"id": "a", "note": 1}']
)
def test_a_line_that_is_no_mark_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text('{"id": "a", "mark": "good"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2"):
        read_marks(path)


@pytest.mark.parametrize(
    "named",
    [
        "build",
        "build/dataset",
        "build/convert",
        "build/dataset/train",
        "build/dataset/train/records-00000-of-00001.parquet",
    ],
)
def test_marks_are_in_one_place_whatever_part_of_a_build_is_named(named: str) -> None:
    assert marks_file(Path("/data") / named) == Path("/data/build/marks.jsonl")


def test_a_build_is_found_from_within_and_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for build in ("made", "dataset", "test"):  # a build may have the name of a stage or of a split
        train = tmp_path / build / "dataset" / "train"
        train.mkdir(parents=True)
        wanted = tmp_path / build / "marks.jsonl"
        for folder, named in (
            (tmp_path, build), (tmp_path / build, "."), (tmp_path / build, "dataset"), (train.parent, "."),
            (train.parent, "train"), (train, "."), (train, ".."), (train, "records-00000.parquet"),
        ):  # fmt: skip
            monkeypatch.chdir(folder)
            assert marks_file(Path(named)) == wanted, (folder, named)
        add_mark(marks_file(train), "a", "bad")
        assert select("drop-bad", tmp_path / build).marks == {"a": Mark("bad")}


def test_processes_that_mark_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text('{"id": "first", "mark": "good"}', encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from pipeline.viewer.marks import add_mark\n"
        f"for i in range(60): add_mark(Path({str(path)!r}), sys.argv[1] + str(i), 'bad', 'x' * 9000 * (i % 3))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, name], cwd=ROOT) for name in "abcd"]
    assert [process.wait(120) for process in running] == [0] * 4
    assert set(read_marks(path)) == {"first", *(f"{name}{i}" for name in "abcd" for i in range(60))}


@pytest.mark.parametrize("cut", [1, 9, 20, 34, -2, -1])
def test_a_last_line_that_was_not_written_to_its_end_hides_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "marks.jsonl"
    line = '{"id": "b", "mark": "bad", "note": "\u05e9"}'.encode()
    path.write_bytes(b'{"id": "a", "mark": "good"}\n' + line[:cut])
    assert read_marks(path) == {"a": Mark("good")}
    add_mark(path, "c", "bad")
    assert read_marks(path) == {"a": Mark("good"), "c": Mark("bad")}
    assert path.read_bytes().count(b"\n") == 2


def test_rejects_are_numbered_counted_and_found(tmp_path: Path) -> None:
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", [("cycle", "waits in a circle", b'{"a": 1}')] * 3)
    write_rejects(tmp_path / "synth" / "rejects-00000.parquet", [("leak", "says 42", b"\xff\xfe\x1b[31m raw")])
    rejects = open_rejects(tmp_path)
    assert len(rejects) == 4
    assert rejects.reasons() == {"convert: cycle": 3, "convert: leak": 1}
    assert base64.b64decode(rejects.reject(3)["raw"]) == b"\xff\xfe\x1b[31m raw"
    assert rejects.text(3) == "\ufffd\ufffd\x1b[31m raw"
    assert rejects.where(3)[0].parent.name == "synth"
    found = {
        line: list(rejects.matching(parse_filter(line)))
        for line in ("", "reason:LEAK", "corpus:made circle", '"A\\" nothing"', "raw", "reason:lea", "reason:convert")
    }
    assert list(found.values()) == [[0, 1, 2, 3], [3], [0, 1, 2], [], [3], [], [0, 1, 2, 3]]
    assert list(rejects.matching(parse_filter('reason:"convert: cycle"'))) == [0, 1, 2]
    assert list(rejects.matching(parse_filter('reason:"convert: c"'))) == []
    assert len(open_rejects(tmp_path / "convert")) == 3
    assert len(open_rejects(tmp_path / "synth" / "rejects-00000.parquet")) == 1
    with pytest.raises(InputError, match="rejects have no policy"):
        list(rejects.matching(parse_filter("policy:x")))
    with pytest.raises(InputError, match="is not there"):
        open_rejects(tmp_path / "nowhere")
