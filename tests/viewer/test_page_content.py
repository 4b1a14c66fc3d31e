"""The HTML viewer shows every record whole and harmless: without scripts, with hostile text, in both schemes, on paper."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from pipeline.errors import InputError
from pipeline.viewer.lanes import shown
from pipeline.viewer.page import render_page, write_page
from tests.viewer.browser import BAD, EMPTY, HOSTILE, LEAK, SCRIPTS, TEN, TOOLS, opened, page_of


def texts_of(record: dict[str, Any]) -> list[str]:
    return [shown(event["text"]) for event in record["events"] if event["text"]]


def test_same_records_same_bytes_and_nothing_else_is_left(records: list[dict[str, Any]], tmp_path: Path) -> None:
    first = page_of(tmp_path, records)
    assert first.read_text(encoding="utf-8") == render_page(records, "Made records")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_no_records_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        write_page(tmp_path / "page.html", [], "Nothing")
    assert not list(tmp_path.iterdir())


def test_page_names_no_address_and_lets_nothing_but_its_own_scripts_run(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;;")
    assert "unsafe" not in policy[1]
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\sstyle=|\son[a-z]+=\"", html.replace(HOSTILE, ""))


def test_title_is_text(tmp_path: Path, chromium: Browser, records: list[dict[str, Any]]) -> None:
    title = "</title><script>window.hacked=1</script>\x1b[1m"
    with opened(chromium, page_of(tmp_path, records[:1], title)) as at:
        assert at.page.title() == shown(title)
        assert at.page.locator("h1").text_content() == shown(title)
        assert at.page.evaluate("window.hacked") is None


def test_without_scripts_every_text_leak_and_fact_is_there_to_read(
    chromium: Browser, page_file: Path, records: list[dict[str, Any]]
) -> None:
    with opened(chromium, page_file, java_script_enabled=False) as at:
        articles = at.page.get_by_role("article")
        assert articles.count() == len(records)
        for article, record in zip(articles.all(), records, strict=True):
            article.scroll_into_view_if_needed()
            texts = article.locator(".text")
            assert texts.all_text_contents() == texts_of(record)
            assert all(text.is_visible() for text in texts.all())
            assert record["id"] in article.get_by_role("heading").inner_text()
        articles.nth(LEAK).scroll_into_view_if_needed()
        leak = articles.nth(LEAK).locator(".leaks").inner_text()
        assert "‼ leak: says lisbon at row 2; event 0, which says it, ends at row 15" in leak
        articles.nth(TOOLS).locator("summary", has_text="Details").nth(7).click()
        assert "event 2, event 4" in articles.nth(TOOLS).locator(".event").nth(7).inner_text()
        assert articles.nth(EMPTY).get_by_text("no events").is_visible()
        assert not at.page.get_by_role("button").all()


def test_hostile_text_is_shown_and_does_nothing(
    chromium: Browser, page_file: Path, records: list[dict[str, Any]]
) -> None:
    with opened(chromium, page_file, f"#r{BAD}") as at:
        article = at.page.locator(f"#r{BAD}")
        assert article.locator(".text").all_text_contents() == texts_of(records[BAD])
        assert {"<script>window.hacked=1</script>", "[bold]bold[/bold]", "␛[31m", "⟨202E⟩", "⟨2028⟩"} <= set(
            re.findall(r"<script>.*?</script>|\[bold].*?\[/bold]|␛\[31m|⟨202E⟩|⟨2028⟩", article.inner_text())
        )
        assert at.page.evaluate("[window.hacked, document.images.length, document.querySelectorAll('b').length]") == [
            None,
            0,
            0,
        ]
        scripts = at.page.evaluate("[...document.scripts].map(s => s.type)")
        assert scripts == ["", *["application/json"] * len(records), *[""] * 3]


def test_record_in_the_page_is_the_record(chromium: Browser, page_file: Path, records: list[dict[str, Any]]) -> None:
    with opened(chromium, page_file, java_script_enabled=False) as at:
        for index, record in enumerate(records):
            assert json.loads(at.page.locator(f"#json{index}").text_content() or "") == record


def test_policy_stops_a_script_that_got_into_the_page(chromium: Browser, page_file: Path) -> None:
    with opened(chromium, page_file) as at:
        stopped: list[str | None] = []
        at.page.on("requestfailed", lambda request: stopped.append(request.failure))
        at.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.hacked = 1";
                document.body.append(script);
                const image = new Image();
                image.src = "http://127.0.0.1:9/leak.png";
                document.body.append(image);
            }"""
        )
        at.page.wait_for_timeout(100)
        assert at.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in told for told in at.complaints)
        assert stopped == ["csp"]
        at.complaints.clear()
        at.requests.remove("http://127.0.0.1:9/leak.png")


