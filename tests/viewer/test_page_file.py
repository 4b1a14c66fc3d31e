"""Where ``view --html`` writes to: a new file or its own page, and nothing else; if it cannot, it says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.viewer.page import check_place, write_page
from tests.viewer.viewer_records import event, record, write

ROOT = Path(__file__).resolve().parents[2]
ONE = record(["user"], [event(0, 0, 4, "Who?")])


def view(shard: Path, out: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "view", str(shard), "--html", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "records-00000-of-00001.parquet", [ONE])


def assert_told(done: subprocess.CompletedProcess[str], told: str) -> None:
    """The command failed with one line that ends so."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: --html ")
    assert done.stderr.endswith(f"{told}\n")
    assert done.stderr.count("\n") == 1


def test_a_folder_is_left_as_it_is(shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert_told(view(shard, out), f"{out} is a folder; name a file in it")
    assert not list(out.iterdir())


def test_a_file_that_is_no_page_is_left_as_it_is(shard: Path) -> None:
    before = shard.read_bytes()
    assert_told(view(shard, shard), "is there and is no page of this command; remove it, or name another file")
    assert shard.read_bytes() == before


@pytest.mark.parametrize("name", ["file/page.html", "x" * 300, "file/deep/page.html"])
def test_a_place_that_cannot_be_written_is_named(shard: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("here")
    done = view(shard, tmp_path / name)
    assert_told(done, "File name too long" if "/" not in name else "cannot be written: Not a directory")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", shard.name]


def test_what_the_system_refuses_while_writing_is_told_by_the_name_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refused)
    out = tmp_path / "page.html"
    with pytest.raises(InputError, match=r"/page\.html cannot be written: Permission denied$"):
        write_page(out, [ONE], "One")
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_no_place_for_a_page(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no file; name one"):
        write_page(tmp_path / "pipe", [ONE], "One")
    assert (tmp_path / "pipe").is_fifo()


def test_a_page_and_an_empty_file_are_written_over(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.touch()
    write_page(out, [ONE], "One")
    write_page(out, [ONE], "Other")
    assert "<title>Other</title>" in out.read_text(encoding="utf-8")
    out.write_text("<!doctype html>\n<p>mine")
    with pytest.raises(InputError, match="no page of this command"):
        check_place(out)
