"""Every public command has an example that runs, in its help and in the README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]

#: Commands whose examples need a model's training, a server or the Hub: they have tests of their own.
ELSEWHERE = {
    "build": "the demo",
    "train": "tests/training",
    "evaluate": "tests/evaluation",
    "chat": "tests/decoding",
    "deploy": "tests/flows",
}


def commands() -> dict[str, str]:
    """Name and help of every public command."""
    from pipeline.cli import app

    group = typer.main.get_command(app)
    return {name: command.help or "" for name, command in group.commands.items()}  # type: ignore[attr-defined]


def example_of(help_text: str) -> str:
    found = re.search(r"Example: `(.+?)`", help_text)
    assert found, "the help has no example"
    return found.group(1)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, and a build named as in the help."""
    place = tmp_path_factory.mktemp("workplace")
    (place / "examples").symlink_to(ROOT / "examples")
    assert (
        run("multistream convert examples/conversations --out build/demo --license Apache-2.0", place).returncode == 0
    )
    return place


def run(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(line.partition("#")[0])
    assert program == "multistream"
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=_environment())


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("name", sorted(set(commands()) - set(ELSEWHERE)))
def test_the_example_in_the_help_of_a_command_runs(name: str, workplace: Path) -> None:
    done = run(example_of(commands()[name]), workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_a_command_that_is_tested_elsewhere_has_an_example_too(name: str) -> None:
    assert f"multistream {name}" in example_of(commands()[name])


def test_every_command_of_the_readme_is_known_and_the_light_ones_run(workplace: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()]
    ours = [line for line in lines if line.startswith("multistream ")]
    assert len(ours) >= 10
    for line in ours:
        name = shlex.split(line)[1]
        assert name in commands()
        if name not in ELSEWHERE:
            done = run(line.replace("build/mine", "build/demo") if name == "push" else line, workplace)
            assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_python_of_the_readme_runs(workplace: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert "assistant" in done.stdout


def test_the_documented_configuration_keys_are_those_that_there_are() -> None:
    from pipeline.config import BuildConfig

    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    schema = BuildConfig.model_json_schema()

    def keys(node: dict[str, object], prefix: str) -> set[str]:
        found: set[str] = set()
        for name, value in node["properties"].items():  # type: ignore[attr-defined]
            reference = value.get("$ref") or value.get("items", {}).get("$ref")
            if reference:
                inner = schema["$defs"][reference.rsplit("/", 1)[1]]
                found |= keys(inner, f"{prefix}{name}{'[]' if 'items' in value else ''}.")
            else:
                found.add(prefix + name)
        return found

    assert documented == keys(schema, "")


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
