"""The state of a run that is not over: saved beside the target, so that a killed run goes on as if nothing had been.

``.NAME.state/`` beside the directory NAME that training will publish holds one folder per saved step, the newest ones:
``state.safetensors`` (trained weights and optimizer state), ``state.json`` (the place in the data, random generators,
scheduler, counts) and the log so far. A folder appears whole, under its name, before an older one goes. ``finished.json``
says of a run that is over which directory it published and what it counted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from pipeline.training.files import clear_remains, sync_path, sync_tree, writing
from pipeline.training.grid import TrainingError
from pipeline.training.loading import Place
from pipeline.training.metrics import LOG_FILE, StepLog, read_log
from pipeline.training.packing import PackCounters
from pipeline.training.processes import whole
from pipeline.training.settings import RUN_ONLY, TrainConfig

TENSOR_FILE = "state.safetensors"
INFO_FILE = "state.json"
FINISHED_FILE = "finished.json"
#: Changes when a state of an earlier version cannot be continued.
VERSION = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessState:
    """What one process knows alone: its place in the data, its counts, its random generators (hexadecimal)."""

    place: Place
    counters: PackCounters
    rng: dict[str, str]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProcessState:
        return cls(Place(**value["place"]), PackCounters(**value["counters"]), dict(value["rng"]))


@dataclass(frozen=True)
class Progress:
    """How far a run is after ``step``: spoken cells trained, cells and capacity of its packs, its processes."""

    step: int
    tokens: int
    cells: int
    capacity: int
    scheduler: dict[str, Any]
    processes: tuple[ProcessState, ...]


class StateFolder:
    """The saved states of one target. ``fingerprint``: what must be the same for a state to be continued."""

    def __init__(self, out_dir: Path, fingerprint: str, keep: int) -> None:
        self.path = state_path(out_dir)
        self.fingerprint = fingerprint
        self.keep = keep

    def newest(self) -> Path | None:
        """The newest state of this run, None where there is none; one of another run is left out with a note.

        Raises TrainingError for a damaged one.
        """
        found = self._folders()
        for folder in found:
            with reading(folder):
                if _fingerprint_of(folder) == self.fingerprint:
                    return folder
        if found:
            log.warning("%s is the state of a run with other settings or data: started anew", found[0])
        return None

    def save(self, progress: Progress, tensors: Mapping[str, torch.Tensor], log_file: Path) -> None:
        """Adds a state and removes what it replaces. Raises TrainingError on a failed write: what was there stays."""
        target = self.path / f"step-{progress.step:09d}"
        fresh = self.path / "unfinished"
        with writing(self.path):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                save_file(dict(tensors), fresh / TENSOR_FILE)
                info = {"fingerprint": self.fingerprint, **asdict(progress)}
                (fresh / INFO_FILE).write_text(json.dumps(info))
                shutil.copyfile(log_file, fresh / LOG_FILE)
                sync_tree(fresh)
                if target.exists():
                    shutil.rmtree(target)
                fresh.rename(target)
                sync_path(self.path)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            self._prune()

    def finish(self, directory: Path, counts: Mapping[str, Any]) -> None:
        """Notes that the run is over: its checkpoint is in ``directory``, which is published next."""
        info = {"fingerprint": self.fingerprint, **_described(directory), "counts": counts}
        fresh = self.path / f"{FINISHED_FILE}.unfinished"
        with writing(self.path):
            fresh.write_text(json.dumps(info))
            sync_path(fresh)
            fresh.replace(self.path / FINISHED_FILE)

    def finished(self, out_dir: Path) -> dict[str, Any] | None:
        """What this run counted, if it is over and ``out_dir`` is what it published; else None."""
        info = _finished_info(out_dir)
        return None if info is None or info["fingerprint"] != self.fingerprint else dict(info["counts"])

    def _prune(self) -> None:
        own = []
        for folder in self._folders():
            try:
                own += [folder] if _fingerprint_of(folder) == self.fingerprint else []
            except (OSError, ValueError, KeyError, TypeError):
                log.warning("%s is damaged: removed", folder)
        for folder in self._folders():
            if folder not in own[: self.keep]:
                shutil.rmtree(folder)

    def _folders(self) -> list[Path]:
        """All saved states, the newest first."""
        return sorted((path for path in self.path.glob("step-*") if path.is_dir()), reverse=True)


def _fingerprint_of(folder: Path) -> str:
    return str(json.loads((folder / INFO_FILE).read_text())["fingerprint"])


def _described(directory: Path) -> dict[str, Any]:
    """What tells a checkpoint from others: the digest of its log, which holds the speeds, and the sizes of its files."""
    sizes = {
        path.relative_to(directory).as_posix(): path.stat().st_size for path in directory.rglob("*") if path.is_file()
    }
    return {"log": hashlib.sha256((directory / LOG_FILE).read_bytes()).hexdigest(), "sizes": sizes}


def _finished_info(out_dir: Path) -> dict[str, Any] | None:
    """``finished.json``, if ``out_dir`` is what its run published; files that were added since do not matter."""
    try:
        info = json.loads((state_path(out_dir) / FINISHED_FILE).read_text())
        there = _described(out_dir)
        same = info["log"] == there["log"] and info["sizes"].items() <= there["sizes"].items()
        return {"fingerprint": info["fingerprint"], "counts": dict(info["counts"])} if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def state_path(out_dir: Path) -> Path:
    """Where the states of a run that will publish ``out_dir`` are."""
    return out_dir.parent / f".{out_dir.name}.state"


@contextmanager
def held(out_dir: Path) -> Iterator[None]:
    """Holds the state folder of ``out_dir`` for one run, and clears what killed ones left beside it.

    On leaving the folder is removed if it is empty. Raises TrainingError where another run holds it, or nothing can be
    written.
    """
    path = state_path(out_dir)
    with writing(out_dir):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(f"another run trains {out_dir}: wait for it, or choose another --out") from error
        try:
            with writing(out_dir):
                clear_remains(out_dir)
            yield
        finally:
            if not any(path.iterdir()):
                path.rmdir()
    finally:
        os.close(descriptor)


def remove_states(out_dir: Path) -> None:
    """Removes all saved states of a finished run; files that are none of ours stay."""
    path = state_path(out_dir)
    for folder in sorted(path.glob("step-*")):
        if folder.is_dir():
            shutil.rmtree(folder)
    (path / FINISHED_FILE).unlink(missing_ok=True)


def remove_finished(out_dir: Path) -> None:
    """Removes the states of the run that published ``out_dir``, where ``train`` was told to keep them."""
    if (state_path(out_dir) / FINISHED_FILE).is_file():
        with held(out_dir):
            if _finished_info(out_dir) is not None:
                remove_states(out_dir)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns what a damaged state leads to in the block into a TrainingError of one line that names ``folder``."""
    try:
        yield
    except TrainingError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrainingError(f"{folder} is damaged, remove it to start anew: {reason}") from error


