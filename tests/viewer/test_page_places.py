"""The HTML viewer goes where it is told, shows what it selects, and touches no more of a long record than it must."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.viewer.browser import LEAK, TEN, TOOLS, chosen, heading, opened, page_of, row_slider, scripted, set_row
from tests.viewer.viewer_records import event, record

WORDS = " ".join(f"word{i}" for i in range(2500))


@pytest.fixture(scope="module")
def tall_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events that are higher than any window, between short ones."""
    events: list[dict[str, Any]] = []
    row = 0
    for i in range(6):
        rows = 2500 if i in (1, 3) else 6
        text = WORDS if rows > 6 else f"short {i}"
        events.append(event(i % 2, row, row + rows, text, message=i, after=[i - 1] if i else []))
        row += rows
    return page_of(tmp_path_factory.mktemp("tall"), [record(["user", "assistant"], events)], "Tall")


def in_sight(page: Page, event: int) -> bool:
    """Whether the head of an event can be seen and is covered by nothing."""
    return bool(
        page.locator(f"#r0e{event} .pick").evaluate(
            """node => { const { x, y, width, height } = node.getBoundingClientRect();
                return document.elementFromPoint(x + width / 2, y + height / 2) === node; }"""
        )
    )


@pytest.mark.parametrize("size", [(1280, 800), (1600, 900), (800, 600), (360, 640)])
@pytest.mark.parametrize("layout", ["columns", "list"])
def test_selected_event_is_in_sight_forwards_and_backwards(
    chromium: Browser, tall_file: Path, layout: str, size: tuple[int, int]
) -> None:
    window = {"width": size[0], "height": size[1]}
    with opened(chromium, tall_file, viewport=window, reduced_motion="reduce") as at:
        button = at.page.get_by_role("button", name="Columns")
        if (button.get_attribute("aria-pressed") == "true") != (layout == "columns"):
            button.click()
        order = [*range(6), *reversed(range(5))]
        for i, expected in enumerate(order):
            at.page.keyboard.press("j" if i < 6 else "k")
            assert (chosen(at.page) or "").startswith(f"event {expected},")
            assert in_sight(at.page, expected), (i, expected)


def test_a_row_is_in_sight_where_the_event_is_higher_than_the_window(chromium: Browser, tall_file: Path) -> None:
    with opened(chromium, tall_file, reduced_motion="reduce") as at:
        for row in (1500, 4000, 300):
            jump_to(at.page, f"row {row}")
            line = at.page.locator("#r0 .links .sought")
            expect(line).to_have_count(1)
            top, details = (
                node.evaluate("node => node.getBoundingClientRect().top")
                for node in (line, at.page.locator(".details"))
            )
            bar = at.page.locator(".player").evaluate("node => node.getBoundingClientRect().bottom")
            assert bar < top < details
        jump_to(at.page, "row 2507")
        assert in_sight(at.page, 2)


def jump_to(page: Page, what: str) -> None:
    box = page.get_by_role("textbox", name="Jump")
    box.fill(what)
    box.press("Enter")


def test_the_same_jump_works_again(page: Page) -> None:
    box = page.get_by_role("textbox", name="Jump")
    for _ in range(2):
        jump_to(page, "3")
        assert heading(page) == "Record 3"
        assert box.input_value() == ""
        page.get_by_role("button", name="Previous").click()
        assert heading(page) == "Record 2"
    box.fill("nothing like it")
    page.get_by_role("button", name="Go").click()
    assert page.get_by_text("No record of this page is nothing like it.").is_visible()
    assert box.input_value() == "nothing like it"
    jump_to(page, "1")
    assert not page.get_by_text("No record of this page").is_visible()


