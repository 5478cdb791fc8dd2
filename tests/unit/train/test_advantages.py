"""Advantages against slow pure-Python oracles that know nothing of padding or of retrieved text."""

import math
import random
import statistics

import numpy as np
import pytest

from components.contracts.question import Question
from components.train.advantages import gae, group_relative, leave_one_out, token_rewards, whiten
from components.train.experience import advantages_and_returns, gather_experience, group_metrics


def slow_gae(rewards, values, gamma, lam):
    """The definition: a discounted sum of temporal-difference errors, written out for every token."""
    following = [*values[1:], 0.0]
    errors = [r + gamma * v2 - v for r, v, v2 in zip(rewards, values, following, strict=True)]
    count = len(errors)
    return [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, count)) for t in range(count)]


def slow_ppo(experience, values_M, kl_M, config):
    """Advantages and returns of every trained token in flat order, whitened per kind."""
    loss, advantages, returns, kinds, start = config.loss, [], [], [], 0
    for sequence, outcome, question in zip(
        experience.sequences, experience.outcomes, experience.questions, strict=True
    ):
        count = len(sequence.trained_positions)
        rewards = [-loss.kl_coefficient * kl for kl in kl_M[start : start + count]]
        if count:
            rewards[-1] += outcome
        values = list(values_M[start : start + count])
        found = slow_gae(rewards, values, loss.gamma, loss.gae_lambda)
        advantages += found
        returns += [a + v for a, v in zip(found, values, strict=True)]
        kinds += [question.kind if loss.whiten_per_kind else ""] * count
        start += count
    groups = {kind: [a for a, k in zip(advantages, kinds, strict=True) if k == kind] for kind in kinds}
    mean = {kind: statistics.fmean(group) for kind, group in groups.items()}
    scale = {kind: statistics.stdev(group) if len(group) > 1 else 1.0 for kind, group in groups.items()}
    return [(a - mean[k]) / scale[k] for a, k in zip(advantages, kinds, strict=True)], returns


@pytest.mark.parametrize("per_kind", [True, False])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.8), (1.0, 0.0)])
def test_masked_gae_equals_the_oracle_on_compressed_sequences(gamma, lam, per_kind, make_config, make_experience):
    config = make_config(loss={"gamma": gamma, "gae_lambda": lam, "kl_coefficient": 0.1, "whiten_per_kind": per_kind})
    for seed in range(5):
        experience = make_experience(9, seed)
        generator = np.random.default_rng(seed)
        values_M = generator.normal(size=experience.num_tokens)
        kl_M = generator.normal(size=experience.num_tokens)
        advantages, returns, keep = advantages_and_returns(experience, values_M, kl_M, config)
        expected = slow_ppo(experience, values_M, kl_M, config)
        assert keep.all()
        np.testing.assert_allclose(advantages, expected[0], atol=1e-6)
        np.testing.assert_allclose(returns, expected[1], atol=1e-9)


