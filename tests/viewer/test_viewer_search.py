"""The terminal application: searches, rejects and marks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from textual.pilot import Pilot

from pipeline.viewer.app import ViewerApp
from pipeline.viewer.dialogs import Prompt
from pipeline.viewer.filters import Filter
from pipeline.viewer.marks import Mark, read_marks
from pipeline.viewer.record_screen import RecordScreen, Start
from pipeline.viewer.rejects import Rejects, open_rejects
from pipeline.viewer.rejects_screen import RejectsScreen
from pipeline.viewer.samples import Samples
from tests.viewer.test_viewer_lanes import OBEYED
from tests.viewer.viewer_driving import build, drive, press, screen_text, settle, spoken, type_line
from tests.viewer.viewer_records import write, write_rejects

__all__ = ["build"]


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


def slow(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Searches find something after one batch, and no end until the event is set."""
    ends = Event()

    def matching(self: Samples, filter_: Filter, progress: Callable[[int], None]) -> Iterator[int]:
        if "parcel" not in filter_.text:
            yield 7
            return
        yield 5
        while not ends.wait(0.005):
            progress(6)

    monkeypatch.setattr(Samples, "matching", matching)
    return ends


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


def test_a_search_that_is_stopped_leaves_nothing_and_another_begins_at_once(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = slow(monkeypatch)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        for key in ("escape", "slash"):
            await pilot.press("slash", *"parcel", "enter")
            await until(lambda: screen.cursor.at == 5 and screen.cursor.looked_at == 6)
            assert screen.cursor.is_searching
            await pilot.press(key)
            if key == "escape":
                await settle(pilot)  # the thread has ended
                assert (screen.cursor.hits, screen.cursor.line, screen.cursor.is_searching) == ([], "", False)
                assert screen.lanes.main.terms is None
                assert "searched" not in screen_text(pilot.app)
                await press(pilot, "n")
                assert screen.cursor.at == 6
        await pilot.press(*["backspace"] * 6, *"other", "enter")
        await until(lambda: screen.cursor.hits == [7])
        await settle(pilot)
        assert screen.cursor.at == 7
        assert "1 of 1 found · other" in screen_text(pilot.app)
        assert not ends.is_set()

    drive(build, steps)


def test_leaving_while_a_search_goes_on_ends_it(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await pilot.press("slash", *"parcel", "enter")
        await until(lambda: screen.cursor.at == 5)
        await pilot.press("q")

    assert drive(build, steps).return_code == 0


def test_rejects_may_be_left_while_they_are_counted(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Event()

    def reasons(self: Rejects) -> Counter[str]:
        go_on.wait(30)
        return Counter({"convert: cycle": 1})

    monkeypatch.setattr(Rejects, "reasons", reasons)

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await pilot.press("x")
        await until(lambda: isinstance(pilot.app.screen, RejectsScreen))
        await pilot.press("escape")
        await until(lambda: pilot.app.screen is screen)
        go_on.set()
        await press(pilot, "n")
        assert screen.cursor.at == 1

    drive(build, steps)


def test_a_reason_that_is_searched_for_among_records_finds_rejects(build: Path) -> None:
    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "slash")
        await type_line(pilot, "reason:empty policy:x")
        assert "rejects have no policy" in " ".join(screen_text(pilot.app).split())
        await press(pilot, "escape", "slash")
        await type_line(pilot, "reason:empty")
        rejects = pilot.app.screen
        assert isinstance(rejects, RejectsScreen)
        assert rejects.cursor.hits == [2]
        await press(pilot, "escape", "n")
        assert (screen.cursor.at, screen.cursor.line) == (1, "")

    drive(build, steps)


def test_a_reason_among_records_without_rejects_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "records-00000.parquet", [spoken(0)])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "slash")
        await type_line(pilot, "reason:empty")
        assert "there are no rejects here" in " ".join(screen_text(pilot.app).split())
        await press(pilot, "escape", "slash")
        await type_line(pilot, "zzz")
        await press(pilot, "n")
        assert "Esc shows all records again" in " ".join(screen_text(pilot.app).split())

    drive(tmp_path, steps, (120, 30))


def test_a_reason_shows_only_its_own_rejects(tmp_path: Path) -> None:
    write(tmp_path / "dataset" / "records-00000.parquet", [spoken(0)])
    codes = ["cycle", "cycle_long", 'quo"ted', "recycle"]
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", [(code, "waits", b"{}") for code in codes])

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, "x")
        rejects = pilot.app.screen
        assert isinstance(rejects, RejectsScreen)
        for number in range(len(codes)):
            await press(pilot, "home", *["down"] * (number + 1), "enter")
            assert rejects.cursor.hits == [number], codes[number]

    drive(tmp_path, steps)
