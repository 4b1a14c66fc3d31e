"""Faults of the machine: each ends in one line or in the bytes of an undisturbed run, and never in wrong data."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "conversations"
STAGES = ("ingest", "convert", "dataset")


def digests(out: Path) -> dict[str, str]:
    """sha256 of every Parquet file of a build."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*.parquet"))
    }


def temporaries(out: Path) -> list[str]:
    """What a build must not leave: hidden files, and the shuffle's scratch folder."""
    return [p.name for p in out.rglob("*") if p.name.startswith(".") or p.name == "scratch"]


def command(out: Path, *more: str) -> list[str]:
    """A conversion of all examples in two processes."""
    return [
        sys.executable, "-m", "pipeline.cli", "convert", str(EXAMPLES), "--out", str(out), "--workers", "2", "--json", *more,
    ]  # fmt: skip


def run(
    arguments: list[str], before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def skipped(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that a run found finished."""
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)["skipped"]
    return names


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """The line that a failed run ends with."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(command(out)).returncode == 0
    return out


@pytest.fixture
def built(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of this size at ``place``; whether it could be mounted."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)


def files_of_at_most(size: int) -> Callable[[], None]:
    """Limits what a process may write to one file: what a full disk is where nothing may be mounted."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_a_full_disk_is_one_line_and_room_lets_the_build_go_on(share: float, undisturbed: Path, tmp_path: Path) -> None:
    whole = sum(p.stat().st_size for p in undisturbed.rglob("*") if p.is_file())
    largest = max(p.stat().st_size for p in undisturbed.rglob("*.parquet"))
    place = tmp_path / "disk"
    with small_disk(place, int(whole * share / 1024)) as mounted:
        out = place / "out"
        done = run(command(out), None if mounted else files_of_at_most(int(largest * share)))
        line = one_error(done)
        assert ("No space left" in line) if mounted else ("too large" in line), line
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        assert run(command(out)).returncode == 0
        assert digests(out) == digests(undisturbed)
        assert not temporaries(out)


def test_a_limit_on_the_size_of_files_is_one_line(undisturbed: Path, tmp_path: Path) -> None:
    line = one_error(run(command(tmp_path / "out"), files_of_at_most(4096)))
    assert "too large" in line
    assert run(command(tmp_path / "out")).returncode == 0
    assert digests(tmp_path / "out") == digests(undisturbed)


@pytest.mark.parametrize("stage", STAGES)
def test_an_output_that_may_not_be_written_to_is_one_line(stage: str, built: Path, undisturbed: Path) -> None:
    (built / stage / "manifest.json").unlink()
    (built / stage).chmod(0o555)
    privileged = os.geteuid() == 0
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if privileged else []
    line = one_error(run([*drop, *command(built)]))
    assert "Permission denied" in line
    assert str(built / stage) in line
    (built / stage).chmod(0o755)
    assert skipped(run(command(built))) == [name for name in STAGES if name != stage]
    assert digests(built) == digests(undisturbed)


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("ingest/units-00000.parquet", ["ingest"]),
        ("convert/records-00000.parquet", ["convert"]),
        ("convert/ledger-00000.parquet", ["convert"]),
        ("dataset/train/records-00000-of-00001.parquet", ["dataset"]),
    ],
)
def test_a_shard_with_one_bit_turned_is_named_and_made_again(
    name: str, redone: list[str], built: Path, undisturbed: Path
) -> None:
    path = built / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    told = run([sys.executable, "-m", "pipeline.cli", "status", str(built)])
    assert told.returncode == 1
    assert path.name in told.stdout
    assert skipped(run(command(built))) == [stage for stage in STAGES if stage not in redone]
    assert digests(built) == digests(undisturbed)


@pytest.mark.parametrize(("stage", "keep"), [("ingest", 100), ("convert", 0), ("dataset", -2)])
def test_a_manifest_cut_short_is_named_and_its_stage_done_again(
    stage: str, keep: int, built: Path, undisturbed: Path
) -> None:
    path = built / stage / "manifest.json"
    path.write_bytes(path.read_bytes()[:keep])
    told = run([sys.executable, "-m", "pipeline.cli", "status", str(built)])
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert stage in told.stdout
    assert skipped(run(command(built))) == [name for name in STAGES if name != stage]
    assert digests(built) == digests(undisturbed)


def test_of_two_builds_on_one_folder_one_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(p.communicate(), p.returncode) for p in both]
    refused = [stderr for (_, stderr), code in ends if code == 1]
    assert all("another run" in stderr.strip().splitlines()[-1] for stderr in refused)
    assert len(refused) <= 1, "one of them goes on"
    assert run(command(out)).returncode == 0
    assert digests(out) == digests(undisturbed)
    assert not temporaries(out)


BACKWARDS = """
import itertools, time
_real, _calls = time.time, itertools.count()
time.time = lambda: _real() - 3600.0 * next(_calls)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def test_a_clock_that_goes_back_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(BACKWARDS)
    shim = os.pathsep.join([str(tmp_path / "shim"), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = tmp_path / "out"
    assert skipped(run(command(out), PYTHONPATH=shim)) == []
    assert digests(out) == digests(undisturbed)
    manifests = [json.loads((out / stage / "manifest.json").read_text()) for stage in STAGES]
    assert all(0 <= m["seconds"] < 600 for m in manifests)
    for age, path in enumerate(sorted(out.rglob("*"))):
        os.utime(path, (4e9 - age, 4e9 - age) if age % 2 else (age, age))
    assert skipped(run(command(out), PYTHONPATH=shim)) == list(STAGES), "digests tell what is whole, times do not"