def read_progress(folder: Path, world: int) -> tuple[Progress, list[StepLog]]:
    """What a state of ``world`` processes says, and its log. Raises TrainingError where it is damaged."""
    with reading(folder):
        info = json.loads((folder / INFO_FILE).read_text())
        progress = Progress(
            step=int(info["step"]),
            tokens=int(info["tokens"]),
            cells=int(info["cells"]),
            capacity=int(info["capacity"]),
            scheduler=dict(info["scheduler"]),
            processes=tuple(map(ProcessState.from_json, info["processes"])),
        )
        if len(progress.processes) != world:
            raise ValueError(f"it tells of {len(progress.processes)} processes, not {world}")
        steps = read_log(folder / LOG_FILE)
        if [step.step for step in steps] != list(range(1, progress.step + 1)):
            raise ValueError(f"its log does not hold the steps 1 to {progress.step}")
        return progress, steps


def resume_scheduler(scheduler: LRScheduler, saved: Progress) -> None:
    """Puts back the scheduler's state. Raises ValueError where it is none of that step."""
    if set(saved.scheduler) != set(scheduler.state_dict()) or saved.scheduler["last_epoch"] != saved.step:
        raise ValueError(f"its scheduler is not that of step {saved.step}")
    scheduler.load_state_dict(saved.scheduler)


def run_fingerprint(config: TrainConfig, shards: Sequence[Path], model_dir: Path, device: str, world: int) -> str:
    """sha256 of what the course of a run depends on.

    Shards go in by name, size and footer (which holds the sizes and statistics of all columns), the model by its files'
    names, sizes and times.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in RUN_ONLY | {"device", "processes"}}
    data = [(shard.name, shard.stat().st_size, _footer_digest(shard)) for shard in shards]
    files = sorted(model_dir.iterdir()) if model_dir.is_dir() else [model_dir]
    model = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    value = [VERSION, torch.__version__, device, world, settings, data, model]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def collect(module: nn.Module, optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, torch.Tensor]:
    """Trained weights and optimizer state by name, whole, on the CPU; all processes must call this.

    Empty where ``keep`` is false: sharded tensors are gathered one at a time, for one process to keep.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained(module):
        for key, tensor in {"weight": parameter, **optimizer.state[parameter]}.items():
            full = whole(tensor.detach())
            if keep:
                tensors[f"{name}/{key}"] = full.cpu().contiguous()
    return tensors


def restore(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts back what ``collect`` took. Raises TrainingError where the file does not fit."""
    try:
        with safe_open(folder / TENSOR_FILE, "pt") as file:
            keys: dict[str, list[str]] = {}
            for key in list(file.keys()):
                name, _, part = key.rpartition("/")
                keys.setdefault(name, []).append(part)
            for name, parameter in trained(module):
                with torch.no_grad():
                    parameter.copy_(placed(file.get_tensor(f"{name}/weight"), parameter))
                for part in sorted(set(keys[name]) - {"weight"}):
                    optimizer.state[parameter][part] = placed(file.get_tensor(f"{name}/{part}"), parameter)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{folder} does not fit the model, remove it to start anew: {reason}") from error


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, a tied one once."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def placed(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor where ``like`` is, sharded as ``like`` is if it has its shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def rng_state() -> dict[str, str]:
    """torch's random generators of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def set_rng_state(states: Mapping[str, str]) -> None:
    """Puts back what ``rng_state`` gave. Raises ValueError, KeyError or RuntimeError for what it cannot have given."""
    if "cpu" not in states:
        raise KeyError("rng of the CPU")
    for name, state in states.items():
        tensor = torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(tensor)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(tensor)


def _footer_digest(shard: Path) -> str:
    """sha256 of a Parquet file's footer, whose length stands before its last four bytes."""
    with shard.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()
