"""The HTML viewer in use: playing, beside ``turns``, filtering, searching, jumping, copying."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.viewer.lanes import shown
from pipeline.viewer.turns import in_turns
from tests.viewer.browser import (
    BAD,
    LEAK,
    SCRIPTS,
    TEN,
    TOOLS,
    Watched,
    arrows,
    chosen,
    heading,
    opened,
    page_of,
    row_slider,
    set_row,
)


def test_at_a_row_only_what_was_said_by_then_is_seen(page: Page, records: list[dict[str, Any]]) -> None:
    events = records[TOOLS]["events"]
    row = 41
    set_row(page, row)
    for i, event in enumerate(events):
        node = page.locator(f"#r0e{i}")
        assert node.is_visible() == (event["start"] < row)
    unsaid = page.locator("#r0e7 .unsaid").text_content() or ""
    assert (page.locator("#r0e7 .text").text_content() or "") == shown(events[7]["text"])
    assert unsaid.endswith("the west.")
    assert shown(events[7]["text"])[: -len(unsaid)]
    set_row(page, 57)
    assert page.locator("#r0 .unsaid").count() == 0
    assert page.locator("#r0 .text").all_text_contents() == [shown(e["text"]) for e in events if e["text"]]


def test_playing_goes_on_to_the_end_and_can_be_paused(page: Page) -> None:
    page.get_by_role("combobox", name="Speed").select_option("10")
    page.locator("h1").click()
    page.keyboard.press(" ")
    expect(page.locator("#at")).to_have_text(re.compile(r"^([2-9]|[1-5]\d) of 57$"))
    page.keyboard.press(" ")
    paused = row_slider(page).input_value()
    assert 2 <= int(paused) < 57
    assert page.locator("#r0 .own .now").count() == 1
    page.wait_for_timeout(250)
    assert row_slider(page).input_value() == paused
    page.get_by_role("combobox", name="Speed").select_option("500")
    page.get_by_role("button", name="Play").click()
    expect(row_slider(page)).to_have_value("57")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert all(node.is_visible() for node in page.locator("#r0 .event").all())


def test_reduced_motion_plays_from_one_start_or_end_to_the_next(
    chromium: Browser, page_file: Path, records: list[dict[str, Any]]
) -> None:
    with opened(chromium, page_file, reduced_motion="reduce") as at:
        at.page.evaluate(
            """() => { window.seen = new Set();
                new MutationObserver(() => seen.add(parseInt(document.getElementById('at').textContent)))
                    .observe(document.getElementById('at'), {childList: true}); }"""
        )
        at.page.get_by_role("combobox", name="Speed").select_option("50")
        at.page.get_by_role("button", name="Play").click()
        expect(at.page.locator("#r0 .own .now")).to_have_count(1)
        expect(row_slider(at.page)).to_have_value("57")
        events = records[TOOLS]["events"]
        assert set(at.page.evaluate("[...seen]")) <= {0, *(e["start"] + 1 for e in events), *(e["end"] for e in events)}


def test_beside_turns_every_event_has_its_row_there(page: Page, records: list[dict[str, Any]]) -> None:
    page.keyboard.press("t")
    frame = page.locator("#r0 .frame.turns")
    told = frame.locator(".event").all_inner_texts()
    laid = in_turns(records[TOOLS])
    starts = sorted(int(re.search(r"rows (\d+)–", text)[1]) for text in told)  # type: ignore[index]
    assert {e["start"] for e in laid["events"]} <= set(starts)
    assert f"Under turns: {laid['rows']} rows" in page.locator("#r0 .as-turns").inner_text()
    own = page.locator("#r0 ol[aria-label$=time] .text").all_text_contents()
    assert sorted(frame.locator(".text").all_text_contents()) == sorted(own)
    page.locator("#r0e7 .pick").click()
    assert arrows(page, ".frame.turns") == (2, 0)
    set_row(page, 57)
    assert not frame.locator(".event").last.is_visible()
    page.keyboard.press("t")
    assert frame.count() == 0


def test_record_that_is_turns_already_has_no_other_side(page: Page) -> None:
    page.get_by_role("textbox", name="Jump").fill(str(SCRIPTS))
    page.get_by_role("textbox", name="Jump").press("Enter")
    assert heading(page) == "Record 4"
    turns = page.get_by_role("button", name="Beside turns")
    assert turns.is_disabled()
    assert "nothing overlaps" in (turns.get_attribute("title") or "")
    page.get_by_role("link", name="7731").click()
    assert heading(page) == "Record 2"
    assert turns.is_disabled()
    assert "cannot be laid out again" in (turns.get_attribute("title") or "")


def numbers(page: Page) -> list[int]:
    return [i for i, item in enumerate(page.locator(".list li").all()) if item.is_visible()]


@pytest.mark.parametrize(
    ("label", "value", "found"),
    [
        ("Corpus", "voices", [TEN]),
        ("Policy", "evidence+tools_async", [TOOLS]),
        ("Stream", "skeptical", [TEN]),
        ("Stream", "tool/1", [TOOLS]),
        ("Pattern", "</script><script>window.hacked=1</script>", [BAD]),
    ],
)
def test_filters(page: Page, label: str, value: str, found: list[int]) -> None:
    page.get_by_role("combobox", name=label, exact=True).select_option(label=value)
    assert numbers(page) == found
    assert heading(page) == f"Record {found[0]}"
    expect(page.locator("#count")).to_have_text(f"{len(found)} of 6 records")


def test_flags_keep_what_leaks_and_what_overlaps(page: Page) -> None:
    page.get_by_label("with leaks").check()
    assert numbers(page) == [LEAK]
    page.get_by_label("with leaks").uncheck()
    page.get_by_label("with overlap").check()
    assert numbers(page) == [TOOLS, TEN, LEAK]
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert heading(page) == "Record 2"


def test_search_finds_words_in_any_case_across_events_and_marks_them(page: Page) -> None:
    search = page.get_by_label("Search the texts")
    search.fill('FOURTEEN "saved for two"')
    expect(page.locator("#count")).to_have_text("1 of 6 records")
    assert numbers(page) == [TEN]
    assert page.evaluate("CSS.highlights.get('found').size") == 9
    search.fill("no such words")
    expect(page.get_by_text("No record fits the filter.")).to_be_visible()
    assert numbers(page) == []
    search.fill("")
    expect(page.locator("#count")).to_have_text("6 of 6 records")
    assert page.evaluate("CSS.highlights.get('found').size") == 0


def test_search_finds_a_word_that_two_events_share(
    chromium: Browser, tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    cut = json.loads(json.dumps(records[TOOLS]))
    first, second = cut["events"][7:9]
    whole = first["text"] + second["text"]
    assert "west" in whole
    at_west = whole.index("west") + 2
    first["text"], second["text"] = whole[:at_west], whole[at_west:]
    with opened(chromium, page_of(tmp_path, [cut, records[TEN]])) as at:
        at.page.get_by_label("Search the texts").fill("from the west")
        expect(at.page.locator("#count")).to_have_text("1 of 2 records")


def test_jump_to_a_number_an_id_and_a_row(page: Page, records: list[dict[str, Any]]) -> None:
    jump = page.get_by_role("textbox", name="Jump")

    def to(what: str) -> None:
        jump.fill(what)
        jump.press("Enter")

    to("1")
    assert heading(page) == "Record 1"
    to(records[LEAK]["id"][:9])
    assert heading(page) == "Record 2"
    to("0")
    to("row 30")
    assert (chosen(page) or "").startswith("event 6")
    to("row 5000")
    assert page.get_by_text("The record ends before that row.").is_visible()
    to("nothing like it")
    assert page.get_by_text("No record of this page is nothing like it.").is_visible()
    page.get_by_role("combobox", name="Corpus").select_option(label="voices")
    to("0")
    assert heading(page) == "Record 0"
    assert len(numbers(page)) == 6


def test_copy_is_the_record_as_json(at: Watched, records: list[dict[str, Any]]) -> None:
    at.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for index, record in enumerate(records):
        at.page.keyboard.press("c")
        expect(at.page.get_by_text("Copied.")).to_be_visible()
        line = at.page.evaluate("navigator.clipboard.readText()")
        assert json.loads(line) == record, index
        assert "\n" not in line
        at.page.keyboard.press("n")


def test_json_is_offered_where_the_browser_does_not_copy(page: Page, records: list[dict[str, Any]]) -> None:
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject(new Error())}})"
    )
    page.get_by_role("button", name="Copy JSON").click()
    area = page.get_by_role("textbox", name="The record as JSON")
    expect(area).to_be_visible()
    assert json.loads(area.input_value()) == records[TOOLS]
    assert page.evaluate("String(getSelection()).length") == len(area.input_value())
