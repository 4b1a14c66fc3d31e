"""The HTML viewer in use: going through records and events, edges and details, columns, narrow windows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.viewer.browser import EMPTY, LEAK, TOOLS, arrows, chosen, heading, opened


def test_keys_walk_records_and_events(page: Page) -> None:
    assert heading(page) == "Record 0"
    page.keyboard.press("n")
    assert heading(page) == "Record 1"
    page.keyboard.press("p")
    assert heading(page) == "Record 0"
    page.keyboard.press("p")
    assert heading(page) == "Record 0"
    assert chosen(page) is None
    page.keyboard.press("j")
    assert chosen(page) == "event 0, user, rows 0 to 8"
    page.keyboard.press("ArrowDown")
    assert chosen(page) == "event 1, call, rows 8 to 18"
    page.keyboard.press("k")
    page.keyboard.press("End")
    assert (chosen(page) or "").startswith("event 8, assistant")
    page.keyboard.press("Home")
    assert (chosen(page) or "").startswith("event 0")
    page.keyboard.press("Escape")
    assert chosen(page) is None


def test_back_goes_to_the_record_before(page: Page) -> None:
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert heading(page) == "Record 2"
    page.go_back()
    expect(page.locator("#r1 h2")).to_be_visible()
    assert heading(page) == "Record 1"


def test_tab_reaches_every_control_in_order_and_one_event_only(page: Page) -> None:
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(n => n === document.body ? '' : n.id || n.dataset.facet || n.dataset.flag || n.className || n.tagName)"
                "(document.activeElement)"
            )
        )
        if seen[-1] == "pick":
            break
    controls = [
        "skip",
        "theme",
        "help-open",
        "search",
        "corpus",
        "stream",
        "jump",
        "next",
        "layout",
        "copy",
        "play",
        "row",
    ]
    assert [name for name in seen if name in controls] == controls
    assert seen[-1] == "pick"
    assert page.locator("#r0 .pick[tabindex='0']").count() == 1


def test_keys_typed_into_a_field_are_text(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("npj c")
    assert page.get_by_label("Search the texts").input_value() == "npj c"
    page.get_by_label("Search the texts").fill("")
    expect(page.get_by_role("status").first).to_have_text("6 of 6 records")
    assert heading(page) == "Record 0"


def test_help_opens_and_shortcuts_can_be_switched_off(page: Page) -> None:
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard and signs")
    assert dialog.is_visible()
    dialog.get_by_label("single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    assert heading(page) == "Record 0"


def test_roles_and_names(page: Page) -> None:
    for role in ("banner", "main", "complementary"):
        assert page.get_by_role(role).count() == 1  # type: ignore[arg-type]
    assert page.get_by_role("navigation", name="Records").get_by_role("link").count() == 6
    assert page.get_by_role("search").is_visible()
    assert page.get_by_role("img", name=re.compile("As recorded: 5 streams over 57 rows")).is_visible()
    events = page.get_by_role("list", name="Events in the order of time").get_by_role("listitem")
    assert events.count() == 9
    told = page.locator("body").aria_snapshot()
    nameless = r"^\s*- (button|link|textbox|searchbox|combobox|checkbox|slider|dialog|region)(?: \[.*\])*:?$"
    assert not re.findall(nameless, told, re.M)
    assert told.count("heading") == len(re.findall(r'heading ".+?"', told))


def test_selected_event_shows_what_it_waits_for_and_its_details(page: Page) -> None:
    page.locator("#r0e7 .pick").click()
    assert arrows(page) == (2, 0)
    before = [n.get_attribute("id") for n in page.locator(".event.before").all()]
    assert before == ["r0e2", "r0e4"]
    details = page.get_by_role("complementary", name="Selected event")
    told = re.sub(r"\s+", " ", details.inner_text())
    for part in ("Event 7", "assistant (written by the model)", "39–52: 13 rows", "event 2, event 4"):
        assert part in told
    details.get_by_role("link", name="event 4").click()
    expect(details.get_by_role("heading")).to_have_text("Event 4")


def test_pointing_shows_edges_and_goes_back_to_the_selected_event(page: Page) -> None:
    page.locator("#r0e1 .pick").click()
    assert arrows(page) == (1, 1)
    page.locator("#r0e7 .text").hover()
    assert arrows(page) == (2, 0)
    page.locator("#r0 rect[data-event='5']").first.hover()
    assert page.get_by_role("complementary").get_by_role("heading").inner_text() == "Event 5"
    page.mouse.move(5, 5)
    assert page.get_by_role("complementary").get_by_role("heading").inner_text() == "Event 1"


def test_leak_is_marked_by_sign_text_and_evidence(page: Page) -> None:
    page.get_by_role("link", name="7731").click()
    event = page.locator(f"#r{LEAK}e1")
    assert event.locator(".meta").inner_text().count("‼ leak") == 1
    page.locator(f"#r{LEAK}e1 .pick").click()
    assert "‼ leak: says lisbon at row 2" in page.get_by_role("complementary").inner_text()
    assert page.locator(f"#r{LEAK} .own svg text.leak").text_content() == "‼"
    assert "‼ 1 leaking" in page.locator(".list li").nth(LEAK).inner_text()


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found
    return dict(found)


def test_columns_put_streams_side_by_side_and_time_downwards(page: Page, records: list[dict[str, Any]]) -> None:
    boxes = [box(page.locator(f"#r0e{i}")) for i in range(9)]
    events = records[TOOLS]["events"]
    for one, a in zip(events, boxes, strict=True):
        for other, b in zip(events, boxes, strict=True):
            assert (one["stream"] < other["stream"]) == (a["x"] + a["width"] <= b["x"])
            if one["end"] <= other["start"]:
                assert a["y"] + a["height"] <= b["y"] + 1
            if one["start"] == other["start"]:
                assert abs(a["y"] - b["y"]) < 1


def test_timeline_is_to_scale(page: Page, records: list[dict[str, Any]]) -> None:
    record = records[TOOLS]
    svg = box(page.locator("#r0 .own svg"))
    for i, event in enumerate(record["events"]):
        drawn = box(page.locator(f"#r0 .own rect[data-event='{i}']"))
        assert drawn["x"] - svg["x"] == pytest.approx(svg["width"] * event["start"] / record["rows"], abs=2)
        assert drawn["width"] == pytest.approx(svg["width"] * (event["end"] - event["start"]) / record["rows"], abs=3)


@pytest.mark.parametrize("layout", ["list", "columns"])
def test_narrow_window_never_scrolls_sideways(chromium: Browser, page_file: Path, layout: str) -> None:
    with opened(chromium, page_file, viewport={"width": 360, "height": 740}) as at:
        columns = at.page.get_by_role("button", name="Columns")
        assert columns.get_attribute("aria-pressed") == "false"
        if layout == "columns":
            columns.click()
        for _ in range(6):
            assert at.page.evaluate("document.documentElement.scrollWidth") == 360
            at.page.keyboard.press("j")
            assert at.page.evaluate("document.documentElement.scrollWidth") == 360
            at.page.keyboard.press("n")
        if layout == "columns":
            at.page.evaluate("location.hash = '#r1'")
            assert at.page.get_by_role("region", name="Events in columns").is_visible()


def test_record_with_no_events_can_be_walked_and_played(page: Page) -> None:
    page.evaluate(f"location.hash = '#r{EMPTY}'")
    expect(page.get_by_text("This record has no events.")).to_be_visible()
    for key in ("j", "k", " ", "t", "l", "l"):
        page.keyboard.press(key)
    assert heading(page) == "Record 5"
