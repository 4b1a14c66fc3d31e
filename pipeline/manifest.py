"""Publishing files, and the manifest by which a stage is known, resumed and checked.

A stage reads manifests and writes a directory with ``manifest.json``, which comes last: the manifest and the files on
disk are the truth. A stage is skipped only if its fingerprint matches and its outputs are there and intact. Where the
directory is mounted on an object store (``pipeline.storage``), what lies there is the truth, and the manifest goes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.claim import check_held, claimed
from pipeline.errors import ConservationError, PipelineError

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp"
_SHARD = re.compile(
    r"(units|rejects|records|tokens-.+|ledger|input-only|(filtered|flagged)(-input-only)?|clusters|groups)"
    r"-\d{5}(-of-\d{5})?\.parquet"
)


@dataclass(frozen=True, slots=True)
class Output:
    """A published file: path relative to the stage's directory, digest, size in bytes, rows (None for no table).

    ``version``: what the object store that keeps it calls these bytes; None on a disk.
    """

    path: str
    sha256: str
    bytes: int
    rows: int | None = None
    version: str | None = None


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
    """Gives a temporary name to write to; on success the file appears under ``path`` whole, else not at all.

    Raises PipelineError where ``path`` is a folder, a device or anything else that is no file.
    """
    if path.exists() and not path.is_file():
        raise PipelineError(f"{path} is no file: choose another name to write to")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    mine = f"{os.getpid()}-{secrets.token_hex(3)}"  # other nodes may have this process id too
    temporary = path.with_name(f".{path.name}.{mine}{_TEMPORARY}")
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
    """Publishes a text file, and keeps it in its store where it has one."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    storage.send([path])


def output_of(path: Path, directory: Path, rows: int | None = None) -> Output:
    """The manifest entry of a published file."""
    return Output(path.relative_to(directory).as_posix(), sha256_file(path), path.stat().st_size, rows)


def keep(directory: Path, outputs: Sequence[Output]) -> list[Output]:
    """Uploads those outputs that the store of ``directory`` does not keep yet; the outputs, with their versions there.

    On a disk they are kept where they are.
    """
    if storage.url_of(directory) is not None:
        check_held(directory)
    sent = storage.send([directory / o.path for o in outputs if o.version is None])
    found = {path: kept.version for path, kept in sent.items()}
    return [replace(o, version=found.get(directory / o.path, o.version)) for o in outputs]


def fetch(directory: Path, outputs: Iterable[Output]) -> None:
    """Makes sure that outputs lie on this disk as they were written, getting those from the store that do not.

    Raises PipelineError where the store has lost or changed one.
    """
    if storage.url_of(directory) is None:
        return
    for output in outputs:
        path = directory / output.path
        if path.is_file() and path.stat().st_size == output.bytes and sha256_file(path) == output.sha256:
            continue
        if not storage.download(path) or sha256_file(path) != output.sha256:
            path.unlink(missing_ok=True)
            raise PipelineError(
                f"{storage.shown(path)} is not there or has changed since it was written: remove it and build again, "
                "its stage is then redone"
            )


def tidy(directory: Path, manifest: Manifest | None) -> None:
    """Removes from this disk what another machine's run has replaced in the store: tables that the manifest does not name."""
    if storage.url_of(directory) is None:
        return
    known = {o.path for o in manifest.outputs} if manifest is not None else set()
    for path in directory.rglob("*.parquet"):
        if path.relative_to(directory).as_posix() not in known:
            path.unlink()


def fetch_file(path: Path) -> None:
    """``fetch`` of one output of the finished stage in its folder."""
    if storage.url_of(path) is not None:
        fetch(path.parent, [o for o in need_manifest(path.parent).outputs if o.path == path.name])


