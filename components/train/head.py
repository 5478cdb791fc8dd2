"""Log-probability and entropy of given tokens without ever holding the logits of all of them.

The logits of a chunk exist in float32 while the chunk is computed, and are computed again in the backward pass:
a vocabulary of 152,000 makes every kept copy 600 kB a token.
Legend: M tokens, K tokens of a chunk, H hidden size, V vocabulary.
"""

import torch

LOGITS_PER_CHUNK = 1 << 28
"""Elements of the largest chunk of logits: 1 GiB in float32, 1,700 tokens of a vocabulary of 152,000."""


def head_logprobs(
    hidden_MH: torch.Tensor, weight_VH: torch.Tensor, targets_M: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (log-probability of each target, entropy of its distribution), both [M], float32.

    The distribution is softmax(hidden @ weight.T / temperature), computed in float32 from the given precision.
    """
    return _HeadLogprobs.apply(hidden_MH, weight_VH, targets_M, temperature)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_MH, weight_VH, targets_M, temperature):
        logprobs_M = torch.empty(len(hidden_MH), dtype=torch.float32, device=hidden_MH.device)
        entropy_M = torch.empty_like(logprobs_M)
        for chunk in _chunks(len(hidden_MH), len(weight_VH)):
            all_logprobs_KV = _logprobs(hidden_MH[chunk], weight_VH, temperature)
            logprobs_M[chunk] = all_logprobs_KV.gather(-1, targets_M[chunk, None])[:, 0]
            entropy_M[chunk] = _entropy(all_logprobs_KV)
        ctx.save_for_backward(hidden_MH, weight_VH, targets_M, entropy_M)
        ctx.temperature = temperature
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx, grad_logprobs_M, grad_entropy_M):
        hidden_MH, weight_VH, targets_M, entropy_M = ctx.saved_tensors
        grad_hidden_MH = torch.empty_like(hidden_MH)
        grad_weight_VH = torch.zeros(weight_VH.shape, dtype=torch.float32, device=weight_VH.device)
        for chunk in _chunks(len(hidden_MH), len(weight_VH)):
            logprobs_KV = _logprobs(hidden_MH[chunk], weight_VH, ctx.temperature)
            # d logp(target) / d logits = onehot - p; d entropy / d logits = -p (log p + entropy)
            pull_KV = logprobs_KV + entropy_M[chunk, None]
            pull_KV.mul_(grad_entropy_M[chunk, None]).add_(grad_logprobs_M[chunk, None])
            grad_logits_KV = logprobs_KV.exp_().mul_(pull_KV).neg_()
            grad_logits_KV.scatter_add_(-1, targets_M[chunk, None], grad_logprobs_M[chunk, None])
            grad_logits_KV = grad_logits_KV.div_(ctx.temperature).to(weight_VH.dtype)
            grad_hidden_MH[chunk] = grad_logits_KV @ weight_VH
            grad_weight_VH += _matmul(grad_logits_KV.T, hidden_MH[chunk])
        return grad_hidden_MH, grad_weight_VH.to(weight_VH.dtype), None, None


def _chunks(num_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // vocabulary)
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def _logprobs(hidden_KH: torch.Tensor, weight_VH: torch.Tensor, temperature: float) -> torch.Tensor:
    logits_KV = _matmul(hidden_KH, weight_VH.T).div_(temperature)
    return logits_KV.sub_(logits_KV.logsumexp(-1, keepdim=True))


def _entropy(logprobs_KV: torch.Tensor) -> torch.Tensor:
    return -(logprobs_KV.exp() * logprobs_KV).sum(-1)


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b in float32; a GPU multiplies half precision into float32 without a copy of either."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
