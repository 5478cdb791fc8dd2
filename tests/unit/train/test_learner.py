"""Updates against a plain computation: one episode a row, no packing, every formula in the open."""

import math
import random

import pytest
import torch

from components.contracts.errors import TrainingStopped
from components.train.config import OptimizerConfig
from components.train.experience import advantages_and_returns, gather_experience
from components.train.learner import Learner, Targets, learning_rate_at
from components.train.losses import kl_loss, policy_loss, value_loss

PLAIN_DESCENT = {"learning_rate": 0.1, "max_grad_norm": 1e9, "warmup_steps": 0}
OPTIMIZERS = {"policy_optimizer": PLAIN_DESCENT, "critic_optimizer": PLAIN_DESCENT}
PPO_LAYOUTS = [(16, 1, 1), (32, 3, 1), (500, 100, 1), (16, 1, 3), (500, 100, 3)]


def descending(learner: Learner) -> Learner:
    """The learner with plain gradient descent, whose weight changes are the gradients themselves."""
    for name, module in learner.modules().items():
        learner.optimizers[name] = torch.optim.SGD(module.parameters(), lr=0.1)
    return learner


def invented_targets(learner: Learner, experience, seed=0) -> Targets:
    """Old log-probabilities near the current ones, so that every branch of the clipping is met."""
    generator = torch.Generator().manual_seed(seed)
    count = experience.num_tokens
    with torch.no_grad():
        now = torch.cat([plain_logprobs(learner.policy, s)[0] for s in experience.sequences])
    noise = torch.randn(4, count, generator=generator)
    keep = torch.rand(count, generator=generator) < 0.8 if learner.critic is None else torch.ones(count).bool()
    return Targets(now + 0.3 * noise[0], noise[1], now + 0.1, noise[2], noise[3], keep)


def plain_logprobs(model, sequence, temperature=1.0):
    logprobs = (model(torch.tensor([sequence.token_ids])).logits[0] / temperature).log_softmax(-1)
    positions = torch.tensor(sequence.trained_positions, dtype=torch.long)
    rows = logprobs[positions - 1]
    targets = torch.tensor(sequence.token_ids)[positions]
    return rows.gather(-1, targets[:, None])[:, 0], -(rows.exp() * rows).sum(-1)


def plain_values(critic, sequence):
    hidden = critic.backbone(torch.tensor([sequence.token_ids])).last_hidden_state[0]
    return critic.head(hidden)[torch.tensor(sequence.trained_positions, dtype=torch.long) - 1, 0]


def plain_losses(learner, experience, targets, chosen):
    """(policy loss, value loss) of the chosen episodes as means over tokens, one episode after the other."""
    starts = [0, *experience.mask_NA.sum(1).cumsum().tolist()]
    policy_sum, value_sum, kept, count = torch.zeros(()), torch.zeros(()), 0, 0
    for i in chosen:
        part, keep = slice(starts[i], starts[i + 1]), targets.keep[starts[i] : starts[i + 1]]
        logprobs, entropies = (x[keep] for x in plain_logprobs(learner.policy, experience.sequences[i]))
        old, advantages = targets.old_logprobs[part][keep], targets.advantages[part][keep]
        policy_sum = policy_sum + policy_loss(logprobs, old, advantages, entropies, learner.config.loss).loss
        if learner.critic is None:
            penalty = kl_loss(logprobs, targets.reference_logprobs[part][keep])
            policy_sum = policy_sum + learner.config.loss.kl_coefficient * penalty
        else:
            values = plain_values(learner.critic, experience.sequences[i])
            value_sum = value_sum + value_loss(
                values, targets.old_values[part], targets.returns[part], learner.config.loss.value_clip
            )
        kept, count = kept + int(keep.sum()), count + len(keep)
    return policy_sum / kept, value_sum / count


