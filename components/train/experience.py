"""A step's episodes as flat arrays of trained tokens, and their advantages.

Legend: N episodes, A trained tokens of the longest, M trained tokens of all in episode order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.contracts.episode import Episode
from components.contracts.question import Question
from components.train.advantages import gae, group_relative, leave_one_out, token_rewards, whiten
from components.train.config import TrainConfig
from components.train.correction import Behaviour
from components.train.episode_health import in_policy_loss
from components.train.packing import EpisodeTokens


@dataclass(slots=True)
class Experience:
    """Finished episodes that may enter the loss, with their rewards."""

    episodes: list[Episode]
    questions: list[Question]
    outcomes: np.ndarray
    sequences: list[EpisodeTokens]
    mask_NA: np.ndarray
    """Marks real trained tokens in padded arrays; `array_NA[mask_NA]` is the flat order M."""

    @property
    def num_tokens(self) -> int:
        """Trained tokens of all episodes."""
        return int(self.mask_NA.sum())

    @property
    def sampled_logprobs_M(self) -> np.ndarray:
        """Log-probabilities the engine sampled with; 0 where a token was not sampled (mask switched off)."""
        pairs = zip(self.episodes, self.sequences, strict=True)
        values = [episode.logprobs[p] for episode, sequence in pairs for p in sequence.trained_positions]
        return np.array(values, dtype=np.float32)

    @property
    def behaviour(self) -> Behaviour:
        """How the trained tokens came about: a turn is a run of sampled tokens."""
        turns, lengths = [], self.mask_NA.sum(1)
        for episode, sequence in zip(self.episodes, self.sequences, strict=True):
            sampled = np.array(episode.is_model_token)
            number = np.cumsum(sampled & ~np.concatenate([[False], sampled[:-1]]))
            turns.append((number * sampled)[sequence.trained_positions])
        episode_M = np.repeat(np.arange(len(lengths)), lengths)
        turn_M = np.concatenate([np.zeros(0, dtype=int), *turns])
        return Behaviour(*map(torch.from_numpy, (self.sampled_logprobs_M, turn_M, episode_M)))

    def padded(self, flat_M: np.ndarray) -> np.ndarray:
        """Return flat values as [N, A], 0 on padding."""
        padded_NA = np.zeros(self.mask_NA.shape)
        padded_NA[self.mask_NA] = flat_M
        return padded_NA


def gather_experience(
    episodes: Sequence[Episode], questions: Sequence[Question], outcomes: Sequence[float], *, mask_retrieved: bool
) -> Experience:
    """Return the experience of `episodes`; without the mask everything after the prompt counts as trained."""
    sequences = []
    for episode in episodes:
        after_prompt = range(episode.prompt_length_tokens, len(episode.token_ids))
        trained = [p for p in after_prompt if episode.is_model_token[p] or not mask_retrieved]
        sequences.append(EpisodeTokens(episode.token_ids, trained))
    lengths = np.array([len(sequence.trained_positions) for sequence in sequences])
    mask_NA = np.arange(max(1, lengths.max(initial=0)))[None, :] < lengths[:, None]
    return Experience(list(episodes), list(questions), np.array(outcomes, dtype=float), sequences, mask_NA)


def advantages_and_returns(
    experience: Experience, values_M: np.ndarray, kl_M: np.ndarray, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (advantages, returns, keep) in flat order M; tokens with keep False leave the policy loss.

    PPO: masked GAE on rewards with the k1 penalty, whitened. GRPO and REINFORCE: one advantage per episode,
    groups without spread dropped; their returns are 0.
    """
    mask_NA = experience.mask_NA
    fit_NA = np.broadcast_to(in_policy_loss(experience.episodes, config)[:, None], mask_NA.shape)
    if config.algorithm == "ppo":
        rewards_NA = token_rewards(experience.outcomes, experience.padded(kl_M), mask_NA, config.loss.kl_coefficient)
        values_NA = experience.padded(values_M)
        advantages_NA, returns_NA = gae(rewards_NA, values_NA, mask_NA, config.loss.gamma, config.loss.gae_lambda)
        kinds = np.array([q.kind if config.loss.whiten_per_kind else "" for q in experience.questions])
        return whiten(advantages_NA, mask_NA, kinds)[mask_NA], returns_NA[mask_NA], fit_NA[mask_NA]
    groups = np.array([question.id for question in experience.questions])
    by_episode = group_relative if config.algorithm == "grpo" else leave_one_out
    advantages_N, keep_N = by_episode(experience.outcomes, groups)
    spread = np.broadcast_to
    shape = mask_NA.shape
    advantages_M = spread(advantages_N[:, None], shape)[mask_NA]
    return advantages_M, np.zeros_like(advantages_M), (fit_NA & keep_N[:, None])[mask_NA]


def group_metrics(experience: Experience, format_reward: float) -> dict[str, float]:
    """Return how many groups have equal rewards throughout, and the shares of all-right and all-wrong groups.

    A wrong answer earns nothing or the `format_reward`; groups that all earn the same part of 1 (F1) are neither.
    """
    by_group: dict[str, set[float]] = {}
    for question, outcome in zip(experience.questions, experience.outcomes, strict=True):
        by_group.setdefault(question.id, set()).add(float(outcome))
    equal = [outcome for outcome, *others in by_group.values() if not others]
    return {
        "group/num_dropped": float(len(equal)),
        "group/frac_all_right": sum(outcome == 1.0 for outcome in equal) / max(1, len(by_group)),
        "group/frac_all_wrong": sum(outcome in (0.0, format_reward) for outcome in equal) / max(1, len(by_group)),
    }
