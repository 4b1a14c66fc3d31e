"""The model that training starts from: its files, loaded whole or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipeline.training.grid import TrainingError

#: Architectures of one form: token embeddings, rotary positions, decoder layers that take a 4D mask, one head.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
#: Fields of a generation config that only sampling reads.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
#: What transformers raises for files that are damaged, for a config that makes no model, and for a missing gguf package.
_UNLOADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def load_causal_lm(model_dir: Path, attention: str) -> PreTrainedModel:
    """The model of a transformers directory, a ``.gguf`` file, or a directory with one ``.gguf`` file, in float32.

    Raises TrainingError where there is none of ``MODEL_TYPES``, where files are damaged, and where the weights are not those
    that the config describes: what a file lacks would be random.
    """
    directory, gguf = _model_files(model_dir)
    try:
        config = AutoConfig.from_pretrained(directory, gguf_file=gguf)
        if config.model_type not in MODEL_TYPES:
            raise TrainingError(f"{model_dir} is a {config.model_type} model, none of {', '.join(MODEL_TYPES)}")
        causal_lm, loaded = AutoModelForCausalLM.from_pretrained(
            directory,
            gguf_file=gguf,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except TrainingError:
        raise
    except _UNLOADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrainingError(f"{model_dir} holds no loadable model: {reason[:300]}") from error
    _check_weights(model_dir, loaded)
    _mend_generation(model_dir, causal_lm)
    if gguf is not None:
        _forget_quantization(causal_lm)
    return cast(PreTrainedModel, causal_lm)


def _model_files(model_dir: Path) -> tuple[Path, str | None]:
    """The directory to load from, and the GGUF file in it where the model is one."""
    if model_dir.is_file() and model_dir.suffix == ".gguf":
        return model_dir.parent, model_dir.name
    if not model_dir.is_dir():
        raise TrainingError(f"{model_dir} is no model directory and no .gguf file")
    if (model_dir / "config.json").is_file():
        return model_dir, None
    files = sorted(model_dir.glob("*.gguf"))
    if len(files) != 1:
        raise TrainingError(f"{model_dir} holds neither config.json nor exactly one .gguf file")
    return model_dir, files[0].name


def _check_weights(model_dir: Path, loaded: dict[str, Any]) -> None:
    """Raises TrainingError where the files lack weights of the model, or hold layers or shapes that it has not."""
    layers = {name for name in loaded["unexpected_keys"] if ".layers." in name and "rotary_emb" not in name}
    shapes = {str(key[0] if isinstance(key, tuple) else key) for key in loaded["mismatched_keys"]}
    for what, names in (
        ("lack", loaded["missing_keys"]),
        ("have another shape of", shapes),
        ("have what its config.json has not:", layers),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrainingError(f"{model_dir} is no whole model: its weights {what} {min(names)}{more}")


def _mend_generation(model_dir: Path, causal_lm: PreTrainedModel) -> None:
    """Drops settings of sampling from a model that does not sample, which transformers loads and refuses to save.

    Raises TrainingError for a generation config that cannot be saved all the same.
    """
    generation = causal_lm.generation_config
    if generation is None:
        return
    if not generation.do_sample:
        for name in SAMPLING:
            setattr(generation, name, None)
    try:
        generation.validate(strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{model_dir}: generation_config.json cannot be saved again, mend it: {reason}") from error


def _forget_quantization(causal_lm: PreTrainedModel) -> None:
    """A model read from GGUF is dense; drop the marks that make ``save_pretrained`` think otherwise."""
    for owner, names in (
        (causal_lm, ("hf_quantizer", "quantization_method", "is_quantized")),
        (causal_lm.config, ("quantization_config",)),
    ):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)
