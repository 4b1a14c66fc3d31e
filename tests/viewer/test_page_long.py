"""A record of thousands of events stays usable in the HTML viewer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.viewer.browser import chosen, opened, page_of
from tests.viewer.viewer_records import event, record

EVENTS = 4000


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six streams, and an edge from every event to the one before it."""
    events = [
        event(i % 6, 3 * i, 3 * i + 3, f"word {i} and more ", message=i // 10, part=i % 10, after=[i - 1] if i else [])
        for i in range(EVENTS)
    ]
    made = record(["user", *(f"assistant/{i}" for i in range(5))], events)
    return page_of(tmp_path_factory.mktemp("long"), [made], "Long")


FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))"


@pytest.mark.parametrize("layout", ["columns", "list"])
def test_selecting_an_event_concerns_few_others(chromium: Browser, long_file: Path, layout: str) -> None:
    """A key takes about 50 ms on an idle machine; whatever the machine, the style of few elements is worked out anew."""
    with opened(chromium, long_file, reduced_motion="reduce") as at:
        page = at.page
        if layout == "list":
            page.get_by_role("button", name="Columns").click()
        page.keyboard.press("j")
        page.evaluate(FRAME)
        session = at.context.new_cdp_session(page)
        told: list[dict[str, Any]] = []
        ended: list[Any] = []
        session.on("Tracing.dataCollected", lambda data: told.extend(data["value"]))
        session.on("Tracing.tracingComplete", lambda data: ended.append(data))
        session.send("Tracing.start", {"categories": "devtools.timeline", "transferMode": "ReportEvents"})
        took = []
        for key in ("j", "j", "End", "k", "Home", "j"):
            start = time.perf_counter()
            page.keyboard.press(key)
            page.evaluate(FRAME)
            took.append(time.perf_counter() - start)
        session.send("Tracing.end")
        while not ended:
            page.wait_for_timeout(20)
        styled = [found["args"]["elementCount"] for found in told if found["name"] == "UpdateLayoutTree"]
        assert (chosen(page) or "").startswith("event 1,")
        assert len(styled) > 6
        assert max(styled) < 1000
        assert min(took) < 0.5


def test_hidden_records_are_not_laid_out(chromium: Browser, tmp_path: Path) -> None:
    short = record(["user"], [event(0, 0, 4, "Short")], 0)
    long = record(["user"], [event(0, i, i + 1, "w ", message=i) for i in range(EVENTS)], 1)
    with opened(chromium, page_of(tmp_path, [short, long])) as at:
        session = at.context.new_cdp_session(at.page)
        session.send("Performance.enable")

        def laid_out() -> int:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return int(next(found["value"] for found in metrics if found["name"] == "LayoutObjects"))

        assert laid_out() < 1000
        at.page.keyboard.press("n")
        at.page.evaluate(FRAME)
        assert laid_out() > EVENTS
