"""Records of any size by number, id and filter, read as they are asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.viewer import rows
from pipeline.viewer.filters import Filter, parse_filter
from pipeline.viewer.marks import add_mark
from pipeline.viewer.samples import Samples, open_samples
from tests.viewer.viewer_records import event, record, write


def varied(number: int) -> dict[str, Any]:
    """Records that differ in everything that a filter can ask for."""
    overlaps = number % 3 == 0
    said = [
        event(0, 0, 6, f"Question {number} about Oslo", message=0),
        event(
            1, 4 if overlaps else 6, 9, "An ans", message=1, final=False, lexical="leak" if number % 5 == 0 else None
        ),
        event(1, 9, 12, f"wer of NUMBER {number}", message=1),
    ]
    names = ["user", "thought" if number % 2 else "assistant"]
    source = {
        "corpus": f"corpus-{number % 4}",
        "path": "p",
        "index": number,
        "format": "f",
        "license": None,
        "sha256": "0" * 64,
    }
    return record(
        names, said, number,
        sources=[source],
        alignment={"policy": "thinking+evidence" if number % 2 else "turns", "version": 8, "params": "{}"},
        extra=json.dumps({"scenario": "barge-in"}) if number % 7 == 0 else "{}",
    )  # fmt: skip


RECORDS = [varied(number) for number in range(50)]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of three shards in two splits."""
    out = tmp_path_factory.mktemp("viewer") / "build"
    write(out / "dataset" / "test" / "records-00000-of-00001.parquet", RECORDS[:10], group=4)
    write(out / "dataset" / "train" / "records-00000-of-00002.parquet", RECORDS[10:30], group=7)
    write(out / "dataset" / "train" / "records-00001-of-00002.parquet", RECORDS[30:], group=100)
    return out


def test_records_are_numbered_over_all_shards_in_stored_order(build: Path) -> None:
    samples = open_samples(build)
    assert len(samples) == 50
    order = list(range(50))
    random.Random(0).shuffle(order)
    for number in order:
        assert samples.record(number) == RECORDS[number]
    assert samples.where(9)[0].parent.name == "test"
    assert samples.where(30) == (samples.shards[2], 0)
    with pytest.raises(IndexError):
        samples.record(50)


