"""Containers beside JSON: tables, CSV, YAML, archives, URLs. Every value is a unit or says why not; memory is bounded."""

from __future__ import annotations

import bz2
import csv
import datetime
import decimal
import gzip
import http.server
import io
import json
import lzma
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from conversation_cases import QUICK
from hypothesis import given
from hypothesis import strategies as st

from pipeline.containers import archives
from pipeline.errors import InputError
from pipeline.ingest import Unit, hub_units, read_units
from pipeline.listing import InputFile, InputSource, find_files, list_files

LIMIT = 1 << 20

RECORDS = [{"question": f"é {i}?", "answer": f"{i}\n#### {i}"} for i in range(5)]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in RECORDS).encode()


def units_of(path: Path, data: bytes | None = None, limit: int = LIMIT) -> list[Unit]:
    if data is not None:
        path.write_bytes(data)
    return list(read_units(path, limit))


def values_of(units: list[Unit]) -> list[Any]:
    return [orjson.loads(u.raw) for u in units]


def files_of(path: object, base: Path = Path()) -> list[InputFile]:
    return list_files(InputSource(path=str(path)), base)


def read(file: InputFile, limit: int = LIMIT) -> list[Any]:
    return values_of(list(read_units(file.path, limit)))


def peak(action: Callable[[], object]) -> int:
    """Most bytes that Python held while something ran."""
    tracemalloc.start()
    action()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


# tables

PLAIN = pa.table(
    {
        "question": ["é", None],
        "turns": [[{"role": "user", "content": "Hi"}], []],
        "at": pa.array([datetime.datetime(2024, 5, 1, 12, 30), None], pa.timestamp("us")),
        "utc": pa.array([datetime.datetime(2024, 5, 1, 12, 30), None], pa.timestamp("ms", tz="UTC")),
        "day": [datetime.date(2024, 5, 1), None],
        "price": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(5, 2)),
        "score": [float("nan"), 0.5],
        "of": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "big": pa.array([2**64 - 1, 0], pa.uint64()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "bytes": pa.array([None, None], pa.binary()),
    }
)
PLAIN_ROWS = [
    {
        "question": "é", "turns": [{"role": "user", "content": "Hi"}], "at": "2024-05-01T12:30:00",
        "utc": "2024-05-01T12:30:00+00:00", "day": "2024-05-01", "price": "1.10", "score": None, "of": {"a": 1},
        "big": 2**64 - 1, "kind": "x", "bytes": None,
    },
    {
        "question": None, "turns": [], "at": None, "utc": None, "day": None, "price": None, "score": 0.5, "of": {},
        "big": 0, "kind": "y", "bytes": None,
    },
]  # fmt: skip


