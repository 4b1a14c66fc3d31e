"""What lies on disk of a build that runs or was killed: where it was, what was finished, what it left."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import folders
from pipeline.manifest import MANIFEST, read_manifest
from pipeline.notes import FOLDER as FINISHED

#: Inode, time of the last change in ns, and size of everything below a folder, by relative path.
Tree = dict[str, tuple[int, int, int]]

#: Files that hold speeds or times, which differ between two undisturbed runs: compared by what else they say.
VOLATILE = {"train_log.jsonl": {"tokens_per_second"}, MANIFEST: {"seconds"}}
ANSWERS = "answers.sqlite"


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a kill landed, and what was in hand there (``shard``). ``moment``: ``start-up`` (the process had not begun to
    work on the stage), ``amid`` (in the middle of a shard, or of the stage's own unit of work), ``between`` two shards,
    ``publishing`` (files written whole whose names, whose note or whose state is not there yet), ``manifest`` (all outputs
    are there, the manifest is not) or ``over`` (all stages were done)."""

    stage: str
    shard: str
    moment: str


def tree(out: Path, stage: str | None = None) -> Tree:
    """What is there of a build, or of one stage and beside it under its hidden names."""
    roots = [out] if stage is None else [out / stage, *out.glob(f".{stage}.*")]
    found: Tree = {}
    for root in roots:
        for folder, folders_in, files in os.walk(root):  # passes over what goes away meanwhile
            for path in [Path(folder), *(Path(folder, name) for name in (*folders_in, *files))]:
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    found[path.relative_to(out).as_posix()] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def current_stage(out: Path, stages: Iterable[str]) -> str | None:
    """The first stage that is not finished; None if all are."""
    return next((name for name in stages if not is_finished(out, name)), None)


def answers(out: Path) -> list[str]:
    """The texts of the answers that synthesis has committed."""
    path = out / folders.SYNTH / ANSWERS
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as look:
        if not look.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
            return []
        return [text for (text,) in look.execute("SELECT text FROM answers")]


def saved_step(out: Path, stage: str) -> int:
    """The newest saved state of a training; 0 if there is none."""
    return max((int(p.name.removeprefix("step-")) for p in out.glob(f".{stage}.state/step-*")), default=0)


def is_finished(out: Path, stage: str) -> bool:
    """Whether the stage's manifest is there."""
    return (out / stage / MANIFEST).exists()


def part(whole: Tree, stage: str) -> Tree:
    """What of a tree is a stage's."""
    return {path: stamp for path, stamp in whole.items() if path.startswith((f"{stage}/", f".{stage}."))}


def progress(out: Path, whole: Path, stage: str, before: Tree, steps: int) -> tuple[int, int]:
    """How many units of work are done of how many: shards noted, files named, steps trained (0 of 1 in evaluation)."""
    if stage == folders.CONVERT:
        return len(_notes(out)), len(_notes(whole))
    now, then = tree(out, stage), part(before, stage)
    fresh = {path for path, stamp in now.items() if then.get(path) != stamp}
    if stage in (folders.CHECKPOINT, folders.CONTROL):
        return _step(out, stage, fresh), steps
    if stage == folders.REPORT:
        return 0, 1
    return len(_named(fresh) | _noted(out, stage)), len(_named(_wanted(whole, stage)))


def finished(out: Path, stages: Iterable[str]) -> dict[str, str]:
    """The finished files and their promised digests: those that a manifest names, or the note of a shard."""
    found: dict[str, str] = {}
    for stage in stages:
        manifest = read_manifest(out / stage)
        if manifest is not None:
            found |= {f"{stage}/{o.path}": o.sha256 for o in manifest.outputs}
    for note in _notes(out):
        for output in json.loads(note.read_text())["outputs"]:
            found[f"{folders.CONVERT}/{output['path']}"] = output["sha256"]
    for stage in (folders.INGEST, folders.DATASET):
        for note in (out / stage / FINISHED).glob("*.json"):
            output = json.loads(note.read_text())["output"]
            found[f"{stage}/{output['path']}"] = output["sha256"]
    return found


def _noted(out: Path, stage: str) -> set[str]:
    """The files of an unfinished stage that are finished."""
    return {path for path in finished(out, [stage]) if path.startswith(f"{stage}/")}


def _notes(out: Path) -> list[Path]:
    return sorted((out / folders.CONVERT / "shards").glob("[0-9]*.json"))


def landing(out: Path, whole: Path, stages: Iterable[str], before: Tree, steps: int) -> Landing:
    """Where the process was that has been killed, from what lies there. ``before``: what lay there when it started;
    ``whole``: an undisturbed build; ``steps`` of a training."""
    stage = current_stage(out, stages)
    if stage is None:
        return Landing("", "", "over")
    now, then = tree(out, stage), part(before, stage)
    fresh = {path for path, stamp in now.items() if then.get(path) != stamp}
    if not fresh - {stage}:
        return Landing(stage, "", "start-up")
    named, wanted = _named(fresh) | _noted(out, stage), _wanted(whole, stage)
    temporaries = [name for name in fresh if name.endswith(".tmp")]
    if stage == folders.CONVERT:
        return _in_convert(out, whole, named, temporaries)
    if stage == folders.SYNTH:
        stored, asked = len(answers(out)), len(answers(whole))
        if stored < asked:
            return Landing(stage, f"answer {stored + 1} of {asked}", "amid")
        return Landing(stage, f"all {asked} answers", "publishing" if temporaries else "manifest")
    if stage in (folders.CHECKPOINT, folders.CONTROL):
        return _in_training(out, stage, fresh, steps)
    if stage == folders.REPORT:
        written = any(name.endswith("/new/report.json") for name in fresh)
        published = (out / stage / "report.json").exists()
        moment = "manifest" if published else "publishing" if written else "amid"
        return Landing(stage, "report" if moment != "amid" else "records being evaluated", moment)
    left = sorted(wanted - named, key=lambda name: ("/rejects-" in name, name))
    if not left or any(Path(name).name.startswith(f".{MANIFEST}") for name in temporaries):
        return Landing(stage, "", "manifest")
    shards = (
        Path(name).name.split(".parquet")[0].removeprefix(".") for name in temporaries if "/.rejects-" not in name
    )
    place = " and ".join(sorted(shards)) or ("dealing records" if stage == folders.DATASET else Path(left[0]).stem)
    whole_already = any(_whole(out / name) for name in temporaries)
    said = f"{place}, {len(named)} of {len(wanted)} files named"
    return Landing(stage, said, "publishing" if whole_already else "amid")


