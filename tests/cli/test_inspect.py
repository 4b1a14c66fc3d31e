"""``multistream inspect`` and ``multistream formats``: readable at 80 columns, JSON for programs, never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from converters import CONVERTERS
from pipeline.cli import console, main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "conversations"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, 80 columns wide: exit code, standard output, standard error."""
    monkeypatch.setattr(console.out, "width", 80)

    def go(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["multistream", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return go


def test_a_folder_is_told_in_lines_that_fit(run: Run) -> None:
    code, out, err = run("inspect", EXAMPLES)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if cell_len(line) > 80] == []
    for name in (
        "alpaca",
        "sharegpt",
        "JSON Lines",
        "records",
        "messages",
        "streams",
        "odd",
        "special-token look-alikes",
    ):
        assert name in out
    assert out.count("as it will be converted") == 2
    assert len(out.splitlines()) < 160


def test_one_file_is_told_in_full(run: Run) -> None:
    code, out, _ = run("inspect", EXAMPLES / "math_qa.jsonl", "--records", 1)
    assert code == 0
    facts = dict(line.split(None, 1) for line in out.splitlines()[:12] if len(line.split(None, 1)) == 2)
    assert facts["container"] == "JSON Lines"
    assert facts["format"] == "math_qa (detected): 12 of 12 sampled values look like"
    assert facts["records"] == "12"
    assert facts["become"] == "12 conversations, 12 records"
    assert "rows; " in out


def test_json_holds_the_same(run: Run) -> None:
    code, out, _ = run("inspect", EXAMPLES, "--json", "--records", 1)
    value = json.loads(out)
    assert code == 0
    assert value["total"]["units"] == 72
    assert {file["format"] for file in value["files"]} <= set(CONVERTERS)
    assert len(value["records"]) == 1


@pytest.mark.parametrize("option", [("--format", "alpaka"), ("--align", "sideways"), ("--records", "-1")])
def test_bad_usage_is_one_line(run: Run, option: tuple[str, str]) -> None:
    code, out, err = run("inspect", EXAMPLES, *option)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_nothing_that_can_be_used_fails_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"mood": 1}\n{"mood": 2}\n')
    code, out, err = run("inspect", tmp_path / "a.jsonl")
    assert code == 1
    assert "no known format (its first record has keys mood" in " ".join(out.split())
    assert "Traceback" not in out + err
    code, _, err = run("inspect", tmp_path / "nowhere")
    assert (code, err.count("\n")) == (1, 1)


def test_odd_names_and_texts_do_not_break_the_report(run: Run, tmp_path: Path) -> None:
    records = [
        {
            "messages": [
                {"role": "user", "content": "[bold]\x1b[31m 漢字 👩‍🚀" * 9},
                {"role": "assistant", "content": "\u202e[/]"},
            ]
        },
        {"messages": [{"role": "user", "content": 3}]},
    ]
    name = tmp_path / f"[red] {'漢' * 40}.jsonl"
    name.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, err = run("inspect", name)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "wrong_type" in out
    assert "[bold]" in out


def test_formats_fit_and_each_name_starts_a_line(run: Run) -> None:
    code, out, _ = run("formats")
    assert code == 0
    assert [line for line in out.splitlines() if cell_len(line) > 80] == []
    assert [line.split()[0] for line in out.splitlines()[1:] if not line.startswith(" ")] == list(CONVERTERS)
    assert {row["format"] for row in json.loads(run("formats", "--json")[1])} == set(CONVERTERS)


def test_a_format_is_shown_with_its_options_example_and_record(run: Run) -> None:
    code, out, _ = run("formats", "message_tree")
    assert code == 0
    for text in ("all (default) | first | longest | best", '"message_tree_id": "t1"', "becomes", "rows; "):
        assert text in out
    assert json.loads(run("formats", "sharegpt", "--json")[1])["record"]["streams"]
    code, _, err = run("formats", "sharegtp")
    assert (code, "did you mean 'sharegpt'" in err) == (2, True)
