"""A card that a person has edited is never replaced, unless that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from card_cases import build
from typer.testing import CliRunner

from pipeline.card import renew_card, write_card
from pipeline.card_edits import is_edited, read_card, sealed
from pipeline.cli import app
from pipeline.errors import PipelineError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = build(tmp_path / "out", {"towns": "MIT"}, count=3)
    write_card(place, "One")
    return place


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "words": lambda text: text.replace(b"# One\n", b"# One\n\nMine.\n"),
    "front matter": lambda text: text.replace(b"pretty_name: One", b"pretty_name: Mine"),
    "behind its end": lambda text: text + b"Mine.\n",
    "between its last lines": lambda text: text.replace(b"<!-- made of", b"Mine.\n<!-- made of"),
    "without its last lines": lambda text: text[: text.index(b"<!-- as written")],
    "another": lambda text: b"# Mine\n",
    "no UTF-8": lambda text: text + b"\xff\n",
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_card_is_kept_and_one_line_says_what_to_do(
    edit: Callable[[bytes], bytes], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = out / "dataset" / "README.md"
    mine = edit(card.read_bytes())
    assert mine != card.read_bytes()
    card.write_bytes(mine)
    others = {p: p.read_bytes() for p in (out / "dataset").glob("c*/*.svg")}
    with pytest.raises(PipelineError, match=r"edited by hand.*move it away") as refused:
        write_card(out, "Two")
    assert len(str(refused.value).splitlines()) == 1
    assert {p: p.read_bytes() for p in (out / "dataset").glob("c*/*.svg")} == others
    with caplog.at_level(logging.WARNING):
        assert not renew_card(out, "Two")
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "move it away" in caplog.text
    assert card.read_bytes() == mine
    write_card(out, "Two", force=True)
    assert "# Two" in card.read_text()
    assert not is_edited(read_card(card))


@pytest.mark.parametrize("change", [lambda t: t.replace(b"\n", b"\r\n"), lambda t: b"\xef\xbb\xbf" + t, bytes])
def test_other_line_ends_are_no_edit(change: Callable[[bytes], bytes], out: Path) -> None:
    card = out / "dataset" / "README.md"
    card.write_bytes(change(card.read_bytes()))
    assert renew_card(out, "Two")
    assert "# Two" in card.read_text()


def test_an_edited_card_of_this_data_is_no_trouble_and_its_pictures_come_back(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card, picture = out / "dataset" / "README.md", out / "dataset" / "card" / "timeline.svg"
    card.write_text(card.read_text() + "Mine.\n")
    drawn = picture.read_bytes()
    picture.unlink()
    assert renew_card(out, "One")
    assert picture.read_bytes() == drawn
    assert card.read_text().endswith("Mine.\n")
    assert not caplog.records


def test_a_picture_that_an_edited_card_shows_is_not_removed(out: Path) -> None:
    card, picture = out / "dataset" / "README.md", out / "dataset" / "card" / "report-loss.png"
    picture.write_bytes(b"png")
    card.write_text(card.read_text() + "![loss](card/report-loss.png)\n")
    renew_card(out, "Two")
    assert picture.read_bytes() == b"png"
    card.write_text("# Mine\n")
    renew_card(out, "Two")
    assert not picture.exists()


def test_the_command_keeps_an_edited_card(out: Path) -> None:
    card = out / "dataset" / "README.md"
    card.write_text("# Mine\n")
    with pytest.raises(PipelineError, match="edited by hand"):
        CliRunner().invoke(app, ["card", str(out)], catch_exceptions=False)
    assert card.read_text() == "# Mine\n"
    assert CliRunner().invoke(app, ["card", str(out), "--force"], catch_exceptions=False).exit_code == 0
    assert "# Mine" not in card.read_text()
    assert CliRunner().invoke(app, ["card", str(out), "--title", "Two"], catch_exceptions=False).exit_code == 0


def test_the_last_seal_counts() -> None:
    assert not is_edited(sealed(sealed("a\n", "b"), "b"))
    assert is_edited(sealed("a\n", "b").replace("a\n", "c\n"))
