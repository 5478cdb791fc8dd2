"""The whole loop with a scripted pupil in place of the engine: what is kept, what is left out, when it goes back."""

import json
import re
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from components.contracts.episode import StopReason
from components.contracts.errors import QuestionError, SearchError, TrainingStopped
from components.tracking import silent_tracker
from components.train.checkpoint import TrainState
from components.train.learner import learning_rate_at
from tests.unit.train.pupil import AHEAD, EVERY_STEP, NUM_DEV, Client, Pupil, kill_after, weights


def test_run_logs_every_step_once_and_ends_with_the_best_weights(make_trainer):
    trainer = make_trainer([0.1, 0.2, 0.5, 0.4, 0.4, 0.4, 0.4], dev=EVERY_STEP)
    state = trainer.run(TrainState())
    assert (state.step, state.best_step, state.best_dev_em, state.num_rollbacks) == (6, 2, 0.5, 0)
    assert state.em_curve == [[0, 0.1], [1, 0.2], [2, 0.5], [3, 0.4], [4, 0.4], [5, 0.4], [6, 0.4]]
    assert [step for step, _ in trainer.tracker.lines] == list(range(7))
    ended_with = weights(trainer.learner.policy)
    trainer.checkpoints.restore("step_000002", trainer.learner)
    assert torch.equal(weights(trainer.learner.policy), ended_with)
    assert torch.equal(trainer.engine.published[-1], ended_with)
    trainer.checkpoints.restore("step_000006", trainer.learner)
    assert not torch.equal(weights(trainer.learner.policy), ended_with)


def test_ties_go_to_the_later_step(make_trainer):
    assert make_trainer([0.3], steps=3, dev=EVERY_STEP).run(TrainState()).best_step == 3


def test_last_step_is_evaluated_and_saved_whatever_the_rhythm(make_trainer):
    trainer = make_trainer([0.3], steps=3, save_every_steps=50, dev={"every_steps": 50})
    state = trainer.run(TrainState())
    assert [step for step, _ in state.em_curve] == [0, 3]
    assert trainer.checkpoints.complete() == ["step_000000", "step_000003"]


def test_collapse_on_dev_returns_to_the_best_weights_at_half_the_rate(make_trainer, capsys):
    trainer = make_trainer([0.2, 0.9, 0.3, 0.3, 0.8], steps=4, dev=EVERY_STEP)
    state = trainer.run(TrainState())
    assert (state.num_rollbacks, state.rate_scale, state.best_step) == (1, 0.5, 1)
    assert state.drops_in_a_row == 0
    assert "back to the weights of step 1" in capsys.readouterr().out
    _, after_the_return = trainer.tracker.lines[4]
    assert after_the_return["lr"] == learning_rate_at(3, 4, trainer.config.policy_optimizer) / 2
    # Step 4 was made from the weights of step 1, not from the collapsed ones: two small steps lie between.
    saved, guards = {}, {}
    for step in (1, 3, 4):
        guards[step] = trainer.checkpoints.restore(f"step_{step:06d}", trainer.learner).update_guard
        saved[step] = weights(trainer.learner.policy)
    assert guards[3] == guards[1]
    assert torch.equal(saved[3], saved[1])
    assert not torch.equal(saved[4], saved[1])


def test_every_training_rollout_begins_with_the_weights_of_the_learner(make_trainer):
    """Those it returned to after a collapse, too."""
    trainer, same = make_trainer([0.9, 0.1], dev=EVERY_STEP, steps=5), []
    add_request = trainer.engine.add_request

    def checked(request):
        same.append(torch.equal(trainer.engine.published[-1], weights(trainer.learner.policy)))
        add_request(request)

    trainer.engine.add_request = checked
    trainer.publish_weights()
    assert trainer.run(TrainState()).num_rollbacks == 2
    assert all(same)