def test_right_to_left_paragraphs_start_at_the_right(chromium: Browser, page_file: Path) -> None:
    with opened(chromium, page_file, f"#r{SCRIPTS}") as at:
        sides = at.page.locator(f"#r{SCRIPTS} .text").first.evaluate(
            """node => {
                const text = node.firstChild, whole = node.getBoundingClientRect(), lines = node.textContent.split("\\n");
                let from = 0;
                return lines.map(line => {
                    const range = new Range();
                    range.setStart(text, from); range.setEnd(text, from + line.length);
                    from += line.length + 1;
                    const box = range.getClientRects()[0];
                    return box.left - whole.left > whole.right - box.right - 20 ? "right" : "left";
                });
            }"""
        )
        assert sides == ["right", "left", "right"]


def test_scheme_follows_the_system_and_the_reader(chromium: Browser, page_file: Path) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        with opened(chromium, page_file, color_scheme=scheme) as at:
            seen[scheme] = background(at.page)
            for chosen in ("dark", "light"):
                at.page.get_by_label("Colours").select_option(chosen)
                seen[scheme, chosen] = background(at.page)
    assert seen["light"] != seen["dark"]
    assert seen["light", "dark"] == seen["dark", "dark"] == seen["dark"]
    assert seen["light", "light"] == seen["dark", "light"] == seen["light"]


def background(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


#: Every visible text with less contrast than it needs: WCAG 2.2, 1.4.3 for text, 1.4.11 for blocks of the timeline.
CONTRAST = """() => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
    const pen = canvas.getContext("2d", {willReadFrequently: true});
    const rgb = (color, under) => {
        pen.fillStyle = under; pen.fillRect(0, 0, 1, 1);
        pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
        const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
        return `rgb(${r}, ${g}, ${b})`;
    };
    const light = (color) => {
        const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = color.match(/\\d+/g).map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const ground = (node) => {
        const up = [];
        for (let n = node; n; n = n.parentElement) up.push(getComputedStyle(n).backgroundColor);
        return up.reverse().reduce((under, color) => rgb(color, under), rgb("canvas", "white"));
    };
    const found = [];
    let looked = 0;
    for (const node of document.querySelectorAll("body *")) {
        const style = getComputedStyle(node);
        const says = [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        const isBlock = node.tagName === "rect";
        if (!(says || isBlock) || !node.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})) continue;
        if (node.closest("option, textarea")) continue;
        const under = ground(node);
        const blockColor = style.stroke === "none" ? style.fill : style.stroke;
        const color = isBlock ? blockColor : node instanceof SVGElement ? style.fill : style.color;
        const is = ratio(rgb(color, under), under);
        looked += 1;
        if (is < (isBlock ? 3 : 4.5)) found.push([node.outerHTML.slice(0, 80), is]);
    }
    return [looked, found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_all_that_is_seen(chromium: Browser, page_file: Path, scheme: str) -> None:
    with opened(chromium, page_file, color_scheme=scheme) as at:
        for record in (TOOLS, TEN, LEAK):
            at.page.evaluate(f"location.hash = '#r{record}'")
            at.page.locator(f"#r{record} .event .pick").nth(1).click()
            at.page.mouse.move(0, 0)
            looked, poor = at.page.evaluate(CONTRAST)
            assert looked > 40
            assert poor == []


def test_paper_shows_the_record_and_no_controls(chromium: Browser, page_file: Path) -> None:
    with opened(chromium, page_file) as at:
        at.page.emulate_media(media="print")
        assert all(text.is_visible() for text in at.page.locator("#r0 .text").all())
        assert not at.page.get_by_role("navigation").is_visible()
        assert not at.page.get_by_role("button", name="Play").is_visible()
        assert at.page.pdf()[:5] == b"%PDF-"
