"""How the learner uses the correction and the guards: against plain computations, and counting forward passes."""

import math
from typing import ClassVar

import pytest
import torch

from components.agent.engines.torch_engine import TorchEngine
from components.agent.episode_loop import EpisodeTask
from components.agent.rollout import rollout
from components.contracts.episode import Action, StopReason
from components.contracts.errors import TrainingStopped
from components.contracts.question import Question
from components.train.experience import advantages_and_returns, gather_experience
from components.train.learner import Learner, Targets
from components.train.losses import policy_loss
from components.train.update_guard import MIN_HISTORY_UPDATES

PLAIN_DESCENT = {"learning_rate": 0.1, "max_grad_norm": 1e9, "warmup_steps": 0}
GROUPS = {"algorithm": "grpo", "episodes_per_question": 2, "policy_optimizer": PLAIN_DESCENT}
NO_KL = {"kl_coefficient": 0.0}
WIDE = {"mode": "decoupled", "sequence_low": 0.8, "sequence_high": 1.25, "veto_ratio": 0.3}


def weights(module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def logprobs_of(policy, experience) -> list[torch.Tensor]:
    """Log-probabilities of the trained tokens, one episode a forward pass."""
    found = []
    for sequence in experience.sequences:
        rows = policy(torch.tensor([sequence.token_ids])).logits[0].log_softmax(-1)
        positions = torch.tensor(sequence.trained_positions)
        found.append(rows[positions - 1].gather(-1, torch.tensor(sequence.token_ids)[positions][:, None])[:, 0])
    return found


def sampled_by(policy, experience, spread: float, seed: int = 0):
    """The experience as an engine would return it whose log-probabilities are off by `spread`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        found = logprobs_of(policy, experience)
    for episode, sequence, logprobs_M in zip(experience.episodes, experience.sequences, found, strict=True):
        noisy_M = logprobs_M + spread * torch.randn(len(logprobs_M), generator=generator)
        for position, value in zip(sequence.trained_positions, noisy_M.tolist(), strict=True):
            episode.logprobs[position] = value
    return experience


def targets_of(learner, experience, advantages=None, keep=None) -> Targets:
    old_M, values_M, reference_M = learner.score(experience)
    count = experience.num_tokens
    if advantages is None:
        advantages = torch.randn(count, generator=torch.Generator().manual_seed(3))
    keep = torch.ones(count).bool() if keep is None else keep
    return Targets(old_M, values_M, reference_M, advantages, torch.zeros(count), keep)


class ForwardPasses:
    """Counts the forward passes of a model."""

    def __init__(self, model) -> None:
        self.count = 0
        model.register_forward_hook(self._forward)

    def _forward(self, *_) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("mode", "minibatches", "kl", "scoring", "reference"),
    [
        pytest.param("bypass", 1, 0.0, 0, 0, id="bypass"),
        pytest.param("bypass", 2, 0.0, 0, 0, id="bypass-in-two-updates"),
        pytest.param("bypass", 2, 0.1, 0, 1, id="kl-needs-the-reference"),
        pytest.param("decoupled", 1, 0.0, 0, 0, id="one-on-policy-update-is-its-own-old-policy"),
        pytest.param("decoupled", 2, 0.0, 1, 0, id="two-updates-need-the-old-policy"),
    ],
)
def test_forward_passes_of_a_step(mode, minibatches, kl, scoring, reference, make_learner, make_experience):
    """One row holds everything, so a pass over an experience is one forward."""
    settings = {"row_tokens": 500, "minibatches": minibatches, "correction": {"mode": mode}}
    learner = make_learner(**GROUPS, **settings, loss={"kl_coefficient": kl})
    assert (learner.reference is None) == (not reference)
    experience = sampled_by(learner.policy, make_experience(6), 0.01)
    policy = ForwardPasses(learner.policy.base_model)
    of_reference = ForwardPasses(learner.reference.model.base_model) if reference else None
    targets = targets_of(learner, experience)
    assert policy.count == scoring
    metrics = learner.update(experience, targets, step=0)
    assert policy.count == scoring + minibatches
    assert (of_reference.count if of_reference else 0) == reference
    assert metrics["kl/rollout_vs_trainer"] > 1e-6


def plain_weights(log_ratios, config) -> torch.Tensor:
    """Importance weights of one episode."""
    ratios = [math.exp(x) for x in log_ratios.tolist()]
    geometric_mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    leaves = not config.sequence_low <= geometric_mean <= config.sequence_high or min(ratios) < config.veto_ratio
    return torch.tensor([0.0 if leaves else min(ratio, config.token_cap) for ratio in ratios])


def plain_decoupled_update(learner, experience, targets) -> int:
    """Descend on the weighted surrogates of the minibatches of step 0; returns how many episodes took part."""
    loss_config, correction = learner.config.loss, learner.config.correction
    with torch.no_grad():
        old = logprobs_of(learner.policy, experience)
    engine = torch.split(torch.from_numpy(experience.sampled_logprobs_M), [len(x) for x in old])
    advantages = torch.split(targets.advantages, [len(x) for x in old])
    kept = 0
    for chosen in learner.minibatches(len(experience.episodes), 0):
        now, total, tokens = logprobs_of(learner.policy, experience), torch.zeros(()), 0
        for i in chosen:
            factors = plain_weights(old[i] - engine[i], correction)
            tokens += len(factors)
            if factors.any():
                kept += 1
                none = torch.zeros(len(factors))
                total = total + policy_loss(now[i], old[i], advantages[i], none, loss_config, factors).loss
        (total / tokens).backward()
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return kept


@pytest.mark.parametrize(("row_tokens", "micro_batch_rows"), [(16, 1), (32, 3), (500, 100)])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_decoupled_update_equals_the_plain_computation_however_it_is_split(
    row_tokens, micro_batch_rows, minibatches, make_learner, make_experience
):
    layout = {"row_tokens": row_tokens, "micro_batch_rows": micro_batch_rows, "minibatches": minibatches}
    learner = make_learner(**GROUPS, **layout, loss=NO_KL, correction=WIDE)
    learner.optimizers["policy"] = torch.optim.SGD(learner.policy.parameters(), lr=0.1)
    plain = make_learner(**GROUPS, minibatches=minibatches, loss=NO_KL, correction=WIDE)
    experience = sampled_by(learner.policy, make_experience(10), 0.5)
    before = weights(learner.policy)
    metrics = learner.update(experience, targets_of(learner, experience), step=0)
    kept = plain_decoupled_update(plain, experience, targets_of(plain, experience))
    change = weights(learner.policy) - before
    assert change.abs().max() > 1e-3
    assert torch.allclose(change, weights(plain.policy) - before, atol=1e-5)
    assert 2 < kept < 8
    left = metrics["correction/masked_episodes_frac"] + metrics["correction/vetoed_episodes_frac"]
    assert left >= (10 - kept) / 10


def test_bypass_measures_the_first_minibatch_and_changes_nothing(make_learner, make_experience):
    settings = {"minibatches": 3, "loss": NO_KL}
    learner = make_learner(**GROUPS, **settings, correction={"sequence_low": 1.0, "sequence_high": 1.0})
    other = make_learner(**GROUPS, **settings, correction={"token_cap": 1.0, "veto_ratio": 0.99})
    experience = sampled_by(learner.policy, make_experience(9), 0.3)
    with torch.no_grad():
        trainer = logprobs_of(learner.policy, experience)
    engine = torch.split(torch.from_numpy(experience.sampled_logprobs_M), [len(x) for x in trainer])
    first = learner.minibatches(9, 0)[0]
    log_ratios = torch.cat([trainer[i] - engine[i] for i in first])
    metrics = learner.update(experience, targets_of(learner, experience), step=0)
    other.update(experience, targets_of(other, experience), step=0)
    expected = (log_ratios.exp() - 1 - log_ratios).mean().item()
    assert metrics["kl/rollout_vs_trainer"] == pytest.approx(expected, rel=1e-3)
    assert metrics["ratio/rollout_vs_trainer/max"] == pytest.approx(log_ratios.max().exp().item(), rel=1e-4)
    assert metrics["correction/masked_episodes_frac"] == 1.0
    assert torch.equal(weights(learner.policy), weights(other.policy))


def test_only_the_first_update_of_a_step_may_be_ended_before_a_pass(make_learner, make_experience):
    """After it the weights are no longer those of the step before, and nobody could go on from them."""
    learner = make_learner(**GROUPS, row_tokens=500, minibatches=3, loss=NO_KL)
    experience = sampled_by(learner.policy, make_experience(6), 0.0)
    before, seen = weights(learner.policy), []
    learner.update(experience, targets_of(learner, experience), 0, lambda: seen.append(weights(learner.policy)))
    assert len(seen) == 1
    assert torch.equal(seen[0], before)


class LetterTokenizer:
    """One token per character of ASCII."""

    chat_template = None
    added_tokens_decoder: ClassVar[dict] = {}
    eos_token_id = pad_token_id = 0

    def encode(self, text, *, add_special_tokens):
        return [ord(character) for character in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def __len__(self):
        return 128


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("stale", [False, True])
def test_engine_and_trainer_agree_at_any_temperature_until_the_weights_are_stale(
    temperature, stale, make_policy, make_config
):
    loop = {"max_searches": 1, "max_turn_tokens": 6, "max_context_tokens": 160}
    settings = {"temperature": temperature, "loop": loop, "loss": NO_KL, "row_tokens": 160}
    config = make_config(**GROUPS, **settings)
    learner = Learner(make_policy(0, vocabulary=128), config, pad_id=0)
    sampler = make_policy(int(stale), vocabulary=128)
    engine = TorchEngine(sampler, LetterTokenizer(), num_slots=4, max_context_tokens=160)
    tasks = [EpisodeTask("q", [65 + seed, 66], seed, temperature) for seed in range(12)]
    episodes = rollout(engine, None, tasks, config.loop, LetterTokenizer())
    asked = [Question(id="q", set_name="nq", question="x?", golden_answers=("x",))] * 12
    experience = gather_experience(episodes, asked, [0.0] * 12, mask_retrieved=True)
    metrics = learner.update(experience, targets_of(learner, experience), step=0)
    assert {"kl/rollout_vs_trainer/turn_1", "kl/rollout_vs_trainer/turn_2"} <= metrics.keys()
    if stale:
        assert metrics["kl/rollout_vs_trainer"] > learner.config.correction.max_mismatch_kl
    else:
        assert abs(metrics["kl/rollout_vs_trainer"]) < 1e-9
        assert metrics["ratio/rollout_vs_trainer/max"] == pytest.approx(1.0, abs=1e-4)
        assert metrics["correction/masked_episodes_frac"] == 0.0


@pytest.mark.parametrize("reason", ["groups", "veto"])
def test_update_without_a_token_leaves_the_policy_alone(reason, make_learner, make_experience):
    """Momentum and weight decay of earlier updates would move it."""
    optimizer = {"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 0}
    learner = make_learner(**GROUPS | {"policy_optimizer": optimizer}, loss=NO_KL, correction={"mode": "decoupled"})
    experience = sampled_by(learner.policy, make_experience(4), 0.0)
    assert learner.update(experience, targets_of(learner, experience), step=0)["empty_updates"] == 0.0
    before, guard = weights(learner.policy), learner.guard.state_dict()
    experience = sampled_by(learner.policy, experience, 3.0 if reason == "veto" else 0.0)
    keep = torch.full((experience.num_tokens,), reason == "veto")
    metrics = learner.update(experience, targets_of(learner, experience, keep=keep), step=1)
    assert (metrics["empty_updates"], metrics["skipped_updates"]) == (1.0, 0.0)
    assert torch.equal(weights(learner.policy), before)
    assert learner.guard.state_dict() == guard


@pytest.mark.parametrize("kept", ["none", "half"])
def test_critic_learns_from_episodes_that_the_policy_does_not(kept, make_learner, make_experience):
    """Whatever the policy leaves out, the critic learns what it learns beside a policy that leaves nothing out."""
    found = []
    for leaves_out in (True, False):
        learner, experience = make_learner(critic_optimizer=PLAIN_DESCENT, loss=NO_KL), make_experience(4)
        learner.optimizers["critic"] = torch.optim.SGD(learner.critic.parameters(), lr=0.1)
        keep = torch.arange(experience.num_tokens) % 2 > (0 if kept == "half" else 1)
        targets = targets_of(learner, experience, keep=keep if leaves_out else torch.ones_like(keep))
        targets.returns += 1.0
        before = {name: weights(module) for name, module in learner.modules().items()}
        metrics = learner.update(experience, targets, step=5)
        is_empty = leaves_out and kept == "none"
        assert metrics["empty_updates"] == is_empty
        assert torch.equal(weights(learner.policy), before["policy"]) == is_empty
        found.append((weights(learner.critic) - before["critic"], metrics["loss/value"]))
    (change, loss), (expected_change, expected_loss) = found
    assert expected_change.abs().max() > 1e-3
    assert torch.allclose(change, expected_change, atol=1e-6)
    assert loss == pytest.approx(expected_loss)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce_loo"])
def test_void_turns_and_cut_off_episodes_leave_the_policy_loss_alone(algorithm, make_config, make_experience):
    """Advantages and returns are those of the whole step: only who is kept changes."""
    loss = {"mask_void_turns": True, "mask_truncated": True}
    plain, masked = (make_config(algorithm=algorithm, episodes_per_question=4, loss=x) for x in ({}, loss))
    experience = make_experience(8, seed=1, group=4)
    void, cut = experience.episodes[1], experience.episodes[2]
    void.turns[0].action, cut.stop_reason = Action.INVALID, StopReason.CONTEXT_FULL
    zeros = torch.zeros(experience.num_tokens).double().numpy()
    advantages, returns, keep = advantages_and_returns(experience, zeros, zeros, plain)
    found = advantages_and_returns(experience, zeros, zeros, masked)
    assert (found[0] == advantages).all()
    assert (found[1] == returns).all()
    leaves = [int(index) in (1, 2) for index in experience.behaviour.episode_M]
    assert keep.any()
    assert found[2].tolist() == [kept and not left for kept, left in zip(keep, leaves, strict=True)]


def test_exploding_gradient_is_skipped_counted_and_in_the_end_fatal(make_learner, make_experience):
    learner = make_learner(**GROUPS | {"policy_optimizer": {"learning_rate": 1e-4}}, loss=NO_KL, max_skipped_steps=2)
    experience = sampled_by(learner.policy, make_experience(6), 0.0)
    usual, exploding = (targets_of(learner, experience) for _ in range(2))
    exploding.advantages *= 1e4
    for step in range(MIN_HISTORY_UPDATES):
        assert learner.update(experience, usual, step)["skipped_updates"] == 0.0
    before = weights(learner.policy)
    for expected in (1, 2):
        assert learner.update(experience, exploding, step=50)["skipped_updates"] == 1.0
        assert learner.guard.skipped_in_a_row == expected
    assert torch.equal(weights(learner.policy), before)
    assert learner.update(experience, usual, step=50)["skipped_updates"] == 0.0
    assert not torch.equal(weights(learner.policy), before)
    with pytest.raises(
        TrainingStopped, match=r"3 updates in a row had .* a gradient norm above 10 times the usual one"
    ):
        for _ in range(3):
            learner.update(experience, exploding, step=50)


def test_a_jump_of_the_critic_alone_is_applied(make_learner, make_experience):
    """It is clipped; only what moves the policy can ruin the model."""
    learner, experience = make_learner(loss=NO_KL, max_skipped_steps=0), make_experience(6)
    targets = targets_of(learner, experience)
    for step in range(MIN_HISTORY_UPDATES):
        usual = learner.update(experience, targets, step)
    targets.returns += 1e4
    metrics = learner.update(experience, targets, step=50)
    assert metrics["grad_norm/critic"] > 100 * max(usual["grad_norm"], usual["grad_norm/critic"])
    assert metrics["skipped_updates"] == 0.0


def test_first_reward_after_steps_without_any_is_learned_from(make_learner, make_experience):
    """Nobody earned anything, so advantages and gradients were 0: the first signal is no explosion."""
    learner = make_learner(loss=NO_KL, max_skipped_steps=0)
    experience = sampled_by(learner.policy, make_experience(6), 0.0)
    signal = targets_of(learner, experience)
    silence = targets_of(learner, experience, advantages=torch.zeros(experience.num_tokens))
    for step in range(MIN_HISTORY_UPDATES):
        assert learner.update(experience, silence, step)["grad_norm"] == pytest.approx(0.0, abs=1e-6)
    before = weights(learner.policy)
    assert learner.update(experience, signal, step=50)["skipped_updates"] == 0.0
    assert not torch.equal(weights(learner.policy), before)


def test_likelihood_guard_holds_good_turns_up(make_learner, make_experience):
    """Nothing but the guard has a gradient: advantages are 0, and the old policy liked every token better."""
    learner = make_learner(**GROUPS, minibatches=2, loss=NO_KL | {"likelihood_guard_coefficient": 0.5})
    learner.optimizers["policy"] = torch.optim.SGD(learner.policy.parameters(), lr=0.05)
    experience = sampled_by(learner.policy, make_experience(6), 0.0)
    targets = targets_of(learner, experience, advantages=torch.zeros(experience.num_tokens))
    before = torch.cat(logprobs_of(learner.policy, experience)).mean().item()
    targets.old_logprobs = targets.old_logprobs + 0.3
    metrics = learner.update(experience, targets, step=0)
    assert metrics["loss/likelihood_guard"] == pytest.approx(0.3, abs=0.15)
    assert metrics["loss/policy"] == pytest.approx(0.5 * metrics["loss/likelihood_guard"], rel=1e-4)
    assert torch.cat(logprobs_of(learner.policy, experience)).mean().item() > before + 0.01


def test_a_turn_that_rose_hides_no_turn_of_another_episode_that_fell(make_learner, make_experience):
    """All have a first turn; those of every second episode fell, the others rose by more."""
    learner = make_learner(**GROUPS, row_tokens=500, loss=NO_KL | {"likelihood_guard_coefficient": 1.0})
    experience = sampled_by(learner.policy, make_experience(6), 0.0)
    targets = targets_of(learner, experience, advantages=torch.zeros(experience.num_tokens))
    fell = experience.behaviour.episode_M % 2 == 0
    targets.old_logprobs = targets.old_logprobs + torch.where(fell, 0.3, -3.0)
    metrics = learner.update(experience, targets, step=0)
    assert metrics["loss/likelihood_guard"] == pytest.approx(0.3 * fell.float().mean().item(), rel=1e-3)