def write_arrow_file(table: pa.Table, path: Path, rows: int = 2) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_arrow_stream(table: pa.Table, path: Path, rows: int = 2) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=2),
    "arrow file": write_arrow_file,
    "arrow stream": write_arrow_stream,
    "feather": lambda table, path: pa.feather.write_feather(table, str(path), compression="zstd"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_a_table_are_json_objects_whatever_the_columns_hold(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](PLAIN, tmp_path / "any.name")
    found = units_of(tmp_path / "any.name")
    assert values_of(found) == PLAIN_ROWS
    assert {u.code for u in found} == {""}


#: A column that holds one row that JSON has no form for, and what is said of it.
BAD_COLUMNS: dict[str, tuple[pa.Array, str]] = {
    "bytes": (pa.array([None, b"\x89PNG", None], pa.binary()), "bytes"),
    "bytes in a struct": (pa.array([None, {"raw": b"\x00"}, None]), "x.raw holds bytes"),
    "a duration": (pa.array([None, datetime.timedelta(seconds=1), None], pa.duration("s")), "timedelta"),
    "a time after the year 9999": (pa.array([None, 2**48, None], pa.timestamp("ms")), "no form"),
    "two keys of one name": (
        pa.array([None, [("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int64())),
        "no form",
    ),
    "keys that are no text": (pa.array([None, [(1, 1)], None], pa.map_(pa.int64(), pa.int64())), "no text"),
    "text that is not UTF-8": (pa.array([None, b"\xff", None], pa.binary()).view(pa.string()), "no form"),
}


@pytest.mark.parametrize("what", BAD_COLUMNS)
def test_a_row_that_json_has_no_form_for_says_so_and_the_others_are_read(tmp_path: Path, what: str) -> None:
    column, says = BAD_COLUMNS[what]
    pq.write_table(pa.table({"n": [0, 1, 2], "x": column}), tmp_path / "t.parquet")
    found = units_of(tmp_path / "t.parquet")
    assert [(u.index, u.code) for u in found] == [(0, ""), (1, "not_json_like"), (2, "")]
    assert says in found[1].message
    assert "x" in found[1].message
    assert values_of([found[0], found[2]]) == [{"n": 0, "x": None}, {"n": 2, "x": None}]


@pytest.mark.parametrize("kind", ["arrow file", "arrow stream", "parquet"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999, -8])
def test_a_table_that_is_cut_short_is_an_error_and_never_a_shorter_corpus(
    tmp_path: Path, kind: str, keep: float
) -> None:
    WRITERS[kind](pa.table({"text": [f"{i} some text" for i in range(200)]}), tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    with pytest.raises(InputError) as error:
        units_of(tmp_path / "t", data[: int(len(data) * keep) if keep > 0 else int(keep)])
    assert "\n" not in str(error.value)


def test_an_arrow_stream_that_ends_between_two_batches_is_cut_short(tmp_path: Path) -> None:
    write_arrow_stream(pa.table({"n": [1, 2, 3, 4]}), tmp_path / "t.arrow")
    data = (tmp_path / "t.arrow").read_bytes()
    assert data.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    with pytest.raises(InputError, match="mark at the end"):
        units_of(tmp_path / "t.arrow", data[:-8])


def test_a_record_batch_that_is_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    write_arrow_stream(pa.table({"text": ["a" * 20_000] * 10}), tmp_path / "t.arrow", rows=10)
    with pytest.raises(InputError, match="smaller ones"):
        units_of(tmp_path / "t.arrow", limit=20_000)
    assert len(units_of(tmp_path / "t.arrow", limit=200_000)) == 10


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="two columns of one name: 'a'"):
        units_of(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_without_rows_holds_no_records(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](PLAIN.slice(0, 0), tmp_path / "t")
    with pytest.raises(InputError, match="holds no records"):
        units_of(tmp_path / "t")


def test_feather_version_1_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Feather version 1"):
        units_of(tmp_path / "t.feather", b"FEA1" + bytes(100))


def test_memory_does_not_grow_with_a_table(tmp_path: Path) -> None:
    row = {"text": "a" * 2000}
    for name, count in (("small", 2_000), ("large", 12_000)):
        table = pa.Table.from_pylist([row] * count)
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=1000)
        write_arrow_stream(table, tmp_path / f"{name}.arrow", rows=1000)
    for suffix in ("parquet", "arrow"):
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        small = peak(lambda s=suffix: sum(1 for _ in read_units(tmp_path / f"small.{s}", LIMIT)))
        large = peak(lambda s=suffix: sum(1 for _ in read_units(tmp_path / f"large.{s}", LIMIT)))
        assert large < 2 * small + (1 << 20)
        assert pool.bytes_allocated() - before < 32 << 20


def test_rows_of_a_dataset_saved_to_disk_are_read_without_its_metadata(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved", num_shards=2)
    found = find_files(InputSource(path=str(tmp_path / "saved")), Path())
    assert [value for file in found.files for value in read(file)] == RECORDS
    assert found.ignored == ("saved/dataset_info.json", "saved/state.json")


def test_rows_of_a_streamed_data_set_follow_the_same_rule(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    table = PLAIN.drop_columns(["of"]).append_column("image", pa.array([None, b"\x89PNG"], pa.binary()))
    pq.write_table(table, tmp_path / "train.parquet")
    found = list(hub_units(str(tmp_path), None, "train", None))
    assert [u.code for u in found] == ["", "not_json_like"]
    row = orjson.loads(found[0].raw)
    assert {k: row[k] for k in ("question", "at", "day", "price", "turns")} == {
        k: PLAIN_ROWS[0][k] for k in ("question", "at", "day", "price", "turns")
    }


def test_a_data_set_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="cannot be read") as error:
        list(hub_units(str(tmp_path / "nowhere"), None, "train", None))
    assert "\n" not in str(error.value)


# CSV and TSV

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=12)


@QUICK
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6), st.booleans(), st.sampled_from(["csv", "tsv"]))
def test_a_csv_row_is_an_object_of_texts_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], bom: bool, suffix: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if suffix == "tsv" else ",", lineterminator="\r\n")
    writer.writerow(["question", "answer"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / f"a.{suffix}"
    found = units_of(path, (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode())
    assert values_of(found) == [{"question": q, "answer": a} for q, a in rows]


def test_csv_values_stay_text_and_empty_ones_too(tmp_path: Path) -> None:
    data = b'id,when,text\r\n007,2024-05-01,"two\nlines, ""quoted"""\r\n\r\n,,\r\n'
    assert values_of(units_of(tmp_path / "a.csv", data)) == [
        {"id": "007", "when": "2024-05-01", "text": 'two\nlines, "quoted"'},
        {"id": "", "when": "", "text": ""},
    ]


def test_ragged_and_badly_quoted_rows_are_named_by_line_and_the_others_are_read(tmp_path: Path) -> None:
    data = b'a,b\n1,2\n"x\ny",2,3\n4\n"5"6,7\n8,9\n'
    found = units_of(tmp_path / "a.csv", data)
    assert [(u.index, u.code) for u in found] == [
        (0, ""), (1, "ragged_row"), (2, "ragged_row"), (3, "bad_row"), (4, ""),
    ]  # fmt: skip
    assert found[1].message == "line 3: 3 values for 2 columns"
    assert found[1].raw == b'"x\ny",2,3'
    assert found[2].message == "line 5: 1 values for 2 columns"
    assert found[3].message.startswith("line 6:")
    assert values_of([found[0], found[4]]) == [{"a": "1", "b": "2"}, {"a": "8", "b": "9"}]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,b\n1,caf\xe9\n", "not UTF-8: line 2"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8: line 1"),
        (b'a,b\n1,"2\n3,4\n', "opened at line 2 is never closed"),
        (b"a,a\n1,2\n", "two columns of one name: 'a'"),
        (b"a,b\n", "holds no records"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_csv_that_cannot_be_read_is_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        units_of(tmp_path / "a.csv", data)
    assert "\n" not in str(error.value)


def test_a_csv_row_over_the_limit_is_marked_and_an_open_quote_stays_out_of_memory(tmp_path: Path) -> None:
    found = units_of(tmp_path / "a.csv", b"a,b\n1," + b"x" * 5000 + b"\n3,4\n", limit=2048)
    assert [bool(u.too_large) for u in found] == [True, False]
    (tmp_path / "open.csv").write_bytes(b'a,b\n1,"' + b"x\n" * 200_000)

    def fails() -> None:
        with pytest.raises(InputError, match="never closed"):
            units_of(tmp_path / "open.csv", limit=2048)

    assert peak(fails) < 8 << 20


def test_json_lines_in_a_file_called_csv_are_json_lines(tmp_path: Path) -> None:
    assert values_of(units_of(tmp_path / "a.csv", LINES)) == RECORDS


def test_memory_does_not_grow_with_a_csv(tmp_path: Path) -> None:
    def run(count: int) -> int:
        path = tmp_path / "long.csv"
        path.write_text("a,b\n" + '"two\nlines",' + "x" * 500 + "\n" + ("1," + "x" * 500 + "\n") * count)
        return peak(lambda: sum(1 for _ in read_units(path, LIMIT)))

    assert run(20_000) < 2 * run(5_000) + (1 << 20)


# YAML


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("- a: 1\n- a: 2\n", [{"a": 1}, {"a": 2}]),
        ("a: 1\nb: [x, y]\n", [{"a": 1, "b": ["x", "y"]}]),
        ("---\na: 1\n---\n- a: 2\n- a: 3\n---\n", [{"a": 1}, {"a": 2}, {"a": 3}]),
        (
            "- {day: 2024-05-01, time: 12:30, id: 007, hex: 0x1F, no: no, yes: Yes, nan: .nan, n: -3, x: 1.5e3, ok: true}",
            [{"day": "2024-05-01", "time": "12:30", "id": "007", "hex": "0x1F", "no": "no", "yes": "Yes", "nan": ".nan",
              "n": -3, "x": 1500.0, "ok": True}],
        ),
        ("- !!timestamp 2024-05-01\n", ["2024-05-01"]),
        ("a: |\n  one\n    two\n\n  é👩\nb: ~\nc:\n", [{"a": "one\n  two\n\né👩\n", "b": None, "c": None}]),
        ("a: &x {k: 1}\nb: {<<: *x, k: 2}\nc: *x\n", [{"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 1}}]),
        ("n: 123456789012345678901234567890\n", [{"n": 123456789012345678901234567890}]),
    ],
)  # fmt: skip
def test_yaml_documents_are_records_and_only_what_json_has_is_no_text(
    tmp_path: Path, text: str, values: list[Any]
) -> None:
    for name in ("a.yaml", "a.yml"):
        assert [json.loads(u.raw) for u in units_of(tmp_path / name, text.encode())] == values


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("- 1: 2\n", "not_json_like", "key that is no text"),
        ("- !!binary aGk=\n", "not_json_like", "bytes"),
        ("- &x [*x]\n", "not_json_like", "alias"),
        ("- &a [x,x,x,x,x,x,x,x]\n- &b [*a,*a,*a,*a,*a,*a,*a,*a]\n- &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "- &d [*c,*c,*c,*c,*c,*c,*c,*c]\n- [*d,*d,*d,*d,*d,*d,*d,*d]\n", "too_large", "aliases"),
    ],
)  # fmt: skip
def test_a_yaml_record_that_is_no_json_says_why(tmp_path: Path, text: str, code: str, says: str) -> None:
    found = units_of(tmp_path / "a.yaml", text.encode(), limit=20_000)
    assert found[-1].code == code
    assert says in found[-1].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: b: c\n", "no YAML"),
        ("a: 1\nb: {c: 1, c: 2}\n", "line 2: the key 'c' is there twice"),
        ("a: !!python/object:os.system x\n", "no YAML"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("# nothing\n", "holds no records"),
        ("- a\n" * 20_000, "more than 32768 bytes"),
        ("a: caf\udce9\n", "not UTF-8"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        units_of(tmp_path / "a.yaml", text.encode(errors="surrogateescape"), limit=32_768)
    assert "\n" not in str(error.value)


# archives

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}

MEMBERS = {
    "b/lines.jsonl": LINES,
    "a/array.json.gz": gzip.compress(json.dumps(RECORDS).encode()),
    "c.csv": b"question,answer\nq,a\n",
    "b/README.md": b"Read me.",
    "d/e/table.parquet": b"",
}


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "t.parquet")
    data = {**MEMBERS, "d/e/table.parquet": (tmp_path / "t.parquet").read_bytes()}
    (tmp_path / "t.parquet").unlink()
    return data


def tar_bytes(members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("link.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "b/lines.jsonl"
        tar.addfile(link)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.mkdir("b")
        link = zipfile.ZipInfo("link.jsonl")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "b/lines.jsonl")
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "data.zip": zip_bytes,
    "stored.zip": partial(zip_bytes, method=zipfile.ZIP_STORED),
    "lzma.zip": partial(zip_bytes, method=zipfile.ZIP_LZMA),
    "old.tar": partial(tar_bytes, kind=tarfile.USTAR_FORMAT),
    "gnu.tar": partial(tar_bytes, kind=tarfile.GNU_FORMAT),
    "data.tgz": lambda m: gzip.compress(tar_bytes(m)),
    **{f"data.tar{suffix}": lambda m, p=pack: p(tar_bytes(m)) for suffix, pack in PACKERS.items()},
    "told.by.content": tar_bytes,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_members_of_an_archive_are_files_of_their_own(tmp_path: Path, members: dict[str, bytes], name: str) -> None:
    (tmp_path / name).write_bytes(ARCHIVES[name](members))
    listing = find_files(InputSource(path=str(tmp_path / name), corpus="c"), Path())
    assert [f.pointer for f in listing.files] == [f"{name}/{m}" for m in members if m != "b/README.md"]
    assert sorted(listing.ignored) == [f"c/{name}/b/README.md", f"c/{name}/link.jsonl"]
    found = {f.pointer.removeprefix(f"{name}/"): read(f) for f in listing.files}
    expected = {m: RECORDS for m in members if m not in ("b/README.md", "c.csv")}
    assert found == {**expected, "c.csv": [{"question": "q", "answer": "a"}]}
    backwards = {f.pointer.removeprefix(f"{name}/"): read(f) for f in reversed(listing.files)}
    assert backwards == found
    assert {p.name for p in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz", "data.tar"])
def test_members_that_are_read_at_the_same_time_do_not_disturb_each_other(tmp_path: Path, name: str) -> None:
    rows = {f"{m}.jsonl": [{"m": m, "i": i, "x": "a" * 3000} for i in range(1500)] for m in "ab"}
    lines = {m: "".join(json.dumps(v) + "\n" for v in values).encode() for m, values in rows.items()}
    (tmp_path / name).write_bytes(ARCHIVES[name](lines))
    files = files_of(tmp_path / name)
    streams = [read_units(f.path, LIMIT) for f in files]
    taken: list[list[Any]] = [[], []]
    for pair in zip(*streams, strict=True):
        for into, unit in zip(taken, pair, strict=True):
            into.append(orjson.loads(unit.raw))
    assert taken == [rows["a.jsonl"], rows["b.jsonl"]]


def test_names_in_an_archive_that_lead_out_of_it_are_only_names(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"/abs.jsonl": LINES, "./dot.jsonl": LINES, "._dot.jsonl": b"\0"}))
    assert [f.pointer for f in files_of(tmp_path / "a.tar")] == ["a.tar/abs.jsonl", "a.tar/dot.jsonl"]


def encrypted(members: dict[str, bytes]) -> bytes:
    data = bytearray(zip_bytes(members))
    at = data.find(b"PK\x01\x02", data.find(b"lines.jsonl") + 100)
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(data)


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "encrypted.zip": (encrypted, "encrypted"),
    "cut.zip": (lambda m: zip_bytes(m)[:-200], "damaged"),
    "cut.tar": (lambda m: tar_bytes(m)[:2000], "damaged|cut short"),
    "unfinished.tar": (lambda m: tar_bytes(m)[: -tarfile.RECORDSIZE + 2048], "mark at the end"),
    "cut.tar.gz": (lambda m: gzip.compress(tar_bytes(m))[:-300], "damaged"),
    "garbage.tar": (lambda m: b"\x00garbage" * 500, "no archive|damaged"),
    "garbage.zip": (lambda m: b"PK\x03\x04" + b"garbage" * 500, "damaged"),
    "empty.zip": (lambda m: zip_bytes({}), "no data file"),
    "papers.tar": (lambda m: tar_bytes({"README.md": b"hello"}), "no data file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_archive_that_cannot_be_read_is_one_line(tmp_path: Path, members: dict[str, bytes], name: str) -> None:
    make, says = BROKEN[name]
    (tmp_path / name).write_bytes(make(members))
    with pytest.raises(InputError, match=says) as error:
        files_of(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["data.zip", "stored.zip"])
def test_a_member_whose_bytes_are_damaged_is_an_error(tmp_path: Path, name: str) -> None:
    data = bytearray(ARCHIVES[name]({"a.jsonl": LINES * 50}))
    at = data.find(b"a.jsonl") + 60
    data[at] ^= 0xFF
    (tmp_path / name).write_bytes(bytes(data))
    (file,) = files_of(tmp_path / name)
    with pytest.raises(InputError, match=r"a\.jsonl is cut short or damaged"):
        read(file)


def test_an_archive_in_an_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"in.zip": zip_bytes({"a.jsonl": LINES}), "in.tar": tar_bytes({})}))
    for file in files_of(tmp_path / "a.tar"):
        with pytest.raises(InputError, match="unpack it first"):
            read(file)


def test_more_members_than_can_be_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({f"{i}.jsonl": LINES for i in range(9)}))
    (tmp_path / "a.zip").write_bytes(zip_bytes({f"{i}.jsonl": LINES for i in range(9)}))
    monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
    for name in ("a.tar", "a.zip"):
        with pytest.raises(InputError, match="more than 5 members"):
            files_of(tmp_path / name)
    monkeypatch.setattr(archives, "MOST_DIRECTORY", 100)
    with pytest.raises(InputError, match="directory of"):
        files_of(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz", "bomb.tar.xz"])
def test_a_bomb_is_read_as_a_stream(tmp_path: Path, name: str) -> None:
    bomb = b'{"a": "' + bytes(40 << 20) + b'"}\n' + LINES
    kind = "data.zip" if name.endswith("zip") else f"data{name[4:]}"
    (tmp_path / name).write_bytes(ARCHIVES[kind]({"a.jsonl": bomb}))
    del bomb
    assert (tmp_path / name).stat().st_size < 1 << 20
    found: list[Unit] = []

    def act() -> None:
        (file,) = files_of(tmp_path / name)
        found.extend(read_units(file.path, 100_000))

    assert peak(act) < 24 << 20
    assert (found[0].too_large > 40 << 20, len(found)) == (True, 6)


def test_a_parquet_file_in_an_archive_is_read_into_memory_only_if_it_is_small(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"t.parquet": members["d/e/table.parquet"]}))
    (file,) = files_of(tmp_path / "a.tar")
    assert read(file) == RECORDS
    with pytest.raises(InputError, match="unpack it first"):
        read(file, limit=40)