def test_length_of_retrieved_text_changes_nothing(make_config, make_experience):
    config = make_config(loss={"gae_lambda": 0.95, "gamma": 0.99, "kl_coefficient": 0.1})
    short = make_experience(6, seed=2)
    long = gather_experience(
        [longer_observations(episode) for episode in short.episodes],
        short.questions,
        short.outcomes,
        mask_retrieved=True,
    )
    assert sum(len(s.token_ids) for s in long.sequences) > sum(len(s.token_ids) for s in short.sequences)
    values_M, kl_M = np.random.default_rng(0).normal(size=(2, short.num_tokens))
    for a, b in zip(
        advantages_and_returns(short, values_M, kl_M, config),
        advantages_and_returns(long, values_M, kl_M, config),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def longer_observations(episode):
    """The same episode with three to nine more retrieved tokens after each search."""
    rng, longer = random.Random(1), type(episode)(episode.question_id, [], episode.prompt_length_tokens)
    for position, token in enumerate(episode.token_ids):
        turn_begins = position > 0 and episode.is_model_token[position] and not episode.is_model_token[position - 1]
        count = rng.randint(3, 9) if turn_begins and position > episode.prompt_length_tokens else 0
        longer.token_ids += [1] * count + [token]
        longer.is_model_token += [False] * count + [episode.is_model_token[position]]
        longer.logprobs += [0.0] * count + [episode.logprobs[position]]
    return longer


def test_walking_through_retrieved_tokens_would_be_noticed(make_config, make_experience):
    config = make_config(loss={"gae_lambda": 0.95})
    masked, unmasked = make_experience(6), make_experience(6, mask=False)
    assert unmasked.num_tokens > masked.num_tokens
    flat = np.concatenate([np.array(e.is_model_token[e.prompt_length_tokens :]) for e in unmasked.episodes])
    zeros = np.zeros(unmasked.num_tokens)
    walked = advantages_and_returns(unmasked, zeros, zeros, config)[1][flat]
    skipped = advantages_and_returns(masked, zeros[: len(walked)], zeros[: len(walked)], config)[1]
    assert not np.allclose(walked, skipped)


def test_outcome_is_paid_on_the_last_trained_token():
    mask_NA = np.array([[True, True, False], [True, True, True], [False, False, False]])
    rewards = token_rewards(np.array([1.0, 0.5, 1.0]), np.full((3, 3), 2.0), mask_NA, 0.1)
    np.testing.assert_allclose(rewards, [[-0.2, 0.8, 0.0], [-0.2, -0.2, 0.3], [0.0, 0.0, 0.0]])


def test_gae_is_zero_on_padding_whatever_stands_there():
    mask_NA = np.array([[True, False]])
    advantages, returns = gae(np.array([[1.0, 7.0]]), np.array([[0.5, 9.0]]), mask_NA, 1.0, 0.95)
    np.testing.assert_allclose(advantages, [[0.5, 0.0]])
    np.testing.assert_allclose(returns, [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0], id="unbiased-variance"),
        pytest.param([5.0], [0.0], id="one-token-is-centred"),
        pytest.param([2.0, 2.0], [0.0, 0.0], id="no-spread"),
        pytest.param([1e-9, 3e-9], [-1e-5, 1e-5], id="rounding-stays-small"),
        pytest.param([0.0, 0.02], [-(0.5**0.5), 0.5**0.5], id="small-spread"),
        pytest.param([], [], id="no-tokens"),
    ],
)
def test_whitening(values, expected):
    array = np.array([values]).reshape(1, len(values))
    found = whiten(array, np.ones(array.shape, dtype=bool), np.array(["nq"]))
    np.testing.assert_allclose(found, np.array([expected]).reshape(1, len(values)), atol=1e-6)


def test_each_kind_is_whitened_alone():
    mask_NA = np.array([[True, True], [True, False], [True, True]])
    advantages_NA = np.array([[0.0, 2.0], [1.0, -1.0], [3.0, 5.0]])
    found = whiten(advantages_NA, mask_NA, np.array(["easy", "hard", "hard"]))
    np.testing.assert_allclose(found[0], [-(0.5**0.5), 0.5**0.5], atol=1e-6)
    np.testing.assert_allclose([found[1, 0], *found[2]], [-1.0, 0.0, 1.0], atol=1e-6)
    assert found[1, 1] == 0.0


def test_a_kind_without_a_difference_is_not_blown_up_beside_one_that_has_it():
    """Half precision leaves more than rounding between engine and trainer: the penalty of that is not a signal."""
    kinds, mask_NA = np.array(["easy", "hard"]), np.ones((2, 4), dtype=bool)
    advantages_NA = np.array([[0.0, 1.0, 0.0, 1.0], [1e-3, -1e-3, 1e-3, -1e-3]])
    found = whiten(advantages_NA, mask_NA, kinds)
    np.testing.assert_allclose(found[0].std(ddof=1), 1.0, rtol=1e-6)
    assert abs(found[1]).max() < 0.05