def _named(paths: Iterable[str]) -> set[str]:
    return {name for name in paths if name.endswith(".parquet") and not _hidden(name)}


def _wanted(whole: Path, stage: str) -> set[str]:
    manifest = read_manifest(whole / stage)
    return {f"{stage}/{o.path}" for o in (manifest.outputs if manifest is not None else ())}


def _in_convert(out: Path, whole: Path, named: set[str], temporaries: list[str]) -> Landing:
    noted = {note.stem for note in _notes(out)}
    if len(noted) == len(_notes(whole)):
        return Landing(folders.CONVERT, "", "manifest")
    numbers = {Path(name).name.split(".parquet")[0].rsplit("-", 1)[-1]: name for name in temporaries}
    amid = {n for n in numbers if n.isdigit() and not _written(out, n)}
    said = f"{len(noted)} of {len(_notes(whole))} noted"
    if amid:
        return Landing(folders.CONVERT, f"shard {' and '.join(sorted(amid))}, {said}", "amid")
    waiting = {Path(name).stem.rsplit("-", 1)[-1] for name in named} - noted
    if waiting:
        return Landing(folders.CONVERT, f"shard {' and '.join(sorted(waiting))}, {said}", "publishing")
    return Landing(folders.CONVERT, said, "between")


def _written(out: Path, number: str) -> bool:
    """Whether a shard in hand has been written to its end: a name is there, or a temporary file is whole."""
    return any((out / folders.CONVERT).glob(f"ledger-{number}.parquet")) or any(
        _whole(path) for path in (out / folders.CONVERT).glob(f".*-{number}.parquet.*.tmp")
    )


def _in_training(out: Path, stage: str, fresh: set[str], steps: int) -> Landing:
    if (out / stage / "multistream.json").exists():
        return Landing(stage, "checkpoint", "manifest")
    step = _step(out, stage, fresh)
    if any("/unfinished" in name for name in fresh):
        return Landing(stage, f"state of step {step}", "publishing")
    if step >= steps:
        return Landing(stage, "checkpoint", "publishing")
    return Landing(stage, f"step {step + 1} of {steps}, {saved_step(out, stage)} saved", "amid")


def _step(out: Path, stage: str, fresh: set[str]) -> int:
    """The steps of a training that are done, from the log of the process that trains, else from the saved state."""
    logs = [out / name for name in fresh if name.endswith("/new/train_log.jsonl")]
    try:
        return max(log.read_bytes().count(b"\n") for log in logs)
    except (ValueError, FileNotFoundError):
        return saved_step(out, stage)


def _whole(path: Path) -> bool:
    """Whether a Parquet file has its footer."""
    try:
        pq.read_metadata(path)
    except (pa.ArrowInvalid, FileNotFoundError):
        return False
    return True


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def contents(out: Path) -> dict[str, str]:
    """A digest of every file of a build by its path, without what two undisturbed runs do not share: seconds, speeds,
    the order in which answers came, and what a manifest says of such files."""
    return {p.relative_to(out).as_posix(): _digest(p) for p in sorted(out.rglob("*")) if p.is_file()}


def _digest(path: Path) -> str:
    if path.name == ANSWERS:
        with closing(sqlite3.connect(path)) as look:
            return _sha(repr(sorted(look.execute("SELECT * FROM answers"))).encode())
    if path.name == MANIFEST:
        return _sha(json.dumps(_lasting(json.loads(path.read_text())), sort_keys=True).encode())
    if path.name in VOLATILE:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return _sha(repr([{k: v for k, v in line.items() if k not in VOLATILE[path.name]} for line in lines]).encode())
    return _sha(path.read_bytes())


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: manifest[key] for key in ("stage", "version", "config")}
    volatile = (*VOLATILE, ANSWERS)
    outputs = [o for o in manifest["outputs"] if Path(o["path"]).name not in volatile]
    counters = {key: manifest["counters"].get(key) for key in ("in", "out", "rejected")}
    return {**kept, "outputs": outputs, "counters": counters}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def remains(out: Path, stages: Iterable[str]) -> list[str]:
    """What a build that is over must not have left: hidden names, scratch folders, files that SQLite keeps while it works,
    Parquet files that no manifest names."""
    known = set(finished(out, stages))
    found = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        stray = path.suffix == ".parquet" and name not in known
        working = path.name in ("scratch", "unfinished", FINISHED) or path.name.endswith(
            (".tmp", "-wal", "-shm", "-journal")
        )
        if stray or working or _hidden(name):
            found.append(name)
    return found
