"""Publishing files, and the manifest by which a stage is known, resumed and checked.

A stage reads manifests and writes a directory with ``manifest.json``, which comes last: the manifest and the files on
disk are the truth. A stage is skipped only if its fingerprint matches and its outputs are there and intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.claim import claimed
from pipeline.errors import ConservationError, PipelineError

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Output:
    """A published file: path relative to the stage's directory, digest, size in bytes, rows (None for no table)."""

    path: str
    sha256: str
    bytes: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a stage did. ``inputs`` maps names to digests; ``counters`` are the stage's own; ``notes`` say the rest."""

    stage: str
    version: int
    fingerprint: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[Output, ...]
    counters: Mapping[str, Any]
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """One digest for all outputs, whatever the time it took: what the next stage takes as input."""
        lines = sorted(f"{o.sha256} {o.path}" for o in self.outputs)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def paths(self, directory: Path, prefix: str) -> list[Path]:
        """The outputs whose file name starts with ``prefix``, in order of their paths."""
        return [
            directory / o.path
            for o in sorted(self.outputs, key=lambda o: o.path)
            if Path(o.path).name.startswith(prefix)
        ]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256 of what a stage's output depends on. ``config`` holds no run paths, times or worker counts."""
    return hashlib.sha256(canonical_json([stage, version, config, inputs]).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; on success the file appears under ``path`` whole, else not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_text(path: Path, text: str) -> None:
    """Publishes a text file."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def output_of(path: Path, directory: Path, rows: int | None = None) -> Output:
    """The manifest entry of a published file."""
    return Output(path.relative_to(directory).as_posix(), sha256_file(path), path.stat().st_size, rows)


def write_manifest(directory: Path, manifest: Manifest, name: str = MANIFEST) -> None:
    """Publishes the manifest: the last thing that a stage does."""
    publish_text(directory / name, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest | None:
    """The manifest of a stage's directory; None if there is none or it cannot be read as one."""
    try:
        value = json.loads((directory / name).read_text(encoding="utf-8"))
        outputs = tuple(Output(**o) for o in value.pop("outputs"))
        return Manifest(**{**value, "outputs": outputs})
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None


def need_manifest(directory: Path) -> Manifest:
    """The manifest of a finished stage; raises PipelineError if it is not there."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise PipelineError(f"{directory} holds no finished stage (no readable {MANIFEST})")
    return manifest


def damaged(directory: Path, outputs: Iterable[Output]) -> list[str]:
    """What is wrong with the outputs on disk: one line per file that is missing or changed."""
    found = []
    for output in outputs:
        path = directory / output.path
        if not path.is_file():
            found.append(f"{output.path} is missing")
        elif path.stat().st_size != output.bytes or sha256_file(path) != output.sha256:
            found.append(f"{output.path} has changed since it was written")
    return found


def remove_temporaries(directory: Path) -> None:
    """Removes what a killed run left under temporary names."""
    if directory.is_dir():
        for path in directory.rglob(f".*{_TEMPORARY}"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished stage. ``skipped``: it was there already."""

    directory: Path
    manifest: Manifest
    skipped: bool


#: What a stage's work returns: its outputs, counters and notes.
Work = Callable[[], tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]]


def run_stage(
    directory: Path,
    stage: str,
    version: int,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    work: Work,
    fresh: bool = False,
    replaces: bool = False,
) -> Result:
    """Runs a stage, or skips it if the same one is there whole. ``work`` writes into ``directory`` and balances its books.

    ``replaces``: ``work`` puts a whole new directory in the place of ``directory``, or fails and leaves it as it was; so
    what is there keeps its manifest until then, and what was not there is not there after a failure.

    Raises:
        PipelineError: another run writes to ``directory``.
    """
    was_there = directory.is_dir()
    with claimed(directory):
        wanted = fingerprint(stage, version, config, inputs)
        there = read_manifest(directory)
        if there is not None and there.fingerprint == wanted and not fresh and not damaged(directory, there.outputs):
            return Result(directory, there, skipped=True)
        if not replaces:
            (directory / MANIFEST).unlink(missing_ok=True)
        remove_temporaries(directory)
        started = time.monotonic()
        try:
            outputs, counters, notes = work()
        finally:
            if replaces and not was_there and directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        _remove_strangers(directory, {o.path for o in outputs})
        manifest = Manifest(
            stage,
            version,
            wanted,
            dict(config),
            dict(inputs),
            tuple(outputs),
            dict(counters),
            round(time.monotonic() - started, 3),
            dict(notes),
        )
        write_manifest(directory, manifest)
        return Result(directory, manifest, skipped=False)


def _remove_strangers(directory: Path, known: set[str]) -> None:
    """Removes shards that an earlier run with another configuration left: nothing may be read that no manifest names."""
    for path in directory.rglob("*.parquet"):
        if path.relative_to(directory).as_posix() not in known:
            path.unlink()


def balance(stage: str, **sides: int) -> None:
    """Raises ConservationError unless ``total`` equals the sum of the other named counts."""
    total = sides.pop("total")
    if total != sum(sides.values()):
        parts = " + ".join(f"{value} {name}" for name, value in sides.items())
        raise ConservationError(f"{stage}: {total} in, but {parts} = {sum(sides.values())} accounted for")
