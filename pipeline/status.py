"""How far a build is, read from its manifests and files: nothing is written, and no model is loaded."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pipeline import folders, storage
from pipeline.asked import Asked
from pipeline.claim import is_held
from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, Manifest, Result, damaged, read_manifest
from pipeline.notes import FOLDER as FINISHED
from pipeline.plan import Plan, differences
from pipeline.plans import inputs_of, plan_stage
from pipeline.sections import stages_of, train_config

State = Literal["done", "stale", "partial", "broken", "not begun", "running", "failed", "unused"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage that is not done has finished: ``done`` of ``total`` parts (None: nobody knows), and which are missing."""

    what: str
    done: int
    total: int | None = None
    missing: tuple[int, ...] = ()

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        missing = f"; missing: {_ranges(self.missing)}" if self.missing and self.done else ""
        return f"{self.done:,}{of} {self.what}{missing}"


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage by its folder. ``reasons``: why it is not simply done, in words; ``manifest``: None where none can be read."""

    name: str
    state: State
    reasons: tuple[str, ...] = ()
    manifest: Manifest | None = None
    parts: Parts | None = None


@dataclass(slots=True)
class _Look:
    """One look at a build. ``settled``: the stages so far whose output is the wanted one, whole or to be made again."""

    out: Path
    asked: Asked | None
    digests: bool
    settled: dict[str, Result] = field(default_factory=dict)


def status_of(out: Path, asked: Asked | None, digests: bool = True) -> list[StageStatus]:
    """The stages that the configuration asks for and those that are there, in their order.

    ``asked`` None: what is wanted is not known, so that settings and inputs from outside are not compared. ``digests``
    false: files are compared by size alone.
    """
    look = _Look(out, asked, digests)
    found: list[StageStatus] = []
    for name in folders.STAGES:
        if asked is not None and name not in stages_of(asked.config):
            if (out / name / MANIFEST).is_file():
                found.append(_unused(look, name))
        elif asked is not None or (out / name).is_dir():
            found.append(_look_at(look, name))
    return found if asked is None else _with_failure(found, asked)


def is_done(stages: list[StageStatus]) -> bool:
    """Whether everything that was asked for is there and whole."""
    return bool(stages) and all(stage.state in ("done", "unused") for stage in stages)


def _look_at(look: _Look, name: str) -> StageStatus:
    directory = look.out / name
    held = is_held(directory)
    manifest = read_manifest(directory)
    waits = [other for other in _inputs(look, name, manifest) if other not in look.settled]
    if manifest is None:
        return _without_manifest(look, name, held, waits)
    broken = damaged(directory, manifest.outputs, look.digests)
    failed: list[str] = []
    if waits:
        stale = [f"waits for {' and '.join(waits)}"]
    else:
        try:
            stale = differences(manifest, _wanted(look, name, manifest))
        except (PipelineError, OSError) as error:
            stale, failed = [], [f"cannot be run: {error}"]
    if not stale and not failed:
        look.settled[name] = Result(directory, manifest, skipped=True)
        failed = list(_refused(look, name, manifest))
    again = manifest.notes.get("resumable") if name == folders.SYNTH else 0
    partial = [f"{again:,} dialogues that were refused or given up can be asked for again"] if again else []
    parts = _state_of_training(look, name, waits) if stale or held else None
    shown = [str(parts)] if parts is not None and parts.done else []
    for state, reasons in _ranked(held, broken, stale, failed, partial):
        return StageStatus(name, state, (*reasons, *shown), manifest, parts)
    return StageStatus(name, "done", (), manifest)


def _ranked(
    held: bool, broken: list[str], stale: list[str], failed: list[str], partial: list[str]
) -> Iterator[tuple[State, list[str]]]:
    """The states that hold of a finished stage, the one that counts first."""
    if held:
        yield "running", ["another run writes to it now"]
    if broken:
        yield "broken", [*broken, *stale, *failed]
    if stale:
        yield "stale", stale
    if failed:
        yield "failed", failed
    if partial:
        yield "partial", partial


def _without_manifest(look: _Look, name: str, held: bool, waits: list[str]) -> StageStatus:
    directory = look.out / name
    parts = _parts(look, name, waits)
    shown = [str(parts)] if parts is not None else []
    if held:
        return StageStatus(name, "running", tuple(shown or ["a run writes to it now"]), parts=parts)
    problem = _problem(directory)
    if problem is not None:
        return StageStatus(name, "broken", (problem, *shown), parts=parts)
    if parts is not None and parts.done:
        return StageStatus(name, "partial", tuple(shown), parts=parts)
    saved = parts is not None and name in (folders.CHECKPOINT, folders.CONTROL)
    if saved or any(directory.rglob("*.parquet")) or any(directory.rglob("*.tmp")):
        return StageStatus(name, "partial", ("was cut off, nothing of it can be kept",), parts=parts)
    return StageStatus(name, "not begun", (f"waits for {' and '.join(waits)}",) if waits else ())


def _problem(directory: Path) -> str | None:
    """What is wrong with a manifest that is there and cannot be read; None where there is none."""
    try:
        json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        return f"{MANIFEST} is cut off or no JSON ({' '.join(str(error).split())})"
    return f"{MANIFEST} is not what a stage writes"


def _inputs(look: _Look, name: str, manifest: Manifest | None) -> tuple[str, ...]:
    """The stages that one reads: by the configuration, else by its manifest."""
    if look.asked is not None:
        return inputs_of(name, look.asked)
    named = {"synthesize": folders.SYNTH}
    read = [named.get(other, other) for other in (manifest.inputs if manifest is not None else ())]
    return tuple(other for other in folders.STAGES if other in read and other != folders.CONTROL)


def _wanted(look: _Look, name: str, manifest: Manifest) -> Plan:
    if look.asked is not None:
        return plan_stage(name, look.asked, look.settled, look.digests)
    now = {result.manifest.stage: result.manifest.digest() for result in look.settled.values()}
    if folders.CHECKPOINT in look.settled:
        now[folders.CHECKPOINT] = look.settled[folders.CHECKPOINT].manifest.digest()
    inputs = {key: now.get(key, digest) for key, digest in manifest.inputs.items()}
    return Plan(manifest.stage, manifest.version, manifest.config, inputs)


def _refused(look: _Look, name: str, manifest: Manifest) -> Iterator[str]:
    """Why a build does not go on behind a finished stage: too many rejects, or the gate."""
    counters: Mapping[str, Any] = manifest.counters
    config = look.asked.config if look.asked is not None else None
    limit = config.convert.max_rejected_fraction if config is not None and name == folders.CONVERT else None
    if config is not None and name == folders.SYNTH:
        limit = (config.synth or {}).get("max_rejected_fraction")
    if limit is not None and counters["rejected"] > limit * counters["in"]:
        yield f"{counters['rejected']:,} of {counters['in']:,} were rejected, more than max_rejected_fraction = {limit}"
    if name == folders.REPORT:
        for failure in manifest.notes.get("gate_failures", ()):
            yield f"the gate: {failure['message']}"


def _unused(look: _Look, name: str) -> StageStatus:
    held = is_held(look.out / name)
    why = "another run writes to it now" if held else "the configuration does not ask for it"
    return StageStatus(name, "running" if held else "unused", (why,), read_manifest(look.out / name))


def _with_failure(found: list[StageStatus], asked: Asked) -> list[StageStatus]:
    """Says why the last run stopped, at the first stage that is not done.

    One that was finished before and is stale may be so since: it has failed only where training did, which leaves what was
    there. Of the others the line tells, and the state stays.
    """
    if asked.failed is None or any(stage.state == "running" for stage in found):
        return found
    for number, stage in enumerate(found):
        if stage.state in ("done", "unused"):
            continue
        told = tuple(r for r in stage.reasons if r not in asked.failed)
        trains = stage.name in (folders.CHECKPOINT, folders.CONTROL) and asked.failed.startswith("training: ")
        if (stage.state in ("partial", "not begun") and stage.manifest is None) or (stage.state == "stale" and trains):
            found[number] = replace(stage, state="failed", reasons=(asked.failed, *told))
        elif stage.state in ("partial", "stale", "broken"):
            found[number] = replace(stage, reasons=(*stage.reasons, f"the last run stopped: {asked.failed}"))
        break
    return found


def _parts(look: _Look, name: str, waits: list[str]) -> Parts | None:
    """What a stage without a manifest has finished; None where nothing of it is kept."""
    if name == folders.CONVERT:
        return _shards(look, waits)
    if name == folders.SYNTH:
        return _answers(look.out / name)
    if name in (folders.INGEST, folders.DATASET):
        finished = [*(look.out / name / FINISHED).glob("*.json")]
        return Parts("files were finished", len(finished)) if finished else None
    return _state_of_training(look, name, waits)


def _shards(look: _Look, waits: list[str]) -> Parts | None:
    directory = look.out / folders.CONVERT
    if look.asked is None or waits:
        notes = [*(directory / "shards").glob("*.json")]
        return Parts("shards were finished", len(notes)) if notes else None
    from pipeline.stages.convert import finished_shard, plan_shards

    ingest = look.settled[folders.INGEST].manifest
    try:
        wanted = plan_shards(ingest, plan_stage(folders.CONVERT, look.asked, look.settled))
    except (PipelineError, OSError):
        return None
    listing = storage.files_below(directory)
    done = [finished_shard(directory, n, p.fingerprint, listing, look.digests) for n, p in enumerate(wanted)]
    missing = tuple(number for number, result in enumerate(done) if result is None)
    return Parts("shards are finished", len(wanted) - len(missing), len(wanted), missing)


def _answers(directory: Path) -> Parts | None:
    of_shards = directory.glob("answers-*-*.sqlite")  # until the run that they are of is through
    stores = [path for path in (directory / "answers.sqlite", *of_shards) if path.is_file()]
    if not stores:
        return None
    try:
        return Parts("answers are stored", sum(_rows(path) for path in stores))
    except sqlite3.Error:
        return None


def _rows(path: Path) -> int:
    """The stored answers; what SQLite would write beside its file is written elsewhere."""
    with TemporaryDirectory() as scratch:
        log = path.with_name(f"{path.name}-wal")
        there = path
        if log.is_file() and log.stat().st_size:
            there = Path(scratch) / path.name
            shutil.copyfile(path, there)
            shutil.copyfile(log, there.with_name(log.name))
        uri = there.absolute().as_uri() + ("?mode=ro&immutable=1" if there == path else "")
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    return int(count)


def _state_of_training(look: _Look, name: str, waits: list[str]) -> Parts | None:
    """The last saved state of a training run that is not over (see ``pipeline.training.state``).

    None where nothing is saved; no steps where what is saved is of other settings or data. While the data are not known,
    or what is wanted, the newest state counts.
    """
    if name not in (folders.CHECKPOINT, folders.CONTROL):
        return None
    saved = sorted((look.out / f".{name}.state").glob("step-*"))
    if not saved:
        return None
    if look.asked is None:
        return Parts("steps are saved", _step(saved[-1]))
    train = look.asked.config.train or {}
    total = None if train.get("max_tokens") is not None else train.get("steps")
    wanted = _fingerprints_of_training(look.asked, look.settled[folders.DATASET], name) if not waits else ()
    if wanted:
        saved = [folder for folder in saved if _fingerprint_of_state(folder) in wanted]
    return Parts("steps are saved", _step(saved[-1]) if saved else 0, total)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _fingerprint_of_state(folder: Path) -> str | None:
    """None where it cannot be read."""
    from pipeline.training.state import INFO_FILE

    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        return str(info["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fingerprints_of_training(asked: Asked, dataset: Result, name: str) -> tuple[str, ...]:
    """What a state may have to be continued, on a machine with GPUs or without; nothing where the data are not here."""
    from pipeline.models import resolve_model
    from pipeline.training.state import run_fingerprint

    model, settings = train_config(asked.config, name)
    devices = {"cpu", "cuda"} if settings.device == "auto" else {settings.device}
    if settings.processes > 1 and devices != {"cpu"}:
        devices |= {"cuda:0"}
    shards = [path for path in dataset.manifest.paths(dataset.directory, "tokens-") if path.parent.name == "train"]
    try:
        base = resolve_model(model)
        return tuple(run_fingerprint(settings, shards, base, device, settings.processes) for device in devices)
    except (PipelineError, OSError):
        return ()


def _ranges(numbers: tuple[int, ...]) -> str:
    """Numbers in order as ``1, 4-7``; of many the first ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")
