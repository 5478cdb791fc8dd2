"""Attention by segments against a slow one that spells out every weight, on a CPU and, where there is one, on a GPU.

Legend: T tokens in one line, N query heads, K key heads, D head size.
"""

import itertools

import pytest
import torch

from components.train.attention import attend

SEGMENTS_TOKENS = (1, 7, 130, 64, 2)
QUERY_HEADS, HEAD_SIZE = 4, 64
SCALING = 0.2

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the kernel for GPUs is not compared")
PLACES = [
    pytest.param("cpu", torch.float32, 1e-5, id="cpu"),
    # bfloat16 keeps 8 bits: sums over 130 values of about 1 are off by their rounding, no more.
    pytest.param("cuda", torch.bfloat16, 3e-2, id="gpu", marks=on_a_gpu),
]


def spelt_out(query_TND, key_TKD, value_TKD, starts):
    """Return causal attention within each segment, [T, N, D], a token and a head at a time."""
    heads_per_key = query_TND.shape[1] // key_TKD.shape[1]
    rows = []
    for start, end in itertools.pairwise(starts):
        for token in range(start, end):
            heads = []
            for head in range(query_TND.shape[1]):
                shared = head // heads_per_key
                scores = key_TKD[start : token + 1, shared] @ query_TND[token, head] * SCALING
                heads.append(scores.softmax(0) @ value_TKD[start : token + 1, shared])
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("key_heads", [4, 2], ids=["heads alike", "two heads share keys"])
@pytest.mark.parametrize(("device", "dtype", "tolerance"), PLACES)
def test_segments_attend_as_spelt_out(device, dtype, tolerance, key_heads):
    torch.manual_seed(0)
    starts = [0, *itertools.accumulate(SEGMENTS_TOKENS)]
    inputs = [torch.randn(starts[-1], heads, HEAD_SIZE) for heads in (QUERY_HEADS, key_heads, key_heads)]
    upstream_TND = torch.randn(starts[-1], QUERY_HEADS, HEAD_SIZE)
    exact = [x.to(dtype).double().requires_grad_() for x in inputs]
    expected_TND = spelt_out(*exact, starts)
    expected_TND.backward(upstream_TND.to(dtype).double())

    found = [x.to(device, dtype).requires_grad_() for x in inputs]
    output, _ = attend(
        torch.nn.Module(),
        *(x.transpose(0, 1)[None] for x in found),
        None,
        segment_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        longest_segment=max(SEGMENTS_TOKENS),
        scaling=SCALING,
    )
    output[0].backward(upstream_TND.to(device, dtype))

    assert torch.allclose(output[0].cpu().double(), expected_TND, atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(found, exact, strict=True):
        assert torch.allclose(ours.grad.cpu().double(), theirs.grad, atol=tolerance * 5, rtol=tolerance)
