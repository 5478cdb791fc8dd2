"""Outcome rewards, read from the answer the model itself wrote."""

from collections.abc import Sequence

from components.contracts.answer import exact_match, f1, sub_exact_match
from components.contracts.episode import Episode
from components.contracts.question import Question
from components.train.config import RewardConfig


def episode_reward(episode: Episode, question: Question, config: RewardConfig) -> float:
    """Return the reward in [0, 1]: the outcome measure, and not less than the format reward in valid form.

    So an answer that is hardly right (F1) earns no less than a wrong one. An episode without an answer earns 0,
    whatever its prompt, notices or passages contain.
    """
    if episode.answer is None:
        return 0.0
    measure = {"em": exact_match, "f1": f1, "sub_em": sub_exact_match}[config.outcome]
    outcome = measure(episode.answer, question.golden_answers)
    well_formed = episode.valid_action_frac == 1.0
    return max(outcome, config.format_reward) if well_formed else outcome


def rewards(episodes: Sequence[Episode], questions: Sequence[Question], config: RewardConfig) -> list[float]:
    """Return one reward per episode, in order."""
    return [episode_reward(e, q, config) for e, q in zip(episodes, questions, strict=True)]