def test_records_have_the_numbers_of_the_data_set_and_few_digits_are_no_id(
    chromium: Browser, tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    made = [
        {**records[i], "id": f"{digit}{records[i]['id'][1:]}"} for i, digit in ((TOOLS, "a"), (TEN, "0"), (LEAK, "4"))
    ]
    with opened(chromium, page_of(tmp_path, made, numbers=[3, 17, 40])) as at:
        page = at.page
        assert heading(page) == "Record 3"
        assert [li.inner_text().partition(":")[0] for li in page.locator(".list li").all()] == ["3", "17", "40"]
        for wanted, found in (("17", 17), ("0", 17), ("4", 17), ("40", 40), ("3", 3)):
            jump_to(page, wanted)
            assert heading(page) == f"Record {found}", wanted
        jump_to(page, made[1]["id"][:9])
        assert heading(page) == "Record 17"
        assert page.evaluate("location.hash") == "#r17"
        page.keyboard.press("j")
        assert page.locator("#r17e0.chosen").is_visible()
        page.evaluate("location.hash = '#r40e1'")
        expect(page.locator("#r40e1.chosen")).to_be_visible()


def controls(page: Page) -> list[Locator]:
    buttons = [page.get_by_role("button", name=name) for name in ("Play", "Columns", "Copy JSON", "Beside turns")]
    return [*buttons, row_slider(page)]


def test_where_no_record_is_found_none_is_left_and_it_comes_back(page: Page) -> None:
    page.keyboard.press("n")
    page.keyboard.press("j")
    page.keyboard.press("j")
    before = chosen(page)
    page.get_by_role("combobox", name="Speed").select_option("2")
    page.get_by_role("button", name="Play").click()
    search = page.get_by_label("Search the texts")
    search.fill("no such words")
    expect(page.get_by_text("No record fits the filter.")).to_be_visible()
    assert all(control.is_disabled() for control in controls(page))
    assert page.locator("#at").inner_text() == ""
    assert page.get_by_role("button", name="Pause").count() == 0
    assert page.get_by_role("heading", name="No event is selected").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for key in ("n", "j", " ", "t", "l", "c"):
        page.keyboard.press(key)
    jump_to(page, "row 3")
    assert page.get_by_text("No record is shown.").is_visible()
    search.fill("")
    expect(page.locator("#r1 h2")).to_be_visible()
    assert heading(page) == "Record 1"
    assert chosen(page) == before
    assert all(control.is_enabled() for control in controls(page))
    assert page.locator("#at").inner_text().startswith(page.locator("#at").inner_text().split()[-1])


def test_a_cleared_search_goes_back_to_where_one_was(page: Page) -> None:
    jump_to(page, "4")
    search = page.get_by_label("Search the texts")
    search.fill("lisbon")
    expect(page.locator(f"#r{LEAK} h2")).to_be_visible()
    search.fill("")
    expect(page.locator("#r4 h2")).to_be_visible()
    assert heading(page) == "Record 4"
    search.fill("fourteen")
    expect(page.locator(f"#r{TEN} h2")).to_be_visible()
    page.get_by_role("link", name="bakery").click()
    search.fill("")
    expect(page.locator("#count")).to_have_text("6 of 6 records")
    assert heading(page) == f"Record {TEN}"


WATCH = """() => { window.touched = new Set();
    new MutationObserver(all => all.forEach(m => touched.add(m.target.closest ? m.target.closest('.event')?.id : '')))
        .observe(document.querySelector('.score'), {subtree: true, attributes: true}); }"""


def test_only_the_events_concerned_are_touched(
    chromium: Browser, tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    many = copy.deepcopy(records[LEAK])
    two = many["events"]
    many["events"] = [
        {**two[i % 2], "start": 3 * i, "end": 3 * i + 3, "text": f"word {i} ", "after": [i - 1] if i else [], "final": False,
         "lexical": None}
        for i in range(400)
    ]  # fmt: skip
    many["rows"] = 1200
    with opened(chromium, page_of(tmp_path, [many])) as at:
        page = at.page

        def touched() -> set[str]:
            page.wait_for_timeout(20)
            found = set(page.evaluate("[...touched].filter(Boolean)"))
            page.evaluate("touched.clear()")
            return found

        page.evaluate(WATCH)
        page.locator("#r0e2 .text").hover()
        assert touched() == {"r0e1", "r0e2", "r0e3"}
        page.mouse.move(5, 5)
        assert touched() == {"r0e1", "r0e2", "r0e3"}
        set_row(page, 100)
        assert len(touched()) > 300
        set_row(page, 103)
        assert touched() == {"r0e33", "r0e34"}


def test_a_text_keeps_its_size_while_it_is_said(page: Page) -> None:
    text = page.locator("#r0e7 .text")
    size = text.evaluate("node => node.offsetHeight")
    set_row(page, 41)
    assert text.evaluate("node => [node.offsetHeight, node.style.contain]") == [size, "size layout"]
    set_row(page, 57)
    assert text.evaluate("node => [node.offsetHeight, node.style.contain, node.style.height]") == [size, "", ""]


@pytest.mark.parametrize("size", [(1280, 800), (1600, 900), (800, 600), (360, 640)])
@pytest.mark.parametrize("keys", ["", "t", "lt"], ids=["alone", "beside", "beside in the other layout"])
def test_event_behind_an_edge_is_in_sight(
    chromium: Browser, crossed_file: Path, keys: str, size: tuple[int, int]
) -> None:
    window = {"width": size[0], "height": size[1]}
    with opened(chromium, crossed_file, viewport=window, reduced_motion="reduce") as at:
        for key in keys:
            at.page.keyboard.press(key)
        assert at.page.locator("#r0 .frame.turns").count() == (1 if "t" in keys else 0)
        details = at.page.locator(".details")
        for start, edge in ((2, 0), (0, 2), (4, 3), (3, 4), (59, 58), (58, 59), (59, 0), (2, 0)):
            at.page.evaluate(f"score.choose({start}, {{scroll: true}})")
            assert in_sight(at.page, start), start
            at.page.evaluate(
                "event => { const link = document.createElement('a'); link.href = `#r0e${event}`; link.id = 'edge';"
                " link.textContent = 'edge'; document.getElementById('details-body').prepend(link); }",
                edge,
            )
            details.locator("#edge").click()
            expect(at.page.locator(f"#r0e{edge}.chosen").first).to_be_attached()
            assert in_sight(at.page, edge), (start, edge)


@pytest.fixture(scope="module")
def crossed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two outputs side by side, so that ``turns`` lays them out otherwise; high events between short ones."""
    said = [(i % 2, WORDS[:6000] if i in (1, 3) else f"short {i}", 2 * i, 2 * i + 3) for i in range(60)]
    made = scripted("crossed", [("assistant", "output"), ("skeptical", "output")], said)
    assert len(made["events"]) == 60
    return page_of(tmp_path_factory.mktemp("crossed"), [made], "Crossed")
