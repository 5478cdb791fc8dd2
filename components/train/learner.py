"""Holds policy, critic, reference and their optimizers, and turns a step's experience into updates.

Legend: M trained tokens of a step in flat order.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from components.train.config import OptimizerConfig, TrainConfig
from components.train.correction import Behaviour, EngineGap
from components.train.experience import Experience
from components.train.losses import kl_loss, likelihood_guard, policy_loss, value_loss
from components.train.model import Critic, TokenScorer, frozen_copy, in_flat_order
from components.train.packing import EpisodeTokens, PackedRows, pack
from components.train.ranks import device, max_over_ranks, rank, sum_over_ranks, world_size
from components.train.sharding import hold_whole, release, shard, whole
from components.train.update_guard import SMALLEST_NORM_FRAC, UpdateGuard


@dataclass(slots=True)
class Targets:
    """What the updates of a step aim at, all [M]."""

    old_logprobs: torch.Tensor
    old_values: torch.Tensor
    reference_logprobs: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    keep: torch.Tensor
    """Whether a token is in the policy loss."""


@dataclass(slots=True)
class _Minibatch:
    """What one update needs of its step, tokens of the whole step [M] and counts of the update on all ranks."""

    targets: Targets
    behaviour: Behaviour
    weights_M: torch.Tensor | None
    """Importance weights, where they are known before the update."""
    gap: EngineGap | None
    """Measures the engine as long as the current policy is the one it should have sampled from."""
    policy_tokens: float
    value_tokens: float


@dataclass(slots=True)
class Learner:
    """Everything that is trained; `guard` decides which updates are applied.

    `policy` is sharded in place where there are several ranks; what is computed goes through `scorer`.
    """

    policy: torch.nn.Module
    config: TrainConfig
    pad_id: int
    critic: Critic | None = None
    reference: TokenScorer | None = None
    rate_scale: float = 1.0
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    scorer: TokenScorer = field(init=False)
    guard: UpdateGuard = field(init=False)

    def __post_init__(self) -> None:
        parallel = self.config.parallel
        smallest_norm = SMALLEST_NORM_FRAC * self.config.policy_optimizer.max_grad_norm
        self.guard = UpdateGuard(self.config.max_grad_norm_jump, self.config.max_skipped_steps, smallest_norm)
        # As with layers: a process alone on a CPU compiles nothing.
        fused = parallel.compile_layers and dist.is_initialized()
        if self.config.algorithm == "ppo":
            self.critic = Critic(self.policy)
        if self.config.loss.kl_coefficient and not self.config.is_supervised:
            self.reference = TokenScorer(frozen_copy(self.policy), fused=fused)
            shard(self.reference, self.reference.model.base_model, parallel, trained=False)
        if self.critic is not None:
            shard(self.critic, self.critic.backbone, parallel, trained=True)
            self.optimizers["critic"] = _adamw(self.critic, self.config.critic_optimizer)
        self.scorer = TokenScorer(self.policy, fused=fused)
        shard(self.scorer, self.policy.base_model, parallel, trained=True)
        self.optimizers["policy"] = _adamw(self.policy, self.config.policy_optimizer)

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the trained modules by name, policy first."""
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic else {})

    def rows(self, experience: Experience, chosen: list[int] | None = None) -> list[PackedRows]:
        """Return this rank's micro-batches of all episodes, or of the `chosen` ones."""
        return self.packed(experience.sequences if chosen is None else [experience.sequences[i] for i in chosen])

    def packed(self, sequences: Sequence[EpisodeTokens]) -> list[PackedRows]:
        """Return this rank's micro-batches of `sequences`, which all ranks know."""
        config = self.config
        return pack(
            sequences,
            config.row_tokens,
            config.micro_batch_rows,
            self.pad_id,
            self.device,
            rank=rank(),
            world_size=world_size(),
        )

    @property
    def device(self) -> torch.device:
        """Where passes are computed."""
        parameter = next(self.policy.parameters())
        # Offloaded shards rest in the host's memory; they are computed with on the GPU.
        return device() if isinstance(parameter, DTensor) else parameter.device

    def score(self, experience: Experience) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (old log-probabilities, values, reference log-probabilities), each [M], without gradients.

        The old ones are the engine's own, which saves a forward pass, unless the trainer's are wanted and not to
        be had from the update itself, or the engine has none (text it did not sample, mask switched off). Values
        are 0 without a critic, reference log-probabilities equal the old ones without a reference.
        """
        rows, count = self.rows(experience), experience.num_tokens
        if self.config.loss.mask_retrieved_tokens and (not self._is_decoupled or self._old_is_current):
            old_M = torch.from_numpy(experience.sampled_logprobs_M)
        else:
            old_M = self._scored(self.scorer, rows, count)
        values_M = self._scored(self.critic, rows, count) if self.critic else torch.zeros(count)
        return old_M, values_M, self._scored(self.reference, rows, count) if self.reference else old_M

    def _scored(self, module: TokenScorer | Critic, rows: list[PackedRows], count: int) -> torch.Tensor:
        """Return what `module` says of the tokens of all ranks, [M]; whole in memory no longer than that takes."""
        temperature = self.config.temperature
        scores_M = in_flat_order(
            rows, module if isinstance(module, Critic) else lambda r: module(r, temperature)[0], count
        )
        release(module)
        return scores_M

    @property
    def _is_decoupled(self) -> bool:
        return self.config.correction.mode == "decoupled"

    @property
    def _old_is_current(self) -> bool:
        """Whether the step's only update finds the policy that is to be the old one: no forward pass is needed."""
        return self._is_decoupled and self.config.minibatches == 1

    def update(
        self, experience: Experience, targets: Targets, step: int, before_pass: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Make the optimizer updates of `step` and return metrics averaged over trained tokens.

        `before_pass` is called before every pass of the first update, on all ranks; it may end the training by an
        error, since weights, moments and counters are still those of the step before.

        Raises:
            TrainingStopped: more than `max_skipped_steps` updates in a row were not fit to be applied.
        """
        self.set_learning_rates(step)
        starts = np.concatenate([[0], experience.mask_NA.sum(1).cumsum()])
        behaviour, weights_M = experience.behaviour, None
        gap = EngineGap(behaviour, self.config.correction)
        if self._is_decoupled and not self._old_is_current:
            weights_M = gap.weigh(torch.arange(experience.num_tokens), targets.old_logprobs)
        totals: dict[str, float] = {}
        for number, chosen in enumerate(self.minibatches(len(experience.episodes), step)):
            flat = torch.from_numpy(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen]))
            minibatch = _Minibatch(
                targets,
                behaviour,
                weights_M,
                gap if number == 0 and weights_M is None else None,
                # Counted before the importance correction: what that takes out is not made up for.
                policy_tokens=max(1.0, float(targets.keep[flat].sum())),
                value_tokens=max(1.0, float(len(flat))),
            )
            may_end = before_pass if number == 0 else lambda: None
            _add(totals, self._update_minibatch(self.rows(experience, chosen), flat, minibatch, may_end))
        return _averages(totals) | gap.metrics() | self.learning_rates()

    def minibatches(self, count: int, step: int) -> list[list[int]]:
        """Return the indices of `count` sequences, shuffled into the minibatches of `step`."""
        order = list(range(count))
        random.Random(f"{self.config.seed} {step} minibatches").shuffle(order)
        size = -(-count // self.config.minibatches)
        return [sorted(order[begin : begin + size]) for begin in range(0, count, size)]

    def _update_minibatch(
        self, batches: list[PackedRows], flat: torch.Tensor, minibatch: _Minibatch, before_pass: Callable[[], None]
    ) -> dict[str, float]:
        """Accumulate gradients over micro-batches; the global token count makes their split irrelevant."""
        totals: dict[str, float] = {}
        for number, rows in enumerate(batches, start=1):
            before_pass()
            self._hold_whole(number < len(batches))
            _add(totals, self._backward(rows, flat[rows.order_M], minibatch))
        totals = _over_ranks(totals)
        finite = bool(np.isfinite(totals["sum/loss/policy"]))
        totals |= self.step_optimizers(finite=finite, policy_tokens=totals["kept_tokens"])
        return totals | {"tokens": float(len(flat)), "updates": 1.0}

    def _hold_whole(self, hold: bool) -> None:
        # What is offloaded has no room to stay on the GPU.
        for module in () if self.config.parallel.cpu_offload else (self.scorer, self.critic):
            if module is not None:
                hold_whole(module, hold)

    def _backward(self, rows: PackedRows, index: torch.Tensor, minibatch: _Minibatch) -> dict[str, float]:
        targets = minibatch.targets
        logprobs_M, entropy_M = self.scorer(rows, self.config.temperature)
        device = logprobs_M.device
        old_M, weights_M = targets.old_logprobs[index].to(device), None
        if minibatch.weights_M is not None:
            weights_M = minibatch.weights_M[index].to(device)
        if minibatch.gap is not None:
            measured_M = minibatch.gap.weigh(index, logprobs_M.detach())
            if self._old_is_current:
                old_M, weights_M = logprobs_M.detach(), measured_M
        keep_M = targets.keep[index].to(device)
        if weights_M is not None:
            keep_M = keep_M & (weights_M > 0)
            weights_M = weights_M[keep_M]
        chosen = index[keep_M.cpu()]
        logprobs_M, entropy_M, old_M = logprobs_M[keep_M], entropy_M[keep_M], old_M[keep_M]
        advantages_M = targets.advantages[chosen].to(device)
        found = policy_loss(logprobs_M, old_M, advantages_M, entropy_M, self.config.loss, weights_M)
        loss = found.loss
        sums = {
            "sum/clip/low_frac": found.clipped_low,
            "sum/clip/high_frac": found.clipped_high,
            "sum/kl/step": found.approximate_kl,
            "sum/entropy/mean": found.entropy,
            "sum/ratio/mean": found.ratio,
            "ratio/max": found.ratio_max,
            "kept_tokens": float(len(chosen)),
        }
        if self.reference is not None and self.critic is None:
            penalty = kl_loss(logprobs_M, targets.reference_logprobs[chosen].to(device))
            penalty = self.config.loss.kl_coefficient * penalty
            loss = loss + penalty
            sums["sum/loss/kl"] = penalty.item()
        if self.config.loss.likelihood_guard_coefficient:
            lost = likelihood_guard(logprobs_M, old_M, advantages_M, minibatch.behaviour.turn_id_M[chosen].to(device))
            loss = loss + self.config.loss.likelihood_guard_coefficient * lost
            sums["sum/loss/likelihood_guard"] = lost.item()
        sums["sum/loss/policy"] = loss.item()
        if loss.requires_grad:
            (loss / minibatch.policy_tokens).backward()
        if self.critic is not None:
            values_M = self.critic(rows)
            error = value_loss(
                values_M,
                targets.old_values[index].to(device),
                targets.returns[index].to(device),
                self.config.loss.value_clip,
            )
            (error / minibatch.value_tokens).backward()
            sums["sum/loss/value"] = error.item()
        return sums

    def step_optimizers(self, *, finite: bool, policy_tokens: float = 1.0) -> dict[str, float]:
        """Clip and apply the accumulated gradients, if the guard admits them, and clear them.

        Args:
            finite: Whether the loss is a number on every rank.
            policy_tokens: Tokens behind the policy's gradient on all ranks. With none of them the policy stays as
                it is: momentum and weight decay would move it without a reason.

        Raises:
            TrainingStopped: more than `max_skipped_steps` updates in a row were not fit to be applied.
        """
        norms = {}
        for name, module in self.modules().items():
            limit = getattr(self.config, f"{name}_optimizer").max_grad_norm
            norms[name] = float(whole(torch.nn.utils.clip_grad_norm_(module.parameters(), limit)))
        finite = finite and all(np.isfinite(norm) for norm in norms.values())
        is_empty = finite and not policy_tokens
        admitted = is_empty or self.guard.admits(norms["policy"], finite=finite)
        for name, optimizer in self.optimizers.items():
            if admitted and not (is_empty and name == "policy"):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        by_module = {f"sum_updates/{under('grad_norm', name)}": norm for name, norm in norms.items()}
        return by_module | {
            "skipped_updates": float(not admitted),
            "empty_updates": float(is_empty),
        }

    def set_learning_rates(self, step: int) -> None:
        """Give every optimizer the rate of `step`."""
        for name, optimizer in self.optimizers.items():
            config = getattr(self.config, f"{name}_optimizer")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, self.config.steps, config) * self.rate_scale

    def learning_rates(self) -> dict[str, float]:
        """Return the current rate of every optimizer as metrics."""
        return {under("lr", name): optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}


def under(metric: str, module: str) -> str:
    """Return the name of a module's metric; the policy's has no addition."""
    return metric if module == "policy" else f"{metric}/{module}"


def learning_rate_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the rate of `step`: linear warm-up, then linear towards `final_rate_frac` at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    return config.learning_rate * (1 - (1 - config.final_rate_frac) * min(1.0, done))


def _adamw(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    betas = (0.9, config.beta2)
    parameters = module.parameters()
    return torch.optim.AdamW(parameters, config.learning_rate, betas, weight_decay=config.weight_decay, fused=True)


def _add(totals: dict[str, float], found: dict[str, float]) -> None:
    for name, value in found.items():
        if name.endswith("/max"):
            totals[name] = max(totals.get(name, 0.0), value)
        else:
            totals[name] = totals.get(name, 0.0) + value


def _over_ranks(totals: dict[str, float]) -> dict[str, float]:
    peaks = {name: value for name, value in totals.items() if name.endswith("/max")}
    sums = {name: value for name, value in totals.items() if name not in peaks}
    return sum_over_ranks(sums) | max_over_ranks(peaks)


def _averages(totals: dict[str, float]) -> dict[str, float]:
    kept, tokens = max(1.0, totals.pop("kept_tokens")), max(1.0, totals.pop("tokens"))
    updates = max(1.0, totals.pop("updates"))
    averaged = {}
    for name, value in totals.items():
        if name == "sum/loss/value":
            averaged["loss/value"] = value / tokens
        elif name.startswith("sum/"):
            averaged[name.removeprefix("sum/")] = value / kept
        elif name.startswith("sum_updates/"):
            averaged[name.removeprefix("sum_updates/")] = value / updates
        else:
            averaged[name] = value
    return averaged
