"""The command: text in a pipe, JSON, a page, rejects, bad usage in one line, and the application in a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.viewer.viewer_records import HOSTILE, event, record, write, write_rejects

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four records and two rejects."""
    out = tmp_path_factory.mktemp("command") / "build"
    made = [
        record(
            ["user", "assistant"],
            [event(0, 0, 5, f"say {i}"), event(1, 5, 9, HOSTILE["ansi"], message=1, after=[0])],
            i,
        )
        for i in range(4)
    ]
    write(out / "dataset" / "train" / "records-00000-of-00001.parquet", made)
    write_rejects(
        out / "convert" / "rejects-00000.parquet", [("cycle", "in a circle", b"{}"), ("empty", "is empty", b"\x1b[2J")]
    )
    return out


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "view", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_pipe_gets_text_without_anything_that_a_terminal_obeys(build: Path) -> None:
    done = run(build, "--record", 1, "--width", 80, "--turns")
    assert done.returncode == 0
    assert done.stdout.count("say 1■") == 2
    assert "\x1b" not in done.stdout
    assert "␛[31mred" in done.stdout


def test_json_is_of_one_record_or_a_line_for_each(build: Path) -> None:
    first = json.loads(run(build, "--json").stdout)
    lines = run(build, "--json", "--records", 2, "--filter", "say").stdout.splitlines()
    assert json.loads(lines[0]) == first
    assert [json.loads(line)["events"][0]["text"] for line in lines] == ["say 0", "say 1"]


def test_filters_choose_what_is_printed_and_put_on_a_page(build: Path, tmp_path: Path) -> None:
    assert run(build, "-f", '"say 2"').stdout.count("say 2") == 1
    out = tmp_path / "page.html"
    done = run(build, "--html", out, "--records", 2)
    assert done.returncode == 0, done.stderr
    assert "2 records" in done.stdout
    page = out.read_text(encoding="utf-8")
    assert "say 1" in page
    assert "say 2" not in page
    assert run(build, "--html", out, "--records", 2).returncode == 0
    assert out.read_text(encoding="utf-8") == page


def test_rejects_are_counted_and_printed(build: Path) -> None:
    done = run(build, "--rejects", "--records", 2)
    assert "1  convert: cycle" in done.stdout
    assert "convert: empty: is empty" in done.stdout
    assert "\x1b" not in done.stdout
    shard = build / "convert" / "rejects-00000.parquet"
    (line,) = run(shard, "--json", "-f", "reason:empty").stdout.splitlines()
    assert json.loads(line)["code"] == "empty"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--html", "x.html", "--json"], 2, "--html and --json do not go together"),
        (["--rejects", "--turns"], 2, "--rejects and --turns do not go together"),
        (["--record", "1", "--records", "2"], 2, "--record and --records do not go together"),
        (["--filter", "corpsu:x"], 2, "--filter: there is no 'corpsu'"),
        (["--rejects", "--filter", "policy:x"], 2, "rejects have no policy"),
        (["--record", "9"], 1, "holds 4 records, numbered from 0: there is no 9"),
        (["--record", "zzzz"], 1, "holds no record 'zzzz' among 4"),
        (["--filter", "nowhere"], 1, "nothing is found"),
        (["--width", "3"], 2, "--width"),
    ],
)
def test_bad_usage_is_one_line(build: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(build, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_a_folder_without_rejects_or_records_says_so(build: Path, tmp_path: Path) -> None:
    assert "has no rejects" in run(build / "dataset" / "train", "--rejects").stderr
    assert "holds no records-*.parquet" in run(tmp_path).stderr


def test_a_terminal_opens_the_application_and_q_leaves_it(build: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update({"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"})
        os.execv(sys.executable, [sys.executable, "-m", "pipeline.cli", "view", str(build), "--record", "2"])
    seen = b""
    asked = False
    while select.select([terminal], [], [], 60)[0]:
        try:
            seen += os.read(terminal, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        if b"say 2" in seen and not asked:
            asked = True
            os.write(terminal, b"q")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert asked
    assert os.waitstatus_to_exitcode(status) == 0
