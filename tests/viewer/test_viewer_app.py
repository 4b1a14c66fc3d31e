"""The terminal application: every key that moves, selects, plays, compares and copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot

from pipeline.viewer.dialogs import Help, Prompt
from pipeline.viewer.record_screen import RecordScreen, Start
from tests.viewer.viewer_driving import build, drive, press, screen_text, spoken, type_line
from tests.viewer.viewer_records import event, record, write

__all__ = ["build"]


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


def test_what_is_told_below_is_scrolled_by_keys(tmp_path: Path) -> None:
    said = [event(0, i, i + 1, f"w{i} ", message=i) for i in range(20)]
    said.append(event(1, 20, 21, "b", message=20, after=list(range(20))))
    write(tmp_path / "records-00000.parquet", [record(["user", "assistant"], said)])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "end")
        assert "waits for event 19" not in screen_text(pilot.app)
        await press(pilot, *["J"] * 10, *["shift+down"] * 20)
        assert "waits for event 19" in screen_text(pilot.app)
        assert screen.lanes.main.selected == 20
        await press(pilot, *["K"] * 15, *["shift+up"] * 15)
        assert "event 20 of 21" in screen_text(pilot.app)

    drive(tmp_path, steps)
