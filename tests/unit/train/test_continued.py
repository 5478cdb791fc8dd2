"""A training with other settings goes on from what a stopped one saved."""

import json

import pytest
import torch

from components.contracts.errors import ConfigError, ManifestError
from components.resolve.config import ResolveConfig
from components.resolve.settings import resolve_settings
from components.resolve.tasks import TASKS
from components.storage import open_storage
from components.train.checkpoint import Checkpoints, TrainState
from components.train.continued import must_take_over, take_over
from tests.unit.train.pupil import AHEAD, EVERY_STEP, kill_after, weights


def test_newest_and_best_checkpoint_come_along_and_training_goes_on(make_trainer, tmp_path, s3_root):
    stopped = make_trainer([0.1, 0.9, 0.5, 0.4, 0.4], steps=4, dev=EVERY_STEP | {"max_drop": 1.0}, folder="stopped")
    stopped.run(TrainState())
    ours = open_storage(f"{s3_root}/work/train/next")
    take_over(ours, f"file://{tmp_path}/stopped")
    checkpoints = Checkpoints(ours)
    assert checkpoints.complete() == ["step_000001", "step_000004"]
    longer = make_trainer([0.3], steps=6, row_tokens=64, dev=EVERY_STEP | {"max_drop": 1.0}, folder="longer")
    longer.checkpoints = checkpoints
    state = checkpoints.restore("step_000004", longer.learner)
    stopped.checkpoints.restore("step_000004", stopped.learner)
    assert torch.equal(weights(longer.learner.policy), weights(stopped.learner.policy))
    state = longer.run(state)
    assert (state.step, state.best_step, len(state.em_curve)) == (6, 1, 7)
    stopped.checkpoints.restore("step_000001", stopped.learner)
    assert torch.equal(weights(longer.learner.policy), weights(stopped.learner.policy))


def test_a_training_that_a_rule_ended_goes_on_where_it_was_best(make_trainer, tmp_path):
    falling = {"steps": 9, "dev": EVERY_STEP}
    ended = make_trainer([0.9, 0.1], folder="ended", **falling).run(TrainState())
    assert (ended.num_rollbacks, ended.step < 9) == (2, True), "no rule has ended it"
    mended = make_trainer([0.9], folder="mended", **falling)
    take_over(open_storage(f"file://{tmp_path}/mended"), f"file://{tmp_path}/ended")
    state = mended.checkpoints.restore(mended.checkpoints.complete()[-1], mended.learner)
    assert (state.num_rollbacks, state.drops_in_a_row) == (0, 0)
    assert mended.run(state).step == 9


def test_counters_and_curves_go_on_and_alarms_stay_behind(make_trainer, tmp_path):
    goes_on = {"step": 2, "best_step": 2, "best_dev_em": 0.5, "em_curve": [[0, 0.3], [2, 0.5]], "rate_scale": 0.5}
    goes_on |= {"was_valid": True, "was_whole": True, "rl_s": 9.5, "tokens": 77, "unfinished": {"lr": 0.1}}
    alarms = {"drops_in_a_row": 1, "invalid_in_a_row": 2, "truncated_in_a_row": 2, "mismatch_in_a_row": 3}
    alarms |= {"correct_logprobs": [-1.0], "logprob_curve": [-1.0, -2.0], "num_rollbacks": 2, "ahead_s": 4.0}
    stopped, longer = (make_trainer([0.3], folder=folder) for folder in ("stopped", "longer"))
    goes_on["update_guard"] = stopped.learner.guard.state_dict()
    stopped.metrics_file.parent.mkdir(exist_ok=True)
    stopped.metrics_file.write_text('{"step": 2}\n')
    stopped.checkpoints.save(stopped.learner, TrainState(**goes_on, **alarms), stopped.metrics_file)
    stopped.checkpoints.finish()
    take_over(open_storage(f"file://{tmp_path}/longer"), f"file://{tmp_path}/stopped")
    assert longer.checkpoints.restore("step_000002", longer.learner) == TrainState(**goes_on)
    longer.checkpoints.restore_metrics("step_000002", longer.metrics_file)
    assert longer.metrics_file.read_text() == '{"step": 2}\n'


def test_rejection_sampling_goes_on_with_what_the_base_model_got_right(make_trainer):
    settings = {"algorithm": "rejection_sampling", "rollout_steps": 2, "episodes_per_question": 2}
    stopped = make_trainer([0.3], steps=2, folder="stopped", **settings)
    stopped.run(TrainState())
    longer = make_trainer([0.3], steps=4, folder="longer", **settings)
    take_over(longer.storage, stopped.storage.uri())
    state = longer.run(longer.checkpoints.restore("step_000002", longer.learner))
    assert (state.step, longer.right_episodes) == (4, stopped.right_episodes)


