"""The terminal application on what is hard to show: hostile texts, damage, many streams, no colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.viewer.filters import parse_filter
from pipeline.viewer.marks import add_mark
from pipeline.viewer.record_screen import RecordScreen, Start
from pipeline.viewer.samples import open_samples
from tests.viewer.test_viewer_lanes import OBEYED
from tests.viewer.viewer_driving import build, drive, press, screen_text, spoken
from tests.viewer.viewer_records import event, hostile_records, record, write, write_rejects

__all__ = ["build"]


def test_a_damaged_shard_is_told_and_the_others_are_shown(build: Path, tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", [spoken(0)])
    whole = write(tmp_path / "records-00001.parquet", [spoken(1)]).read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    (tmp_path / "records-00001.parquet").write_bytes(whole[:4] + b"\xff" * (len(whole) - footer - 4) + whole[-footer:])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "n")
        text = " ".join(screen_text(pilot.app).split())
        assert "record 1 of 2" in text
        assert "records-00001.parquet" in text.replace(" ", "")  # a long path goes over the end of a line
        assert "Where is parcel" not in text
        await press(pilot, "down", "right", "space", "i", "t", "s", "y", "m", "p")
        assert "Where is parcel 0?" in screen_text(pilot.app)

    drive(tmp_path, steps)


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
def test_every_hostile_record_is_shown_harmlessly_however_it_is_looked_at(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    made = hostile_records()
    write(tmp_path / "records-00000.parquet", list(made.values()))

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        for number, name in enumerate(made):
            assert screen.cursor.at == number
            for key in ("down", "i", "i"):
                await press(pilot, key)
                text = screen_text(pilot.app)
                assert not OBEYED.search(text), name
            if name == "markup" and size[0] == 160:
                await press(pilot, "home")
                assert "[bold]no[/bold]" in screen_text(pilot.app)
                assert "<script>alert(1)</script>" in screen_text(pilot.app)
            await press(pilot, "n")

    drive(tmp_path, steps, size)


def test_ten_streams_are_reached_at_80_columns(tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", [hostile_records()["ten streams"]])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        assert "assistant/8" not in screen_text(pilot.app)
        await press(pilot, *["right"] * 9)
        assert screen.lanes.main.selected == 9
        text = screen_text(pilot.app)
        assert "assistant/8 ▸" in text
        assert "▌> stream 9" in text

    drive(tmp_path, steps)


def test_what_is_shown_means_the_same_without_colour(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "down")
        text = screen_text(pilot.app)
        for mark in ("◂", "▸", "▌> It left", "◆Where", "◇ and comes", "■"):
            assert mark in text, mark

    monkeypatch.setenv("NO_COLOR", "1")
    drive(build, steps)


ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def escaping() -> dict[str, Any]:
    """A record with what terminals obey in every text that it has."""
    made = record(["user", "assistant"], [event(0, 0, 3, "a"), event(1, 3, 6, "b", message=1, after=[0])])
    for stream in made["streams"]:
        stream.update(name=ESCAPE + stream["name"], role=ESCAPE)
    for e in made["events"]:
        e.update(kind=ESCAPE, text=ESCAPE, lexical=ESCAPE, judged=ESCAPE)
    made["sources"][0].update(corpus=ESCAPE, path=ESCAPE, format=ESCAPE, license=ESCAPE)
    made["clock"]["tokenizer"] = ESCAPE
    made["alignment"].update(policy=ESCAPE, params=ESCAPE)
    return {**made, "id": ESCAPE, "conversation_id": ESCAPE, "group": ESCAPE, "labels": ESCAPE, "extra": ESCAPE}


def test_escapes_in_ids_kinds_names_and_reasons_are_shown_harmlessly(tmp_path: Path) -> None:
    write(tmp_path / "dataset" / "records-00000.parquet", [escaping()])
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", [(ESCAPE, ESCAPE, ESCAPE.encode())] * 2)
    add_mark(tmp_path / "marks.jsonl", ESCAPE, "bad", ESCAPE)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        for keys in ((), ("i",), ("down",), ("s",), ("b",), ("escape", "t"), ("x",), ("n",), ("end", "enter"), ("y",)):
            await press(pilot, *keys)
            assert not OBEYED.search(screen_text(pilot.app)), keys
            assert "owned" in screen_text(pilot.app), keys

    drive(tmp_path, steps, (120, 40))
    screen: list[str] = []

    async def search(pilot: Pilot[None], _: RecordScreen) -> None:
        screen.append(screen_text(pilot.app))

    drive(tmp_path, search, start=Start(filter=f'"{ESCAPE}"'))
    assert not OBEYED.search(screen[0])
    for arguments in (
        ["--rejects"],
        ["--record", ESCAPE[:4]],
        ["--filter", f'"{ESCAPE}"'],
        ["--width", "40"],
    ):
        done = CliRunner().invoke(app, ["view", str(tmp_path), "--plain", *arguments])
        assert done.exit_code == 0, arguments
        assert not OBEYED.search(done.stdout), arguments
        assert "owned" in done.stdout


def odd() -> dict[str, dict[str, Any]]:
    """Records that no stage writes, and some that are merely extreme."""
    one = record(["assistant"], [event(0, 0, 4, "Alone.")])
    return {
        "no events": {**one, "events": [], "rows": 0},
        "one stream": one,
        "no streams": {**one, "streams": [], "events": [], "parts": [], "sources": [], "rows": 0},
        "late": record(["user"], [event(0, 100_000, 100_004, "Late.")]),
        "no rows": {**one, "events": [event(0, 0, 0, "")], "rows": 0},
        "huge": record(
            ["user", "assistant"], [event(0, 0, 9, "word " * 40_000), event(1, 9, 12, "ש" * 20_000, message=1)]
        ),
    }


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (12, 4)])
def test_odd_records_are_shown_in_terminals_of_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "dataset" / "records-00000.parquet", list(odd().values()))
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", [("cycle", "waits", b"x" * 100_000)])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        for number in range(len(odd())):
            assert screen.record is not None
            assert screen.record.number == number
            await press(
                pilot, "down", "right", "end", "e", "a", "d", "i", "J", "K", "s", "s", "space", "space", "escape"
            )
            for key in ("slash", "g", "m", "r", "question_mark") if number == 0 else ():
                await press(pilot, key)
                assert pilot.app.screen is not screen
                await press(pilot, "escape")
                assert pilot.app.screen is screen
            await press(pilot, "n")
        await press(pilot, "x", "n", "escape")
        assert len(screen_text(pilot.app).split("\n")) == size[1]

    drive(tmp_path, steps, size)


def test_odd_records_are_printed(tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", list(odd().values()))
    for width in ("40", "200"):
        done = CliRunner().invoke(app, ["view", str(tmp_path), "--plain", "--records", "9", "--width", width])
        assert done.exit_code == 0, done.exception
        assert done.stdout.count("record ") == len(odd())
    overlapping = open_samples(tmp_path).matching(parse_filter("overlap:no leak:no"))
    assert list(overlapping) == list(range(len(odd())))


def test_places_without_rows_are_told(tmp_path: Path) -> None:
    for made, message in ((None, "holds no records-"), ([], "holds no records")):
        if made is not None:
            write(tmp_path / "records-00000.parquet", made)
        done = CliRunner().invoke(app, ["view", str(tmp_path), "--plain"])
        assert done.exit_code == 1
        assert message in str(done.exception)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        assert "no records here, and no rejects · q leaves" in screen_text(pilot.app)
        await press(pilot, "n", "p", "e", "space", "y", "m", "u", "t", "s", "i", "x", "slash", "escape", "g", "escape")
        await press(pilot, "q")
        assert not pilot.app.is_running

    drive(tmp_path, steps)


def test_a_stream_of_no_known_direction_is_told(tmp_path: Path) -> None:
    made = record(["user"], [event(0, 0, 3, "a")])
    made["streams"][0]["direction"] = "sideways"
    write(tmp_path / "records-00000.parquet", [made])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        assert "neither input nor output" in " ".join(screen_text(pilot.app).split())

    drive(tmp_path, steps)
