import json

import numpy as np
import pytest

from components.contracts.episode import Action
from components.contracts.errors import StorageError
from components.report.episodes import EpisodeView
from components.storage import open_storage
from components.train.checkpoint import TrainState
from components.train.rollout_samples import EPISODES_PER_STEP, MAX_STEPS, RolloutSamples, choose, kept_steps


class LetterTokenizer:
    """One letter per token."""

    def decode(self, token_ids):
        return "".join(chr(97 + i) for i in token_ids)


def marked(experience, kinds):
    """Give the episodes the (right, searched) of `kinds`; an invented episode answers and is paid for `x`."""
    for episode, (is_right, has_searched) in zip(experience.episodes, kinds, strict=True):
        episode.turns[-1].text = "x" if is_right else "y"
        assert episode.turns[-1].action is Action.ANSWER
        episode.searches = episode.searches or [object()]
        if not has_searched:
            episode.searches = []
    return experience


def flat(experience) -> np.ndarray:
    return np.arange(experience.num_tokens, dtype=float) / 8


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"steps": 50, "dev": {"every_steps": 10}}, {10, 20, 30, 40, 50}, id="every-evaluation"),
        pytest.param({"steps": 7, "dev": {"every_steps": 3}}, {3, 6, 7}, id="the-last-step-too"),
        pytest.param({"steps": 2, "dev": {"every_steps": 10}}, {2}, id="only-the-last"),
        pytest.param({"steps": 500, "dev": {"every_steps": 20}}, {500 - 60 * i for i in range(9)}, id="evenly-spaced"),
    ],
)
def test_evaluated_steps_are_kept_up_to_a_number(make_config, config, expected):
    steps = kept_steps(make_config(**config))
    assert steps == expected and len(steps) <= MAX_STEPS


def test_right_and_wrong_with_and_without_a_search_take_turns(make_experience):
    kinds = [(False, True)] * 20 + [(True, True)] * 2 + [(False, False)] * 5 + [(True, False)]
    experience = marked(make_experience(len(kinds)), kinds)
    chosen = choose(experience)
    assert [kinds[i] for i in chosen[:4]] == [(True, True), (False, True), (True, False), (False, False)]
    assert chosen == [20, 0, 27, 22, 21, 1, 23, 2] and len(chosen) == EPISODES_PER_STEP


def test_tokens_keep_their_own_advantages_and_log_probabilities(make_experience, make_config, tmp_path):
    storage = open_storage(f"file://{tmp_path}/work")
    experience = make_experience(5)
    samples = RolloutSamples(storage, make_config(steps=4, dev={"every_steps": 2}), LetterTokenizer())
    samples.keep(2, experience, flat(experience))
    (path,) = (tmp_path / "work" / "rollouts").iterdir()
    views = [EpisodeView.model_validate(view) for view in json.loads(path.read_text())]
    assert path.name == "step_000002.json" and len(views) == 5
    starts = np.cumsum([0, *(len(sequence.trained_positions) for sequence in experience.sequences)])
    for view, index in zip(views, choose(experience), strict=True):
        own = flat(experience)[starts[index] : starts[index + 1]]
        assert [a for span in view.spans for a in span.advantages] == np.round(own, 4).tolist()
        episode = experience.episodes[index]
        pairs = zip(episode.logprobs, episode.is_model_token, strict=True)
        expected = [round(logprob, 4) for logprob, is_model in pairs if is_model]
        assert [value for span in view.spans for value in span.logprobs] == expected
        assert "".join(span.text for span in view.spans) == LetterTokenizer().decode(episode.token_ids)
        assert (view.training_step, view.reward) == (2, experience.outcomes[index])


def test_a_step_taken_again_writes_the_same_bytes_and_others_write_nothing(make_experience, make_config, tmp_path):
    storage = open_storage(f"file://{tmp_path}/work")
    samples = RolloutSamples(storage, make_config(steps=4, dev={"every_steps": 2}), LetterTokenizer())
    experience = make_experience(30)
    samples.keep(1, experience, flat(experience))
    assert storage.list("rollouts") == []
    samples.keep(4, experience, flat(experience))
    first = storage.get_bytes("rollouts/step_000004.json")
    for episode in experience.episodes:
        episode.wall_s += 1.0
    samples.keep(4, experience, flat(experience))
    assert storage.get_bytes("rollouts/step_000004.json") == first
    samples.copy_to(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "step_000004.json").read_bytes() == first


def test_a_run_that_kept_nothing_copies_nothing(make_config, tmp_path):
    RolloutSamples(open_storage(f"file://{tmp_path}/work"), make_config(), LetterTokenizer()).copy_to(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_storage_that_refuses_them_ends_no_training(make_trainer, capsys):
    class Refusing:
        def put_bytes(self, data, key):
            raise StorageError("slow down")

    trainer = make_trainer([0.3], steps=2, dev={"every_steps": 2})
    trainer.rollout_samples = RolloutSamples(Refusing(), trainer.config, LetterTokenizer())
    assert trainer.run(TrainState()).step == 2
    assert "the episodes of step 2 are not kept for readers (storage: slow down)" in capsys.readouterr().out