def plain_update(learner, experience, targets, step):
    """Gradient descent on the plain losses, minibatch by minibatch; returns the losses of the first."""
    order = list(range(len(experience.episodes)))
    random.Random(f"{learner.config.seed} {step} minibatches").shuffle(order)
    size = -(-len(order) // learner.config.minibatches)
    first = None
    for begin in range(0, len(order), size):
        losses = plain_losses(learner, experience, targets, sorted(order[begin : begin + size]))
        sum(losses).backward()
        with torch.no_grad():
            for module in learner.modules().values():
                for parameter in module.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        first = first or [loss.item() for loss in losses]
    return first


def weights(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for m in learner.modules().values() for p in m.parameters()])


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize(("row_tokens", "micro_batch_rows", "minibatches"), PPO_LAYOUTS)
def test_update_equals_the_plain_computation_however_it_is_split(
    algorithm, row_tokens, micro_batch_rows, minibatches, make_learner, make_experience
):
    layout = {"row_tokens": row_tokens, "micro_batch_rows": micro_batch_rows, "minibatches": minibatches}
    loss = {"kl_coefficient": 0.2, "entropy_coefficient": 0.05}
    group = {"algorithm": algorithm, "episodes_per_question": 2}
    packed = descending(make_learner(**layout, **OPTIMIZERS, **group, loss=loss))
    plain = make_learner(minibatches=minibatches, **OPTIMIZERS, **group, loss=loss)
    experience = make_experience(8)
    targets, before = invented_targets(packed, experience), weights(packed)
    metrics = packed.update(experience, targets, step=4)
    losses = plain_update(plain, experience, targets, step=4)
    change = weights(packed) - before
    assert change.abs().max() > 1e-3
    assert torch.allclose(change, weights(plain) - before, atol=1e-5)
    if minibatches == 1:
        # The weights move by a tenth of the gradients.
        norms = [metrics.get(name, 0.0) for name in ("grad_norm", "grad_norm/critic")]
        assert math.hypot(*norms) == pytest.approx(change.norm().item() / 0.1, rel=1e-3)
        assert metrics["loss/policy"] == pytest.approx(losses[0], abs=1e-5)
        assert metrics.get("loss/value", 0.0) == pytest.approx(losses[1], abs=1e-5)


def test_metrics_are_means_over_trained_tokens(make_learner, make_experience):
    learner, experience = make_learner(row_tokens=16, micro_batch_rows=1), make_experience(8)
    targets = invented_targets(learner, experience)
    with torch.no_grad():
        found = [plain_logprobs(learner.policy, sequence) for sequence in experience.sequences]
    ratios = torch.exp(torch.cat([logprobs for logprobs, _ in found]) - targets.old_logprobs)
    metrics = learner.update(experience, targets, step=0)
    assert metrics["entropy/mean"] == pytest.approx(torch.cat([e for _, e in found]).mean().item(), abs=1e-5)
    assert metrics["ratio/mean"] == pytest.approx(ratios.mean().item(), rel=1e-4)
    assert metrics["ratio/max"] == pytest.approx(ratios.max().item(), rel=1e-4)
    assert metrics["kl/step"] == pytest.approx((ratios - 1 - ratios.log()).mean().item(), abs=1e-5)
    loss = learner.config.loss
    low = ((ratios < 1 - loss.clip_low) & (targets.advantages < 0)).float().mean().item()
    high = ((ratios > 1 + loss.clip_high) & (targets.advantages > 0)).float().mean().item()
    assert (metrics["clip/low_frac"], metrics["clip/high_frac"]) == pytest.approx((low, high))
    assert min(low, high) > 0
    assert metrics["skipped_updates"] == 0.0


class GradientOfHiddenStates:
    """Collects where the loss reaches the last hidden states of a backbone: (token before, gradient is not zero)."""

    def __init__(self, backbone) -> None:
        self.outputs = []
        backbone.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module, arguments, named, output) -> None:
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.retain_grad()
            self.outputs.append((named["input_ids"], output.last_hidden_state))

    def reached(self) -> set[int]:
        """The input ids at whose position the loss has a gradient."""
        return {
            token
            for ids, hidden in self.outputs
            for token in ids[(hidden.grad.abs().sum(-1) > 0)].tolist()
        }  # fmt: skip


def numbered(experience, mask):
    """The experience with every token id unique, so that an id names its position."""
    next_id = iter(range(23))
    for episode in experience.episodes:
        episode.token_ids = [next(next_id) for _ in episode.token_ids]
    return gather_experience(experience.episodes, experience.questions, experience.outcomes, mask_retrieved=mask)


