"""A stock causal language model of transformers with learned stream embeddings (arXiv 2605.12460, section 5).

The input of a cell is its token embedding plus the embeddings of its stream's role and slot. Both tables start at
zero, so that an untrained model is the base model.

Llama is the model that this is made for; Mistral, Qwen2 and Qwen3 have the same form and run the same way.

A checkpoint directory holds the model as transformers saves it (``config.json``, with ``stream_roles``; safetensors),
``stream_embedding.safetensors`` (``role`` [roles + 1, H], ``slot`` [257, H]; row 0, of BOS, stays zero) and
``multistream.json`` (roles, the data's ``token_grid`` metadata, mask, base model, training settings).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers import Cache, PreTrainedModel

from pipeline.training.base import MODEL_TYPES as MODEL_TYPES
from pipeline.training.base import load_causal_lm
from pipeline.training.grid import GridMetadata, TrainingError
from pipeline.training.masks import MASK_KINDS, MaskKind, dense_mask, mask_mod
from pipeline.training.packing import Pack
from pipeline.training.settings import Attention as Attention

CHECKPOINT_FILE = "multistream.json"
CHECKPOINT_SCHEMA_ID = "multistream-checkpoint/1"
EMBEDDING_FILE = "stream_embedding.safetensors"
MAX_SLOTS = 256


@dataclass(frozen=True)
class Checkpoint:
    """What ``multistream.json`` says.

    ``roles`` in embedding order, ``base_model`` the absolute path that training started from, ``training`` the fields
    of TrainConfig, ``input_roles`` the roles that the model reads.
    """

    roles: tuple[str, ...]
    token_grid: GridMetadata
    mask: MaskKind
    base_model: str
    training: dict[str, Any]
    input_roles: tuple[str, ...] = ()


class StreamEmbedding(nn.Module):
    """Sum of a role and a slot embedding; index 0 of either means none and stays zero."""

    def __init__(self, roles: int, hidden_size: int) -> None:
        super().__init__()
        self.role = nn.Embedding(roles + 1, hidden_size, padding_idx=0)
        self.slot = nn.Embedding(MAX_SLOTS + 1, hidden_size, padding_idx=0)
        nn.init.zeros_(self.role.weight)
        nn.init.zeros_(self.slot.weight)

    def forward(self, role: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        """Index tensors int64 [...] → [..., H]."""
        return cast(torch.Tensor, self.role(role) + self.slot(slot))


class MultistreamModel(nn.Module):
    """A causal language model over packed cells. ``roles`` names the rows of the role table, from row 1."""

    def __init__(self, causal_lm: PreTrainedModel, roles: Sequence[str]) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.roles = tuple(roles)
        self.streams = StreamEmbedding(len(self.roles), causal_lm.config.hidden_size)

    @property
    def role_index(self) -> dict[str, int]:
        return {role: index for index, role in enumerate(self.roles, start=1)}

    @property
    def max_rows(self) -> int:
        """Rows of the longest record that the model has positions for; position 0 is row −1.

        A model with a sliding window takes records within one window: there the window changes nothing.
        """
        config = self.causal_lm.config
        positions = int(config.max_position_embeddings)
        window = getattr(config, "sliding_window", None)
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
        return (min(positions, int(window)) if window and slides else positions) - 1

    @property
    def uses_flex(self) -> bool:
        return bool(self.causal_lm.config._attn_implementation == "flex_attention")

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.causal_lm.device)

    def embed(self, token: torch.Tensor, role: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        """Inputs of cells, index tensors int64 [...] → [..., H]; in the type of autocast where that is on."""
        embeds = self.causal_lm.get_input_embeddings()(token) + self.streams(role, slot)
        if torch.is_autocast_enabled(embeds.device.type):
            embeds = embeds.to(torch.get_autocast_dtype(embeds.device.type))  # rotary tables take this type
        return cast(torch.Tensor, embeds)

    def states(
        self, embeds: torch.Tensor, row: torch.Tensor, attention_mask: Any, cache: Cache | None = None
    ) -> torch.Tensor:
        """Last hidden states [B, S, H] of cells [B, S, H] at rows int [B, S].

        ``attention_mask`` bool [B, 1, S, K] or a BlockMask; ``cache`` holds the keys before the S new ones.
        """
        output = self.causal_lm.base_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=(row + 1).long(),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return cast(torch.Tensor, output.last_hidden_state)

    def hidden(self, pack: Pack) -> torch.Tensor:
        """Last hidden states [S, H] of a pack's cells."""
        device = self.device
        token, row, role, slot = (
            torch.from_numpy(array).to(device)[None] for array in (pack.token, pack.row, pack.role, pack.slot)
        )
        return self.states(self.embed(token, role, slot), row, self._attention_mask(pack, device))[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., H] → logits [..., V]."""
        return cast(torch.Tensor, self.causal_lm.get_output_embeddings()(hidden))

    def _attention_mask(self, pack: Pack, device: torch.device) -> Any:
        if not self.uses_flex:
            return torch.from_numpy(dense_mask(pack.document, pack.row, pack.visible_from))[None, None].to(device)
        arrays = (torch.from_numpy(array).to(device) for array in (pack.document, pack.row, pack.visible_from))
        return create_block_mask(mask_mod(*arrays), None, None, len(pack), len(pack), device=device)


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU. Raises TrainingError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise TrainingError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(f"device is {device!r} but torch sees no GPU; use device 'cpu' or 'auto'")
    return torch.device(device)


def training_attention(attention: Attention, device: torch.device) -> Attention:
    """What ``auto`` is on a device. Raises TrainingError for FlexAttention on the CPU, where it has no gradients."""
    if attention == "flex_attention" and device.type == "cpu":
        raise TrainingError("attention 'flex_attention' cannot be trained on the CPU; use 'sdpa' or 'auto'")
    return ("flex_attention" if device.type == "cuda" else "sdpa") if attention == "auto" else attention


def load_base(
    model_dir: Path, roles: Sequence[str], device: torch.device, attention: Attention = "auto"
) -> MultistreamModel:
    """A model with fresh zero stream embeddings, float32.

    ``model_dir`` is a transformers directory, a ``.gguf`` file, or a directory with one ``.gguf`` file (these need
    the packages gguf and accelerate). ``auto`` attention is FlexAttention on CUDA, SDPA elsewhere. Raises
    TrainingError where there is no model of ``MODEL_TYPES``, its files are damaged, or its weights are not those that its
    config describes: what a file lacks would be random.
    """
    if attention == "auto":
        attention = "flex_attention" if device.type == "cuda" else "sdpa"
    causal_lm = load_causal_lm(model_dir, attention)
    return MultistreamModel(causal_lm, roles).to(device)


def check_vocabulary(metadata: GridMetadata, model: MultistreamModel) -> None:
    """Raise TrainingError where the data's token ids exceed the model's embedding."""
    embeddings = model.causal_lm.get_input_embeddings().num_embeddings
    needed = max(metadata.vocab_size, metadata.bos_id + 1, metadata.eom_id + 1, metadata.silence_id + 1)
    if needed > embeddings:
        raise TrainingError(
            f"tokenizer {metadata.tokenizer!r} needs {needed} ids, the model embeds {embeddings}; "
            "tokenize for this model"
        )


def save_checkpoint(directory: Path, model: MultistreamModel, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into an existing directory (see the module's docstring for its files).

    Raises TrainingError where transformers refuses to write the model.
    """
    model.causal_lm.config.stream_roles = list(checkpoint.roles)
    try:
        model.causal_lm.save_pretrained(directory)
    except ValueError as error:
        raise TrainingError(f"the model cannot be saved: {str(error).splitlines()[0]}") from error
    save_file(
        {"role": model.streams.role.weight.detach().cpu(), "slot": model.streams.slot.weight.detach().cpu()},
        directory / EMBEDDING_FILE,
    )
    described = {
        "schema": CHECKPOINT_SCHEMA_ID,
        "roles": list(checkpoint.roles),
        "token_grid": checkpoint.token_grid.to_json(),
        "mask": checkpoint.mask,
        "base_model": checkpoint.base_model,
        "training": checkpoint.training,
        "input_roles": list(checkpoint.input_roles),
    }
    (directory / CHECKPOINT_FILE).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read ``multistream.json``. Raises TrainingError where the directory is no checkpoint."""
    path = directory / CHECKPOINT_FILE
    try:
        described = json.loads(path.read_text())
        if described["schema"] != CHECKPOINT_SCHEMA_ID or described["mask"] not in MASK_KINDS:
            raise TrainingError(
                f"{path}: schema {described['schema']!r}, mask {described['mask']!r} are not known here"
            )
        return Checkpoint(
            roles=tuple(described["roles"]),
            token_grid=GridMetadata.from_json(described["token_grid"]),
            mask=described["mask"],
            base_model=described["base_model"],
            training=described["training"],
            input_roles=tuple(described.get("input_roles", ())),
        )
    except OSError as error:
        raise TrainingError(
            f"{directory} is not a checkpoint: {CHECKPOINT_FILE} cannot be read; train one first"
        ) from error
    except TrainingError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: {error!r}") from error


def load_checkpoint(
    directory: Path, device: torch.device, attention: Attention = "auto", extra_roles: Sequence[str] = ()
) -> MultistreamModel:
    """Load a trained model. ``extra_roles``, unseen in training, get zero embeddings after those of the checkpoint."""
    roles = read_checkpoint(directory).roles
    model = load_base(directory, (*roles, *extra_roles), device, attention)
    path = directory / EMBEDDING_FILE
    if not path.is_file():
        raise TrainingError(f"{directory} is not a checkpoint: it has no {EMBEDDING_FILE}")
    try:
        saved = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    expected = {
        "role": (len(roles) + 1, model.causal_lm.config.hidden_size),
        "slot": tuple(model.streams.slot.weight.shape),
    }
    if {name: tuple(tensor.shape) for name, tensor in saved.items()} != expected:
        raise TrainingError(f"{path} does not fit {CHECKPOINT_FILE} and the model; train again")
    with torch.no_grad():
        model.streams.role.weight[: len(roles) + 1] = saved["role"]
        model.streams.slot.weight.copy_(saved["slot"])
    return model
