"""What a training run refuses before it has loaded anything."""

import pytest

from components.contracts.errors import ConfigError
from components.train.config import TrainConfig
from components.train.main import run, step


@pytest.mark.parametrize("algorithm", ["grpo", "reinforce_loo"])
def test_groups_of_one_are_refused_with_the_remedy(algorithm):
    config = TrainConfig(algorithm=algorithm, episodes_per_question=1)
    with pytest.raises(ConfigError, match="compares episodes of one question") as raised:
        run(config, None, None, None, None)
    assert "2 or more" in str(raised.value)
    assert "train.episodes_per_question" in str(raised.value)


def test_a_retriever_on_one_of_several_nodes_is_refused_with_the_reason():
    config = TrainConfig.parse(
        {"parallel": {"num_nodes": 2}, "search": {"retriever_url": "http://localhost:8000"}, "algorithm": "ppo"}
    )
    with pytest.raises(ConfigError, match="2 nodes would each ask themselves"):
        run(config, None, None, None, None)


def test_likelihood_guard_without_anything_to_compare_is_refused_with_the_remedy():
    config = TrainConfig.parse({"loss": {"likelihood_guard_coefficient": 0.2}, "minibatches": 1})
    with pytest.raises(ConfigError, match=r"likelihood_guard_coefficient compares .* train.minibatches = 1"):
        run(config, None, None, None, None)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({"algoritm": "ppo"}, "did you mean 'algorithm'", id="misspelt-key"),
        pytest.param({"algorithm": "dpo"}, "train.algorithm = 'dpo'", id="unknown-algorithm"),
        pytest.param({"rollout_steps": 0}, "train.rollout_steps = 0", id="no-rollouts-to-imitate"),
        pytest.param({"steps": 0}, "train.steps = 0", id="no-steps"),
        pytest.param({"temperature": 0}, "train.temperature = 0", id="greedy-training"),
        pytest.param({"temperature": 0.005}, "train.temperature = 0.005", id="colder-than-vllm-samples"),
        pytest.param({"set_shares": {}}, "train.set_shares", id="no-sets"),
        pytest.param({"set_shares": {"nq": 0}}, "train.set_shares.nq = 0", id="share-of-nothing"),
        pytest.param({"set_shares": {"nq": -1}}, "train.set_shares.nq = -1", id="negative-share"),
        pytest.param({"loss": {"clip_low": 1.5}}, "train.loss.clip_low = 1.5", id="clip-out-of-bounds"),
        pytest.param({"loss": {"mask": True}}, "Unknown key 'train.loss.mask'", id="unknown-key-of-the-loss"),
        pytest.param({"loop": {"top_p": 0.9}}, "Unknown key 'train.loop.top_p'", id="truncated-sampling"),
        pytest.param({"correction": {"mode": "tis"}}, "train.correction.mode = 'tis'", id="unknown-correction"),
        pytest.param({"correction": {"token_cap": 0.5}}, "train.correction.token_cap = 0.5", id="cap-below-one"),
        pytest.param({"correction": {"sequence_low": 1.1}}, "sequence_low = 1.1", id="interval-without-one"),
        pytest.param({"max_grad_norm_jump": 1.0}, "train.max_grad_norm_jump = 1.0", id="every-update-a-jump"),
        pytest.param({"reward": {"outcome": "bleu"}}, "train.reward.outcome = 'bleu'", id="unknown-reward"),
    ],
)
def test_value_out_of_bounds_is_named(values, says):
    with pytest.raises(ConfigError) as raised:
        step.config_class.parse(values, where="train")
    assert says in str(raised.value)


def test_config_survives_its_own_json():
    import json

    config = TrainConfig(seed=3, set_shares={"nq": 2.0})
    assert TrainConfig.parse(json.loads(config.to_json())) == config