@pytest.mark.parametrize("mask", [True, False])
def test_retrieved_tokens_have_no_gradient_with_the_mask_on(mask, make_learner, make_experience):
    experience = numbered(make_experience(1, seed=9), mask)
    (episode,) = experience.episodes
    learner = make_learner(loss={"mask_retrieved_tokens": mask, "entropy_coefficient": 0.01})
    taps = [GradientOfHiddenStates(learner.policy.model), GradientOfHiddenStates(learner.critic.backbone)]
    torch.nn.init.ones_(learner.critic.head.weight)
    targets = invented_targets(learner, experience)
    # Nothing is clipped: every trained token has a gradient of its own.
    targets.old_logprobs, targets.old_values = learner_logprobs(learner, experience), learner.score(experience)[1]
    learner.update(experience, targets, step=0)
    after_prompt = range(episode.prompt_length_tokens, len(episode.token_ids))
    sampled = {episode.token_ids[p - 1] for p in after_prompt if episode.is_model_token[p]}
    retrieved = {episode.token_ids[p - 1] for p in after_prompt if not episode.is_model_token[p]}
    assert retrieved
    for tap in taps:
        assert tap.reached() == (sampled if mask else sampled | retrieved)


def learner_logprobs(learner, experience):
    temperature = learner.config.temperature
    with torch.no_grad():
        return torch.cat([plain_logprobs(learner.policy, s, temperature)[0] for s in experience.sequences])


@pytest.mark.parametrize("field", ["advantages", "returns"], ids=["policy", "critic"])
def test_non_finite_update_is_skipped_counted_and_in_the_end_fatal(field, make_learner, make_experience):
    learner, experience = make_learner(max_skipped_steps=2), make_experience(4)
    targets = invented_targets(learner, experience)
    broken = invented_targets(learner, experience)
    getattr(broken, field)[3] = float("nan")
    before = weights(learner)
    for expected in (1, 2):
        assert learner.update(experience, broken, step=0)["skipped_updates"] == 1.0
        assert learner.guard.skipped_in_a_row == expected
    assert torch.equal(weights(learner), before)
    assert learner.update(experience, targets, step=0)["skipped_updates"] == 0.0
    assert learner.guard.skipped_in_a_row == 0
    assert torch.isfinite(weights(learner)).all()
    with pytest.raises(TrainingStopped, match="3 updates in a row"):
        for _ in range(3):
            learner.update(experience, broken, step=0)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce_loo"])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.01])