def test_padding_has_no_part_in_what_counts_as_a_small_spread():
    """The second kind spreads by .08 of all: it keeps less than variance 1, as it does beside less padding."""
    kinds, rng = np.array(["easy", "hard"]), np.random.default_rng(0)
    advantages_NA = rng.normal(size=(2, 50)) * [[1.0], [0.08 / 2**0.5]]
    padded_NA = np.concatenate([advantages_NA, np.zeros((2, 100))], 1)
    bare = whiten(advantages_NA, np.ones((2, 50), dtype=bool), kinds)
    padded = whiten(padded_NA, np.arange(150)[None, :].repeat(2, 0) < 50, kinds)
    assert bare[1].std() < 0.9
    np.testing.assert_array_equal(padded[:, :50], bare)


@pytest.mark.parametrize(
    ("rewards", "expected", "kept"),
    [
        pytest.param([1, 0, 0, 0, 0], [1.789, -0.447, -0.447, -0.447, -0.447], True, id="one-right"),
        pytest.param([1, 1, 0, 0, 0], [1.095, 1.095, -0.730, -0.730, -0.730], True, id="two-right"),
        pytest.param([0, 0, 0, 0, 0], [0.0] * 5, False, id="all-wrong"),
        pytest.param([1, 1, 1, 1, 1], [0.0] * 5, False, id="all-right"),
        pytest.param([1], [0.0], False, id="group-of-one"),
    ],
)
def test_group_relative_advantages_of_five(rewards, expected, kept):
    found, keep = group_relative(np.array(rewards, dtype=float), np.array(["q"] * len(rewards)))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert keep.tolist() == [kept] * len(rewards)


@pytest.mark.parametrize(
    ("outcomes", "format_reward", "expected"),
    [
        pytest.param([1, 1, 0, 0, 1, 0], 0.0, (2, 1 / 3, 1 / 3), id="one-of-each"),
        pytest.param([0.1, 0.1, 0, 0, 0, 0.1], 0.1, (2, 0, 2 / 3), id="paid-for-the-format"),
        pytest.param([0.5, 0.5, 1, 1, 1, 0.5], 0.0, (2, 1 / 3, 0), id="partly-right"),
    ],
)
def test_groups_without_a_difference_are_told_apart(outcomes, format_reward, expected, make_experience):
    experience = make_experience(6, group=2)
    experience.outcomes = np.array(outcomes, dtype=float)
    assert tuple(group_metrics(experience, format_reward).values()) == expected


@pytest.mark.parametrize("by_group", [group_relative, leave_one_out])
@pytest.mark.parametrize("reward", [0.1, 0.7, 2 / 3])
@pytest.mark.parametrize("size", range(2, 17))
def test_equal_rewards_that_no_binary_fraction_holds_are_equal(by_group, reward, size):
    found, keep = by_group(np.full(size, reward), np.zeros(size))
    assert not keep.any()
    assert not found.any()


def test_groups_do_not_mix():
    rewards, groups = np.array([1.0, 0.0, 1.0, 1.0]), np.array(["nq:0", "nq:0", "hotpotqa:0", "hotpotqa:0"])
    for by_group in (group_relative, leave_one_out):
        found, keep = by_group(rewards, groups)
        assert keep.tolist() == [True, True, False, False]
        assert found[2:].tolist() == [0.0, 0.0]


