"""Where a model's name leads: the packaged model, a folder, or a Hub id."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import sha256_file


class ModelError(PipelineError):
    """A model that is not there."""


def resolve_model(model: str) -> Path:
    """The folder of a model: ``smollm2`` (packaged), a folder with ``config.json``, or a Hub id. Raises ModelError."""
    if model == "smollm2":
        from pipeline.packaged import PackagedModelError, model_dir

        try:
            return model_dir()
        except PackagedModelError as error:
            raise ModelError(str(error)) from error
    path = Path(model).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(f"{model} is no model folder: it has no config.json")
        return path
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(f"model {model!r} is not there; use smollm2 (packaged), a folder, or a Hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "tokenizer*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"model {model!r} could not be fetched from the Hub: {str(error).splitlines()[0]}") from error


def quiet_transformers() -> None:
    """Takes transformers' own progress bars away: the stages have theirs."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def model_digest(path: Path) -> str:
    """A digest of a model's configuration and weights."""
    files = sorted([path / "config.json", *path.glob("*.safetensors")])
    return "+".join(sha256_file(file)[:16] for file in files if file.is_file())
