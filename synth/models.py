"""Where a model's name leads, and its chat template without an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import packaged
from pipeline.manifest import canonical_json
from synth.engines import Message
from synth.errors import SynthError

PACKAGED = "smollm2"


def resolve_model(model: str) -> str:
    """A model directory or Hub id for ``model`` (``smollm2``, a directory, or a Hub id).

    Raises:
        SynthError: the packaged model is not installed, or the path is no model directory.
    """
    if model == PACKAGED:
        try:
            return str(packaged.model_dir())
        except packaged.PackagedModelError as error:
            raise SynthError(str(error)) from error
    path = Path(model).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise SynthError(f"{model} is no model directory: it has no config.json")
        return str(path)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise SynthError(f"the model directory {model} does not exist: give a directory, a Hub id, or {PACKAGED}")
    return model


def load_tokenizer(model: str) -> Any:
    """The model's transformers tokenizer, which needs a chat template.

    Raises:
        SynthError: no tokenizer there, or it has no chat template.
    """
    from transformers import AutoTokenizer

    path = resolve_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise SynthError(f"no tokenizer for {model}: {str(error).strip().splitlines()[0]}") from error
    if not getattr(tokenizer, "chat_template", None):
        raise SynthError(f"{model} has no chat template: choose an instruction-tuned model")
    return tokenizer


def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of the chat, ending where the assistant's answer starts."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def too_long(prompt_tokens: int, max_tokens: int, max_model_len: int) -> str | None:
    """What to say where a prompt and its longest answer exceed the context; None where they fit."""
    if prompt_tokens + max_tokens <= max_model_len:
        return None
    return (
        f"a prompt of {prompt_tokens} tokens and max_tokens {max_tokens} exceed engine.max_model_len "
        f"{max_model_len}: raise it, or shorten the scenario"
    )


def weights(name: str) -> dict[str, Any]:
    """Which weights a model or adapter is, as JSON values, without reading them: part of a stored answer's key.

    A folder is its name and the names, sizes and times of its files (one that was trained again is another model); what
    came from the Hub is its name and, once fetched, its commit.
    """
    path = Path(name).expanduser()
    if name != PACKAGED and path.is_dir():
        files = sorted((f.relative_to(path).as_posix(), f.stat()) for f in path.rglob("*") if f.is_file())
        listed = [[file, stat.st_size, stat.st_mtime_ns] for file, stat in files]
        return {"name": path.resolve().name, "files": hashlib.sha256(canonical_json(listed).encode()).hexdigest()}
    if name != PACKAGED:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
        if isinstance(found, str):
            return {"name": name, "commit": Path(found).parent.name}
    return {"name": name}


def adapter_rank(folder: str) -> int:
    """The rank of a LoRA adapter in PEFT's format.

    Raises:
        SynthError: the folder holds no adapter.
    """
    path = Path(folder).expanduser() / "adapter_config.json"
    try:
        rank = json.loads(path.read_text(encoding="utf-8"))["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SynthError(
            f"{folder} holds no LoRA adapter: its adapter_config.json cannot be read, or has no r"
        ) from error
    return int(rank)