def test_row_groups_are_read_in_slices_forwards_and_backwards(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SLICE", 3)
    samples = open_samples(build)
    for number in [*range(50), 49, 20, 3, 2, 1, 0, 44, 31]:
        assert samples.record(number)["id"] == RECORDS[number]["id"]


def test_more_shards_than_files_are_kept_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SLICE", 1)
    for number in range(20):
        write(tmp_path / f"records-{number:05d}.parquet", RECORDS[2 * number : 2 * number + 2])
    samples = open_samples(tmp_path)
    for number in [*range(40), 0, 39, 1, 38]:
        assert samples.record(number)["id"] == RECORDS[number]["id"]


def test_opening_and_counting_read_no_data(build: Path, tmp_path: Path) -> None:
    whole = (build / "dataset" / "train" / "records-00001-of-00002.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    broken = tmp_path / "records-00000.parquet"
    broken.write_bytes(whole[:4] + b"\xff" * (len(whole) - footer - 4) + whole[-footer:])
    samples = open_samples(tmp_path)
    assert len(samples) == 20
    with pytest.raises(InputError, match=r"records-00000\.parquet cannot be read"):
        samples.record(0)


def test_rows_are_counted_by_a_manifest_only_where_it_describes_the_file(tmp_path: Path) -> None:
    shard = write(tmp_path / "records-00000.parquet", RECORDS[:5])
    size = shard.stat().st_size
    for told, expected in ((size, 7), (size + 1, 5)):
        output = {"path": shard.name, "sha256": "", "bytes": told, "rows": 7, "version": None}
        manifest = {
            "stage": "convert", "version": 1, "fingerprint": "", "config": {}, "inputs": {}, "outputs": [output],
            "counters": {}, "seconds": 0, "notes": {},
        }  # fmt: skip
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert len(open_samples(tmp_path)) == expected


def test_a_record_is_found_by_its_number_its_id_or_the_start_of_one(build: Path) -> None:
    samples = open_samples(build)
    for number in (0, 10, 49):
        id_ = RECORDS[number]["id"]
        assert samples.find(id_) == samples.number(id_[:12]) == samples.number(str(number)) == number
    assert samples.find("nothing") is None
    for wanted, message in (("50", "there is no 50"), ("nothing", "no record 'nothing'"), ("", "no record")):
        with pytest.raises(InputError, match=message):
            samples.number(wanted)


def naive(line: str, number: int) -> bool:
    made = RECORDS[number]
    overlaps = number % 3 == 0
    return {
        "": True,
        "corpus:CORPUS-1": number % 4 == 1,
        "policy:evidence": number % 2 == 1,
        "stream:thou": number % 2 == 1,
        "role:assistant": number % 2 == 0,
        "role:assist": False,
        "pattern:barge": number % 7 == 0,
        "leak:yes": number % 5 == 0,
        "leak:no": number % 5 != 0,
        "overlap:yes": overlaps,
        "overlap:no": not overlaps,
        "split:test": number < 10,
        "answer oslo": True,
        '"answer of number 7"': number == 7,
        "answer.of": False,
        "mark:bad": number == 3,
        "mark:any": number in (3, 4),
        "mark:none": number not in (3, 4),
        "policy:turns overlap:yes question": number % 2 == 0 and overlaps,
    }[line] and bool(made)


@pytest.mark.parametrize(
    "line",
    ["", "corpus:CORPUS-1", "policy:evidence", "stream:thou", "role:assistant", "role:assist", "pattern:barge", "leak:yes",
     "leak:no", "overlap:yes", "overlap:no", "split:test", "answer oslo", '"answer of number 7"', "answer.of", "mark:bad",
     "mark:any", "mark:none", "policy:turns overlap:yes question"],
)  # fmt: skip
def test_a_filter_finds_what_a_look_at_every_record_finds(build: Path, line: str) -> None:
    samples = open_samples(build)
    samples.marks_path.unlink(missing_ok=True)
    add_mark(samples.marks_path, RECORDS[3]["id"], "bad", "x")
    add_mark(samples.marks_path, RECORDS[4]["id"], "good")
    assert list(samples.matching(parse_filter(line))) == [n for n in range(50) if naive(line, n)]


def test_a_search_gives_what_it_finds_before_it_has_read_everything(tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", RECORDS[:5])
    (tmp_path / "records-00001.parquet").write_bytes(b"PAR1 no more PAR1")
    found = Samples(tmp_path, tuple(sorted(tmp_path.glob("*.parquet")))).matching(Filter(text="oslo"))
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=r"records-00001\.parquet cannot be read"):
        next(found)


def test_progress_is_told_though_nothing_is_found(build: Path) -> None:
    told: list[int] = []
    assert list(open_samples(build).matching(Filter(text="nowhere"), told.append)) == []
    assert told[-1] == 50
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("corpsu:x", "there is no 'corpsu'"),
        ("leak:perhaps", "neither yes nor no"),
        ("mark:great", "none of good, bad"),
        ("corpus:a corpus:b", "named twice"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_in_one_line(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_filter(line)
    assert "\n" not in str(caught.value)


def test_a_filter_keeps_phrases_and_colons_in_quotes() -> None:
    found = parse_filter('corpus:"two words" "note: this" 10:30')
    assert (found.corpus, found.terms) == ("two words", ["note: this", "10:30"])


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pq.read_table(write(tmp_path / "r.parquet", RECORDS[:1])).select(["id"]), tmp_path / "records-1.parquet"
    )
    with pytest.raises(InputError, match="no table of ours: it has no column"):
        open_samples(tmp_path).record(0)