@pytest.mark.parametrize(
    "other",
    [AHEAD | {"seed": 7}, AHEAD | {"questions_per_step": 4}, {"correction": {"max_mismatch_kl": 1e9}}],
    ids=["other-questions", "fewer-questions", "nothing-ahead"],
)
def test_episodes_sampled_ahead_under_other_settings_are_not_scored_against_new_questions(
    make_trainer, tmp_path, other
):
    stopped = make_trainer([0.3], steps=4, folder="stopped", **AHEAD)
    stopped.announce = kill_after(2)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(TrainState())
    assert stopped.checkpoints.restore("step_000002", stopped.learner).ahead, "there was nothing to mistake"
    trainer = make_trainer([0.3], steps=4, folder="next", **other)
    take_over(open_storage(f"file://{tmp_path}/next"), f"file://{tmp_path}/stopped")
    state = trainer.checkpoints.restore("step_000002", trainer.learner)
    questions, episodes = trainer.collect(state.step, state, state.ahead)
    assert [episode.question_id for episode in episodes] == [question.id for question in questions]
    assert trainer.train_step(state)["rollout/staleness_steps"] == 0


def test_nothing_to_continue_from_is_said_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match="holds no complete checkpoint") as raised:
        take_over(open_storage(f"file://{tmp_path}/ours"), f"file://{tmp_path}/nobody")
    assert "the address that training printed" in str(raised.value)


def test_copy_that_broke_off_is_no_checkpoint(make_trainer, tmp_path):
    make_trainer([0.3], steps=2, folder="stopped").run(TrainState())
    ours = open_storage(f"file://{tmp_path}/ours")

    class Full:
        def __getattr__(self, name):
            return getattr(ours, name)

        def take_file(self, local, key):
            if "critic_optimizer" in key:
                raise OSError(28, "No space left on device")
            ours.take_file(local, key)

    with pytest.raises(OSError, match="No space left"):
        take_over(Full(), f"file://{tmp_path}/stopped")
    assert Checkpoints(ours).complete() == []


def test_copy_that_broke_off_between_the_best_and_the_newest_is_made_again(make_trainer, tmp_path):
    """The best one alone would send the training back to it in silence."""
    stopped = make_trainer([0.1, 0.9, 0.5], steps=4, dev=EVERY_STEP | {"max_drop": 1.0}, folder="stopped")
    stopped.run(TrainState())
    ours = open_storage(f"file://{tmp_path}/ours")

    class Killed:
        def __getattr__(self, name):
            return getattr(ours, name)

        def take_file(self, local, key):
            if key.startswith("step_000004/"):
                raise KeyboardInterrupt
            ours.take_file(local, key)

    assert must_take_over(ours)
    with pytest.raises(KeyboardInterrupt):
        take_over(Killed(), f"file://{tmp_path}/stopped")
    assert Checkpoints(ours).complete() == ["step_000001"]
    assert must_take_over(ours)
    take_over(ours, f"file://{tmp_path}/stopped")
    assert Checkpoints(ours).complete() == ["step_000001", "step_000004"]
    assert not must_take_over(ours)


@pytest.mark.parametrize("other", [{"algorithm": "grpo", "episodes_per_question": 2}, {"model": "wider"}], ids=str)
def test_checkpoint_of_another_training_is_refused(make_trainer, make_learner, tmp_path, other):
    trainer = make_trainer([0.3], steps=1, folder="stopped")
    trainer.run(TrainState())
    if other.pop("model", None):
        learner = make_learner()  # a vocabulary of 23, not of 128
    else:
        saved = make_trainer([0.3], steps=1, folder="grpo", **other)
        saved.run(TrainState())
        trainer, learner = saved, make_trainer([0.3], folder="ppo").learner
    with pytest.raises(ManifestError, match=r"The checkpoint is of another (model|algorithm)"):
        trainer.checkpoints.restore("step_000001", learner)


def test_baselines_never_continue_from_the_trained_model():
    given = "s3://bucket/runs/work/train/0123456789abcdef"
    config = ResolveConfig(storage_root="s3://bucket/runs", overrides=f"train.continue_from={given}")
    configs = {name: json.loads(text)["config"] for name, text in resolve_settings(config, TASKS).items()}
    found = {name: values["continue_from"] for name, values in configs.items() if "continue_from" in values}
    baselines = ("train_rl_no_search", "train_sft", "train_rejection_sampling")
    assert found == {"train": given} | dict.fromkeys(baselines, "")