def test_collapse_that_a_kill_kept_from_being_acted_on_is_acted_on_first(make_trainer):
    scores = [0.2, 0.9, 0.3, 0.3, 0.8]
    whole = make_trainer(scores, steps=4, dev=EVERY_STEP, folder="whole")
    whole.run(TrainState())
    killed = make_trainer(scores, steps=4, dev=EVERY_STEP, folder="killed")
    state = TrainState()
    with pytest.raises(KeyboardInterrupt):
        killed.announce = kill_after(3)
        killed.run(state)
    killed.checkpoints.finish()
    resumed = make_trainer([0.8], steps=4, dev=EVERY_STEP, folder="killed")
    state = resumed.run(resumed.checkpoints.restore("step_000003", resumed.learner))
    assert (state.num_rollbacks, state.step) == (1, 4)
    for trainer in (whole, resumed):
        trainer.checkpoints.restore("step_000004", trainer.learner)
    assert torch.equal(weights(whole.learner.policy), weights(resumed.learner.policy))


def test_run_killed_after_its_first_evaluation_makes_and_logs_that_once(make_trainer):
    settings = {"steps": 2, "save_every_steps": 50, "dev": {"every_steps": 50}}
    killed, resumed = (make_trainer([0.3], **settings) for _ in range(2))
    killed.announce = kill_after(1)
    with pytest.raises(KeyboardInterrupt):
        killed.run(TrainState())
    state = resumed.run(resumed.checkpoints.restore("step_000000", resumed.learner))
    assert [step for step, _ in killed.tracker.lines] == [0, 1]
    assert [step for step, _ in resumed.tracker.lines] == [1, 2]
    assert [step for step, _ in state.em_curve] == [0, 2]


def test_rare_valid_actions_return_to_the_best_weights(make_trainer):
    state = make_trainer([0.5], valid=False, steps=4, dev={"every_steps": 50}).run(TrainState(was_valid=True))
    assert (state.num_rollbacks, state.best_step) == (1, 4)


def test_too_many_returns_end_the_training_with_the_best_weights(make_trainer):
    trainer = make_trainer([0.9, 0.1], steps=9, dev={"every_steps": 1, "max_rollbacks": 1})
    state = trainer.run(TrainState())
    assert (state.num_rollbacks, state.best_step) == (1, 0)
    assert 0 < state.step < 9


def test_dev_is_greedy_bounded_and_reported_by_kind(make_trainer):
    trainer = make_trainer([0.5], dev={"every_steps": 1, "max_questions": 4})
    dev_em, by_kind = trainer.evaluate_dev(TrainState())
    assert (dev_em, by_kind) == (1.0, {"em/dev/nq/k": 1.0})
    assert {request.temperature for request in trainer.engine.requests} == {0.0}
    assert sorted(set(trainer.client.queries)) == ["0", "1", "2", "3"]
    assert trainer.engine.resets == 1


def test_training_samples_with_a_seed_of_its_own_for_every_episode(make_trainer):
    trainer = make_trainer([0.5], episodes_per_question=3, temperature=0.7)
    for step in range(3):
        trainer.collect(step, TrainState())
    assert {request.temperature for request in trainer.engine.requests} == {0.7}
    assert len({request.seed for request in trainer.engine.requests}) == 3 * 6 * 3


def test_cache_is_forgotten_after_every_update(make_trainer):
    trainer = make_trainer([0.5])
    trainer.train_step(TrainState())
    assert trainer.engine.resets == 1


def test_engine_sleeps_from_the_last_turn_until_new_weights(make_trainer):
    trainer, days = make_trainer([0.3]), []

    def noted(name, method):
        def call(*given):
            days.append(name)
            return method(*given)

        return call

    for name in ("add_request", "sleep", "publish"):
        setattr(trainer.engine, name, noted(name, getattr(trainer.engine, name)))
    for module in (trainer.learner.scorer, trainer.learner.critic):
        module.register_forward_pre_hook(lambda *_: days.append("pass"))
    trainer.train_step(TrainState())
    slept, woken = days.index("sleep"), days.index("publish")
    assert set(days[:slept]) == {"add_request"}
    assert set(days[slept + 1 : woken]) == {"pass"}
    assert len(days) == woken + 1


