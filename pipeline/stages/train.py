"""The train stage: a checkpoint fine-tuned on the train split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest import MANIFEST, Output, Result, output_of, run_stage
from pipeline.models import model_digest, quiet_transformers, resolve_model
from pipeline.training.grid import TrainingError
from pipeline.training.loop import StepLog, TrainConfig, train

STAGE, VERSION = "train", 1


def train_stage(
    dataset: Result,
    model: str,
    directory: Path,
    config: TrainConfig,
    fresh: bool = False,
    progress: Callable[[StepLog], None] | None = None,
) -> Result:
    """Fine-tunes ``model`` and writes a checkpoint folder. Raises PipelineError."""
    quiet_transformers()
    base = resolve_model(model)
    inputs = {"dataset": dataset.manifest.digest(), "model": model_digest(base)}

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        try:
            result = train(dataset.directory, base, directory, config, progress)
        except TrainingError as error:
            raise PipelineError(f"training: {error}") from error
        files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
        counters = {
            "in": result.records,
            "out": result.records - result.over_budget,
            "rejected": result.over_budget,
            "steps": len(result.log),
            "tokens": result.tokens,
            "first_text_loss": result.log[0].text_loss,
            "last_text_loss": result.log[-1].text_loss,
        }
        return (
            [output_of(p, directory) for p in files],
            counters,
            {"model": model, "over_budget_ids": list(result.over_budget_ids)},
        )

    return run_stage(directory, STAGE, VERSION, {**asdict(config), "model": model}, inputs, work, fresh)
