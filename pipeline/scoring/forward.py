"""The forward pass over a forest: a stock Llama of transformers whose attention follows the forest's plan.

On the CPU every block of queries attends to just the keys that it needs, with a dense mask; on CUDA a wave is one call of
FlexAttention. Both masks are those of ``pipeline.training.masks``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from pipeline.errors import InputError
from pipeline.models import quiet_transformers
from pipeline.scoring.forest import Block, Forest, Wave
from pipeline.training.masks import Int64Array, tree_mask_mod

Backend = Literal["sdpa", "flex_attention"]
Float32Array = npt.NDArray[np.float32]

#: The name that the attention over a forest has among transformers' own.
ATTENTION = "multistream_forest"
#: Hidden states and tokens of the vocabulary whose logits are computed at once: on a CPU a tile that its cache holds.
LOGIT_TOKENS, LOGIT_IDS = 256, 8192
#: Weights of attention that are computed at once on a CPU: as many as the cache of a core holds.
_TILE_ENTRIES = 1 << 19
#: FlexAttention on CUDA works in tiles of this many queries and keys; a wave is filled up to whole tiles.
_TILE = 128
#: A preorder number behind all others.
_LAST = int(np.iinfo(np.int32).max) - 1
_compiled_flex: Callable[..., torch.Tensor] | None = None


@dataclass
class KeyCache:
    """Keys and values of the tokens that later waves look back on: per layer two tensors [key heads, slots, head size]."""

    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def layer(self, index: int, capacity: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tensors of a layer, with room for ``capacity`` slots."""
        there = self.layers.get(index)
        if there is None or there[0].shape[1] < capacity:
            room = capacity if there is None else max(capacity, there[0].shape[1] * 3 // 2)
            grown = tuple(like.new_zeros((like.shape[0], room, like.shape[2])) for _ in range(2))
            for old, new in zip(there or (), grown, strict=False):
                new[:, : old.shape[1]] = old
            self.layers[index] = there = (grown[0], grown[1])
        return there


class TreeModel:
    """A Llama model that scores forests. ``calls``: forward passes so far."""

    def __init__(self, llama: LlamaForCausalLM, backend: Backend) -> None:
        AttentionInterface.register(ATTENTION, _attend)
        llama.set_attn_implementation(ATTENTION)
        self.llama = llama.eval()
        self.backend = backend
        self._linear = _linear(llama.device)

    @property
    def cache_bytes(self) -> int:
        """Bytes of a token's keys and values."""
        config = self.llama.config
        heads: int = config.num_key_value_heads * config.head_dim
        return 2 * int(config.num_hidden_layers) * heads * int(self.llama.dtype.itemsize)

    @torch.inference_mode()
    def hidden(self, wave: Wave, cache: KeyCache, capacity: int, fill: int) -> torch.Tensor:
        """Last hidden states [W, H] of a wave. ``fill``: its length on CUDA, so that compiled kernels meet one shape."""
        device = self.llama.device
        ids, positions = torch.from_numpy(wave.ids), torch.from_numpy(wave.positions)
        attention: _Attention
        if self.backend == "sdpa":
            attention = _BlockAttention(wave, cache, capacity, device)
        else:
            length = -(-max(fill, len(ids)) // _TILE) * _TILE
            attention = _FlexAttention(wave, cache, capacity, device, length)
            ids, positions = (torch.nn.functional.pad(x, (0, length - len(x))) for x in (ids, positions))
        output = self.llama.model(
            input_ids=ids[None].to(device), position_ids=positions[None].to(device), use_cache=False, forest=attention
        )
        states: torch.Tensor = output.last_hidden_state[0, : len(wave.ids)]
        return states

    @torch.inference_mode()
    def log_probabilities(self, hidden: torch.Tensor, targets: Int64Array) -> Float32Array:
        """log p of a token after each hidden state [N, H], in nats: float32 [N]."""
        goals = torch.from_numpy(targets).to(hidden.device)
        parts = zip(torch.split(hidden, LOGIT_TOKENS), torch.split(goals, LOGIT_TOKENS), strict=True)
        values: Float32Array = torch.cat([self._part_of_it(states, goal) for states, goal in parts]).cpu().numpy()
        return values

    def _part_of_it(self, states: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        head = self.llama.lm_head.weight
        of_goal = torch.empty(len(goal), device=goal.device)
        sums = []
        for first in range(0, len(head), LOGIT_IDS):
            logits = self._linear(states, head[first : first + LOGIT_IDS]).float()
            inside = ((goal >= first) & (goal < first + LOGIT_IDS)).nonzero()[:, 0]
            of_goal[inside] = logits[inside, goal[inside] - first]
            highest = logits.amax(1)
            sums.append(logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest))
        return of_goal - torch.stack(sums).logsumexp(0)


class Session:
    """One forest being scored by a model; what was computed stays for sequences that are added later."""

    def __init__(self, model: TreeModel, forest: Forest, wave_tokens: int) -> None:
        self.forest = forest
        self._model = model
        self._cache = KeyCache()
        self._wave_tokens = wave_tokens

    def log_probabilities(self, after: Int64Array, targets: Int64Array) -> Float32Array:
        """Computes what the forest has not computed yet; log p of ``targets`` after its tokens ``after``: float32 [N].

        ``after`` must be among the tokens that are computed by this call.
        """
        values = np.full(len(after), np.nan, np.float32)
        asked = np.argsort(after, kind="stable")
        for wave in self.forest.plan(self._wave_tokens):
            hidden = self._model.hidden(wave, self._cache, self.forest.capacity, self._wave_tokens)
            place = np.argsort(wave.tokens, kind="stable")
            tokens = wave.tokens[place]
            low = np.searchsorted(after[asked], tokens, side="left")
            high = np.searchsorted(after[asked], tokens, side="right")
            wanted = np.flatnonzero(high > low)
            if not len(wanted):
                continue
            requests = asked[np.concatenate([np.arange(a, b) for a, b in zip(low[wanted], high[wanted], strict=True)])]
            states = hidden[torch.from_numpy(np.repeat(place[wanted], (high - low)[wanted])).to(hidden.device)]
            values[requests] = self._model.log_probabilities(states, targets[requests])
        assert not np.isnan(values).any(), "a token was asked for that an earlier call had computed"
        return values


def load(path: Path, device: torch.device) -> TreeModel:
    """A Llama model from a folder: float32 and SDPA on the CPU, bfloat16 and FlexAttention on CUDA. Raises InputError."""
    quiet_transformers()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        kind = AutoConfig.from_pretrained(path).model_type
        if kind != "llama":
            raise InputError(f"{path} is a {kind} model; scoring needs a llama model")
        llama = LlamaForCausalLM.from_pretrained(path, dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no loadable model: {str(error).splitlines()[0]}") from error
    use_onednn(llama)
    return TreeModel(llama, "sdpa" if device.type == "cpu" else "flex_attention")


def use_onednn(llama: LlamaForCausalLM) -> None:
    """Lets the layers of a model on the CPU multiply with oneDNN where torch has it, on the same weights.

    torch gives float32 products to MKL, which leaves the wide registers of AMD's processors unused: 93 against 205
    GFLOP/s on one core of an EPYC 9005. oneDNN also takes the gate of an MLP along.
    """
    if _linear(llama.device) is torch.nn.functional.linear:
        return
    for module in list(llama.modules()):
        for name, child in list(module.named_children()):
            if type(child) is LlamaMLP and llama.config.hidden_act == "silu":
                setattr(module, name, _OneDnnMlp(child))
            elif type(child) is torch.nn.Linear:
                setattr(module, name, _OneDnnLinear(child))


class _OneDnnLinear(torch.nn.Module):
    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _onednn_linear(x, self.weight, self.bias)


class _OneDnnMlp(torch.nn.Module):
    """down(silu(gate(x)) · up(x))"""

    def __init__(self, mlp: LlamaMLP) -> None:
        super().__init__()
        self.gate, self.up, self.down = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise
        gate = multiply(x, self.gate.weight, self.gate.bias, "swish", [], "")
        gated = multiply.binary(x, gate, self.up.weight, self.up.bias, "mul")
        return _onednn_linear(gated, self.down.weight, self.down.bias)


def _linear(device: torch.device) -> Callable[..., torch.Tensor]:
    """x · weightᵀ (+ bias) on a device."""
    there = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return _onednn_linear if device.type == "cpu" and there else torch.nn.functional.linear


def _onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _Attention(ABC):
    """Attention of one wave; called by every layer with queries [heads, W, d], keys and values [key heads, W, d]."""

    def __init__(self, wave: Wave, cache: KeyCache, capacity: int, device: torch.device) -> None:
        self._cache, self._capacity = cache, capacity
        self._keep, self._keep_slots = (torch.from_numpy(x).to(device) for x in (wave.keep, wave.keep_slots))

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """[heads, W, d]."""
        old_keys, old_values = self._cache.layer(layer, self._capacity, key)
        out = self._look(query, key, value, old_keys, old_values, scale)
        old_keys[:, self._keep_slots] = key[:, self._keep]
        old_values[:, self._keep_slots] = value[:, self._keep]
        return out

    @abstractmethod
    def _look(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        old_keys: torch.Tensor,
        old_values: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor:
        """What the wave's queries find in the old keys and in those of the wave."""


class _BlockAttention(_Attention):
    def __init__(self, wave: Wave, cache: KeyCache, capacity: int, device: torch.device) -> None:
        super().__init__(wave, cache, capacity, device)
        self._blocks = [(block, *_block_tensors(block, device)) for block in wave.blocks]

    def _look(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        old_keys: torch.Tensor,
        old_values: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor:
        out = torch.empty_like(query)
        attend = _sdpa if _linear(query.device) is torch.nn.functional.linear else _onednn_attention
        for block, slots, fresh, bias in self._blocks:
            k = torch.cat([old_keys.index_select(1, slots), key.index_select(1, fresh)], dim=1)
            v = torch.cat([old_values.index_select(1, slots), value.index_select(1, fresh)], dim=1)
            out[:, block.low : block.high] = attend(query[:, block.low : block.high], k, v, bias, scale)
        return out


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Attention of queries [heads, L, d] on keys and values [key heads, N, d] with an additive mask [L, N]."""
    mask = bias.to(q.dtype)
    return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scale, enable_gqa=True)[0]


def _onednn_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """``_sdpa`` in float32 by products of oneDNN, in tiles of queries whose weights the cache of a core holds."""
    heads, length, size = q.shape
    per_key = heads // len(k)
    q = (q * (size**-0.5 if scale is None else scale)).view(len(k), per_key, length, size)
    v = v.transpose(1, 2).contiguous()
    out = torch.empty_like(q)
    tile = max(16, _TILE_ENTRIES // (per_key * k.shape[1]))
    for low in range(0, length, tile):
        high = min(low + tile, length)
        for head in range(len(k)):
            weights = _onednn_linear(q[head, :, low:high].reshape(-1, size), k[head])
            weights.view(per_key, high - low, -1).add_(bias[low:high])
            out[head, :, low:high] = _onednn_linear(weights.softmax(-1), v[head]).view(per_key, high - low, size)
    return out.view(heads, length, size)


def _block_tensors(block: Block, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots, places and the additive mask of a block; made once, since every layer needs them."""
    visible = torch.from_numpy(block.visible).to(device)
    bias = torch.zeros(visible.shape, device=device).masked_fill_(~visible, float("-inf"))
    return torch.from_numpy(block.slots).to(device), torch.from_numpy(block.fresh).to(device), bias


class _FlexAttention(_Attention):
    """One call per layer: all slots of the cache that the wave looks at, and the wave, filled up to ``length``."""

    def __init__(self, wave: Wave, cache: KeyCache, capacity: int, device: torch.device, length: int) -> None:
        super().__init__(wave, cache, capacity, device)
        self._slots = torch.from_numpy(wave.slots).to(device)
        old = -(-len(wave.slots) // _TILE) * _TILE
        self._padding = old - len(wave.slots)
        # Fillers of the wave are roots of their own, which see themselves; fillers of the cache are seen by nothing.
        fillers = _LAST - np.arange(length - len(wave.ids), dtype=np.int32)
        hidden = np.full(self._padding, _LAST, np.int32)
        query_order = np.concatenate([wave.labels.order, fillers])
        key_order = np.concatenate([wave.stored.order, hidden, query_order])
        key_until = np.concatenate([wave.stored.until, np.zeros_like(hidden), wave.labels.until, fillers + 1])
        visible = tree_mask_mod(*(torch.from_numpy(label).to(device) for label in (query_order, key_order, key_until)))
        self._mask = create_block_mask(visible, None, None, length, old + length, device=str(device))
        self._flex = _flex(device)

    def _look(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        old_keys: torch.Tensor,
        old_values: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor:
        k, v = (
            torch.cat([torch.nn.functional.pad(old.index_select(1, self._slots), (0, 0, 0, self._padding)), new], dim=1)
            for old, new in ((old_keys, key), (old_values, value))
        )
        out = self._flex(query[None], k[None], v[None], block_mask=self._mask, scale=scale, enable_gqa=True)
        return out[0]


def _flex(device: torch.device) -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled on CUDA: uncompiled it would build the whole matrix."""
    global _compiled_flex
    if device.type == "cpu":
        return flex_attention
    if _compiled_flex is None:
        _compiled_flex = torch.compile(flex_attention)
    return _compiled_flex


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    forest: _Attention,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [1, heads, W, d] → [1, W, heads, d]."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    return forest(layer, query[0], key[0], value[0], scaling).transpose(0, 1)[None].contiguous(), None
