"""Imitation against a slow implementation without packing, and what it refuses."""

import copy
import random

import pytest
import torch

from components.contracts.errors import TrainingStopped
from components.train.packing import EpisodeTokens
from components.train.supervised import imitate


def demonstrations(count: int = 9, vocabulary: int = 23) -> list[EpisodeTokens]:
    """Sequences of random lengths, a random part of each trained, never the first token."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        ids = [rng.randrange(vocabulary) for _ in range(rng.randint(4, 20))]
        made.append(EpisodeTokens(ids, sorted(rng.sample(range(1, len(ids)), rng.randint(1, len(ids) - 1)))))
    return made


def slow_loss(policy, sequences: list[EpisodeTokens]) -> torch.Tensor:
    """Mean negative log-probability over all trained tokens, one sequence at a time."""
    terms = []
    for sequence in sequences:
        logits = policy(input_ids=torch.tensor([sequence.token_ids])).logits[0]
        for position in sequence.trained_positions:
            terms.append(-logits[position - 1].log_softmax(-1)[sequence.token_ids[position]])
    return torch.stack(terms).mean()


def weights(module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_one_step_is_the_step_of_a_slow_implementation(make_learner):
    learner = make_learner(algorithm="sft", policy_optimizer={"warmup_steps": 0, "learning_rate": 1e-2})
    policy, sequences = copy.deepcopy(learner.policy), demonstrations()
    loss = slow_loss(policy, sequences)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), learner.config.policy_optimizer.max_grad_norm)
    torch.optim.AdamW(policy.parameters(), 1e-2, (0.9, 0.99), weight_decay=0.0).step()
    metrics = imitate(learner, sequences, step=0)
    assert metrics["loss/imitation"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["imitation/tokens"] == sum(len(s.trained_positions) for s in sequences)
    torch.testing.assert_close(weights(learner.policy), weights(policy), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "split",
    [
        pytest.param({"micro_batch_rows": 1, "row_tokens": 16}, id="a-row-at-a-time"),
        pytest.param({"micro_batch_rows": 64, "row_tokens": 512}, id="everything-in-one-row"),
    ],
)
def test_micro_batches_and_packing_change_nothing(make_learner, split):
    losses = []
    for values in ({}, split):
        learner = make_learner(algorithm="sft", **values)
        losses.append([imitate(learner, demonstrations(), step)["loss/imitation"] for step in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_minibatches_are_updates(make_learner):
    learner = make_learner(algorithm="sft", minibatches=3)
    imitate(learner, demonstrations(), step=0)
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {3}


def test_what_is_shown_often_is_learned(make_learner):
    learner = make_learner(algorithm="sft", policy_optimizer={"warmup_steps": 0, "learning_rate": 1e-2})
    losses = [imitate(learner, demonstrations(4), step)["loss/imitation"] for step in range(40)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("algorithm", ["sft", "rejection_sampling"])
def test_imitation_holds_neither_critic_nor_reference(make_learner, algorithm):
    learner = make_learner(algorithm=algorithm)
    assert (learner.critic, learner.reference, list(learner.modules())) == (None, None, ["policy"])


def test_numbers_that_are_not_finite_never_reach_the_weights(make_learner):
    learner = make_learner(algorithm="sft", max_skipped_steps=1)
    with torch.no_grad():
        learner.policy.model.norm.weight[0] = float("nan")
    before = learner.policy.model.embed_tokens.weight.clone()
    assert imitate(learner, demonstrations(), step=0)["skipped_updates"] == 1.0
    with pytest.raises(TrainingStopped, match="2 updates in a row"):
        imitate(learner, demonstrations(), step=1)
    assert torch.equal(learner.policy.model.embed_tokens.weight, before)
