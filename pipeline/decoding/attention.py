"""Attention of a few queries to a long cache, without copying the cache.

Where several query heads share a key head, transformers' own SDPA repeats keys and values for each of them, in every
layer and row. Here the query heads of a key head stand one behind the other as queries instead: the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

#: The name that this attention has among transformers' own.
ATTENTION = "multistream_decoding"
#: Above so many queries (a prefill) repeating the keys costs less than repeating the mask.
MOST_FOLDED = 64


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype, model: PreTrainedModel) -> torch.Tensor:
    """The mask that ``attending`` takes: bool [n, S, K] → [n, 1, S, K], or with the S queries repeated for every head of
    a group where they are few."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))[:, None]
    groups = int(model.config.num_attention_heads) // int(model.config.num_key_value_heads)
    return mask.repeat(1, 1, groups, 1) if groups > 1 and allowed.shape[1] <= MOST_FOLDED else mask


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model attends this way, whatever attention it was loaded with."""
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: queries [n, heads, S, d] → [n, S, heads, d]; no dropout."""
    n, heads, length, size = query.shape
    if attention_mask.shape[2] == length:
        out, _weights = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)
        return out, None
    folded = query.reshape(n, key.shape[1], -1, size)
    mixed = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.reshape(n, heads, length, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
