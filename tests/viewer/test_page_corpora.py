"""The HTML viewer shows records of every corpus in ``shared/corpora`` whole, and is quiet about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

import multistream
from pipeline.viewer.lanes import shown
from tests.viewer.browser import opened, page_of

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT.parent / "shared" / "corpora"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Up to four records of every corpus."""
    if not CORPORA.is_dir():
        pytest.skip("there are no corpora beside this checkout")
    out = tmp_path_factory.mktemp("corpora") / "out"
    line = [
        "convert",
        str(CORPORA),
        "--out",
        str(out),
        "--limit",
        "1",
        "--license",
        "MIT",
        "--max-rejected-fraction",
        "1",
    ]
    subprocess.run([sys.executable, "-m", "pipeline.cli", *line], check=True, capture_output=True, cwd=ROOT)
    kept: dict[str, list[dict[str, Any]]] = {}
    for record in multistream.load(out):
        of_corpus = kept.setdefault(record["sources"][0]["path"].partition("/")[0], [])
        if len(of_corpus) < 4:
            of_corpus.append(record)
    assert len(kept) > 30
    return [record for of_corpus in kept.values() for record in of_corpus]


@pytest.mark.slow
def test_every_corpus_displays_whole_and_quietly(
    chromium: Browser, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = page_of(tmp_path, records)
    with opened(chromium, file, java_script_enabled=False) as at:
        for index, record in enumerate(records):
            texts = at.page.locator(f"#r{index} .text").all_text_contents()
            assert texts == [shown(event["text"]) for event in record["events"] if event["text"]], record["id"]
    with opened(chromium, file, viewport={"width": 360, "height": 740}) as at:
        at.page.get_by_role("button", name="Columns").click()
        for index in range(len(records)):
            at.page.evaluate(f"location.hash = '#r{index}'")
            at.page.locator(f"#r{index} h2").wait_for()
            at.page.keyboard.press("j")
            assert at.page.evaluate("document.documentElement.scrollWidth") == 360, records[index]["id"]
