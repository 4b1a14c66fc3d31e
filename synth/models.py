"""Where a model's name leads, and its chat template without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import packaged
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


def check_length(prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
    """Raise SynthError where a prompt and its longest answer exceed the context."""
    if prompt_tokens + max_tokens > max_model_len:
        raise SynthError(
            f"a prompt of {prompt_tokens} tokens and max_tokens {max_tokens} exceed engine.max_model_len "
            f"{max_model_len}: raise it, or shorten the scenario"
        )
