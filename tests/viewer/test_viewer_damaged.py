"""Shards that are damaged, cut off, or replaced by another build while they are looked at: told in one line, never mixed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import InputError
from pipeline.viewer.filters import parse_filter
from pipeline.viewer.record_screen import RecordScreen
from pipeline.viewer.samples import open_samples
from tests.viewer.viewer_driving import drive, press, screen_text, settle, spoken, type_line
from tests.viewer.viewer_records import event, record, write, write_rejects


def read_all(folder: Path) -> None:
    samples = open_samples(folder)
    for number in range(len(samples)):
        samples.record(number)
    list(samples.matching(parse_filter("zzz leak:yes overlap:yes corpus:x")))


def test_whatever_bytes_of_a_shard_are_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    shard = write(tmp_path / "records-00000.parquet", [spoken(number) for number in range(3)])
    whole = shard.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    chance = random.Random(5)
    told: list[str] = []
    for turn in range(300):
        damaged = bytearray(whole)
        if turn % 3 == 0:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            since = len(damaged) - footer if turn % 3 == 1 else 0
            for _ in range(chance.choice((1, 2, 8))):
                damaged[chance.randrange(since, len(damaged))] = chance.randrange(256)
        shard.write_bytes(damaged)
        try:
            read_all(tmp_path)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 200
    assert all("records-00000.parquet" in line and "\n" not in line for line in told)


@pytest.mark.parametrize("kind", ["records", "rejects"])
def test_the_command_tells_of_a_shard_that_is_cut_off(tmp_path: Path, kind: str) -> None:
    shard = tmp_path / f"{kind}-00000.parquet"
    if kind == "records":
        write(shard, [spoken(0)])
    else:
        write_rejects(shard, [("cycle", "waits", b"{}")])
    whole = shard.read_bytes()
    for cut in (whole[:-9], whole[: len(whole) // 2], whole[: -len(whole) // 4] + whole[-8:], b"", b"PAR1"):
        shard.write_bytes(cut)
        done = CliRunner().invoke(app, ["view", str(shard), "--plain"])
        assert done.exit_code == 1
        assert isinstance(done.exception, InputError)


def test_records_of_two_builds_are_never_mixed(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"records-{number:05d}.parquet", [spoken(number)])
    samples = open_samples(tmp_path)
    assert samples.record(0) == spoken(0)
    write(tmp_path / "new" / "records", [spoken(7)])
    for name in ("records-00000.parquet", "records-00001.parquet"):
        shutil.copy(tmp_path / "new" / "records", tmp_path / "new" / name)
        (tmp_path / "new" / name).replace(tmp_path / name)
    for number in (0, 1):
        with pytest.raises(InputError, match="was replaced or removed since it was opened"):
            samples.record(number)
    with pytest.raises(InputError, match="was replaced or removed since it was opened"):
        list(samples.matching(parse_filter("parcel")))
    assert open_samples(tmp_path).record(1) == spoken(7)
    (tmp_path / "records-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"replaced or removed|is not there"):
        samples.record(1)


def test_an_open_viewer_says_that_the_build_was_replaced(tmp_path: Path) -> None:
    shard = tmp_path / "dataset" / "train" / "records-00000-of-00001.parquet"
    write(shard, [spoken(number) for number in range(4)], group=2)
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", [("cycle", "waits", b"{}")] * 3)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        write(tmp_path / "new", [record(["user"], [event(0, 0, 3, "of another build")])])
        (tmp_path / "new").replace(shard)
        await press(pilot, "n")
        text = " ".join(screen_text(pilot.app).split())
        assert "was replaced or removed" in text
        assert "Where is parcel" not in text
        assert "another build: leave, and open it again" in text
        assert "of another build" not in text.replace("as by another build", "")
        await press(pilot, "slash")
        await type_line(pilot, "parcel")
        assert screen.cursor.hits == []
        await press(pilot, "escape", "x", "n")
        shutil.rmtree(tmp_path / "convert")
        await press(pilot, "n", "y")
        assert "was replaced or removed" in " ".join(screen_text(pilot.app).split())
        await press(pilot, "escape")
        await settle(pilot)
        assert pilot.app.screen is screen

    drive(tmp_path, steps, (240, 30))  # so wide that no line of what is told is broken
