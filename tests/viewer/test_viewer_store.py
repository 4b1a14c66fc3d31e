"""Builds in object stores are looked at without being fetched: footers, and the row groups that are asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import InputError, PipelineError
from pipeline.viewer import remote
from pipeline.viewer.filters import parse_filter
from pipeline.viewer.marks import Mark, add_mark, read_marks
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.stages.store_server import BUCKET, environment, store
from tests.viewer.viewer_driving import spoken
from tests.viewer.viewer_records import event, record, write, write_rejects

SHARD = "dataset/train/records-00000-of-00001.parquet"


def long(number: int) -> dict[str, Any]:
    """A record of 20 kB that do not compress."""
    said = random.Random(number).randbytes(10_000).hex()
    made = record(["user"], [event(0, 0, 9, said)], number)
    made["sources"][0]["corpus"] = f"corpus-{number % 4}"
    return made


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, str]]:
    with store() as door:
        yield environment(door)


@pytest.fixture
def url(served: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A build in a store: many row groups, and rejects."""
    for name, value in served.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(storage.WORK, str(tmp_path / "work"))
    place = f"s3://{BUCKET}/{tmp_path.name}"
    write(tmp_path / "made" / SHARD, [long(number) for number in range(200)], group=10)
    write_rejects(tmp_path / "made" / "convert" / "rejects-00000.parquet", [("cycle", "waits", b"{}")] * 2)
    system = storage._system(place)
    for path in sorted((tmp_path / "made").rglob("*.parquet")):
        system.put_file(str(path), f"{place}/{path.relative_to(tmp_path / 'made').as_posix()}")
    yield place
    storage._MOUNTS.clear()
    remote._STAND_INS.clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of the store has given."""
    from s3fs import S3File

    sizes: list[int] = []
    whole = S3File._fetch_range

    def counted(self: S3File, start: int, end: int) -> bytes:
        given: bytes = whole(self, start, end)
        sizes.append(len(given))
        return given

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    return sizes


def test_only_what_is_looked_at_is_fetched(url: str, tmp_path: Path, fetched: list[int]) -> None:
    path = remote.open_place(url)
    size = (tmp_path / "made" / SHARD).stat().st_size
    samples = open_samples(path)
    assert len(samples) == 200
    footer = sum(fetched)
    assert 0 < footer < size / 8
    assert samples.record(150) == long(150)
    assert 0 < sum(fetched) - footer < size / 8
    before = sum(fetched)
    assert len(list(samples.matching(parse_filter("corpus:corpus-1")))) == 50
    assert sum(fetched) - before < size / 8 + footer
    assert open_rejects(path).reject(1)["code"] == "cycle"
    assert sum(found.stat().st_blocks for found in path.rglob("*.parquet")) == 0


@pytest.mark.parametrize("below", ["", "/dataset", "/dataset/train", f"/{SHARD}"])
def test_marks_are_kept_where_the_build_looks_for_them(url: str, below: str) -> None:
    samples = open_samples(remote.open_place(url + below))
    assert len(samples) == 200
    add_mark(samples.marks_path, "a", "bad", below)
    assert storage.url_of(samples.marks_path) == f"{url}/marks.jsonl"
    assert read_marks(samples.marks_path) == {"a": Mark("bad", below)}


def test_a_shard_that_is_replaced_in_the_store_is_told(url: str, tmp_path: Path) -> None:
    samples = open_samples(remote.open_place(url))
    assert samples.record(0) == long(0)
    new = write(tmp_path / "new", [spoken(number) for number in range(200)], group=10)
    storage._system(url).put_file(str(new), f"{url}/{SHARD}")
    with pytest.raises(InputError, match=r"replaced or removed|cannot be read"):
        samples.record(199)
    assert open_samples(remote.open_place(url)).record(199) == spoken(199)


def test_what_is_not_there_is_told(url: str) -> None:
    with pytest.raises(InputError, match="is not there"):
        remote.open_place(f"{url}-nowhere")
    with pytest.raises(InputError, match="is not there"):
        remote.open_place(f"{url}/dataset/test")
    with pytest.raises(PipelineError, match="when the command ends"):
        remote.open_place("memory://build")


def test_any_file_system_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_STAND_INS", {})
    monkeypatch.setattr(storage, "_MOUNTS", {})
    made = write(tmp_path / "records-00000.parquet", [spoken(number) for number in range(3)])
    MemoryFileSystem().pipe_file("/viewed/records-00000.parquet", made.read_bytes())
    storage.mount(storage.Mount(tmp_path / "view", "memory://viewed"))
    stand_in = tmp_path / "view" / "records-00000.parquet"
    stand_in.parent.mkdir()
    stand_in.write_bytes(b"")
    remote._STAND_INS[stand_in] = storage.Kept(made.stat().st_size, "")
    assert open_samples(tmp_path / "view").record(2) == spoken(2)
