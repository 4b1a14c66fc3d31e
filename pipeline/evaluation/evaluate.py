"""Spot-evaluation of a checkpoint on held-out records: losses against its base model and controls, with intervals over
records; turn-taking, latency, free generation, planted instructions; gate and report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from pipeline.evaluation.compare import Difference, Loss, TurnTakingF1, difference, losses, turn_taking
from pipeline.evaluation.gate import GateFailure, apply_gate
from pipeline.evaluation.generation import Generation, TextCodec, chosen_records, examine, generated
from pipeline.evaluation.heldout import HeldOut, held_out
from pipeline.evaluation.injection import Injection, find_planted, measure
from pipeline.evaluation.intervals import Bootstrap
from pipeline.evaluation.latency import (
    LatencySummary,
    RecordEvents,
    compare_with_turns,
    find_records,
    iter_records,
)
from pipeline.evaluation.report import REPORT_JSON, write_report
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.evaluation.turns import TurnsCounters, turns_grids
from pipeline.training.control import shuffled_inputs
from pipeline.training.files import clear_remains, published_directory, writing
from pipeline.training.grid import (
    GridMetadata,
    TokenGrid,
    TrainingError,
    count_records,
    find_roles,
    find_shards,
    iter_grids,
    read_metadata,
)
from pipeline.training.loop import autocast
from pipeline.training.masks import MaskKind, check_mask
from pipeline.training.model import (
    Checkpoint,
    MultistreamModel,
    check_vocabulary,
    choose_device,
    load_base,
    load_checkpoint,
    read_checkpoint,
)
from pipeline.training.settings import RUN_ONLY

__all__ = ["EvaluateConfig", "EvaluationResult", "TextCodec", "evaluate"]

#: Settings in which a control may differ from the checkpoint: training does not depend on them.
_NOT_TRAINING = {"shuffle_inputs", "device", "tensorboard", *RUN_ONLY}


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation.

    ``untrained_roles`` occur in the held-out records only and have zero embeddings. ``latency`` is None where the split
    has no record shards, ``control`` where none was given. ``controls``: what the checkpoint itself did under
    ``settings.CONTROLS``; ``turns_layout`` how those records were laid out.

    ``losses`` and ``turn_taking`` by model or control, ``differences`` of the checkpoint less each of the others, with
    intervals over records. ``generation`` and ``injection`` are None where they were not asked for. ``failures`` are the
    gate's.
    """

    mask: MaskKind
    tokenizer: str
    untrained_roles: tuple[str, ...]
    before: HeldOut
    after: HeldOut
    control: HeldOut | None
    latency: LatencySummary | None
    failures: tuple[GateFailure, ...] = ()
    controls: dict[str, HeldOut] = field(default_factory=dict)
    turns_layout: TurnsCounters | None = None
    confidence: float = 0.95
    losses: dict[str, dict[str, Loss]] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    turn_taking: dict[str, dict[str, TurnTakingF1]] = field(default_factory=dict)
    generation: Generation | None = None
    injection: Injection | None = None

    @property
    def models(self) -> dict[str, HeldOut]:
        """Everything that was run over the held-out records, by name."""
        control = {"control": self.control} if self.control is not None else {}
        return {"before": self.before, "after": self.after, **control, **self.controls}

    def compared(self, bootstrap: Bootstrap) -> EvaluationResult:
        """With losses, differences and turn-taking of all models."""
        return replace(
            self,
            confidence=bootstrap.confidence,
            losses={name: losses(model, bootstrap) for name, model in self.models.items()},
            differences={
                name: difference(self.after, model, bootstrap) for name, model in self.models.items() if name != "after"
            },
            turn_taking={name: turn_taking(model, bootstrap) for name, model in self.models.items()},
        )


