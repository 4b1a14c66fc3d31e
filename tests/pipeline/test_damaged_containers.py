"""What is cut short, damaged or glued together is an error or a reject row, never a shorter corpus, and says what it is."""

from __future__ import annotations

import bz2
import gzip
import http.server
import io
import json
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import orjson
import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.ingest import Unit, read_units
from pipeline.listing import InputSource, find_files
from pipeline.reading import Reader, input_of_file
from pipeline.storage import StoreError

LIMIT = 1 << 20
RECORDS = [{"question": f"é {i}?", "answer": f"{i}\n#### {i}"} for i in range(5)]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in RECORDS).encode()


def read(path: Path, data: bytes, limit: int = LIMIT) -> list[Unit]:
    path.write_bytes(data)
    return list(read_units(path, limit))


def problems(*paths: object, limit: int = LIMIT) -> list[tuple[str, int, str, str]]:
    """Pointer, index, code and message of what cannot be used of inputs."""
    files = [f for p in paths for f in find_files(InputSource(path=str(p), corpus="c"), Path()).files]
    inputs = [input_of_file(f, None, (), limit) for f in files]
    reader = Reader(inputs, limit)
    items = [item for thing in inputs for item in reader.read(thing)]
    return [(i.input.pointer, i.unit.index, i.code, i.message) for i in items if i.code]


def make_tar(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(LINES)
            archive.addfile(info, io.BytesIO(LINES))
    return data.getvalue()


def make_zip(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), LINES)
    return data.getvalue()


def make_stream() -> bytes:
    data = io.BytesIO()
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(data, table.schema) as writer:
        writer.write_table(table)
    return data.getvalue()


# compression

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_streams_one_after_the_other_are_one_file(tmp_path: Path, kind: str) -> None:
    pack = PACKERS[kind]
    found = read(tmp_path / f"a.jsonl.{kind}", pack(LINES) + pack(LINES))
    assert [orjson.loads(u.raw) for u in found] == RECORDS * 2


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_zeros_behind_a_compressed_stream_are_padding(tmp_path: Path, kind: str) -> None:
    pack = PACKERS[kind]
    found = read(tmp_path / f"a.jsonl.{kind}", pack(LINES) + bytes(8) + pack(LINES) + bytes(1 << 21))
    assert len(found) == 2 * len(RECORDS)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("damage", ["garbage", "second damaged", "second cut", "cut"])
def test_damage_behind_the_first_compressed_stream_is_an_error(tmp_path: Path, kind: str, damage: str) -> None:
    packed = PACKERS[kind](LINES)
    data = {
        "garbage": packed + b"garbage",
        "second damaged": packed + packed[:1] + bytes([packed[1] ^ 0xFF]) + packed[2:],
        "second cut": packed + packed[:-3],
        "cut": packed[:-1],
    }[damage]
    with pytest.raises(InputError, match=r"a\.jsonl"):
        read(tmp_path / f"a.jsonl.{kind}", data)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_text_of_any_size_comes_out_of_a_compressed_stream_whole(tmp_path: Path, kind: str, size: int) -> None:
    data = b'{"x": "' + b"y" * size + b'"}\n' + LINES
    found = read(tmp_path / f"a.jsonl.{kind}", PACKERS[kind](data), limit=8 << 20)
    assert b"\n".join(u.raw for u in found) + b"\n" == data


# two in one file


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tar", make_tar("x.jsonl") + make_tar("y.jsonl")),
        ("a.tar.gz", gzip.compress(make_tar("x.jsonl")) + gzip.compress(make_tar("y.jsonl"))),
        ("a.zip", make_zip("x.jsonl") + make_zip("y.jsonl")),
    ],
)
def test_two_archives_in_one_file_are_an_error_that_says_so(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="two archives in one file"):
        problems(tmp_path / name)


def test_zeros_behind_a_tar_are_padding(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar("x.jsonl") + bytes(3 << 20))
    assert problems(tmp_path / "a.tar") == []


