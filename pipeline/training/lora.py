"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: on every linear layer but the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.training.files import writing
from pipeline.training.grid import TrainingError
from pipeline.training.model import MultistreamModel
from pipeline.training.settings import TrainConfig

ADAPTER_FOLDER = "adapter"


def add_lora(model: MultistreamModel, config: TrainConfig) -> Any:
    """Freezes ``model.causal_lm`` and puts adapters into its layers, in place; its stream embeddings train on fully.

    Returns peft's model around it. Raises TrainingError where peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError("lora_rank needs peft: pip install peft, or set lora_rank 0") from error
    return get_peft_model(
        model.causal_lm,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )


def publish_lora(adapted: Any, directory: Path) -> None:
    """Saves the adapter as ``directory/adapter`` and merges it into the weights, in place."""
    folder = directory / ADAPTER_FOLDER
    with writing(folder):
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a form that peft leaves to be filled in
    adapted.merge_and_unload()
