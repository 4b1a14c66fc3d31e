"""What the tests of the terminal application drive it with, and a build to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from pipeline.viewer.app import ViewerApp
from pipeline.viewer.record_screen import RecordScreen, Start
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.viewer.test_viewer_lanes import leaking
from tests.viewer.viewer_records import HOSTILE, event, record, write, write_rejects

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
    """Until all that was begun is done, or was given up: a search that is left, a record that another one takes over from."""
    await pilot.pause()
    while not all(worker.is_finished for worker in pilot.app.workers):
        await asyncio.sleep(0.005)
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
