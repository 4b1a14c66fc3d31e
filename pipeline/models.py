"""Where a model's name leads: the packaged model, a folder, or a Hub id."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.faults import client_errors, told
from pipeline.manifest import sha256_file

#: The name of the packaged model.
PACKAGED = "smollm2"


class ModelError(PipelineError):
    """A model that is not there."""


#: The file that says that a folder is a checkpoint: as ``pipeline.training.model``, which needs torch, has it.
CHECKPOINT_FILE = "multistream.json"


def resolve_model(model: str) -> Path:
    """The folder of a model: ``smollm2`` (packaged), a folder with ``config.json``, or a Hub id, which is fetched.

    Raises ModelError; StoreError where the Hub may answer another time.
    """
    if model == PACKAGED:
        from pipeline.packaged import PackagedModelError, model_dir

        try:
            return model_dir()
        except PackagedModelError as error:
            raise ModelError(str(error)) from error
    if (path := local_model(model)) is not None:
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "tokenizer*"]))
    except client_errors() as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise told(error, f"model {model!r} could not be fetched from the Hub: {said}", ModelError) from error


def local_model(model: str) -> Path | None:
    """The folder that a model's name leads to, where it is one here; None for a Hub id. Raises ModelError."""
    path = Path(model).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(f"{model} is no model folder: it has no config.json")
        return path
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(f"model {model!r} is not there; use smollm2 (packaged), a folder, or a Hub id (owner/name)")
    return None


def check_model(model: str) -> None:
    """Looks whether a model is there, as far as can be told without fetching or making it. Raises ModelError."""
    if model != PACKAGED:
        local_model(model)
        return
    from pipeline.packaged import PackagedModelError, gguf_file

    try:
        gguf_file()
    except PackagedModelError as error:
        raise ModelError(str(error)) from error


def name_of(model: str) -> str:
    """What a model is called where its place must not matter: a folder's own name; any other name as it is."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() else model


def quiet_transformers() -> None:
    """Takes transformers' own progress bars away: the stages have theirs."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def model_digest(path: Path) -> str:
    """A digest of a model's configuration and weights."""
    files = sorted([path / "config.json", *path.glob("*.safetensors")])
    return "+".join(sha256_file(file)[:16] for file in files if file.is_file())
