"""Reading containers: every unit verbatim, in order, with its index and digest; bounded and exact."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_cases import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ingest import RAW_LIMIT, Unit, read_units
from pipeline.stages.ingest import InputSource, list_files

LIMIT = 1 << 20

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), values, min_size=1, max_size=4)
spaces = st.sampled_from(["", " ", "\n", "\r\n", "\t", "  \n "])


def units_of(path: Path, data: bytes, limit: int = LIMIT) -> list[Unit]:
    path.write_bytes(data)
    return list(read_units(path, limit))


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("units")


@QUICK
@given(
    st.lists(st.tuples(objects, st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"])), min_size=1, max_size=8),
    st.booleans(),
)
def test_lines_are_units_verbatim_whatever_ends_them(
    place: Path, lines: list[tuple[dict[str, object], str]], bom: bool
) -> None:
    texts = [dump(value) for value, _ in lines]
    data = "".join(text + end for text, (_, end) in zip(texts, lines, strict=True)).encode()
    found = units_of(place / "lines.jsonl", (b"\xef\xbb\xbf" if bom else b"") + data)
    assert [u.raw.decode() for u in found] == texts
    assert [u.index for u in found] == list(range(len(texts)))
    assert [u.sha256 for u in found] == [hashlib.sha256(t.encode()).hexdigest() for t in texts]
    assert {(u.key, u.too_large) for u in found} == {(None, 0)}


def test_white_space_around_a_line_is_part_of_the_unit(place: Path) -> None:
    found = units_of(place / "spaces.jsonl", b'  {"a": 1} \n\t{"a": 2}\t\r\n')
    assert [u.raw for u in found] == [b'  {"a": 1} ', b'\t{"a": 2}\t']


@QUICK
@given(st.lists(st.tuples(values, spaces, spaces), min_size=1, max_size=8), st.booleans())
def test_elements_of_an_array_are_units_verbatim(place: Path, items: list[tuple[object, str, str]], bom: bool) -> None:
    texts = [dump(value) for value, _, _ in items]
    data = "[" + ",".join(a + text + b for text, (_, a, b) in zip(texts, items, strict=True)) + "] \n"
    found = units_of(place / "array.json", (b"\xef\xbb\xbf" if bom else b"") + data.encode())
    assert [u.raw.decode() for u in found] == texts
    assert [u.index for u in found] == list(range(len(texts)))


@settings(QUICK, max_examples=15)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(0, 99), min_size=1, max_size=8
    ),
    spaces,
)
def test_an_object_of_records_has_a_unit_per_key(place: Path, counts: dict[str, int], space: str) -> None:
    records = {key: {"question": f"{n}?", "answer": f"{n}\n#### {n}"} for key, n in counts.items()}
    data = "{" + ",".join(f"{space}{dump(k)}{space}:{space}{dump(v)}" for k, v in records.items()) + "}"
    found = units_of(place / "keyed.json", data.encode())
    assert [(u.key, json.loads(u.raw)) for u in found] == list(records.items())


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_elements_that_lie_across_reads_are_whole(place: Path, chunks: int) -> None:
    texts = [dump({"i": i, "text": "é👩‍👩‍👧" * 3000 * chunks}) for i in range(40)]
    found = units_of(place / "wide.json", ("[" + ",\n".join(texts) + "]").encode())
    assert [u.raw.decode() for u in found] == texts


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "": bytes,
}
#: A file of each packing may have any name: what it is is told by its first bytes.
NAMES = ["data.jsonl{}", "data.bin", "data.json{}"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packing", PACKERS)
def test_packed_files_are_told_by_their_content(place: Path, packing: str, name: str) -> None:
    texts = [dump({"question": "é" * 50_000, "i": i}) for i in range(30)]
    path = place / name.format(f".{packing}" if packing else "")
    assert [u.raw.decode() for u in units_of(path, PACKERS[packing]("\n".join(texts).encode()))] == texts


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_packed_file_that_is_cut_short_is_an_error_and_never_a_shorter_corpus(
    place: Path, packing: str, keep: float
) -> None:
    texts = [dump({"question": hashlib.sha256(str(i).encode()).hexdigest(), "i": i}) for i in range(3000)]
    data = PACKERS[packing]("\n".join(texts).encode())
    with pytest.raises(InputError) as error:
        units_of(place / f"cut.jsonl.{packing}", data[: int(len(data) * keep)])
    assert "\n" not in str(error.value)


def test_parquet_rows_are_units_as_json(place: Path) -> None:
    rows = [{"question": "é", "n": 1, "list": [{"a": None}]}, {"question": None, "n": 2, "list": []}]
    pq.write_table(pa.Table.from_pylist(rows), place / "rows.parquet")
    assert [orjson.loads(u.raw) for u in read_units(place / "rows.parquet", LIMIT)] == rows


def test_a_line_over_the_limit_is_named_with_its_size_and_digest_and_the_next_is_read(place: Path) -> None:
    big = b'{"x": "' + b"a" * 300_000 + b'"}'
    found = units_of(place / "big.jsonl", b'{"i": 0}\n' + big + b'\n{"i": 2}\n', limit=100_000)
    assert [(u.index, bool(u.too_large)) for u in found] == [(0, False), (1, True), (2, False)]
    assert found[1].raw == big[:RAW_LIMIT]
    assert found[1].too_large in (len(big), len(big) + 1)
    assert found[2].raw == b'{"i": 2}'


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_just_the_limit_is_a_unit(place: Path, end: bytes) -> None:
    line = b'{"x": "' + b"a" * 1000 + b'"}'
    (unit,) = units_of(place / "limit.jsonl", line + end, limit=len(line) + len(end) - bool(end))
    assert (unit.raw, unit.too_large) == (line, 0)


def test_memory_does_not_grow_with_the_file(place: Path) -> None:
    line = dump({"question": "a" * 1000}).encode()

    def peak(count: int, array: bool) -> int:
        path = place / ("long.json" if array else "long.jsonl")
        path.write_bytes(b"[" + b",".join([line] * count) + b"]" if array else b"\n".join([line] * count))
        tracemalloc.start()
        assert sum(1 for _ in read_units(path, LIMIT)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    for array in (False, True):
        assert peak(20_000, array) < 2 * peak(5_000, array) + (1 << 20)


@pytest.mark.parametrize("digits", [19, 25, 4000, 20_000])
@pytest.mark.parametrize("container", ["lines.jsonl", "array.json", "object.json", "keyed.json"])
def test_numbers_of_any_length_are_handed_on_as_they_are(place: Path, digits: int, container: str) -> None:
    record = '{"question": "q", "answer": "a\\n#### 1", "n": ' + "7" * digits + "}"
    data = {"array.json": f"[{record}]", "keyed.json": f'{{"k": {record}}}'}.get(container, record + "\n")
    (unit,) = units_of(place / container, data.encode())
    assert unit.raw.decode() == record


@pytest.mark.parametrize("size", [10, 10_000, 1_200_000])
def test_lines_are_told_from_one_object_however_long_the_first_one_is(place: Path, size: int) -> None:
    texts = [dump({"question": "a" * size, "i": i}) for i in range(3)]
    assert [
        u.raw.decode() for u in units_of(place / "lines.json", "\n".join(texts).encode(), limit=2 * size + 100)
    ] == texts


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"\\ud800": {"question": "q", "answer": "a\\n#### 1"}}', "surrogate"),
        (b'[{"a": 1},,]', "element 1"),
        (b"\xef\xbb\xbf", "empty"),
        (b'[{"a": 1}', "comma"),
        (b'{"a": {"question": "q", "answer": "a\\n#### 1"}', "cut short"),
        (b"[1 2]", "comma"),
        (b"\xff\xfe[\x00]\x00", "no JSON"),
        (b" " * (2 << 20), "empty"),
        (b" " * (2 << 20) + b"{}", "white space"),
    ],
)
def test_json_that_is_none_is_one_line_of_what_is_wrong(place: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        units_of(place / "bad.json", data)
    assert "\n" not in str(error.value)


def test_an_array_whose_element_never_ends_is_refused_at_the_limit(place: Path) -> None:
    with pytest.raises(InputError, match="larger than"):
        units_of(place / "endless.json", b'["' + b"a" * 3_000_000, limit=100_000)


# naming inputs


def test_a_folder_gives_its_data_files_in_order_with_paths_below_it(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json.gz", "sub/c.parquet", "README.md", "LICENSE", ".hidden", "d.traj"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    files = list_files(InputSource(path=str(tmp_path)), Path())
    assert [f.pointer for f in files] == ["a.json.gz", "b.jsonl", "d.traj", "sub/c.parquet"]
    assert {f.corpus for f in files} == {tmp_path.name}


@pytest.mark.parametrize("name", ["data[1].jsonl", "what?.jsonl", "star*.jsonl"])
def test_a_file_with_a_glob_character_in_its_name_is_that_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    (tmp_path / "data1.jsonl").write_text("{}")
    assert [f.pointer for f in list_files(InputSource(path=name), tmp_path)] == [name]


def test_a_glob_gives_the_files_it_matches(tmp_path: Path) -> None:
    for name in ("a1.jsonl", "a2.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}")
    assert [f.pointer for f in list_files(InputSource(path="a?.jsonl"), tmp_path)] == ["a1.jsonl", "a2.jsonl"]


def test_a_file_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    Path(str(tmp_path) + "/\udcff.jsonl").write_text("{}")
    with pytest.raises(InputError, match="not UTF-8"):
        list_files(InputSource(path=str(tmp_path)), Path())


def test_an_element_or_row_over_the_limit_is_marked_and_the_rest_goes_on(tmp_path: Path) -> None:
    values = [{"text": "a"}, {"text": "b" * 5000}, {"text": "c"}]
    array, lines, table = (tmp_path / name for name in ("a.json", "b.jsonl", "d.parquet"))
    array.write_text(json.dumps(values))
    lines.write_text("".join(json.dumps(v) + "\n" for v in values))
    pq.write_table(pa.Table.from_pylist(values), table)
    for path in (array, lines, table):
        units = list(read_units(path, 2048))
        assert [(u.index, bool(u.too_large)) for u in units] == [(0, False), (1, True), (2, False)]
        assert units[1].too_large > 5000
    with pytest.raises(InputError, match="larger than"):
        list(read_units(_write_bytes(tmp_path / "e.json", b'["' + b"x" * 40_000), 2048))


def test_a_comma_after_the_last_element_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a comma follows the last element, 1"):
        list(read_units(_write_bytes(tmp_path / "a.json", b"[1, 2,]"), 2048))


def _write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
