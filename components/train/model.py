"""Policy, critic and reference: log-probabilities, entropies and values of trained tokens in packed rows.

The language-model head runs on trained positions only.
Legend: M trained tokens, H hidden size.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from components.train.attention import attention_arguments
from components.train.head import head_logprobs
from components.train.packing import PackedRows
from components.train.ranks import summed_tensor


def _hidden_states(backbone: nn.Module, rows: PackedRows) -> torch.Tensor:
    """Return the last hidden state at the position that predicts each trained token, [M, hidden]."""
    output = backbone(
        input_ids=rows.ids_RT,
        position_ids=rows.positions_RT,
        use_cache=False,
        **attention_arguments(backbone, rows),
    )
    return output.last_hidden_state[rows.row_M, rows.column_M]


def token_logprobs(
    model, rows: PackedRows, temperature: float, *, fused: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (log-probability of each trained token, entropy of its distribution), both [M], float32."""
    hidden_MH = _hidden_states(model.base_model, rows)
    return head_logprobs(hidden_MH, model.get_output_embeddings().weight, rows.targets_M, temperature, fused=fused)


class TokenScorer(nn.Module):
    """A causal language model that answers with log-probabilities; sharding gathers parameters around its calls."""

    def __init__(self, model, *, fused: bool = False) -> None:
        super().__init__()
        self.model = model
        self._fused = fused

    def forward(self, rows: PackedRows, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (log-probability of each trained token, entropy of its distribution), both [M], float32."""
        return token_logprobs(self.model, rows, temperature, fused=self._fused)


class Critic(nn.Module):
    """A value for every position: a copy of the policy's backbone with a scalar head that starts at zero."""

    def __init__(self, policy) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(policy.base_model)
        self.head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: PackedRows) -> torch.Tensor:
        """Return the value before each trained token was sampled, [M], float32."""
        return self.head(_hidden_states(self.backbone, rows)).float().squeeze(-1).clone()


def frozen_copy(policy):
    """Return the reference model: the policy as it is now, without gradients."""
    reference = copy.deepcopy(policy).eval()
    return reference.requires_grad_(False)


@torch.no_grad()
def in_flat_order(batches: Sequence[PackedRows], compute, num_tokens: int) -> torch.Tensor:
    """Return `compute(batch)` of every batch of all ranks in the flat order of the packed sequences, [M] on CPU."""
    flat_M = torch.zeros(num_tokens)
    for batch in batches:
        flat_M[batch.order_M] = compute(batch).float().cpu()
    return summed_tensor(flat_M)