@pytest.mark.parametrize("mask", [True, False])
def test_one_step_of_every_algorithm(algorithm, kl_coefficient, mask, make_learner, make_experience):
    learner = make_learner(
        algorithm=algorithm,
        episodes_per_question=4,
        loss={"kl_coefficient": kl_coefficient, "mask_retrieved_tokens": mask},
    )
    experience = make_experience(8, seed=1, group=4, mask=mask)
    assert 0 < experience.outcomes[:4].sum() < 4
    old_M, values_M, reference_M = learner.score(experience)
    kl_M = (old_M - reference_M).double().numpy()
    found = advantages_and_returns(experience, values_M.double().numpy(), kl_M, learner.config)
    advantages_M, returns_M, keep_M = (torch.from_numpy(array.copy()) for array in found)
    before = weights(learner)
    targets = Targets(old_M, values_M, reference_M, advantages_M.float(), returns_M.float(), keep_M)
    metrics = learner.update(experience, targets, step=0)
    assert torch.isfinite(weights(learner)).all()
    assert not torch.equal(weights(learner), before)
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert (learner.critic is None) == (algorithm != "ppo")
    assert (learner.reference is None) == (kl_coefficient == 0.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_the_engines_where_it_sampled(temperature, make_learner, make_experience):
    learner, experience = make_learner(temperature=temperature), make_experience(5)
    torch.nn.init.normal_(learner.critic.head.weight)
    old_M, values_M, reference_M = learner.score(experience)
    sampled = [logprob for e in experience.episodes for logprob in e.logprobs if logprob]
    assert old_M.tolist() == pytest.approx(sampled)
    assert torch.allclose(reference_M, learner_logprobs(learner, experience), atol=1e-5)
    with torch.no_grad():
        expected = torch.cat([plain_values(learner.critic, s) for s in experience.sequences])
    assert torch.allclose(values_M, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_of_text_nobody_sampled_are_computed(temperature, make_learner, make_experience):
    learner = make_learner(loss={"mask_retrieved_tokens": False}, temperature=temperature)
    experience = make_experience(5, mask=False)
    assert torch.allclose(learner.score(experience)[0], learner_logprobs(learner, experience), atol=1e-5)


def test_reference_stays_what_the_policy_was(make_learner, make_experience):
    learner, experience = make_learner(), make_experience(6)
    before = learner.score(experience)[2]
    learner.update(experience, invented_targets(learner, experience), step=5)
    assert torch.equal(learner.score(experience)[2], before)
    assert not torch.allclose(learner_logprobs(learner, experience), before, atol=1e-4)


def sampled_experience(learner, make_experience, count=48, length=8):
    """Episodes that the policy itself sampled after random prompts."""
    experience = make_experience(count, seed=5)
    torch.manual_seed(0)
    ids = torch.randint(0, 23, (count, 2))
    with torch.no_grad():
        for _ in range(length):
            ids = torch.cat([ids, torch.multinomial(learner.policy(ids).logits[:, -1].softmax(-1), 1)], 1)
        divergence = exact_kl(learner, ids)
    for episode, row in zip(experience.episodes, ids.tolist(), strict=True):
        episode.token_ids, episode.prompt_length_tokens = row, 2
        episode.is_model_token, episode.logprobs = [False] * 2 + [True] * length, [0.0] * (2 + length)
    found = gather_experience(experience.episodes, experience.questions, experience.outcomes, mask_retrieved=True)
    return found, ids, divergence


def exact_kl(learner, ids) -> float:
    with torch.no_grad():
        now, before = (
            model(ids).logits[:, 1:-1].log_softmax(-1) for model in (learner.policy, learner.reference.model)
        )
    return (now.exp() * (now - before)).sum(-1).mean().item()


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_step_on_kl_alone_lowers_the_kl_to_the_reference(algorithm, make_learner, make_experience):
    """PPO pays the penalty through the reward, the others through the loss; both must point home."""
    loss = {"kl_coefficient": 1.0, "gae_lambda": 0.0, "gamma": 0.0, "whiten_per_kind": False}
    settings = {"algorithm": algorithm, "episodes_per_question": 2, "loss": loss, "policy_optimizer": PLAIN_DESCENT}
    learner = descending(make_learner(**settings))
    with torch.no_grad():
        for number, parameter in enumerate(learner.policy.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    experience, ids, before = sampled_experience(learner, make_experience)
    old_M, reference_M = learner_logprobs(learner, experience), learner.score(experience)[2]
    zeros, keep = torch.zeros(experience.num_tokens), torch.ones(experience.num_tokens).bool()
    advantages = zeros
    if algorithm == "ppo":
        experience.outcomes[:] = 0.0
        kl = (old_M - reference_M).double().numpy()
        advantages = torch.from_numpy(advantages_and_returns(experience, zeros.numpy(), kl, learner.config)[0]).float()
    metrics = learner.update(experience, Targets(old_M, zeros, reference_M, advantages, zeros, keep), step=0)
    if algorithm == "grpo":
        assert metrics["loss/kl"] == pytest.approx(metrics["loss/policy"])
        assert metrics["loss/kl"] == pytest.approx(0.5 * (old_M - reference_M).square().mean().item(), rel=1e-4)
    assert before > 0.01
    assert exact_kl(learner, ids) < before - 1e-4


@pytest.mark.parametrize(("count", "minibatches", "updates"), [(8, 1, 1), (8, 4, 4), (7, 4, 4), (2, 4, 2)])
def test_number_of_updates_per_step(count, minibatches, updates, make_learner, make_experience):
    learner, experience = make_learner(minibatches=minibatches), make_experience(count)
    learner.update(experience, invented_targets(learner, experience), step=0)
    steps = {int(entry["step"]) for entry in learner.optimizers["policy"].state.values()}
    assert steps == {updates}


def test_gradient_norm_of_a_step_is_the_mean_of_its_updates(make_learner, make_experience):
    learner, experience = make_learner(minibatches=3), make_experience(6)
    metrics = learner.update(experience, invented_targets(learner, experience), step=0)
    norms = learner.guard.state_dict()["norms"]
    assert len(norms) == 3
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / 3)


def test_equal_learners_make_equal_updates(make_learner, make_experience):
    pair = [make_learner(minibatches=2), make_learner(minibatches=2)]
    for learner in pair:
        experience = make_experience(6)
        for step in range(2):
            learner.update(experience, invented_targets(learner, experience, seed=step), step)
    assert torch.equal(weights(pair[0]), weights(pair[1]))


@pytest.mark.parametrize(
    ("step", "settings", "expected"),
    [
        pytest.param(0, {"warmup_steps": 4}, 0.25, id="first-of-the-warm-up"),
        pytest.param(3, {"warmup_steps": 4}, 1.0, id="last-of-the-warm-up"),
        pytest.param(99, {"warmup_steps": 4}, 1.0, id="constant"),
        pytest.param(0, {"warmup_steps": 0}, 1.0, id="no-warm-up"),
        pytest.param(99, {"warmup_steps": 0, "final_rate_frac": 0.1}, 0.1, id="decayed-at-the-last-step"),
        pytest.param(0, {"warmup_steps": 0, "final_rate_frac": 0.1}, 1.0, id="not-decayed-at-the-first"),
        pytest.param(9, {"warmup_steps": 9, "final_rate_frac": 0.0}, 1.0, id="whole-after-the-warm-up"),
        pytest.param(54, {"warmup_steps": 9, "final_rate_frac": 0.0}, 0.5, id="half-way-from-the-warm-up-to-the-end"),
        pytest.param(500, {"warmup_steps": 0, "final_rate_frac": 0.0}, 0.0, id="never-negative"),
    ],
)
def test_learning_rate(step, settings, expected):
    assert learning_rate_at(step, 100, OptimizerConfig(learning_rate=1.0, **settings)) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 3), (1, 2 / 3), (50, 1.0)])