def write_manifest(directory: Path, manifest: Manifest, name: str = MANIFEST) -> None:
    """Publishes the manifest: the last thing that a stage does."""
    publish_text(directory / name, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest | None:
    """The manifest of a stage's directory; None if there is none or it cannot be read as one."""
    storage.pull(directory / name)
    try:
        value = json.loads((directory / name).read_text(encoding="utf-8"))
        outputs = tuple(Output(**o) for o in value.pop("outputs"))
        manifest = Manifest(**{**value, "outputs": outputs})
        mappings = (manifest.config, manifest.inputs, manifest.counters, manifest.notes)
        return manifest if all(isinstance(value, dict) for value in mappings) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def need_manifest(directory: Path) -> Manifest:
    """The manifest of a finished stage; raises PipelineError if it is not there."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise PipelineError(f"{storage.shown(directory)} holds no finished stage (no readable {MANIFEST})")
    return manifest


def damaged(
    directory: Path,
    outputs: Iterable[Output],
    digests: bool = True,
    listing: Mapping[str, storage.Kept] | None = None,
) -> list[str]:
    """What is wrong with the outputs: one line per file that is missing or changed.

    On a disk by size and digest (not without ``digests``); in a store by size and the version that it gave the file, as
    in ``listing`` (``storage.files_below``), which is asked for where it is not given; by digest if it gives no versions.
    """
    there = storage.files_below(directory) if listing is None else listing
    found = []
    for output in outputs:
        path = directory / output.path
        if there is not None:
            kept = there.get(output.path)
            missing = kept is None
            same = kept is not None and kept.bytes == output.bytes
            if kept is not None and same and kept.version:
                same = output.version in (None, kept.version)
            elif same and digests:
                same = hashlib.sha256(storage.read(path) or b"").hexdigest() == output.sha256
        else:
            missing = not path.is_file()
            same = not missing and path.stat().st_size == output.bytes
            same = same and (not digests or sha256_file(path) == output.sha256)
        if missing:
            found.append(f"{output.path} is missing")
        elif not same:
            found.append(f"{output.path} has changed since it was written")
    return found


def remove_temporaries(directory: Path, below: bool = True) -> None:
    """Removes what a killed run left under temporary names; not in the folders ``below`` if that is false."""
    if directory.is_dir():
        for path in (directory.rglob if below else directory.glob)(f".*{_TEMPORARY}"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished stage. ``skipped``: it was there already."""

    directory: Path
    manifest: Manifest
    skipped: bool

    def fetch(self, prefix: str = "") -> None:
        """Makes sure that the outputs whose file names start so lie on this disk, and no others. Raises PipelineError."""
        tidy(self.directory, self.manifest)
        fetch(self.directory, [o for o in self.manifest.outputs if Path(o.path).name.startswith(prefix)])


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
    done: Callable[[], None] | None = None,
) -> Result:
    """Runs a stage, or skips it if the same one is there whole. ``work`` writes into ``directory`` and balances its books.

    ``replaces``: ``work`` puts a whole new directory in the place of ``directory``, or fails and leaves it as it was; so
    what is there keeps its manifest until then, and what was not there is not there after a failure. ``done`` is called
    once the manifest is there: it removes what only an unfinished stage needs.

    Raises:
        PipelineError: another run writes to ``directory``.
    """
    was_there = directory.is_dir()
    with claimed(directory):
        wanted = fingerprint(stage, version, config, inputs)
        there = read_manifest(directory)
        if there is None:
            _refuse_foreign(directory)
        if there is not None and there.fingerprint == wanted and not fresh and not damaged(directory, there.outputs):
            if done is not None:
                done()
            return Result(directory, there, skipped=True)
        if not replaces:
            storage.remove(directory / MANIFEST)
        remove_temporaries(directory)
        started = time.monotonic()
        try:
            outputs, counters, notes = work()
        finally:
            if replaces and not was_there and directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        if storage.url_of(directory) is not None:
            check_held(directory)
            storage.remove(directory / MANIFEST)
        outputs = keep(directory, outputs)
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
        if done is not None:
            done()
        return Result(directory, manifest, skipped=False)


def _remove_strangers(directory: Path, known: set[str]) -> None:
    """Removes shards that an earlier run with another configuration left: nothing may be read that no manifest names.

    Files of other names are somebody else's.
    """
    for path in directory.rglob("*.parquet"):
        if is_shard(path.name) and path.relative_to(directory).as_posix() not in known:
            path.unlink()
    for name in storage.files_below(directory) or ():
        if is_shard(Path(name).name) and name not in known:
            storage.remove(directory / name)


def is_shard(name: str) -> bool:
    """Whether a file's name is one that a stage gives its tables."""
    return _SHARD.fullmatch(name) is not None


def _refuse_foreign(directory: Path) -> None:
    """Raises PipelineError where a directory holds a manifest of something else: what is there is not ours to replace."""
    try:
        value = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    if not isinstance(value, dict) or not {"stage", "fingerprint"} & value.keys():
        raise PipelineError(
            f"{storage.shown(directory)} holds a {MANIFEST} that no stage wrote: choose another folder to write to"
        )


def balance(stage: str, **sides: int) -> None:
    """Raises ConservationError unless ``total`` equals the sum of the other named counts."""
    total = sides.pop("total")
    if total != sum(sides.values()):
        parts = " + ".join(f"{value} {name}" for name, value in sides.items())
        raise ConservationError(f"{stage}: {total} in, but {parts} = {sum(sides.values())} accounted for")
