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
from tests.viewer.viewer_driving import press, settle
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
            await settle(pilot)
            await press(pilot, "end", "a")
            return app.export_screenshot()

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "records-00000.parquet", [made])
        svg = asyncio.run(run(Path(folder)))
    return without_addresses(svg)


def without_addresses(svg: str) -> str:
    """A picture that asks no server for its letters, and names none but the name space of SVG."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"<!-- Generated with Rich.*?-->\s*", "", svg)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
