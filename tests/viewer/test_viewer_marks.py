"""Marks and rejects: what people think of records, and what could not be used."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.viewer.filters import parse_filter
from pipeline.viewer.marks import Mark, add_mark, marks_file, read_marks
from pipeline.viewer.rejects import open_rejects
from tests.viewer.viewer_records import write_rejects


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
    assert marks_file(Path(named)) == Path("build/marks.jsonl")


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
        for line in ("", "reason:LEAK", "corpus:made circle", '"A\\" nothing"', "raw")
    }
    assert list(found.values()) == [[0, 1, 2, 3], [3], [0, 1, 2], [], [3]]
    assert len(open_rejects(tmp_path / "convert")) == 3
    assert len(open_rejects(tmp_path / "synth" / "rejects-00000.parquet")) == 1
    with pytest.raises(InputError, match="rejects have no policy"):
        list(rejects.matching(parse_filter("policy:x")))
    with pytest.raises(InputError, match="is not there"):
        open_rejects(tmp_path / "nowhere")