def test_step_reports_what_happened(make_trainer):
    trainer, state = make_trainer([0.5]), TrainState()
    metrics = trainer.train_step(state)
    _, episodes = trainer.collect(0, TrainState())
    reward = sum(episode.answer == "yes" for episode in episodes) / 6
    assert 0 < reward < 1
    assert metrics["reward/mean"] == metrics["reward/mean/nq/k"] == pytest.approx(reward)
    assert metrics["rollout/num_searches/mean"] == 1.0
    assert (metrics["valid_action_frac"], metrics["stop/answered"]) == (1.0, 1.0)
    sampled = sum(episode.num_model_tokens for episode in episodes)
    assert metrics["mask/frac_policy_tokens"] == pytest.approx(sampled / sum(len(e.token_ids) for e in episodes))
    assert state.tokens == sampled
    assert all(torch.isfinite(torch.tensor(float(value))) for value in metrics.values())


@pytest.mark.parametrize("mask", [True, False])
def test_retrieved_tokens_are_in_the_loss_where_the_mask_is_off_and_nowhere_else(make_trainer, mask):
    metrics = make_trainer([0.5], loss={"mask_retrieved_tokens": mask}).train_step(TrainState())
    assert (metrics["mask/retrieved_tokens_in_loss"] == 0) == mask


def test_drift_from_the_reference_is_told_and_costs_reward(make_trainer):
    trainer = make_trainer([0.5], loss={"kl_coefficient": 0.1})
    questions, episodes = trainer.collect(0, TrainState())
    experience = trainer.usable(episodes, questions, [1.0] * 6)
    zeros_M = torch.zeros(experience.num_tokens)
    level, _ = trainer.advantages(experience, [zeros_M - 1.0, zeros_M, zeros_M - 1.0])
    drifted, metrics = trainer.advantages(experience, [zeros_M - 0.5, zeros_M, zeros_M - 1.0])
    assert metrics["kl/ref"] == 0.5
    assert (drifted.returns < level.returns).all()


def test_order_of_turns_does_not_depend_on_which_search_is_quick(make_trainer):
    class FirstIsLate(Client):
        def submit(self, query) -> Future:
            found, future = super().submit(query), Future()
            threading.Timer(0.3 * (len(self.queries) == 1), future.set_result, [found.result()]).start()
            return future

    trainer = make_trainer([0.5], FirstIsLate())
    trainer.collect(0, TrainState())
    assert [request.sequence_id for request in trainer.engine.requests] == [*range(6), *range(6)]


def test_checkpoint_holds_the_metrics_of_its_own_step(make_trainer):
    trainer = make_trainer([0.3], steps=2)
    trainer.metrics_file.parent.mkdir(exist_ok=True)
    with silent_tracker(trainer.metrics_file.parent) as trainer.tracker:
        trainer.run(TrainState())
    storage = trainer.checkpoints._storage
    for step in (1, 2):
        lines = storage.get_bytes(f"step_{step:06d}/metrics.jsonl").decode().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(step + 1))


def test_time_of_dev_evaluations_is_time_of_training(make_trainer):
    class SlowWhenAskedGreedily(Pupil):
        def step(self):
            time.sleep(0.0 if self.waiting[0].temperature else 0.05)
            return super().step()

    trainer = make_trainer([0.3], steps=1)
    trainer.engine = SlowWhenAskedGreedily([0.3])
    state = trainer.run(TrainState())
    _, metrics = trainer.tracker.lines[1]
    assert state.rl_s == metrics["time/training_s"] > metrics["time/dev_s"] > 0.05 * 2 * NUM_DEV