def test_two_arrow_streams_in_one_file_are_an_error_that_says_so(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.arrow", make_stream() + bytes(8))) == len(RECORDS)
    with pytest.raises(InputError, match="two streams in one file"):
        read(tmp_path / "b.arrow", make_stream() * 2)


# members


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_with_two_members_of_one_name_does_not_stop_the_run(
    tmp_path: Path, make: Callable[..., bytes]
) -> None:
    (tmp_path / "a.arc.zip").write_bytes(make("d/x.jsonl", "./d/x.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(LINES)
    ((pointer, index, code, message),) = problems(tmp_path)
    assert (pointer, index, code) == ("a.arc.zip", 0, "unreadable")
    assert "two members of one name, d/x.jsonl" in message
    with pytest.raises(InputError, match="two members of one name"):
        problems(tmp_path / "a.arc.zip")


def test_a_member_without_a_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip("", "x.jsonl"))
    listing = find_files(InputSource(path=str(tmp_path / "a.zip")), Path())
    assert [f.path.name for f in listing.files] == ["x.jsonl"]


# values


@pytest.mark.parametrize("value", ["!!bool abc", "!!int ''", "!!int abc", "!!float x"])
def test_a_yaml_value_that_is_not_what_its_tag_says_is_an_error(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"a\.yaml is no YAML"):
        read(tmp_path / "a.yaml", f"- question: {value}\n".encode())


@pytest.mark.parametrize("around", ["[%s]", '{"a": %s}'])
def test_a_control_character_in_a_text_costs_that_value_only(tmp_path: Path, around: str) -> None:
    bad = b'{"question": "a\tb\x00", "answer": "#### 1"}'
    good = orjson.dumps(RECORDS[0])
    joined = b", ".join([good, bad, good]) if around[0] == "[" else b', "b": '.join([good, bad])
    found = read(tmp_path / "a.json", around.encode() % joined)
    assert [u.raw for u in found] == ([good, bad, good] if around[0] == "[" else [good, bad])


def test_one_object_over_the_limit_is_too_large_and_an_object_of_records_is_still_read(tmp_path: Path) -> None:
    one = orjson.dumps({"meta": {"a": 1}, "messages": [{"role": "user", "content": "word " * 1000}]})
    (found,) = read(tmp_path / "one.json", one, limit=2048)
    assert (found.index, found.too_large, one.startswith(found.raw)) == (0, len(one), True)
    many = orjson.dumps({f"k{i}": RECORDS[i % 5] for i in range(100)})
    assert [u.key for u in read(tmp_path / "many.json", many, limit=2048)] == [f"k{i}" for i in range(100)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"question": "' + b"x" * 3000 + b'"}\n', "3017 bytes"),
        (b'{"question": NaN}\n', "malformed"),
        (LINES.decode().encode("utf-16"), "malformed"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "nested too deeply"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_says_why(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=says):
        problems(tmp_path / "a.jsonl", limit=2048 if "bytes" in says else LIMIT)


# folders


@pytest.mark.parametrize("named", ["", "*.jsonl", "**/*.jsonl"])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, named: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").symlink_to("nowhere")
    ((pointer, index, code, message),) = problems(tmp_path / named)
    assert (pointer, index, code) == ("b.jsonl", 0, "unreadable")
    assert "is not there" in message


def test_a_link_to_a_folder_is_ignored_by_name_and_a_loop_of_links_reads_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop.json").symlink_to(tmp_path)
    (tmp_path / "sub" / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").symlink_to("sub/a.jsonl")
    listing = find_files(InputSource(path=str(tmp_path), corpus="c"), Path())
    assert [f.pointer for f in listing.files] == ["b.jsonl", "sub/a.jsonl"]
    assert listing.ignored == ("c/sub/loop.json",)
    listing = find_files(InputSource(path=str(tmp_path / "**" / "*.json*"), corpus="c"), Path())
    assert [f.pointer for f in listing.files] == ["b.jsonl", "sub/a.jsonl"]


# places


@pytest.mark.parametrize("name", ["a#b.jsonl", "a?b.jsonl", "a%20b.jsonl", "a b.jsonl", "ü.jsonl"])
def test_a_name_at_a_url_that_is_no_web_address_is_taken_as_it_is(name: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe(f"/odd/{name}", LINES)
    try:
        for url in (f"memory://odd/{name}", "memory://odd"):
            (file,) = find_files(InputSource(path=url), Path()).files
            assert (file.pointer, file.path.name) == (name, name)
            assert len(list(read_units(file.path, LIMIT))) == len(RECORDS)
    finally:
        memory.store.clear()


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/whole.zip":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(make_zip("x.jsonl"))
        else:
            self.send_error(int(self.path[1:4]))

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("404.jsonl", "is not there"),
        ("500.jsonl", "cannot be read: 500.*run it again"),
        ("403.jsonl", "cannot be read: 403"),
        ("whole.zip", "download it first"),
    ],
)
def test_what_a_server_answers_is_told(server: str, path: str, says: str) -> None:
    with pytest.raises(StoreError if path == "500.jsonl" else InputError, match=says):
        problems(f"{server}/{path}")


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(StoreError, match=r"cannot be read: .*[Cc]onnect"):
        problems("http://127.0.0.1:1/a.jsonl")
