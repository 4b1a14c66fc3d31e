"""The terminal application: every key, every kind of record, at 80 columns and wide, with and without colour."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from pipeline.viewer.app import ViewerApp
from pipeline.viewer.dialogs import Help, Prompt
from pipeline.viewer.marks import Mark, read_marks
from pipeline.viewer.record_screen import RecordScreen, Start
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.rejects_screen import RejectsScreen
from pipeline.viewer.samples import Samples, open_samples
from tests.viewer.test_viewer_lanes import OBEYED, leaking
from tests.viewer.viewer_records import HOSTILE, event, hostile_records, record, write, write_rejects

Drive = Callable[[Pilot[None], RecordScreen], Awaitable[None]]

NAMES = {
    " ": "space",
    "/": "slash",
    ":": "colon",
    '"': "quotation_mark",
    "?": "question_mark",
    "+": "plus",
    "-": "minus",
}


def spoken(number: int) -> dict[str, Any]:
    """Three streams, of which two overlap."""
    return record(
        ["user", "thought", "assistant"],
        [
            event(0, 0, 6, f"Where is parcel {number}?", message=0),
            event(1, 6, 10, "It left on Monday.", message=1, after=[0]),
            event(2, 8, 12, "Parcel has left", message=2, final=False, after=[0]),
            event(2, 12, 16, " and comes today.", message=2, after=[1]),
        ],
        number,
        alignment={"policy": "thinking" if number % 2 else "evidence", "version": 8, "params": "{}"},
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records, one of them with a leak, and a few rejects."""
    out = tmp_path_factory.mktemp("viewer") / "build"
    write(out / "dataset" / "train" / "records-00000-of-00001.parquet", [*map(spoken, range(11)), leaking()], group=5)
    rejects = [("cycle", "waits in a circle", b'{"a": "[bold]x[/bold]"}')] * 2
    write_rejects(
        out / "convert" / "rejects-00000.parquet", [*rejects, ("empty", HOSTILE["ansi"], HOSTILE["ansi"].encode())]
    )
    return out


def drive(path: Path, steps: Drive, size: tuple[int, int] = (80, 24), start: Start | None = None) -> ViewerApp:
    """Runs the application on a data set and does the steps in it."""

    async def run() -> ViewerApp:
        app = ViewerApp(open_samples(path), open_rejects(path), start)
        async with app.run_test(size=size, notifications=True) as pilot:
            await settle(pilot)
            await steps(pilot, app.records)
        return app

    return asyncio.run(run())


async def settle(pilot: Pilot[None]) -> None:
    """Until all that was begun is done."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Presses keys one after the other."""
    await pilot.press(*keys)
    await settle(pilot)


async def type_line(pilot: Pilot[None], line: str) -> None:
    """Types a line, and enters it."""
    await pilot.press(*(NAMES.get(c, c) for c in line))
    await press(pilot, "enter")


