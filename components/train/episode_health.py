"""What can be wrong with an episode: read from its turns, as masks for the policy loss and as metrics."""

from collections.abc import Sequence

import numpy as np

from components.agent.config import LoopConfig
from components.contracts.answer import exact_match
from components.contracts.episode import Action, Episode, StopReason
from components.contracts.question import Question
from components.train.config import TrainConfig


def has_void_turn(episode: Episode) -> bool:
    """Return whether a turn neither searched nor answered (SimpleTIR, arXiv 2509.02479)."""
    return any(turn.action is Action.INVALID for turn in episode.turns)


def is_truncated(episode: Episode, loop: LoopConfig) -> bool:
    """Return whether a limit of length ended the episode: the context was full, or its last turn was cut off."""
    if episode.stop_reason is StopReason.CONTEXT_FULL:
        return True
    if episode.stop_reason is not StopReason.NO_ANSWER or not episode.turns:
        return False
    last = episode.turns[-1]
    full = last.end - last.start >= loop.max_turn_tokens or last.end >= loop.max_context_tokens
    return full and last.action is Action.INVALID


def in_policy_loss(episodes: Sequence[Episode], config: TrainConfig) -> np.ndarray:
    """Return which episodes may enter the policy loss [N]; those left out still count in every statistic."""
    return np.array(
        [
            not (config.loss.mask_void_turns and has_void_turn(episode))
            and not (config.loss.mask_truncated and is_truncated(episode, config.loop))
            for episode in episodes
        ],
        dtype=bool,
    )


def health_metrics(episodes: Sequence[Episode], questions: Sequence[Question], loop: LoopConfig) -> dict[str, float]:
    """Return shares and means; one over nothing (no right episode, nobody searched) is left out."""
    right = [exact_match(e.answer or "", q.golden_answers) == 1.0 for e, q in zip(episodes, questions, strict=True)]
    searched = [episode.num_searches > 0 for episode in episodes]
    correct = [episode for episode, hit in zip(episodes, right, strict=True) if hit]
    sums = {
        "rollout/void_turn_frac": (sum(map(has_void_turn, episodes)), len(episodes)),
        "rollout/truncated_frac": (sum(is_truncated(e, loop) for e in episodes), len(episodes)),
        "rollout/em/searched": (sum(h for h, s in zip(right, searched, strict=True) if s), sum(searched)),
        "rollout/em/not_searched": (
            sum(h for h, s in zip(right, searched, strict=True) if not s),
            len(episodes) - sum(searched),
        ),
        "logprob/correct_mean": (sum(sum(e.logprobs) for e in correct), sum(e.num_model_tokens for e in correct)),
    }
    return {name: float(total / count) for name, (total, count) in sums.items() if count}


def search_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return how long the searches of `episodes` took and which share of them failed; zeros where nobody searched."""
    searches = [search for episode in episodes for search in episode.searches]
    latencies_s = [search.latency_s for search in searches] or [0.0]
    return {
        "search/failed_frac": sum(bool(search.error) for search in searches) / max(1, len(searches)),
        "time/search_s/mean": float(np.mean(latencies_s)),
        "time/search_s/p95": float(np.percentile(latencies_s, 95)),
    }