def test_episode_that_is_left_out_takes_its_question_and_its_reward_along(make_trainer):
    trainer = make_trainer([0.5], Client(1), max_search_failure_frac=0.2)
    questions, episodes = trainer.collect(0, TrainState())
    experience = trainer.usable(episodes, questions, [float(number) for number in range(6)])
    assert episodes[0].stop_reason is StopReason.SEARCH_FAILED
    assert experience.episodes == episodes[1:]
    assert experience.questions == questions[1:]
    assert experience.outcomes.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("failing", "allowed", "stops"), [(1, 1 / 6, False), (1, 0.16, True), (2, 0.2, True), (6, 1.0, True)]
)
def test_failed_searches_leave_the_loss_and_too_many_stop_the_step(make_trainer, failing, allowed, stops):
    trainer = make_trainer([0.5], Client(failing), max_search_failure_frac=allowed)
    state = TrainState()
    if stops:
        with pytest.raises(SearchError, match=f"{failing} of 6 searches .* the engine is down"):
            trainer.train_step(state)
        return
    metrics = trainer.train_step(state)
    assert metrics["stop/search_failed"] == pytest.approx(1 / 6)
    _, episodes = make_trainer([0.5], folder="other").collect(0, TrainState())
    assert state.tokens < sum(episode.num_model_tokens for episode in episodes)


@pytest.mark.parametrize("settings", [{"algorithm": "grpo"}, {"algorithm": "reinforce_loo"}])
def test_other_algorithms_train_in_groups(make_trainer, settings):
    trainer = make_trainer([0.5], episodes_per_question=4, steps=2, **settings)
    before = weights(trainer.learner.policy)
    trainer.run(TrainState())
    assert not torch.equal(weights(trainer.learner.policy), before)
    assert trainer.tracker.lines[1][1]["group/frac_kept_tokens"] > 0
    assert [metrics["progress/samples_seen"] for _, metrics in trainer.tracker.lines[1:]] == [6 * 4, 2 * 6 * 4]


GUARDED = {"loss": {"likelihood_guard_coefficient": 0.2}, "minibatches": 2}


def documented() -> list[str]:
    """Patterns of a training run's metrics in docs/metrics.md."""
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text().partition("# Metrics of the retriever")[0]
    keys = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    names = [name for key in keys for name in re.findall(r"`([^`]+)`", key)]
    patterns = [re.escape(name).replace(r"\[", "(").replace(r"\]", ")?") for name in names]
    return [re.sub(r"<\w+>", ".+", pattern) for pattern in patterns]


def test_every_metric_is_documented_and_every_documented_one_is_logged(make_trainer):
    trainers = [
        make_trainer([0.5], steps=1),
        make_trainer([0.5], steps=1, folder="kept", algorithm="rejection_sampling"),
        make_trainer([0.5], steps=1, folder="groups", algorithm="grpo", episodes_per_question=2, **GUARDED),
        make_trainer([0.5], steps=1, folder="void", valid=False),
        make_trainer([0.5], steps=2, folder="ahead", **AHEAD),
    ]
    for trainer in trainers:
        trainer.run(TrainState())
    logged = {name for trainer in trainers for _, metrics in trainer.tracker.lines for name in metrics}
    assert [name for name in logged if not any(re.fullmatch(pattern, name) for pattern in documented())] == []
    missing = [pattern for pattern in documented() if not any(re.fullmatch(pattern, name) for name in logged)]
    # They need a GPU, vLLM and something broken.
    assert missing == ["perf/mfu", "perf/decode_roof_frac", "engine/probe_error_nats", "health/nonfinite"]


SUPERVISED = [
    pytest.param({"algorithm": "sft", "policy_optimizer": {"learning_rate": 3e-3}}, id="sft"),
    pytest.param({"algorithm": "rejection_sampling", "rollout_steps": 2, "episodes_per_question": 3}, id="rejection"),
]


@pytest.mark.parametrize("settings", SUPERVISED)
def test_baselines_learn_and_end_with_the_best_weights_of_the_dev_questions(make_trainer, settings):
    trainer = make_trainer([0.1, 0.2, 0.1, 0.5, 0.4], steps=4, dev=EVERY_STEP, **settings)
    state = trainer.run(TrainState())
    assert (state.step, state.best_step, state.best_dev_em) == (4, 3, 0.5)
    losses = [metrics["loss/imitation"] for _, metrics in trainer.tracker.lines[1:]]
    assert losses[-1] < losses[0]
    ended_with = weights(trainer.learner.policy)
    trainer.checkpoints.restore("step_000003", trainer.learner)
    assert torch.equal(weights(trainer.learner.policy), ended_with)


