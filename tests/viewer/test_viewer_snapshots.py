"""Pictures of the application: the screens of a fixed record and of rejects. `pytest --snapshot-update` draws them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from pipeline.viewer.app import ViewerApp
from pipeline.viewer.record_screen import Start
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.viewer.test_viewer_lanes import leaking
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
    build: Path, snap_compare: Callable[..., bool], size: tuple[int, int], start: Start, keys: tuple[str, ...]
) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await pilot.app.workers.wait_for_complete()
        await pilot.pause()
        await pilot.press(*keys)
        await pilot.app.workers.wait_for_complete()
        await pilot.pause()

    app = ViewerApp(open_samples(build), open_rejects(build), start)
    assert snap_compare(app, terminal_size=size, run_before=before)