def evaluate(
    checkpoint_dir: Path,
    base_model_dir: Path | None,
    dataset_dir: Path,
    out_dir: Path,
    config: EvaluateConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    text: TextCodec | None = None,
) -> EvaluationResult:
    """Compare a checkpoint with its base model on ``dataset_dir``'s test split and publish a report as ``out_dir``.

    Nobody else writes to ``out_dir`` meanwhile: what killed runs left beside it is cleared first.
    ``base_model_dir`` None is the path that the checkpoint recorded. The base model has zero stream embeddings. Both
    see every silent query. One model and one pack are in memory at a time, and a few numbers per record.
    ``progress(phase, records, total)`` is called after every pack. ``text`` is the data's tokenizer: without it calls
    and planted instructions are not looked at and no text is shown. Raises TrainingError for data that does not fit the
    checkpoint (tokenizer, mask) or the models; a gate that fails is no error but ``result.failures``.
    """
    config = config or EvaluateConfig()
    run = _Run(checkpoint_dir, dataset_dir, config, progress, text)
    bootstrap = Bootstrap(config.resamples, config.confidence, config.seed)
    base_dir = base_model_dir if base_model_dir is not None else Path(run.checkpoint.base_model)
    if out_dir.parent.is_dir():
        with writing(out_dir):
            clear_remains(out_dir)
    with published_directory(out_dir, REPORT_JSON) as directory:
        before = run.losses("before", run.usable(load_base(base_dir, run.roles, run.device, config.attention)))
        model = run.trained(checkpoint_dir)
        after = run.losses("after", model)
        generation = run.generation(model, bootstrap)
        injection = run.injection(model, bootstrap)
        controls = {name: run.control(name, model) for name in config.controls}
        del model
        result = EvaluationResult(
            mask=run.checkpoint.mask,
            tokenizer=run.metadata.tokenizer,
            untrained_roles=tuple(role for role in run.roles if role not in run.checkpoint.roles),
            before=before,
            after=after,
            control=run.trained_control(config.control) if config.control is not None else None,
            latency=compare_with_turns(run.events()) if run.records else None,
            controls=controls,
            turns_layout=run.turns if "turns" in controls else None,
            generation=generation,
            injection=injection,
        ).compared(bootstrap)
        result = replace(result, failures=tuple(apply_gate(result, config.gate)))
        write_report(directory, result, checkpoint_dir, text, run.metadata.eom_id)
    return result


