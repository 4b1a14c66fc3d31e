"""Draws docs/images/viewer.svg: one of our example conversations in the viewer. Run it as a program.

.venv/bin/python -m tests.viewer.viewer_picture
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

from pipeline.viewer.app import ViewerApp
from pipeline.viewer.record_screen import Start
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.viewer.viewer_records import converted, write

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "viewer.svg"
SIZE = (132, 40)


def picture() -> str:
    """The viewer on a conversation with a tool, what its answer waits for selected, as SVG that needs no network."""
    raw = (ROOT / "examples" / "conversations" / "sharegpt.jsonl").read_bytes().splitlines()[0]
    source = {"raw": raw, "format": "sharegpt", "corpus": "examples", "path": "sharegpt.jsonl"}
    made = converted([], "evidence+tools_async", **source)

    async def run(folder: Path) -> str:
        app = ViewerApp(open_samples(folder), open_rejects(folder), Start())
        async with app.run_test(size=SIZE) as pilot:
            await app.workers.wait_for_complete()
            await pilot.press("end", "a")
            await app.workers.wait_for_complete()
            await pilot.pause()
            return app.export_screenshot()

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "records-00000.parquet", [made])
        svg = asyncio.run(run(Path(folder)))
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
