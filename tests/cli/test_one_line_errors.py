"""Whatever is wrong, the command line says it in one line and leaves with 1 (the work failed) or 2 (bad usage)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main

GOOD = '{"question": "How many are 2 and 3?", "answer": "2+3 = 5\\n#### 5"}'

Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: exit code, standard output, lines of standard error."""

    def go(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["multistream", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err.splitlines()

    return go


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert"], "Missing argument 'inputs'"),
        (["convert", "x"], "Missing option '--out'"),
        (["convert", "x", "--out"], "requires an argument"),
        (["convert", "x", "--out", "y", "--lag", "7"], "--lag"),
        (["convert", "x", "--out", "y", "--lag", "many"], "--lag"),
        (["convert", "x", "--out", "y", "--test-fraction", "2"], "--test-fraction"),
        (["convert", "x", "--out", "y", "--outt", "z"], "No such option"),
        (["conver", "x"], "Did you mean 'convert'?"),
        (["build", "x.yaml", "--set", "nothing"], "x.yaml"),
        (["stats"], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_that_leads_to_the_help(run: Run, arguments: list[str], says: str) -> None:
    code, out, lines = run(*arguments)
    assert (code, out, len(lines)) == (2, "", 1)
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_without_arguments_the_help_is_shown(run: Run) -> None:
    code, out, lines = run()
    assert code == 2
    assert "convert" in out + "\n".join(lines)
    assert not [line for line in lines if line.startswith("error:")]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_error(run: Run, flag: str) -> None:
    for command in ([], ["convert"], ["build"]):
        code, out, lines = run(*command, flag)
        assert (code, lines) == (0, [])
        assert "Usage:" in out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("convert.algin=turns", "did you mean 'align'"),
        ("convert=turns", "convert"),
        ("name.sub=1", "name is not a section"),
        ("shards.shard_rows=0", "shards.shard_rows"),
        ("sources=[]", "sources"),
        ("convert.align=turns+turns", "named twice"),
        ("convert.align={", "convert.align={"),
        ("convert.align=2023-13-45", "month must be in 1..12"),
        ("convert={align: turns, align: auto}", "the key align stands twice"),
        ("nothing", "expected key=value"),
    ],
)
def test_an_override_that_does_not_fit_is_bad_usage(run: Run, tmp_path: Path, override: str, says: str) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({"name": "x", "sources": [{"path": "m.jsonl"}]}))
    code, _, lines = run("build", tmp_path / "c.yaml", "--out", tmp_path / "out", "--set", override)
    assert (code, len(lines)) == (2, 1)
    assert says in lines[0]
    assert not (tmp_path / "out").exists()


def odd_key(folder: Path) -> Path:
    (folder / "keyed.json").write_text(f'{{"a": {GOOD}, "\\ud800": {GOOD}}}')
    return folder / "keyed.json"


def odd_name(folder: Path) -> Path:
    Path(f"{folder}/\udcff.jsonl").write_text(GOOD)
    return folder


def long_number(folder: Path) -> Path:
    (folder / "one.json").write_text(GOOD.replace("}", f', "n": {"7" * 5000}}}'))
    return folder / "one.json"


def folder_as_file(folder: Path) -> Path:
    (folder / "x.jsonl").mkdir()
    return folder / "x.jsonl"


@pytest.mark.parametrize(
    ("make", "says"),
    [(odd_key, "surrogate"), (odd_name, "UTF-8"), (long_number, "is JSON"), (folder_as_file, "no data file")],
)
def test_an_odd_input_is_one_line(run: Run, tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    (tmp_path / "in").mkdir()
    code, _, lines = run("convert", make(tmp_path / "in"), "--out", tmp_path / "out")
    errors = [line for line in lines if line.startswith("error:")]
    assert (code, lines[-1:], len(errors)) == (1, errors, 1)
    assert says in errors[0]
    assert not list(tmp_path.rglob("*.parquet"))


def test_odd_records_among_good_ones_are_rejects_with_reasons(run: Run, tmp_path: Path) -> None:
    calls = [{"id": str(i), "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(300)]
    results = [{"role": "tool", "tool_call_id": str(i), "content": "r"} for i in range(300)]
    ask, answer = {"role": "user", "content": "Go."}, {"role": "assistant", "content": "Done."}
    records: list[object] = [{"messages": [ask, answer]}] * 5
    records.append({"messages": [ask, {"role": "assistant", "content": None, "tool_calls": calls}, *results, answer]})
    records.append({"messages": [{"role": "system", "content": "word " * 9000}]})
    (tmp_path / "m.json").write_text(json.dumps(records))
    code, out, lines = run(
        "convert", tmp_path / "m.json", "--out", tmp_path / "out", "--max-rejected-fraction", "0.5", "--json"
    )
    assert code == 0, lines
    counters = json.loads(out)["stages"]["convert"]
    assert counters["reject_reasons"] == {"too_many_streams": 1, "exceeds_window": 1}
    assert (counters["in"], counters["out"]) == (7, 5)
    assert run("validate", tmp_path / "out")[0] == 0
