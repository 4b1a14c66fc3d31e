"""``multistream stats``: figures for people at 80 columns, for programs, and as pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from card_cases import HOSTILE, build
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.errors import InputError, PipelineError
from pipeline.statistics.drawing import fitted, measured, ticks
from pipeline.statistics.plots import write_plots
from pipeline.stats import RecordStats


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stats") / "out"
    return build(place, {"towns": "MIT", HOSTILE.replace("/", "∕"): None, "[bold]x[/bold]": "MIT"}, count=4)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["stats", *map(str, arguments)], catch_exceptions=False)


def test_tables_fit_into_80_columns_and_names_are_not_obeyed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli import console

    monkeypatch.setattr(console.out, "width", 80)
    done = run(out)
    assert done.exit_code == 0
    head, *tables = done.stdout.split("\n\n")
    assert max(len(line) for table in tables for line in table.splitlines()) <= 80
    assert "[bold]x[/bold]" in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert "12 records of 12 conversations" in head


def test_json_has_figures_by_corpus_and_policy_and_the_rejects(out: Path) -> None:
    found = json.loads(run(out, "--json").stdout)
    assert sum(row["records"] for row in found["by_corpus_and_policy"]) == found["records"] == 12
    assert {row["corpus"] for row in found["by_corpus_and_policy"]} == {row["corpus"] for row in found["rejects"]}
    assert {(row["stage"], row["code"], row["count"]) for row in found["rejects"]} == {("convert", "not_json", 1)}


def test_rejects_alone_have_their_first_message(out: Path) -> None:
    listed = json.loads(run(out, "--rejects", "--json").stdout)
    assert len(listed) == 3
    assert all(row["message"] for row in listed)
    assert "first message" in run(out, "--rejects").stdout
    assert json.loads(run(out / "dataset", "--rejects", "--json").stdout) == listed
    assert json.loads(run(out / "convert", "--rejects", "--json").stdout) == listed


def test_a_split_and_a_shard_tell_the_rejects_of_their_build(out: Path) -> None:
    listed = json.loads(run(out, "--rejects", "--json").stdout)
    shard = next((out / "dataset" / "train").glob("records-*.parquet"))
    for path in (out / "dataset", out / "dataset" / "train", shard):
        assert json.loads(run(path, "--json").stdout)["rejects"] == listed
        assert "no rejects" not in run(path).stdout


def test_nothing_is_said_of_rejects_where_no_stage_tells(out: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(out / "dataset", tmp_path / "dataset")
    bare = shutil.copytree(out / "dataset" / "train", tmp_path / "bare")
    for path in (alone, alone / "train", bare):
        assert "rejects" not in run(path).stdout
        assert json.loads(run(path, "--json").stdout)["rejects"] is None
        with pytest.raises(InputError, match="name a build"):
            run(path, "--rejects")


def test_no_rejects_are_told_where_there_are_none(tmp_path: Path) -> None:
    whole = build(tmp_path / "out", {"towns": "MIT"}, count=4, spoiled=False)
    assert "no rejects" in run(whole).stdout
    assert json.loads(run(whole, "--json").stdout)["rejects"] == []


def test_old_plots_without_figures_now_are_removed(out: Path, tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    run(out, "--plots", plots)
    (plots / "mine.svg").write_text("<svg/>")
    alone = shutil.copytree(out / "dataset", tmp_path / "dataset")
    run(alone, "--plots", plots)
    assert {p.name for p in plots.iterdir()} == {"latency.svg", "lengths.svg", "saved.svg", "streams.svg", "mine.svg"}


@pytest.mark.parametrize("name", ["streams.svg", "rejects.svg"])
def test_a_file_that_is_no_plot_of_ours_is_neither_replaced_nor_removed(name: str, out: Path, tmp_path: Path) -> None:
    """Of the second name there is no plot of a data set alone, so it would be removed."""
    alone = shutil.copytree(out / "dataset", tmp_path / "dataset")
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / name).write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(PipelineError, match=rf"{name} is there"):
        run(alone, "--plots", plots)
    assert {p.name: p.read_text() for p in plots.iterdir()} == {name: "<svg xmlns='http://www.w3.org/2000/svg'/>"}
    (plots / name).unlink()
    assert run(out, "--plots", plots).exit_code == 0
    assert run(alone, "--plots", plots).exit_code == 0


def test_plots_do_not_go_into_a_file(out: Path, tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("mine")
    with pytest.raises(PipelineError, match="is a file"):
        run(out, "--plots", tmp_path / "plots")
    with pytest.raises(PipelineError, match="is a file"):
        write_plots(tmp_path / "plots", RecordStats())


def test_plots_are_well_formed_the_same_each_time_and_for_both_schemes(out: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(out, "--plots", tmp_path / name).exit_code == 0
    pictures = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert set(pictures) == {"latency.svg", "lengths.svg", "rejects.svg", "saved.svg", "streams.svg"}
    assert pictures == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    for content in pictures.values():
        root = ElementTree.fromstring(content)
        assert root.get("aria-label")
        assert b"prefers-color-scheme:dark" in content
        assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "foreignObject"))]
        assert b"\x1b" not in content


@pytest.mark.parametrize(
    "text", ["plain words that go on", "漢字がつづくながいぶん", "\x1b[31mred", "e\u0301" * 40, ""]
)
def test_text_is_cut_to_the_room_there_is(text: str) -> None:
    for width in (10.0, 40.0, 90.0):
        assert measured(fitted(text, width)) <= width


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7), (-0.3, 0.05), (0, 123456), (3, 3)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low <= tick <= high + 1e-9 for tick in found)
