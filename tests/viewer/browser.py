"""A headless Chromium for the tests of the HTML viewer, and the records that they look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.script import Script, ScriptPolicy, Utterance, perform, stream
from pipeline.tokenization import load_tokenizer
from pipeline.viewer.page import write_page
from tests.pipeline.conversation_cases import call, message, result, tables_of, talk

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

VOICES = ("analytical", "skeptical", "intuitive", "between", "curious", "void", "instinct", "synthesis")

HOSTILE = (
    '<script>window.hacked=1</script><img src=x onerror="window.hacked=1"></script><!-- &amp; {{ 7*7 }} {% raw %} '
    "[bold]bold[/bold] \x1b[31mred\x1b[0m bell\x07 \u202eoverride\u202c a\u2028b tab\tend\r\n next ]]> </textarea>"
)
HEBREW = "שלום עולם, זה מבחן 123 של כיווניות.\nAn English line.\nالعربية: السطر الثالث 456"
WIDE = "日本語のテキストはここにあります。全角ＡＢＣ。한국어 문장입니다."


# Module-wide, not session-wide: Playwright's synchronous interface keeps an event loop running while it is open.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium: `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page that is open, and what it did that it should not: complaints in the console, requests, dialogs."""

    page: Page
    context: BrowserContext
    address: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def assert_quiet(self) -> None:
        """Nothing was complained of, and nothing but the page itself was asked for."""
        assert self.complaints == []
        assert set(self.requests) == {self.address}


@contextmanager
def opened(browser: Browser, file: Path, at: str = "", **options: Any) -> Iterator[Watched]:
    """The page in a context of its own (``options`` are Playwright's); in the end it must have been quiet."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(8_000)
    page = context.new_page()
    watched = Watched(page, context, file.as_uri())
    page.on("console", lambda m: watched.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (watched.complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: watched.requests.append(request.url.partition("#")[0]))
    page.goto(file.as_uri() + at)
    yield watched
    watched.assert_quiet()
    context.close()


def scripted(
    corpus: str, streams: Sequence[tuple[str, str]], said: Sequence[tuple[int, str, int, int]], **extra: Any
) -> dict[str, Any]:
    """A record of streams (name, direction) and what is said on them: stream, text, first tick, last tick."""
    utterances = tuple(Utterance(on, text, (len(text),), (start,), (stop,)) for on, text, start, stop in said)
    script = Script(tuple(stream(name, way) for name, way in streams), utterances, extra=extra)  # type: ignore[arg-type]
    conversation, timeline = perform(script)
    return _record(Document(conversation, timeline, ScriptPolicy(script)), corpus)


def _record(document: Document, corpus: str) -> dict[str, Any]:
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([document.timeline], tokenizer)
    record = next(to_json(build_tables([document], Clock(tokenizer, 0), encoded, first).records))
    return _from(record, corpus)


def _from(record: dict[str, Any], corpus: str) -> dict[str, Any]:
    source = {
        "corpus": corpus,
        "path": f"{corpus}.jsonl",
        "index": 0,
        "format": "chat",
        "license": "MIT",
        "sha256": "0" * 64,
    }
    return {**record, "sources": [source]}


def made_records() -> list[dict[str, Any]]:
    """Tools side by side; ten streams at once; a leak; text that would do harm; right-to-left and wide scripts; nothing."""
    weather = talk(
        message("user", "Weather in Oslo and in Rome?"),
        message("assistant", call("weather", '{"city": "Oslo"}', "a"), call("weather", '{"city": "Rome"}', "b")),
        message("tool", result("Oslo: 4 degrees in the morning. Windy, from the west.", "a")),
        message("tool", result("", "b")),
        message("assistant", "Oslo has 4 degrees, and wind from the west. Rome said nothing."),
    )
    tools = next(to_json(tables_of([weather], "evidence+tools_async", load_tokenizer("smollm2")).records))
    thoughts = [
        (2 + i, f"{voice}: two years of savings last fourteen months.", 2 + i, 12 + i) for i, voice in enumerate(VOICES)
    ]
    ten = scripted(
        "voices",
        [("user", "input"), ("assistant", "output"), *((voice, "output") for voice in VOICES)],
        [
            (0, "Should I open a bakery? I have saved for two years.", 0, 2),
            *thoughts,
            (1, "Try weekends first.", 30, 35),
        ],
        scenario="ten-streams",
    )
    return [
        _from(tools, "tools"),
        ten,
        _leaking(),
        scripted(
            "<b>hostile</b>",
            [("user", "input"), ("assistant", "output")],
            [(0, HOSTILE, 0, 4), (1, HOSTILE[::-1], 4, 9)],
            scenario="</script><script>window.hacked=1</script>",
            note=HOSTILE,
        ),
        scripted("scripts", [("user", "input"), ("assistant", "output")], [(0, HEBREW, 0, 4), (1, WIDE, 4, 9)]),
        {**scripted("nothing", [("user", "input")], [(0, "x", 0, 1)]), "events": [], "rows": 0, "parts": []},
    ]


def _leaking() -> dict[str, Any]:
    """A record whose answer names what is read later."""
    record = scripted(
        "leaks",
        [("user", "input"), ("assistant", "output")],
        [(0, "The order number is 7731, shipped to Lisbon.", 0, 4), (1, "It went to Lisbon.", 4, 8)],
    )
    question, answer = record["events"]
    length = answer["end"] - answer["start"]
    answer.update(start=2, end=2 + length, after=[], lexical="leak")
    return {**record, "rows": max(question["end"], answer["end"])}


def page_of(
    folder: Path, records: Sequence[dict[str, Any]], title: str = "Made records", numbers: Sequence[int] | None = None
) -> Path:
    """The page of some records."""
    file = folder / "page.html"
    write_page(file, records, title, numbers)
    return file


#: The places of ``made_records``.
TOOLS, TEN, LEAK, BAD, SCRIPTS, EMPTY = range(6)


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return made_records()


@pytest.fixture(scope="module")
def page_file(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("page"), records)


@pytest.fixture
def at(chromium: Browser, page_file: Path) -> Iterator[Watched]:
    with opened(chromium, page_file) as watched:
        yield watched


@pytest.fixture
def page(at: Watched) -> Page:
    return at.page


def heading(page: Page) -> str:
    """The name of the record that is shown; exactly one is."""
    shown_ones = [h for h in page.locator("h2[id^=r]").all() if h.is_visible()]
    assert len(shown_ones) == 1
    return " ".join(shown_ones[0].inner_text().split()[:2])


def chosen(page: Page) -> str | None:
    picked = page.locator(".pick[aria-current=true]:visible")
    return picked.get_attribute("aria-label") if picked.count() else None


def row_slider(page: Page) -> Locator:
    return page.get_by_role("slider", name="Row", exact=True)


def set_row(page: Page, row: int) -> None:
    row_slider(page).evaluate("(node, row) => { node.value = row; node.dispatchEvent(new Event('input')); }", row)


def arrows(page: Page, frame: str = ".frame:not(.turns)") -> tuple[int, int]:
    links = page.locator(f"#r0 {frame} .links path:not(.head)")
    return links.locator("visible=true").and_(page.locator(":not(.behind)")).count(), page.locator(
        f"#r0 {frame} .links path.behind"
    ).count()