# naming inputs


def test_a_folder_gives_every_kind_of_data_file_and_names_the_others(tmp_path: Path, members: dict[str, bytes]) -> None:
    data = (
        "a.json",
        "b.jsonl.gz",
        "c.ndjson",
        "d.csv",
        "e.tsv.zst",
        "f.yaml",
        "g.yml",
        "h.arrow",
        "i.feather",
        "j.traj",
    )
    for name in (*data, "LICENSE", "README.md", "pic.png", "k.py"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.zip").write_bytes(zip_bytes({"x.jsonl": LINES, "NOTES.txt": b""}))
    (tmp_path / "sub" / "z.parquet").write_bytes(members["d/e/table.parquet"])
    found = find_files(InputSource(path=str(tmp_path), corpus="c"), Path())
    assert [f.pointer for f in found.files] == [*data, "sub/m.zip/x.jsonl", "sub/z.parquet"]
    assert set(found.ignored) == {
        "c/LICENSE", "c/README.md", "c/pic.png", "c/k.py", "c/sub/m.zip/link.jsonl", "c/sub/m.zip/NOTES.txt",
    }  # fmt: skip
    assert not any(f.alone for f in found.files)


def test_a_broken_archive_in_a_folder_is_told_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "b.jsonl").write_bytes(LINES)
    broken, good = files_of(tmp_path)
    assert (broken.pointer, read(good)) == ("a.zip", RECORDS)
    with pytest.raises(InputError, match="damaged"):
        read(broken)


