"""Fine-tuning on token shards: ``train`` reads ``DIR/dataset/train`` and publishes a checkpoint directory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.training.files import check_target, published_directory, writing
from pipeline.training.grid import TrainingError, find_directions, find_shards, read_metadata
from pipeline.training.loading import Place, WindowDataset, endless_packs, with_workers
from pipeline.training.lora import add_lora, publish_lora
from pipeline.training.masks import check_mask
from pipeline.training.metrics import LOG_FILE, StepLog, StepWriter, read_log, stream_losses
from pipeline.training.model import (
    CHECKPOINT_FILE,
    Checkpoint,
    MultistreamModel,
    check_vocabulary,
    choose_device,
    load_base,
    save_checkpoint,
    training_attention,
)
from pipeline.training.objective import Objective, autocast, make_optimizer, make_scheduler, pack_counts
from pipeline.training.packing import Pack, PackCounters
from pipeline.training.processes import Processes, join, own_part, whole, world_size
from pipeline.training.settings import Precision, TrainConfig
from pipeline.training.state import (
    ProcessState,
    Progress,
    StateFolder,
    collect,
    held,
    read_progress,
    reading,
    remove_states,
    restore,
    resume_scheduler,
    rng_state,
    run_fingerprint,
    set_rng_state,
    trained,
)

__all__ = ["LOG_FILE", "Precision", "StepLog", "TrainConfig", "TrainResult", "autocast", "train"]

#: Records that an error names.
NAMED_RECORDS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """``records`` counts reads, so a record seen in two epochs counts twice; ``over_budget`` those of them left out.

    ``tokens``: spoken cells trained on; ``packing_efficiency``: share of the packs' capacity that held cells;
    ``resumed_from``: the step that a killed run had reached, 0 for a run of one piece; ``seconds`` of this one.
    """

    checkpoint: Path
    log: tuple[StepLog, ...]
    records: int
    over_budget: int
    over_budget_ids: tuple[str, ...]
    tokens: int
    seconds: float
    packing_efficiency: float = 0.0
    resumed_from: int = 0


def train(
    dataset_dir: Path,
    model_dir: Path,
    out_dir: Path,
    config: TrainConfig | None = None,
    progress: Callable[[StepLog], None] | None = None,
    finish: Callable[[Path], None] | None = None,
    keep_states: bool = False,
) -> TrainResult:
    """Fine-tune the model in ``model_dir`` on ``dataset_dir`` and publish a checkpoint as ``out_dir``.

    The checkpoint appears whole or not at all and holds ``train_log.jsonl``, one StepLog a line. On the CPU the same
    seed, thread count and versions give the same log (but for tokens/s) and weights, also where a run was killed and
    started again with the same settings: it goes on from its last saved state. ``progress`` is called after every step of
    this run; ``finish`` may add files to the checkpoint before it appears. ``keep_states``: the caller calls
    ``state.remove_finished`` when it has no more to do; until then the same call returns what is there. Under torchrun all
    processes call this with the same arguments; the first one writes and reports. Raises TrainingError for unusable data,
    model or settings, for a loss or weights that are not finite, and where nothing can be written.
    """
    started = time.perf_counter()
    config = config or TrainConfig()
    check_target(out_dir, CHECKPOINT_FILE)
    shards = find_shards(dataset_dir, "train")
    metadata = read_metadata(shards)
    check_mask(config.mask, metadata.lag)
    directions = find_directions(shards)
    roles = tuple(directions)
    input_roles = tuple(role for role, direction in directions.items() if direction == "input")
    torch.manual_seed(config.seed)
    model, adapted = _model(model_dir, roles, config)
    check_vocabulary(metadata, model)
    dataset = WindowDataset(
        shards,
        metadata,
        model.role_index,
        mask=config.mask,
        max_cells=config.max_cells,
        max_rows=model.max_rows,
        silence_rate=config.silence_rate,
        shuffle_buffer=config.shuffle_buffer,
        shuffle_inputs=config.shuffle_inputs,
        seed=config.seed,
        pad=model.uses_flex,
    )
    processes = join(config, list(model.causal_lm._no_split_modules or ()))
    fingerprint = run_fingerprint(config, shards, model_dir, str(processes.device), processes.world)
    states = StateFolder(out_dir, fingerprint, config.keep_checkpoints)
    main = processes.rank == 0
    with held(out_dir) if main else nullcontext():
        result = processes.first(_finished(states, out_dir) if main else None)
        if result is None:
            with published_directory(out_dir, CHECKPOINT_FILE) if main else nullcontext() as directory:
                run = _Run(model, dataset, processes, states, config)
                run.optimize(directory, progress)
                counts = run.counts()
                published = run.whole_model(model_dir, adapted)
                if directory is not None and published is not None:
                    model, adapted = published
                    described = Checkpoint(
                        roles, metadata, config.mask, str(model_dir.resolve()), asdict(config), input_roles
                    )
                    with writing(out_dir):
                        if adapted is not None:
                            publish_lora(adapted, directory)
                        save_checkpoint(directory, model, described)
                        if finish is not None:
                            finish(directory)
                        states.finish(directory, counts)
            result = _result(out_dir, run.log, counts)
        if main and not keep_states:
            remove_states(out_dir)
    return replace(result, seconds=time.perf_counter() - started)


def _finished(states: StateFolder, out_dir: Path) -> TrainResult | None:
    """What a run came to that published ``out_dir`` and did not get to remove its states."""
    counts = states.finished(out_dir)
    return None if counts is None else _result(out_dir, read_log(out_dir / LOG_FILE), counts)


def _result(out_dir: Path, steps: list[StepLog], counts: dict[str, Any]) -> TrainResult:
    named = tuple(counts["over_budget_ids"])
    return TrainResult(out_dir, tuple(steps), seconds=0.0, **{**counts, "over_budget_ids": named})


class _Run:
    """A run's moving parts, from its newest saved state on."""

    def __init__(
        self,
        model: MultistreamModel,
        dataset: WindowDataset,
        processes: Processes,
        states: StateFolder,
        config: TrainConfig,
    ) -> None:
        self.dataset, self.processes, self.states, self.config = dataset, processes, states, config
        self.silence_id = dataset.metadata.silence_id
        self.objective = Objective(model, self.silence_id, config.silence_weight, config.precision)
        self.optimizer = make_optimizer(model, config)
        self.module: nn.Module = processes.prepare(self.objective, self.optimizer)
        self.scheduler = make_scheduler(self.optimizer, config)
        self.place = Place()
        self.own_counters = PackCounters()
        self.log: list[StepLog] = []
        self.tokens = self.cells = self.capacity = self.resumed_from = 0
        torch.manual_seed(config.seed + processes.rank)
        folder = processes.first(states.newest() if processes.rank == 0 else None)
        if folder is not None:
            self._resume(folder)

    def counts(self) -> dict[str, Any]:
        """Fields of ``TrainResult``, over all processes."""
        parts = self.processes.gather(self.own_counters)
        named = dict.fromkeys(record for part in parts for record in part.over_budget_ids)
        return {
            "records": sum(part.records for part in parts),
            "over_budget": sum(part.over_budget for part in parts),
            "over_budget_ids": list(named)[:NAMED_RECORDS],
            "tokens": self.tokens,
            "packing_efficiency": self.cells / max(self.capacity, 1),
            "resumed_from": self.resumed_from,
        }

    def optimize(self, directory: Path | None, progress: Callable[[StepLog], None] | None) -> None:
        """All steps that are left; the process with a ``directory`` writes the log there, and the states."""
        writer = StepWriter(directory, self.config.tensorboard) if directory is not None else None
        packs = endless_packs(
            self.dataset,
            self.own_counters,
            workers=self.config.workers,
            share=(self.processes.rank, self.processes.world),
            start=self.place,
        )
        self.module.train()
        with with_workers(), closing(writer) if writer is not None else nullcontext(), closing(packs):
            if writer is not None:
                for step in self.log:
                    writer.write(step)
            while not self._done():
                self.log.append(self._step(packs))
                if writer is not None:
                    writer.write(self.log[-1])
                    if progress is not None:
                        progress(self.log[-1])
                if self.config.save_every and len(self.log) % self.config.save_every == 0 and not self._done():
                    self._save(directory)
            self._check_weights()

    def whole_model(self, model_dir: Path, adapted: Any) -> tuple[MultistreamModel, Any] | None:
        """The trained model and peft's model around it, neither of them sharded; None in a process that writes nothing."""
        if self.processes.device.type == "cpu" or self.processes.world == 1:
            return self.objective.model, adapted
        weights = {}
        for name, parameter in self.objective.model.named_parameters():
            full = whole(parameter.detach())
            if self.processes.rank == 0:
                weights[name] = full.cpu()
        if self.processes.rank:
            return None
        model, adapted = _model(model_dir, self.objective.model.roles, self.config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model, adapted

    def _done(self) -> bool:
        enough = self.config.max_tokens is not None and self.tokens >= self.config.max_tokens
        return enough or len(self.log) >= self.config.steps

    def _step(self, packs: Iterator[tuple[Pack, Place]]) -> StepLog:
        """One optimizer step, a pack at a time, normalized over the packs of all processes."""
        started = time.perf_counter()
        number = len(self.log) + 1
        batch = []
        for _ in range(self.config.packs_per_step // self.processes.world):
            pack, self.place = next(packs)
            batch.append(pack)
        texts, silences, spoken, cells, capacity = self.processes.sum(
            pack_counts(batch, self.silence_id, self.config.max_cells)
        )
        self.optimizer.zero_grad(set_to_none=True)
        tables = []
        for index, pack in enumerate(batch):
            last = index == len(batch) - 1
            with nullcontext() if last else self.processes.accumulate(self.module):
                loss, table = self.module(pack, int(texts), int(silences))
                torch.autograd.backward(loss * self.processes.world)  # gradients are averaged over processes
            tables.append(table)
        own = torch.stack(tables).cpu().numpy()
        sums = self.processes.sum(own.sum(axis=0))
        if not np.isfinite(sums).all():
            faulty = [pack for pack, part in zip(batch, own, strict=True) if not np.isfinite(part).all()]
            self._not_finite("loss", number, faulty)
        norm = self.processes.clip(self.module, self.config.max_gradient_norm)
        if not math.isfinite(norm):
            self._not_finite("gradient", number, batch)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.scheduler.step()
        self.tokens += int(spoken)
        self.cells += int(cells)
        self.capacity += int(capacity)
        return StepLog(
            step=number,
            text_loss=float(sums[:, 0].sum() / max(texts, 1)),
            silence_loss=float(sums[:, 2].sum() / max(silences, 1)),
            tokens_per_second=float(spoken) / (time.perf_counter() - started),
            epoch=self.processes.first(self.place.epoch),
            learning_rate=rate,
            gradient_norm=norm,
            tokens=self.tokens,
            streams=stream_losses(sums, self.objective.model.roles),
        )

    def _not_finite(self, what: str, step: int, packs: list[Pack]) -> None:
        records = sorted({record for part in self.processes.gather(packs) for pack in part for record in pack.records})
        more = f" and {len(records) - NAMED_RECORDS} more" if len(records) > NAMED_RECORDS else ""
        raise TrainingError(
            f"the {what} is not finite at step {step}, with records {', '.join(records[:NAMED_RECORDS])}{more}; "
            "lower the learning rates, or look at these records"
        )

    def _check_weights(self) -> None:
        """The last step of a run has no loss after it that would tell."""
        weights = (own_part(parameter.detach()) for _, parameter in trained(self.objective))
        broken = sum(not bool(torch.isfinite(weight).all()) for weight in weights)
        if self.processes.sum(np.array([broken], np.float64))[0]:
            raise TrainingError(f"the weights are not finite at step {len(self.log)}; lower the learning rates")

    def _save(self, directory: Path | None) -> None:
        self._check_weights()
        tensors = collect(self.objective, self.optimizer, keep=directory is not None)
        parts = self.processes.gather(ProcessState(self.place, self.own_counters, rng_state()))
        if directory is not None:
            scheduler = self.scheduler.state_dict()
            done = Progress(len(self.log), self.tokens, self.cells, self.capacity, scheduler, tuple(parts))
            self.states.save(done, tensors, directory / LOG_FILE)

    def _resume(self, folder: Path) -> None:
        saved, self.log = read_progress(folder, self.processes.world)
        restore(folder, self.objective, self.optimizer)
        own = saved.processes[self.processes.rank]
        self.place, self.own_counters = own.place, own.counters
        with reading(folder):
            resume_scheduler(self.scheduler, saved)
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
            set_rng_state(own.rng)
        self.tokens, self.cells, self.capacity = saved.tokens, saved.cells, saved.capacity
        self.resumed_from = saved.step
        log.info("resumed at step %d", saved.step)


def _model(model_dir: Path, roles: tuple[str, ...], config: TrainConfig) -> tuple[MultistreamModel, Any]:
    """The model to train, and peft's model around it with LoRA; with several processes on the CPU, to be spread."""
    device = choose_device(config.device)
    attention = training_attention(config.attention, device)
    model = load_base(model_dir, roles, device if world_size() == 1 else torch.device("cpu"), attention)
    adapted = add_lora(model, config) if config.lora_rank else None
    if config.gradient_checkpointing:
        model.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, adapted
