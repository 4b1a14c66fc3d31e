"""Spot-evaluation: held-out losses of a base model and a checkpoint, latency against ``turns``, gate and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from pipeline.evaluation.gate import GateConfig, GateFailure, apply_gate
from pipeline.evaluation.heldout import HeldOut, held_out
from pipeline.evaluation.latency import LatencySummary, compare_with_turns, find_records, iter_records
from pipeline.evaluation.report import REPORT_JSON, write_report
from pipeline.training.control import shuffled_inputs
from pipeline.training.files import published_directory
from pipeline.training.grid import (
    GridMetadata,
    TrainingError,
    count_records,
    find_roles,
    find_shards,
    iter_grids,
    read_metadata,
)
from pipeline.training.loop import PRECISIONS, Precision
from pipeline.training.masks import MaskKind, check_mask
from pipeline.training.model import (
    ATTENTIONS,
    Attention,
    Checkpoint,
    MultistreamModel,
    check_vocabulary,
    choose_device,
    load_base,
    load_checkpoint,
    read_checkpoint,
)


@dataclass(frozen=True)
class EvaluateConfig:
    """``max_cells`` bounds a sequence; ``max_records`` the held-out records used, the first of the split (None: all).

    ``control`` is a checkpoint trained like the one evaluated but with ``TrainConfig.shuffle_inputs``; it is tested on
    shuffled inputs. Raises TrainingError on a value out of range.
    """

    max_cells: int = 2048
    max_records: int | None = None
    device: str = "auto"
    attention: Attention = "auto"
    precision: Precision = "auto"
    control: Path | None = None
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if self.max_cells < 2:
            raise TrainingError("max_cells must be at least 2")
        if self.max_records is not None and self.max_records < 1:
            raise TrainingError("max_records must be at least 1")
        if self.attention not in ATTENTIONS:
            raise TrainingError(f"attention must be one of {', '.join(ATTENTIONS)}")
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision must be one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation.

    ``untrained_roles`` occur in the held-out records only and have zero embeddings. ``latency`` is None where the split
    has no record shards, ``control`` where none was given. ``failures`` are the gate's.
    """

    mask: MaskKind
    tokenizer: str
    untrained_roles: tuple[str, ...]
    before: HeldOut
    after: HeldOut
    control: HeldOut | None
    latency: LatencySummary | None
    failures: tuple[GateFailure, ...] = ()


def evaluate(
    checkpoint_dir: Path,
    base_model_dir: Path | None,
    dataset_dir: Path,
    out_dir: Path,
    config: EvaluateConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluationResult:
    """Compare a checkpoint with its base model on ``dataset_dir``'s test split and publish a report as ``out_dir``.

    ``base_model_dir`` None is the path that the checkpoint recorded. The base model has zero stream embeddings. Both
    see every silent query. One model and one pack are in memory at a time. ``progress(phase, records, total)`` is
    called after every pack. Raises TrainingError for data that does not fit the checkpoint (tokenizer, mask) or the
    models; a gate that fails is no error but ``result.failures``.
    """
    config = config or EvaluateConfig()
    checkpoint = read_checkpoint(checkpoint_dir)
    shards = find_shards(dataset_dir, "test")
    metadata = read_metadata(shards)
    check_mask(checkpoint.mask, metadata.lag)
    _check_same_tokenizer(checkpoint.token_grid, metadata)
    if config.control is not None:
        _check_control(checkpoint, read_checkpoint(config.control), config.control)
    roles = find_roles(shards)
    device = choose_device(config.device)
    available = count_records(shards)
    total = min(available, config.max_records or available)

    def run(phase: str, model: MultistreamModel, *, shuffle: bool = False) -> HeldOut:
        check_vocabulary(metadata, model)
        grids = islice(iter_grids(shards), config.max_records)
        return held_out(
            model,
            shuffled_inputs(grids) if shuffle else grids,
            metadata,
            mask=checkpoint.mask,
            max_cells=config.max_cells,
            precision=config.precision,
            progress=None if progress is None else lambda records: progress(phase, records, total),
        )

    def trained(directory: Path) -> MultistreamModel:
        known = read_checkpoint(directory).roles
        return load_checkpoint(directory, device, config.attention, [role for role in roles if role not in known])

    base_dir = base_model_dir if base_model_dir is not None else Path(checkpoint.base_model)
    with published_directory(out_dir, REPORT_JSON) as directory:
        records = find_records(dataset_dir, "test")
        result = EvaluationResult(
            mask=checkpoint.mask,
            tokenizer=metadata.tokenizer,
            untrained_roles=tuple(role for role in roles if role not in checkpoint.roles),
            before=run("before", load_base(base_dir, roles, device, config.attention)),
            after=run("after", trained(checkpoint_dir)),
            control=run("control", trained(config.control), shuffle=True) if config.control is not None else None,
            latency=compare_with_turns(islice(iter_records(records), config.max_records)) if records else None,
        )
        result = replace(result, failures=tuple(apply_gate(result, config.gate)))
        write_report(directory, result)
    return result


def _check_control(checkpoint: Checkpoint, control: Checkpoint, path: Path) -> None:
    """A control differs from the checkpoint in its shuffled inputs and nothing else that training depends on."""
    if not control.training.get("shuffle_inputs"):
        raise TrainingError(f"{path} is no control: train it with shuffle_inputs")
    names = {*checkpoint.training, *control.training} - {"shuffle_inputs", "device"}
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