# URLs


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_urls_name_a_file_a_folder_or_a_glob(memory: Any, members: dict[str, bytes]) -> None:
    memory.pipe("/set/a.jsonl", LINES)
    memory.pipe("/set/sub/b.json.gz", gzip.compress(json.dumps(RECORDS).encode()))
    memory.pipe("/set/sub/c.parquet", members["d/e/table.parquet"])
    memory.pipe("/set/d.zip", zip_bytes({"in/e.jsonl": LINES}))
    memory.pipe("/set/f.tar.gz", gzip.compress(tar_bytes({"g.parquet": members["d/e/table.parquet"]})))
    memory.pipe("/set/LICENSE", b"none")
    whole = find_files(InputSource(path="memory://set"), Path())
    assert [f.pointer for f in whole.files] == [
        "a.jsonl", "d.zip/in/e.jsonl", "f.tar.gz/g.parquet", "sub/b.json.gz", "sub/c.parquet",
    ]  # fmt: skip
    assert sorted(whole.ignored) == ["set/LICENSE", "set/d.zip/link.jsonl", "set/f.tar.gz/link.jsonl"]
    assert [read(f) for f in whole.files] == [RECORDS] * 5
    (one,) = files_of("memory://set/a.jsonl")
    assert (one.corpus, one.pointer, one.alone, read(one)) == ("set", "a.jsonl", True, RECORDS)
    assert [f.pointer for f in files_of("memory://set/sub/*")] == ["b.json.gz", "c.parquet"]
    assert [f.pointer for f in files_of("memory://set/**/*.json.gz")] == ["sub/b.json.gz"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://nowhere/a.jsonl", "memory://nowhere/a.jsonl is not there"),
        ("memory://set/*.jsonl", "no file matches"),
        ("nosuch://a/b.jsonl", "nosuch"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(memory: Any, url: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        [read(f) for f in files_of(url)]
    assert "\n" not in str(error.value)


def test_a_url_whose_package_is_missing_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = sys.modules["fsspec.registry"]
    monkeypatch.setitem(registry.known_implementations, "shelf", {"class": "shelffs.Shelf", "err": "Install shelffs"})
    with pytest.raises(InputError, match=r"needs a package that is not here: Install shelffs"):
        files_of("shelf://bucket/a.jsonl")


def test_a_file_url_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (file,) = files_of(f"file://{tmp_path}/a.jsonl")
    assert (file.path, file.corpus, read(file)) == (tmp_path / "a.jsonl", tmp_path.name, RECORDS)


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with byte ranges as object stores have them."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(data), len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - int(first)))
        self.end_headers()
        self.wfile.write(data[int(first) : end])

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Whole(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, whole files only."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(params=[_Ranges, _Whole])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, bool]]:
    """A server on the loopback: its address, its folder, whether it knows ranges."""
    handler = partial(request.param, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", tmp_path, request.param is _Ranges
        running.shutdown()
        thread.join()


def test_files_are_read_over_http(server: tuple[str, Path, bool], members: dict[str, bytes]) -> None:
    address, folder, ranges = server
    (folder / "set").mkdir()
    (folder / "set" / "a.jsonl").write_bytes(LINES)
    (folder / "set" / "b.json.gz").write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    (folder / "set" / "c.tar.gz").write_bytes(gzip.compress(tar_bytes({"in/a.jsonl": LINES})))
    (folder / "set" / "d.parquet").write_bytes(members["d/e/table.parquet"])
    (folder / "set" / "e.zip").write_bytes(zip_bytes({"in/a.jsonl": LINES}))
    for name in ("a.jsonl", "b.json.gz", "c.tar.gz", "a.jsonl?download=true"):
        (file,) = files_of(f"{address}/set/{name}")
        assert file.corpus == "set"
        assert file.pointer == {"c.tar.gz": "c.tar.gz/in/a.jsonl", "a.jsonl?download=true": "a.jsonl"}.get(name, name)
        assert read(file) == RECORDS
    assert [read(f) for f in files_of(f"{address}/set/d.parquet")] == [RECORDS]
    if ranges:
        assert [read(f) for f in files_of(f"{address}/set/e.zip")] == [RECORDS]
    else:
        with pytest.raises(InputError, match="download it first"):
            files_of(f"{address}/set/e.zip")
    with pytest.raises(InputError, match="is not there"):
        [read(f) for f in files_of(f"{address}/set/none.jsonl")]


SQUAD = (
    '{"version": "1.1", "data": [{"title": "A", "paragraphs": [{"context": "Lit in 1811.", "qas": [{"id": "q",'
    ' "question": "When?", "answers": [{"text": "1811", "answer_start": 7}]}]}]},\n'
    ' {"title": "B",  "paragraphs": [{"context": "x", "qas": []}]}],'
    ' "made": [1, 2]}'
)


@pytest.mark.parametrize("limit", [1 << 20, 120])
def test_the_records_of_a_list_inside_an_object_are_units_each_in_the_object(tmp_path: Path, limit: int) -> None:
    (tmp_path / "dev.json").write_text(SQUAD)
    units = list(read_units(tmp_path / "dev.json", limit))
    assert len(units) == 2
    if limit > len(SQUAD):
        assert [json.loads(u.raw)["data"][0]["title"] for u in units] == ["A", "B"]
        assert all(json.loads(u.raw) | {"data": []} == {"version": "1.1", "data": [], "made": [1, 2]} for u in units)
        assert b'{"title": "B",  "paragraphs"' in units[1].raw
    else:
        assert [bool(u.too_large) for u in units] == [True, False]
        article = {"title": "B", "paragraphs": [{"context": "x", "qas": []}]}
        assert json.loads(units[1].raw) == {"version": "1.1", "data": [article]}