def test_rate_of_the_step_and_its_scale_reach_the_optimizers(step, share, make_learner, make_experience):
    learner, experience = make_learner(), make_experience(4)
    learner.rate_scale = 0.5
    learner.update(experience, invented_targets(learner, experience), step)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in learner.optimizers.items()}
    config = learner.config
    assert rates == {
        "policy": pytest.approx(0.5 * share * config.policy_optimizer.learning_rate),
        "critic": pytest.approx(0.5 * share * config.critic_optimizer.learning_rate),
    }


def test_every_module_is_trained_with_its_own_settings(make_learner):
    settings = {
        "policy": {"beta2": 0.9, "weight_decay": 0.1, "learning_rate": 0.3},
        "critic": {"beta2": 0.8, "weight_decay": 0.2, "learning_rate": 0.4},
    }
    learner = make_learner(**{f"{name}_optimizer": values for name, values in settings.items()})
    for name, optimizer in learner.optimizers.items():
        (group,) = optimizer.param_groups
        found = {"beta2": group["betas"][1], "weight_decay": group["weight_decay"], "learning_rate": group["lr"]}
        assert found == settings[name]
        assert len(group["params"]) == len(list(learner.modules()[name].parameters()))


@pytest.mark.parametrize(("policy_limit", "critic_limit"), [(1e-3, 1e-2), (1e-2, 1e-3)])
def test_every_gradient_is_clipped_at_the_limit_of_its_module(
    policy_limit, critic_limit, make_learner, make_experience
):
    limits = {"policy": policy_limit, "critic": critic_limit}
    clipped = {f"{name}_optimizer": PLAIN_DESCENT | {"max_grad_norm": limit} for name, limit in limits.items()}
    learner, experience = descending(make_learner(**clipped)), make_experience(6)
    before = {name: [p.detach().clone() for p in module.parameters()] for name, module in learner.modules().items()}
    metrics = learner.update(experience, invented_targets(learner, experience), step=0)
    for name, module in learner.modules().items():
        moved = torch.cat([(a - b).flatten() for a, b in zip(module.parameters(), before[name], strict=True)]).norm()
        # Far above its limit before, exactly there after; the rate is .1.
        assert metrics["grad_norm" if name == "policy" else "grad_norm/critic"] > 0.1
        assert moved.item() == pytest.approx(0.1 * limits[name], rel=1e-2)