def test_leave_one_out_equals_its_definition():
    rng = random.Random(0)
    rewards = [rng.random() for _ in range(12)]
    groups = [f"q{rng.randrange(3)}" for _ in range(12)]
    found, keep = leave_one_out(np.array(rewards), np.array(groups))
    for i, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        others = [r for j, (r, g) in enumerate(zip(rewards, groups, strict=True)) if g == group and j != i]
        assert found[i] == pytest.approx(reward - statistics.fmean(others))
    assert keep.all()


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce_loo"])
def test_episode_without_trained_tokens_is_harmless(algorithm, make_config, make_experience):
    experience = make_experience(6, seed=3, group=3)
    episode = experience.episodes[1]
    episode.is_model_token = [False] * len(episode.token_ids)
    experience = gather_experience(experience.episodes, experience.questions, [1, 0, 0, 0, 1, 1], mask_retrieved=True)
    assert not experience.mask_NA[1].any()
    flat = np.zeros(experience.num_tokens)
    arrays = advantages_and_returns(experience, flat, flat, make_config(algorithm=algorithm, episodes_per_question=3))
    assert all(len(array) == experience.num_tokens and np.isfinite(array).all() for array in arrays)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce_loo"])
def test_nobody_said_anything(algorithm, make_config, make_experience):
    experience = make_experience(2)
    for episode in experience.episodes:
        episode.is_model_token = [False] * len(episode.token_ids)
    experience = gather_experience(experience.episodes, experience.questions, [1, 0], mask_retrieved=True)
    config = make_config(algorithm=algorithm, episodes_per_question=2)
    assert [len(a) for a in advantages_and_returns(experience, np.zeros(0), np.zeros(0), config)] == [0, 0, 0]


def test_group_advantage_reaches_every_token_of_its_episode(make_config, make_experience):
    experience = make_experience(4, group=2)
    experience.outcomes = np.array([1.0, 0.0, 1.0, 1.0])
    flat = np.zeros(experience.num_tokens)
    advantages, returns, keep = advantages_and_returns(
        experience, flat, flat, make_config(algorithm="grpo", episodes_per_question=2)
    )
    high = 0.5 / (math.sqrt(0.5) + 1e-6)
    expected_NA = np.array([[high], [-high], [0.0], [0.0]]) * experience.mask_NA
    np.testing.assert_allclose(experience.padded(advantages), expected_NA)
    assert not returns.any()
    assert keep.sum() == experience.mask_NA[:2].sum()


def asked(*numbers: str, **metadata) -> list[Question]:
    """Questions `set:number`, one for each episode."""
    return [
        Question(id=x, set_name=x.split(":")[0], question="x?", golden_answers=("x",), metadata=metadata)
        for x in numbers
    ]


@pytest.mark.parametrize(
    "questions",
    [
        pytest.param(asked("nq:0", "nq:0", "hotpotqa:0", "hotpotqa:0"), id="equal-numbers-of-two-sets"),
        pytest.param(asked("nq:0", "nq:0", "nq:1", "nq:1"), id="two-numbers-of-a-set"),
    ],
)
def test_every_question_is_a_group_of_its_own(questions, make_config, make_experience):
    experience = make_experience(4)
    experience.questions = questions
    experience.outcomes = np.array([1.0, 1.0, 0.0, 0.0])
    flat = np.zeros(experience.num_tokens)
    advantages, _, keep = advantages_and_returns(
        experience, flat, flat, make_config(algorithm="grpo", episodes_per_question=2)
    )
    assert not advantages.any()
    assert not keep.any()


def test_kinds_of_one_set_are_whitened_apart(make_config, make_experience):
    experience = make_experience(6)
    experience.questions = asked(*["nq:0"] * 3, kind="bridge") + asked(*["nq:1"] * 3, kind="comparison")
    values = np.random.default_rng(0).normal(size=experience.num_tokens)
    found = experience.padded(advantages_and_returns(experience, values, np.zeros(len(values)), make_config())[0])
    for rows in (slice(3), slice(3, 6)):
        assert found[rows][experience.mask_NA[rows]].mean() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("mask", [True, False])
def test_prompt_is_never_trained(mask, make_experience):
    for sequence, episode in zip(
        make_experience(5, mask=mask).sequences, make_experience(5, mask=mask).episodes, strict=True
    ):
        after_prompt = range(episode.prompt_length_tokens, len(episode.token_ids))
        assert sequence.trained_positions == [p for p in after_prompt if not mask or episode.is_model_token[p]]
