"""The train stage: a checkpoint fine-tuned on the train split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.manifest import (
    MANIFEST,
    Manifest,
    Output,
    Result,
    damaged,
    need_manifest,
    output_of,
    publish,
    read_manifest,
    run_stage,
    sha256_file,
)
from pipeline.models import model_digest, name_of, quiet_transformers, resolve_model
from pipeline.plan import Plan
from pipeline.tokenization import HuggingFaceTokenizer, TokenizerError, load_tokenizer
from pipeline.training.files import check_target
from pipeline.training.grid import TrainingError
from pipeline.training.launch import launch
from pipeline.training.loop import StepLog, TrainConfig, TrainResult, train
from pipeline.training.model import CHECKPOINT_FILE, choose_device, read_checkpoint
from pipeline.training.processes import is_under_torchrun, meet, rank, world_size
from pipeline.training.settings import RUN_ONLY
from pipeline.training.state import held, remove_finished, remove_states

STAGE, VERSION = "train", 3
TOKENIZER = "tokenizer.json"
#: The module that each of several processes runs.
PROCESS = "pipeline.training.stage_process"

_SAID = "training: "


def plan(dataset: Manifest, model: str, base: Path, config: TrainConfig, digests: bool = True) -> Plan:
    """What the checkpoint depends on. ``base``: where the name ``model`` leads. ``digests`` false: "" as the model's.

    Several processes read other packs together than one does, so their number counts, whoever has started them.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in RUN_ONLY}
    settings["model"] = name_of(model)
    settings["processes"] = max(config.processes, world_size())
    if settings["processes"] == 1:
        del settings["processes"]
    return Plan(STAGE, VERSION, settings, {"dataset": dataset.digest(), "model": model_digest(base) if digests else ""})


def train_stage(
    dataset: Result,
    model: str,
    directory: Path,
    config: TrainConfig,
    fresh: bool = False,
    progress: Callable[[StepLog], None] | None = None,
) -> Result:
    """Fine-tunes ``model`` and writes a checkpoint folder; a killed run goes on where its last state was saved.

    ``fresh``: anew, whatever there is. A failed run leaves ``directory`` as it was. Several processes
    (``config.processes``) are started on this machine by torchrun. Under torchrun every process calls this, and the first one
    does what is done once. Raises PipelineError.
    """
    quiet_transformers()
    with _said():
        check_target(directory, CHECKPOINT_FILE)
    base = resolve_model(model)
    planned = plan(dataset.manifest, model, base, config)
    if config.processes > 1 and not is_under_torchrun():
        return _in_processes(dataset, model, directory, config, fresh, progress, planned)

    def trained() -> TrainResult:
        dataset.fetch()
        with _said():
            return train(
                dataset.directory,
                base,
                directory,
                config,
                progress,
                finish=lambda checkpoint: _add_tokenizer(checkpoint, base),
                keep_states=True,
            )

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        if fresh:
            with _said(), held(directory):
                remove_states(directory)
        result = trained()
        files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
        counters = {
            "in": result.records,
            "out": result.records - result.over_budget,
            "rejected": result.over_budget,
            "steps": len(result.log),
            "tokens": result.tokens,
            "first_text_loss": result.log[0].text_loss,
            "last_text_loss": result.log[-1].text_loss,
            "packing_efficiency": round(result.packing_efficiency, 4),
        }
        notes = {
            "model": model,
            "over_budget_ids": list(result.over_budget_ids),
            "resumed_from_step": result.resumed_from,
        }
        return [output_of(p, directory) for p in files], counters, notes

    if rank() == 0:
        result = run_stage(
            directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh, replaces=True
        )
        with _said():
            remove_finished(directory)
        meet()
        return result
    skipped = not fresh and _is_done(directory, planned)
    if not skipped:
        trained()
        meet()
    return Result(directory, need_manifest(directory), skipped)


def _is_done(directory: Path, planned: Plan) -> bool:
    there = read_manifest(directory)
    return there is not None and there.fingerprint == planned.fingerprint and not damaged(directory, there.outputs)


def _in_processes(
    dataset: Result,
    model: str,
    directory: Path,
    config: TrainConfig,
    fresh: bool,
    progress: Callable[[StepLog], None] | None,
    planned: Plan,
) -> Result:
    """The stage in processes that torchrun starts on this machine; this one only hears what they say."""
    if not fresh and _is_done(directory, planned):
        with _said():
            remove_finished(directory)
        return Result(directory, need_manifest(directory), skipped=True)
    with _said():
        if choose_device(config.device).type == "cuda" and config.processes > torch.cuda.device_count():
            raise TrainingError(f"processes is {config.processes}, but there are {torch.cuda.device_count()} GPUs here")
    dataset.fetch()
    task = {
        "dataset": str(dataset.directory.absolute()),
        "model": model,
        "directory": str(directory.absolute()),
        "config": asdict(config),
        "fresh": fresh,
        "mounts": [[str(one.local), one.url] for one in storage.mounts()],
    }
    was_there = directory.is_dir()
    with _said():
        try:
            launch(PROCESS, config.processes, task, progress)
        except TrainingError:
            _clear_up(directory, was_there)
            raise
    return Result(directory, need_manifest(directory), skipped=False)


def _clear_up(directory: Path, was_there: bool) -> None:
    """Removes what processes left that were ended, unless another run is at work there."""
    try:
        with held(directory):
            if not was_there and directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
    except TrainingError:
        return


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except TrainingError as error:
        told = str(error)
        raise PipelineError(told if told.startswith(_SAID) else f"{_SAID}{told}") from error


def _add_tokenizer(checkpoint: Path, base: Path) -> None:
    """Puts the ``tokenizer.json`` of the data beside the weights, where the base model or its name leads to the same one."""
    grid = read_checkpoint(checkpoint).token_grid
    places = [base / TOKENIZER if base.is_dir() else base.parent / TOKENIZER]
    try:
        found = load_tokenizer(grid.tokenizer)
    except TokenizerError:
        found = None  # a folder's or a file's name: the data do not say where it was
    if isinstance(found, HuggingFaceTokenizer):
        places.append(found.path)
    for place in places:
        if place.is_file() and sha256_file(place) == grid.tokenizer_sha256:
            with publish(checkpoint / TOKENIZER) as temporary:
                shutil.copyfile(place, temporary)
            return
