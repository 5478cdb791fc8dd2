"""Log-probability and entropy of given tokens without ever holding the logits of all of them.

The logits of a chunk exist in float32 while the chunk is computed, and are computed again in the backward pass:
a vocabulary of 152,000 makes every kept copy 600 kB a token.
Legend: M tokens, K tokens of a chunk, H hidden size, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

LOGITS_PER_CHUNK = 1 << 28
"""Elements of the largest chunk of logits: 1 GiB in float32, 1,700 tokens of a vocabulary of 152,000."""


def head_logprobs(
    hidden_MH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_M: torch.Tensor,
    temperature: float,
    *,
    fused: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (log-probability of each target, entropy of its distribution), both [M], float32.

    The distribution is softmax(hidden @ weight.T / temperature), computed in float32 from the given precision.
    `fused` compiles what is done to a chunk of logits: a GPU then reads them twice, not a dozen times.
    """
    return _HeadLogprobs.apply(hidden_MH, weight_VH, targets_M, temperature, fused)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_MH, weight_VH, targets_M, temperature, fused):
        logprobs_M = torch.empty(len(hidden_MH), dtype=torch.float32, device=hidden_MH.device)
        entropy_M = torch.empty_like(logprobs_M)
        scores = _compiled(_scores) if fused else _scores
        for chunk in _chunks(len(hidden_MH), len(weight_VH)):
            logits_KV = _matmul(hidden_MH[chunk], weight_VH.T)
            logprobs_M[chunk], entropy_M[chunk] = scores(logits_KV, targets_M[chunk], temperature)
            del logits_KV
        ctx.save_for_backward(hidden_MH, weight_VH, targets_M, entropy_M)
        ctx.temperature, ctx.fused = temperature, fused
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx, grad_logprobs_M, grad_entropy_M):
        hidden_MH, weight_VH, targets_M, entropy_M = ctx.saved_tensors
        grad_hidden_MH = torch.empty_like(hidden_MH)
        grad_weight_VH = torch.zeros(weight_VH.shape, dtype=torch.float32, device=weight_VH.device)
        gradient = _compiled(_gradient) if ctx.fused else _gradient
        for chunk in _chunks(len(hidden_MH), len(weight_VH)):
            logits_KV = _matmul(hidden_MH[chunk], weight_VH.T)
            of_chunk = (x[chunk] for x in (targets_M, entropy_M, grad_logprobs_M, grad_entropy_M))
            grad_logits_KV = gradient(logits_KV, *of_chunk, ctx.temperature, weight_VH.dtype)
            grad_hidden_MH[chunk] = grad_logits_KV @ weight_VH
            grad_weight_VH += _matmul(grad_logits_KV.T, hidden_MH[chunk])
            del logits_KV, grad_logits_KV
        return grad_hidden_MH, grad_weight_VH.to(weight_VH.dtype), None, None, None


def _chunks(num_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // vocabulary)
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def _logprobs(logits_KV: torch.Tensor, temperature: float) -> torch.Tensor:
    # In place where that saves memory; compiled, it would write the logits back for nothing.
    logits_KV = logits_KV / temperature if torch.compiler.is_compiling() else logits_KV.div_(temperature)
    return logits_KV.sub_(logits_KV.logsumexp(-1, keepdim=True))


def _scores(logits_KV: torch.Tensor, targets_K: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (log-probability of each target, entropy), both [K]."""
    logprobs_KV = _logprobs(logits_KV, temperature)
    entropy_K = -(logprobs_KV.exp() * logprobs_KV).sum(-1)
    return logprobs_KV.gather(-1, targets_K[:, None])[:, 0], entropy_K


def _gradient(
    logits_KV: torch.Tensor,
    targets_K: torch.Tensor,
    entropy_K: torch.Tensor,
    grad_logprobs_K: torch.Tensor,
    grad_entropy_K: torch.Tensor,
    temperature: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the gradient of the logits, [K, V] in `dtype`.

    d logp(target) / d logits = onehot - p; d entropy / d logits = -p (log p + entropy).
    """
    logprobs_KV = _logprobs(logits_KV, temperature)
    pull_KV = logprobs_KV + entropy_K[:, None]
    pull_KV.mul_(grad_entropy_K[:, None]).add_(grad_logprobs_K[:, None])
    grad_logits_KV = logprobs_KV.exp_().mul_(pull_KV).neg_()
    if torch.compiler.is_compiling():
        # A scatter would write the chunk to memory and read it again.
        is_target_KV = torch.arange(logits_KV.shape[1], device=logits_KV.device) == targets_K[:, None]
        grad_logits_KV = grad_logits_KV + torch.where(is_target_KV, grad_logprobs_K[:, None], 0.0)
    else:
        grad_logits_KV.scatter_add_(-1, targets_K[:, None], grad_logprobs_K[:, None])
    return grad_logits_KV.div_(temperature).to(dtype)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b in float32; a GPU multiplies half precision into float32 without a copy of either."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
