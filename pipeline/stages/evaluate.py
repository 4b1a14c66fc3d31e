"""The evaluate stage: the checkpoint against its base model on the test split, a report, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.evaluate import EvaluateConfig, TextCodec, evaluate
from pipeline.manifest import MANIFEST, Manifest, Output, Result, output_of, run_stage
from pipeline.models import model_digest, quiet_transformers, resolve_model
from pipeline.plan import Plan
from pipeline.tokenization import TextTokenizer, TokenizerError, load_tokenizer
from pipeline.training.grid import GridMetadata, TrainingError
from pipeline.training.model import read_checkpoint

STAGE, VERSION = "evaluate", 2


def plan(dataset: Manifest, checkpoint: Manifest, base: Path, config: EvaluateConfig, digests: bool = True) -> Plan:
    """What the report depends on. ``base``: the folder of the model that was fine-tuned. ``digests`` false: "" as models'."""
    models = {"model": base, **({} if config.control is None else {"control": config.control})}
    inputs = {"dataset": dataset.digest(), "checkpoint": checkpoint.digest()}
    inputs |= {name: model_digest(place) if digests else "" for name, place in models.items()}
    return Plan(STAGE, VERSION, {**asdict(config), "control": config.control is not None}, inputs)


def evaluate_stage(
    dataset: Result,
    checkpoint: Result,
    model: str,
    directory: Path,
    config: EvaluateConfig,
    fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Writes ``report.md``, ``report.json`` and plots; the gate's failures are in the manifest's notes."""
    quiet_transformers()
    base = resolve_model(model)
    planned = plan(dataset.manifest, checkpoint.manifest, base, config)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        dataset.fetch()
        checkpoint.fetch()
        try:
            text = text_codec(checkpoint.directory, read_checkpoint(checkpoint.directory).token_grid)
            result = evaluate(checkpoint.directory, base, dataset.directory, directory, config, progress, text)
        except TrainingError as error:
            raise PipelineError(f"evaluation: {error}") from error
        files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
        counters = {
            "in": result.after.records,
            "out": result.after.records - result.after.over_budget,
            "rejected": result.after.over_budget,
            "text_loss_before": result.before.total.text_loss,
            "text_loss_after": result.after.total.text_loss,
            "silence_loss_before": result.before.total.silence_loss,
            "silence_loss_after": result.after.total.silence_loss,
        }
        return (
            [output_of(p, directory) for p in files],
            counters,
            {"gate_failures": [asdict(f) for f in result.failures], "tokenizer_found": text is not None},
        )

    return run_stage(directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh)


def text_codec(checkpoint: Path, metadata: GridMetadata) -> TextCodec | None:
    """The data's tokenizer: the one beside the checkpoint, or the one of that name; None where neither is the same."""
    beside = [str(checkpoint)] if (checkpoint / "tokenizer.json").is_file() else []
    for spec in (*beside, metadata.tokenizer):
        try:
            tokenizer = load_tokenizer(spec)
        except TokenizerError:
            continue
        if tokenizer.sha256 == metadata.tokenizer_sha256:
            return _codec(tokenizer)
    return None


def _codec(tokenizer: TextTokenizer) -> TextCodec:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode([text]).ids.tolist()
        return ids

    return TextCodec(encode, tokenizer.decode)
