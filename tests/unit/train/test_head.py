"""The chunked head against the plain computation, gradients included."""

from functools import partial

import pytest
import torch

from components.train import head
from components.train.head import head_logprobs

CASES = [
    pytest.param(1 << 28, 1.0, id="one chunk"),
    pytest.param(3 * 29, 1.0, id="chunks of three tokens, a rest of two"),
    pytest.param(1, 0.6, id="chunks of one token, temperature"),
]


def plain(hidden_MH, weight_VH, targets_M, temperature):
    logprobs_MV = (hidden_MH @ weight_VH.T / temperature).log_softmax(-1)
    return logprobs_MV.gather(-1, targets_M[:, None])[:, 0], -(logprobs_MV.exp() * logprobs_MV).sum(-1)


def drawn(dtype=torch.float32, num_tokens=11):
    torch.manual_seed(0)
    hidden_MH = torch.randn(num_tokens, 8, dtype=dtype, requires_grad=True)
    weight_VH = torch.randn(29, 8, dtype=dtype, requires_grad=True)
    return hidden_MH, weight_VH, torch.randint(29, (num_tokens,))


SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("fused", [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=SLOW)])
@pytest.mark.parametrize(("elements", "temperature"), CASES)
def test_values_and_gradients_are_those_of_the_plain_head(elements, temperature, fused, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", elements)
    hidden_MH, weight_VH, targets_M = drawn()
    pull_M, weigh_M = torch.randn(11), torch.randn(11)
    found = []
    for compute in (partial(head_logprobs, fused=fused), plain):
        logprobs_M, entropy_M = compute(hidden_MH, weight_VH, targets_M, temperature)
        loss = (pull_M * logprobs_M + weigh_M * entropy_M).sum()
        found.append((logprobs_M, entropy_M, *torch.autograd.grad(loss, (hidden_MH, weight_VH))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_float32_logits():
    hidden_MH, weight_VH, targets_M = drawn(torch.bfloat16)
    logprobs_M, _ = head_logprobs(hidden_MH, weight_VH, targets_M, 1.0)
    exact_M, _ = plain(hidden_MH.float(), weight_VH.float(), targets_M, 1.0)
    assert logprobs_M.dtype == torch.float32
    torch.testing.assert_close(logprobs_M, exact_M, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(logprobs_M.sum(), hidden_MH)[0].dtype == torch.bfloat16


def test_gradient_of_half_precision_weights_is_summed_in_float32(monkeypatch):
    """As chunks go on, the sum grows and their gradients do not: in half precision it would stand still."""
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", 1)
    hidden_MH, weight_VH, targets_M = (x.detach() for x in drawn(torch.bfloat16))
    many = hidden_MH[:1].repeat(2000, 1), targets_M[:1].repeat(2000)
    found = []
    for compute, dtype in ((head_logprobs, torch.bfloat16), (plain, torch.float32)):
        weights = weight_VH.to(dtype).requires_grad_()
        logprobs_M, _ = compute(many[0].to(dtype), weights, many[1], 1.0)
        found.append(torch.autograd.grad(logprobs_M.sum(), weights)[0].float())
    torch.testing.assert_close(*found, rtol=2e-2, atol=1.0)


def test_no_tokens_give_no_numbers_and_zero_gradients():
    hidden_MH, weight_VH, targets_M = drawn(num_tokens=0)
    logprobs_M, entropy_M = head_logprobs(hidden_MH, weight_VH, targets_M, 1.0)
    assert len(logprobs_M) == len(entropy_M) == 0
    assert not torch.autograd.grad(logprobs_M.sum() + entropy_M.sum(), weight_VH)[0].any()
