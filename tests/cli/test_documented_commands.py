"""The commands of all pages are ones that there are, and the quick start does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    """Every ``multistream`` command of every page, its continued lines joined."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = [w for w in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_0-9]+=.*", w)]
                if words and words[0] == "multistream":
                    yield page.name, shlex.join(words[1:])


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_a_command_of_the_pages_is_one_that_is_understood(page: str, line: str) -> None:
    from pipeline.cli import app

    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line.partition(" | ")[0].partition(" > ")[0].partition(" &")[0])
    assert name in group.commands, f"{page}: {line}"  # type: ignore[attr-defined]
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments, resilient_parsing=True)  # what is no option of it raises


def run(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "multistream"
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, env=environment)


def test_the_four_commands_of_the_quick_start_work_on_its_own_file(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quickstart.md"
    [example] = blocks(page, "json")
    (tmp_path / "mine.jsonl").write_text(example)
    _, four, after = blocks(page, "bash")
    for line in four.splitlines():
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip()
    assert "My conversations" in (tmp_path / "build" / "mine" / "dataset" / "README.md").read_text()
    for line in after.splitlines()[:2]:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    [code] = blocks(page, "python")
    ending = "\n[batch] = loader\nprint(sorted(batch))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + ending], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_reference_of_the_command_line_is_that_of_the_commands(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    command = [
        sys.executable,
        "-m",
        "typer",
        "pipeline.cli",
        "utils",
        "docs",
        "--name",
        "multistream",
        "--output",
        str(made),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert (ROOT / "docs" / "cli.md").read_text() == made.read_text(), "write it again: make docs"