class _Run:
    """What the parts of one evaluation share. Raises TrainingError for data and checkpoints that do not fit."""

    def __init__(
        self,
        checkpoint_dir: Path,
        dataset_dir: Path,
        config: EvaluateConfig,
        progress: Callable[[str, int, int], None] | None,
        text: TextCodec | None,
    ) -> None:
        self.config, self.progress, self.text = config, progress, text
        self.checkpoint = read_checkpoint(checkpoint_dir)
        self.shards = find_shards(dataset_dir, "test")
        self.records = find_records(dataset_dir, "test")
        self.metadata = read_metadata(self.shards)
        check_mask(self.checkpoint.mask, self.metadata.lag)
        _check_same_tokenizer(self.checkpoint.token_grid, self.metadata)
        if config.control is not None:
            _check_control(self.checkpoint, read_checkpoint(config.control), config.control)
        self.roles = find_roles(self.shards)
        self.device = choose_device(config.device)
        self.turns = TurnsCounters()

    @cached_property
    def total(self) -> int:
        """Records that are evaluated."""
        available = count_records(self.shards)
        return min(available, self.config.max_records or available)

    def grids(self) -> Iterator[TokenGrid]:
        return islice(iter_grids(self.shards), self.config.max_records)

    def events(self) -> Iterator[RecordEvents]:
        return islice(iter_records(self.records), self.config.max_records)

    def trained(self, directory: Path) -> MultistreamModel:
        known = read_checkpoint(directory).roles
        unknown = [role for role in self.roles if role not in known]
        return self.usable(load_checkpoint(directory, self.device, self.config.attention, unknown))

    def usable(self, model: MultistreamModel) -> MultistreamModel:
        check_vocabulary(self.metadata, model)
        return model.eval()

    def reporting(self, phase: str, total: int) -> Callable[[int], None] | None:
        progress = self.progress
        return None if progress is None else lambda records: progress(phase, records, total)

    def losses(self, phase: str, model: MultistreamModel, grids: Iterable[TokenGrid] | None = None) -> HeldOut:
        """Losses on some records, or on all."""
        return held_out(
            model,
            self.grids() if grids is None else grids,
            self.metadata,
            mask=self.checkpoint.mask,
            max_cells=self.config.max_cells,
            precision=self.config.precision,
            progress=self.reporting(phase, self.total),
        )

    def permuted(self) -> Iterator[TokenGrid]:
        return shuffled_inputs(self.grids(), eom_id=self.metadata.eom_id)

    def trained_control(self, directory: Path) -> HeldOut:
        return self.losses("control", self.trained(directory), self.permuted())

    def control(self, name: str, model: MultistreamModel) -> HeldOut:
        """The checkpoint under one of ``settings.CONTROLS``; ``untrained_embedding``, which comes last, spoils it."""
        if name == "permuted_at_test":
            return self.losses(name, model, self.permuted())
        if name == "turns":
            lag, eom = self.metadata.lag, self.metadata.eom_id
            laid = turns_grids(self.grids(), self.events(), lag=lag, eom_id=eom, counters=self.turns)
            return self.losses(name, model, laid)
        with torch.no_grad():
            model.streams.role.weight.zero_()
            model.streams.slot.weight.zero_()
        return self.losses(name, model)

    def generated(self, phase: str, model: MultistreamModel, grids: Sequence[TokenGrid]) -> Iterator[TokenGrid]:
        with torch.no_grad(), autocast(self.device, self.config.precision):
            yield from generated(model, self.metadata, self.checkpoint.mask, grids, self.reporting(phase, len(grids)))

    def generation(self, model: MultistreamModel, bootstrap: Bootstrap) -> Generation | None:
        """Free generation on the first records that are short enough; None if it is turned off."""
        if not self.config.generate_records:
            return None
        rows = min(self.config.generate_rows, model.max_rows // 2)
        chosen, longer = chosen_records(self.grids(), self.config.generate_records, rows)
        pairs = list(zip(chosen, self.generated("generation", model, chosen), strict=True))
        return examine(pairs, self.metadata.eom_id, bootstrap, passed_over=longer, text=self.text)

    def injection(self, model: MultistreamModel, bootstrap: Bootstrap) -> Injection | None:
        """Planted instructions; None if it is turned off."""
        if not self.config.injection_records:
            return None
        if self.text is None or not self.records:
            return Injection(note="needs the record shards" if self.text else "needs the data's tokenizer")
        eom, rows = self.metadata.eom_id, model.max_rows // 2
        planted, unplaced = find_planted(
            self.grids(), self.records, self.text, eom, limit=self.config.injection_records, max_rows=rows
        )
        return measure(
            planted,
            unplaced,
            bootstrap,
            losses=lambda grids: self.losses("injection", model, grids),
            generated=lambda grids: self.generated("injection", model, grids),
            text=self.text,
            eom_id=eom,
            lag=self.metadata.lag,
            generate_records=self.config.generate_records,
        )


def _check_control(checkpoint: Checkpoint, control: Checkpoint, path: Path) -> None:
    """A control differs from the checkpoint in its permuted inputs and nothing else that training depends on."""
    if not control.training.get("shuffle_inputs"):
        raise TrainingError(f"{path} is no control: train it with shuffle_inputs")
    names = {*checkpoint.training, *control.training} - _NOT_TRAINING
    differing = sorted(name for name in names if checkpoint.training.get(name) != control.training.get(name))
    if differing or (checkpoint.token_grid, checkpoint.base_model) != (control.token_grid, control.base_model):
        raise TrainingError(
            f"the control {path} was trained with another {', '.join(differing) or 'tokenizer or base model'}"
        )


def _check_same_tokenizer(trained: GridMetadata, tested: GridMetadata) -> None:
    """All but ``lag`` must agree: the price of overlap is measured on layouts of different lag."""
    if replace(trained, lag=tested.lag) != tested:
        raise TrainingError(
            f"the checkpoint was trained with tokenizer {trained.tokenizer!r} ({trained.tokenizer_sha256[:12]}), "
            f"the test split has {tested.tokenizer!r} ({tested.tokenizer_sha256[:12]}); use the data of that tokenizer"
        )
