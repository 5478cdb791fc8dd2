"""Attention within the episodes of a packed row: causal in each, blind to every other one.

Narrow rows use one call with a dense mask, which is what a tiny model on a CPU is fastest with. Wider rows would
spend their time on masked pairs: there every episode is attended to by itself, on a GPU in one kernel
(`torch.nn.attention.varlen`), elsewhere one call after the other.

Legend: R rows, T tokens of a row, N attention heads, D head size.
"""

import itertools
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from components.train.packing import PackedRows

PACKED = "searchr1_packed"
"""Name of the attention in a model's configuration."""
DENSE_MASK_TOKENS = 512
"""Widest row that is cheaper with a dense mask."""


def attention_arguments(model: Any, rows: PackedRows) -> dict[str, Any]:
    """Return what to pass to the backbone `model` so that packed episodes do not see each other.

    Layers look up their attention in the model's configuration, so it is set there.
    """
    if not model._supports_flash_attn:
        return {"attention_mask": rows.attention_mask(next(model.parameters()).dtype)}
    model.config._attn_implementation = PACKED
    if rows.ids_RT.shape[1] <= DENSE_MASK_TOKENS:
        return {"attention_mask": rows.attention_mask(torch.float32)}
    starts = rows.segment_starts
    return {"attention_mask": None, "segment_starts": starts, "longest_segment": rows.longest_segment}


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_starts: torch.Tensor | None = None,
    longest_segment: int = 0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention over [R, N, T, D] inputs as [R, T, N, D].

    With `segment_starts` (first token of every segment and the end of the last one, [segments + 1], int32) the
    rows are seen as one line of segments; without, this is the library's own attention with the given mask, so
    that a model can be trained and sampled by turns. The signature is the one Hugging Face layers call.
    """
    if segment_starts is None:
        mask = None if attention_mask is None else attention_mask.to(query.dtype)
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    num_rows, _, length, size = query.shape
    lines = [x.transpose(1, 2).reshape(num_rows * length, -1, size) for x in (query, key, value)]
    grouped = query.shape[1] != key.shape[1]
    attend_line = _attend_in_one_kernel if query.is_cuda else _attend_one_by_one
    output = attend_line(*lines, segment_starts, longest_segment, scaling, grouped)
    return output.view(num_rows, length, -1, size), None


def _attend_in_one_kernel(query, key, value, starts, longest, scaling, grouped):
    return varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=grouped
    )


def _attend_one_by_one(query, key, value, starts, longest, scaling, grouped):
    bounds = starts.tolist()
    outputs = []
    for start, end in itertools.pairwise(bounds):
        segment = [x[start:end].transpose(0, 1)[None] for x in (query, key, value)]
        found = scaled_dot_product_attention(*segment, is_causal=True, scale=scaling, enable_gqa=grouped)
        outputs.append(found[0].transpose(0, 1))
    return torch.cat(outputs)


AttentionInterface.register(PACKED, attend)