def screen_text(app: Any) -> str:
    """What stands on the screen, line by line."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    assert len(lines) == height
    return "\n".join("".join(segment.text for segment in line)[:width] for line in lines)


def test_next_previous_and_the_ends(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        assert screen.cursor.at == 0
        await press(pilot, "p")
        assert screen.cursor.at == 0
        await press(pilot, "n", "n", "p")
        assert screen.cursor.at == 1
        assert screen.record is not None
        assert screen.record.record == spoken(1)
        assert "record 1 of 12 · thinking · 16 rows" in screen_text(pilot.app)

    drive(build, steps)


def test_jump_to_a_number_an_id_and_what_is_not_there(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        for typed, expected in (("7", 7), (spoken(3)["id"][:10], 3), ("99", 3), ("nothing", 3), ("", 3)):
            await press(pilot, "g")
            assert len(pilot.app.screen_stack) == 3
            await type_line(pilot, typed)
            assert pilot.app.screen is screen
            assert screen.cursor.at == expected
        await press(pilot, "g", "escape")
        assert pilot.app.screen is screen

    drive(build, steps)


def test_events_are_selected_by_arrows_rows_and_edges(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        lanes = screen.lanes.main
        for key, expected in (
            ("down", 1), ("j", 2), ("k", 1), ("up", 0), ("right", 1), ("l", 2), ("left", 1), ("h", 0), ("end", 3),
            ("home", 0), ("d", 1), ("a", 0), ("a", 0),
        ):  # fmt: skip
            await press(pilot, key)
            assert lanes.selected == expected, key
        await press(pilot, "r")
        await type_line(pilot, "13")
        assert lanes.selected == 3
        await press(pilot, "r")
        await type_line(pilot, "many")
        assert isinstance(pilot.app.screen, Prompt)
        await press(pilot, "escape", "home", "down")
        text = screen_text(pilot.app)
        assert "◆ waits for event 0, user, rows 0–6: Where is parcel 0?" in text
        assert "◇ is waited for by event 3" in text
        assert "▌> It left on" in text
        assert "◆Where is parcel 0?■" in text

    drive(build, steps)


def test_a_search_shows_its_first_find_and_goes_through_the_others(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "n", "slash")
        await type_line(pilot, "policy:thinking comes")
        assert screen.cursor.hits == [1, 3, 5, 7, 9]
        assert screen.cursor.at == 1
        assert screen.lanes.main.selected == 3
        assert "1 of 5 found · policy:thinking comes" in screen_text(pilot.app)
        await press(pilot, "n", "n", "p")
        assert screen.cursor.at == 3
        await press(pilot, "slash")
        await type_line(pilot, " zzz")
        assert screen.cursor.hits == []
        assert screen.cursor.at == 3
        await press(pilot, "escape", "n")
        assert screen.cursor.at == 4
        await press(pilot, "slash")
        await type_line(pilot, "polcy:x")
        assert isinstance(pilot.app.screen, Prompt)
        assert "there is no 'polcy'" in " ".join(screen_text(pilot.app).split())
        await press(pilot, "escape")

    drive(build, steps)


def test_a_search_from_the_command_line_begins_at_once_and_leaks_are_told_with_evidence(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        assert screen.cursor.at == 11
        await press(pilot, "e")
        text = screen_text(pilot.app)
        assert "‼ 1 leak" in text
        assert 'says "1887", which stands in event 0' in text
        assert "▌‼ > In" in text

    drive(build, steps, (120, 30), Start(filter="leak:yes"))


def test_playing_shows_what_has_happened_and_ends_by_itself(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        lanes = screen.lanes
        await press(pilot, "minus", "minus", "minus", "minus")
        assert screen.player.speed == 1
        await press(pilot, "space")
        assert screen.player.is_running
        await press(pilot, "space")
        assert not screen.player.is_running
        lanes.play_to(7.0)
        await pilot.pause()
        text = screen_text(pilot.app).partition("event 0 of")[0]
        assert "Where is parcel 0?■" in text
        assert "> It l" in text
        assert "Monday" not in text
        assert "Parcel has" not in text
        await press(pilot, "escape")
        assert "comes today.■" in screen_text(pilot.app)
        await press(pilot, "space", *["plus"] * 9)
        while screen.player.at is not None:
            await pilot.pause(0.02)
        assert lanes.main.played is None

    drive(build, steps)


def test_a_record_of_real_time_is_played_at_its_own_speed(tmp_path: Path) -> None:
    made = record(["user"], [event(0, 0, 3, "a b")])
    made["clock"]["ms_per_row"] = 50.0
    write(tmp_path / "records-00000.parquet", [made])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        screen.action_play()
        assert screen.player.speed == 20

    drive(tmp_path, steps, start=Start())


@pytest.mark.parametrize("size", [(80, 24), (150, 40)])
def test_side_by_side_with_turns_selects_in_both(tmp_path: Path, size: tuple[int, int]) -> None:
    from tests.viewer.viewer_records import converted

    made = converted([{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hello. Good day."}])
    write(tmp_path / "records-00000.parquet", [made])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "s", "down")
        assert screen.lanes.turned is not None
        assert screen.lanes.turns.selected == screen.lanes.main.selected == 1
        assert screen_text(pilot.app).count("Good day.") == 2
        assert "under turns: 0% saved" in screen_text(pilot.app)
        await press(pilot, "tab", "up")
        assert screen.lanes.main.selected == 0
        await press(pilot, "s")
        assert screen.lanes.turned is None
        assert screen.lanes.main.has_focus

    drive(tmp_path, steps, size)


def test_tokens_that_are_not_there_leave_the_text(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "t")
        assert screen.lanes.main.tokens is None
        assert "Where is parcel 0?" in screen_text(pilot.app)

    drive(build, steps)


def test_marks_are_kept_shown_searched_for_and_taken_back(build: Path) -> None:
    marks = build / "marks.jsonl"

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "m")
        await type_line(pilot, "fine [bold]")
        await press(pilot, "n", "b", "enter")
        await press(pilot, "n", "b", "escape")
        assert read_marks(marks) == {spoken(0)["id"]: Mark("good", "fine [bold]"), spoken(1)["id"]: Mark("bad")}
        await press(pilot, "p", "p")
        assert "✓ good: fine [bold]" in screen_text(pilot.app)
        await press(pilot, "slash")
        await type_line(pilot, "mark:bad")
        assert screen.cursor.hits == [1]
        await press(pilot, "u", "u")
        assert set(read_marks(marks)) == {spoken(0)["id"]}

    drive(build, steps)
    marks.unlink()


def test_a_mark_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", [spoken(0)])
    (tmp_path / "marks.jsonl").mkdir()

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "m", "enter")
        assert "not kept" in " ".join(screen_text(pilot.app).split())
        assert screen.marks == {}

    drive(tmp_path, steps)


def test_copying_gives_the_record_as_json(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "y")
        assert json.loads(pilot.app.clipboard) == spoken(0)
        await press(pilot, "x", "y")
        assert json.loads(pilot.app.clipboard)["code"] == "cycle"

    drive(build, steps)


def test_about_and_help_and_leaving(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "i")
        assert "conversation " in screen_text(pilot.app)
        for key in ("question_mark", "f1"):
            await press(pilot, key)
            assert isinstance(pilot.app.screen, Help)
            assert "next record" in screen_text(pilot.app)
            await press(pilot, "escape")
        await press(pilot, "q")
        assert not pilot.app.is_running

    drive(build, steps)


def test_rejects_are_browsed_by_reason_and_found_by_words(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "x")
        rejects = pilot.app.screen
        assert isinstance(rejects, RejectsScreen)
        text = screen_text(pilot.app)
        assert "2  convert: cycle" in text
        assert '{"a": "[bold]x[/bold]"}' in text
        await press(pilot, "n", "n", "n", "p")
        assert rejects.cursor.at == 1
        await press(pilot, "end", "enter")
        assert rejects.cursor.hits == [2]
        assert "␛[31mred␛[0m" in screen_text(pilot.app)
        assert not OBEYED.search(screen_text(pilot.app))
        await press(pilot, "slash")
        await type_line(pilot, " policy:x")
        assert "rejects have no policy" in " ".join(screen_text(pilot.app).split())
        await press(pilot, "escape", "question_mark", "escape", "escape")
        assert pilot.app.screen is screen
        await press(pilot, "x", "home", "enter", "x", "t")
        assert pilot.app.screen is screen

    drive(build, steps)


def test_rejects_without_any_records_are_shown(build: Path) -> None:
    async def run() -> None:
        app = ViewerApp(Samples(build, ()), open_rejects(build))
        async with app.run_test() as pilot:
            await settle(pilot)
            await press(pilot, "escape")
            assert isinstance(app.screen, RejectsScreen)

    asyncio.run(run())


def test_a_damaged_shard_is_told_and_the_others_are_shown(build: Path, tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", [spoken(0)])
    whole = write(tmp_path / "records-00001.parquet", [spoken(1)]).read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    (tmp_path / "records-00001.parquet").write_bytes(whole[:4] + b"\xff" * (len(whole) - footer - 4) + whole[-footer:])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "n")
        text = " ".join(screen_text(pilot.app).split())
        assert "record 1 of 2" in text
        assert "records-00001.parquet" in text
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
