"""Odd records: values that are no JSON or not the expected JSON, numbers that JSON has not, emoji of several parts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from rich.cells import cell_len

from pipeline.errors import InputError
from pipeline.viewer.app import ViewerApp
from pipeline.viewer.as_json import json_text
from pipeline.viewer.bands import fit, wrap
from pipeline.viewer.lanes import shown, view_of
from pipeline.viewer.page import render_page
from pipeline.viewer.plain import render
from pipeline.viewer.rejects import open_rejects
from pipeline.viewer.samples import open_samples
from tests.viewer.browser import opened, page_of, set_row
from tests.viewer.viewer_records import event, record, write

ROOT = Path(__file__).resolve().parents[2]

NOT_OBJECTS = ["[1]", '"x"', "3", "null", "{bad", "[" * 100_000, '{"scenario": [1]}']


def plain(number: int = 0, **more: Any) -> dict[str, Any]:
    """A question and an answer; ``more`` may break the schema."""
    events = [event(0, 0, 4, "Who?"), event(1, 4, 8, "Me.", message=1, after=[0])]
    return {**record(["user", "assistant"], events, number), **more}


@pytest.mark.parametrize("name", ["extra", "labels"])
@pytest.mark.parametrize("value", NOT_OBJECTS, ids=lambda value: value[:20])
def test_what_is_no_json_object_is_shown_as_it_is(name: str, value: str) -> None:
    odd = plain(**{name: value})
    assert dict(view_of(odd).about).get(name) == (None if value == "null" else view_of(odd).about and _cut(value))
    page = render_page([odd], "Odd")
    assert "Who?" in page
    assert 'data-facet="pattern"' not in page
    assert any("Who?" in line for line in render(odd, 80))


def _cut(value: str) -> str:
    return value if len(value) <= 2000 else value[:2000] + "…"


def test_the_application_shows_records_with_odd_values(tmp_path: Path) -> None:
    made = [plain(i, extra=value, labels=value) for i, value in enumerate(NOT_OBJECTS)]
    shard = write(tmp_path / "records-00000-of-00001.parquet", made)

    async def run() -> list[str]:
        app = ViewerApp(open_samples(shard), open_rejects(shard), None)
        seen = []
        async with app.run_test(size=(100, 30)) as pilot:
            for _ in made:
                await app.workers.wait_for_complete()
                await pilot.press("i")
                await pilot.pause()
                assert app.records.record is not None
                seen.append(app.records.record.record["extra"])
                await pilot.press("n")
        return seen

    assert asyncio.run(run()) == NOT_OBJECTS


@pytest.mark.parametrize("stream", [-1, -2, 2])
def test_a_stream_that_is_not_there_is_one_line(stream: int) -> None:
    odd = plain()
    odd["events"][1]["stream"] = stream
    for look in (view_of, lambda r: list(render(r, 80)), lambda r: render_page([r], "Odd")):
        with pytest.raises(InputError, match="event 1 points to nothing"):
            look(odd)


def test_json_has_null_for_numbers_that_it_has_not() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf"), {"c": -float("inf")}], "d": "NaN"}
    assert json.loads(json_text(value), parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, {"c": None}],
        "d": "NaN",
    }
    assert json_text({"a": [1]}, compact=True) == '{"a":[1]}'
    assert json_text({"a": "é", "b": 1}) == '{"a": "é", "b": 1}'


def test_command_prints_json_that_is_json(tmp_path: Path) -> None:
    odd = plain()
    odd["events"][1]["gain"] = float("nan")
    shard = write(tmp_path / "records-00000-of-00001.parquet", [odd, odd])
    for more in ([], ["--records", "2"]):
        command = [sys.executable, "-m", "pipeline.cli", "view", str(shard), "--json", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        for text in done.stdout.splitlines() if more else [done.stdout]:
            assert json.loads(text, parse_constant=pytest.fail)["events"][1]["gain"] is None


def test_copied_json_is_the_text_of_the_record(chromium: Browser, tmp_path: Path) -> None:
    odd = plain()
    odd["events"][0].update(text="a < b & c > d \\u003c \\\\u003c \u2028 \x7f", time_ms=2**62 + 1)
    odd["events"][1]["gain"] = float("inf")
    with opened(chromium, page_of(tmp_path, [odd])) as at:
        at.context.grant_permissions(["clipboard-read", "clipboard-write"])
        at.page.get_by_role("button", name="Copy JSON").click()
        expect(at.page.get_by_text("Copied.")).to_be_visible()
        assert at.page.evaluate("navigator.clipboard.readText()") == json_text(odd, compact=True)
        at.page.evaluate("document.getElementById('json0').textContent = '{'")
        at.page.get_by_role("button", name="Copy JSON").click()
        expect(at.page.get_by_text("The page is damaged")).to_be_visible()


FAMILY, ASTRONAUT, HEART, FLAG = "👨‍👩‍👧", "👩🏽‍🚀", "❤️‍🔥", "🏳️‍🌈"


@pytest.mark.parametrize("emoji", [FAMILY, ASTRONAUT, HEART, FLAG])
def test_joiners_inside_an_emoji_stay(emoji: str) -> None:
    assert shown(f"a {emoji} b\x07") == f"a {emoji} b␇"
    text = shown(f"{emoji} and {emoji} " * 3)
    for width in range(2, 20):
        assert cell_len(fit(text, width)) == width
        assert all(cell_len(text[start:end]) <= width for start, end in wrap(text, width))


@pytest.mark.parametrize("text", ["👨\u200d", "\u200d👨", "👨\u200dx", "1\u200d2", "👨\u200d\u200d👩", "👨 \u200d👩"])
def test_other_joiners_are_made_visible(text: str) -> None:
    assert "\u200d" not in shown(text)
    assert "⟨200D⟩" in shown(text)


def test_playing_shows_what_is_drawn_as_one_whole_or_not_at_all(chromium: Browser, tmp_path: Path) -> None:
    pieces = [FAMILY, "e\u0301", ASTRONAUT, "שָׁ", HEART, "क्षि", FLAG, "漢", "한"]
    odd = record(["user", "assistant"], [event(0, 0, 1, "Say"), event(1, 1, 28, "".join(pieces), message=1)])
    wholes = {"".join(pieces[:i]) for i in range(len(pieces) + 1)}
    with opened(chromium, page_of(tmp_path, [odd])) as at:
        seen = set()
        for row in range(2, 28):
            set_row(at.page, row)
            said, unsaid = at.page.locator("#r0e1 .text").evaluate(
                "node => [node.firstChild.data, node.querySelector('.unsaid').textContent]"
            )
            assert said + unsaid == "".join(pieces)
            seen.add(said)
        assert seen <= wholes
        assert len(seen) > len(pieces) - 2


def test_name_in_the_list_is_cut_between_emoji(chromium: Browser, tmp_path: Path) -> None:
    odd = record(["user"], [event(0, 0, 9, "ab" + FAMILY * 40)])
    with opened(chromium, page_of(tmp_path, [odd])) as at:
        assert at.page.locator(".list a > bdi").inner_text() == "0: ab" + FAMILY * 11 + "…"


def _odd_records() -> list[dict[str, Any]]:
    """Records that no schema allows and that a shard can hold, each with two events."""
    most = 2**31 - 1
    changes: list[tuple[str, dict[str, Any]]] = [
        *(("record", {"rows": rows}) for rows in (0, 1, -5, most)),
        ("event", {"end": most}),
        ("event", {"start": 8, "end": 4}),
        ("event", {"start": -3, "end": -1}),
        ("event", {"kind": "<b>\x1b[1m", "lexical": "\x1b<b>", "judged": "\x1b" * 3}),
        ("event", {"weight": float("nan"), "gain": float("inf"), "time_ms": -5}),
        ("event", {"time_ms": 2**63 - 1, "after": [1, 1, 0], "message": None, "part": None, "interrupted": None}),
        ("event", {"text": "x" * 100_000}),
        ("event", {"text": "a" + "\u0301" * 3000}),
        ("stream", {"name": "x" * 10_000}),
        ("stream", {"name": "", "role": '" onload="x'}),
        ("stream", {"name": "\x1b[31m\u202e" + "a" + "\u0301" * 300}),
        *(("clock", {"ms_per_row": ms}) for ms in (float("nan"), float("inf"), 0.0, -1.0, 1e-9)),
        ("record", {"sources": [], "id": 'zz"><script>', "group": "\x00"}),
        ("record", {"extra": '{"a":' * 5000 + "1" + "}" * 5000}),
        ("record", {"extra": None, "labels": None}),
        ("record", {"extra": json.dumps({"scenario": "x" * 100_000})}),
    ]
    made = []
    for number, (what, change) in enumerate(changes):
        odd = plain(number)
        {"record": odd, "event": odd["events"][1], "stream": odd["streams"][1], "clock": odd["clock"]}[what].update(
            change
        )
        made.append(odd)
    return made


@pytest.mark.parametrize("width", [1280, 360])
def test_odd_records_do_not_break_the_page(chromium: Browser, tmp_path: Path, width: int) -> None:
    made = _odd_records()
    file = page_of(tmp_path, made)
    with opened(chromium, file, viewport={"width": width, "height": 800}, reduced_motion="reduce") as at:
        for index, odd in enumerate(made):
            at.page.evaluate(f"location.hash = '#r{index}'")
            expect(at.page.locator(f"#r{index} h2")).to_be_visible()
            for key in ("l", "j", "t", "j", "l", "k", "t"):
                at.page.keyboard.press(key)
            set_row(at.page, 2)
            assert at.page.evaluate("document.documentElement.scrollWidth") == width, index
            assert at.page.evaluate("document.documentElement.scrollHeight") < 2_000_000, index
            assert at.page.locator(f"#r{index} .text").first.inner_text() == "Who?"
            kept = json.loads(at.page.locator(f"#json{index}").text_content() or "", parse_constant=pytest.fail)
            assert kept == json.loads(json_text(odd))
