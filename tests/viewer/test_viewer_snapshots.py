"""Pictures of the application: the screens of a fixed record and of rejects. `pytest --snapshot-update` draws them again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.pilot import Pilot

from pipeline.viewer.record_screen import RecordScreen, Start
from tests.viewer.test_viewer_lanes import leaking
from tests.viewer.viewer_driving import drive, press
from tests.viewer.viewer_picture import PICTURE, without_addresses
from tests.viewer.viewer_records import converted, write, write_rejects

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Is the harbour of Trieste open today? I would like to see the pier."},
    {
        "role": "assistant",
        "content": "I look it up.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "hours", "arguments": '{"place": "Trieste"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "Open from 9 to 18. The pier is closed on Mondays."},
    {"role": "assistant", "content": "It is open from 9 to 18. The pier is closed on Mondays."},
]


class Svg(SingleFileSnapshotExtension):
    """A picture per test, as a file."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Two records and two rejects."""
    made = [converted(MESSAGES, "evidence+tools_async"), leaking()]
    write(tmp_path / "dataset" / "train" / "records-00000-of-00001.parquet", made)
    rejects = [("cycle", "waits in a circle", b'{"rows": "[bold]"}'), ("empty", "says nothing", b"\x1b[31m{}")]
    write_rejects(tmp_path / "convert" / "rejects-00000.parquet", rejects)
    return tmp_path


@pytest.mark.parametrize(
    ("size", "start", "keys"),
    [
        ((80, 24), Start(), ("end",)),
        ((80, 24), Start(at=1), ("e",)),
        ((150, 36), Start(turns=True), ("down", "down")),
        ((80, 24), Start(rejects=True), ("n",)),
    ],
    ids=["narrow", "leak", "wide-with-turns", "rejects"],
)
def test_screens_look_as_they_did(
    build: Path, snapshot: SnapshotAssertion, size: tuple[int, int], start: Start, keys: tuple[str, ...]
) -> None:
    drawn: list[str] = []

    async def steps(pilot: Pilot[None], screen: RecordScreen) -> None:
        await press(pilot, *keys)
        drawn.append("")
        while drawn[-1] != (svg := without_addresses(pilot.app.export_screenshot())):  # until it holds still
            drawn.append(svg)
            await pilot.pause(0.1)

    drive(build, steps, size, start)
    assert drawn[-1] == snapshot.use_extension(Svg)


def test_no_picture_asks_for_anything_elsewhere() -> None:
    pictures = [PICTURE, *(Path(__file__).parent / "__snapshots__").rglob("*.svg")]
    assert len(pictures) >= 5
    for path in pictures:
        named = set(re.findall(r"https?://[^\s\"')<]+", path.read_text(encoding="utf-8")))
        assert named == {"http://www.w3.org/2000/svg"}, path.name