@pytest.mark.parametrize("settings", SUPERVISED)
def test_killed_baseline_resumes_to_the_same_bits(make_trainer, settings):
    whole, killed, resumed = (make_trainer([0.3], folder=name, **settings) for name in ("whole", "killed", "killed"))
    whole.run(TrainState())
    killed.announce = kill_after(3)
    with pytest.raises(KeyboardInterrupt):
        killed.run(TrainState())
    killed.checkpoints.finish()
    state = resumed.run(resumed.checkpoints.restore(resumed.checkpoints.complete()[-1], resumed.learner))
    assert state.step == 6
    assert torch.equal(weights(resumed.learner.policy), weights(whole.learner.policy))
    assert not [request for request in resumed.engine.requests if request.temperature]


def test_gold_answers_are_learned_once_per_question_whatever_the_group(make_trainer):
    trainer = make_trainer([0.5], algorithm="sft", episodes_per_question=4)
    metrics = trainer.train_step(TrainState())
    assert metrics["imitation/episodes"] == 6
    assert metrics["imitation/tokens"] == 6 * len("<answer> yes</answer>")
    assert trainer.engine.requests == []
    assert trainer.engine.resets == 1


def test_gold_answers_that_fit_no_turn_are_refused(make_trainer):
    loop = {"max_searches": 1, "max_turn_tokens": 8, "max_context_tokens": 160}
    with pytest.raises(QuestionError, match="at most 8 tokens"):
        make_trainer([0.5], algorithm="sft", loop=loop).train_step(TrainState())


REJECTION = {"algorithm": "rejection_sampling", "rollout_steps": 2, "episodes_per_question": 3}


def test_only_right_episodes_are_imitated_and_only_their_model_tokens(make_trainer):
    trainer, state = make_trainer([0.5], **REJECTION), TrainState()
    metrics = trainer.train_step(state)
    sampled = [
        episode for step in range(2) for episode in make_trainer([0.5], **REJECTION).collect(step, TrainState())[1]
    ]
    right = [episode for episode in sampled if episode.answer == "yes"]
    assert 6 < len(right) < len(sampled) == 36
    assert [s.token_ids for s in trainer.right_episodes] == [episode.token_ids for episode in right]
    for kept, episode in zip(trainer.right_episodes, right, strict=True):
        assert kept.trained_positions == [i for i, sampled in enumerate(episode.is_model_token) if sampled]
    assert (metrics["rollout/num_kept"], metrics["rollout/frac_kept"]) == (len(right), len(right) / 36)
    assert metrics["imitation/episodes"] == 6
    assert state.tokens == metrics["imitation/tokens"]


def test_kill_between_rollout_steps_repeats_none_of_them(make_trainer):
    whole, killed, resumed = (make_trainer([0.3], folder=name, **REJECTION) for name in ("whole", "killed", "killed"))
    whole.train_step(TrainState())
    killed.client = ClientOfOneStep()
    with pytest.raises(KeyboardInterrupt):
        killed.train_step(TrainState())
    resumed.train_step(TrainState())
    assert len(resumed.engine.requests) == len(whole.engine.requests) / 2
    assert resumed.right_episodes == whole.right_episodes
    assert torch.equal(weights(resumed.learner.policy), weights(whole.learner.policy))


class ClientOfOneStep(Client):
    """Is killed by the first query of the second rollout step."""

    def submit(self, query) -> Future:
        if len(self.queries) == 18:
            raise KeyboardInterrupt
        return super().submit(query)


def test_base_model_that_is_never_right_is_said_to_be(make_trainer):
    with pytest.raises(TrainingStopped, match="None of the base model's 36 episodes was right"):
        make_trainer([0.5], valid=False, **REJECTION).train_step(TrainState())


def test_too_many_failed_searches_stop_the_sampling(make_trainer):
    with pytest.raises(SearchError, match="18 of 18 searches"):
        make_trainer([0.5], Client(18), **REJECTION).train_step(TrainState())
