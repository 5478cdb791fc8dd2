"""What the episodes of a training step looked like: rewards, searches, lengths, ends (docs/metrics.md)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from components.contracts.answer import exact_match
from components.contracts.episode import Episode
from components.contracts.question import Question


def rollout_metrics(
    episodes: Sequence[Episode], outcomes: Sequence[float], questions: Sequence[Question]
) -> dict[str, float]:
    """Return means, shares and largest values over the episodes, whether they enter the loss or not."""
    searches = np.array([episode.num_searches for episode in episodes])
    tokens = np.array([episode.num_model_tokens for episode in episodes])
    reward = np.array(outcomes)
    right = [exact_match(e.answer or "", q.golden_answers) for e, q in zip(episodes, questions, strict=True)]
    in_form = [e.answer is not None and e.valid_action_frac == 1.0 for e in episodes]
    metrics = {
        "reward/mean": float(reward.mean()),
        "reward/std": float(reward.std()),
        "reward/min": float(reward.min()),
        "reward/max": float(reward.max()),
        "reward/em": float(np.mean(right)),
        "reward/format": float(np.mean(in_form)),
        "rollout/num_searches/mean": float(searches.mean()),
        "rollout/num_searches/max": float(searches.max()),
        "rollout/frac_no_search": float((searches == 0).mean()),
        "rollout/frac_correct_without_search": float(((searches == 0) & (np.array(right) > 0)).mean()),
        "response/tokens/mean": float(tokens.mean()),
        "response/tokens/p95": float(np.percentile(tokens, 95)),
        "response/tokens/max": float(tokens.max()),
        "context/tokens/max": float(max(len(episode.token_ids) for episode in episodes)),
        "valid_action_frac": float(np.mean([episode.valid_action_frac for episode in episodes])),
    }
    for kind in sorted({question.kind for question in questions}):
        chosen = np.array([question.kind == kind for question in questions])
        metrics[f"reward/mean/{kind}"] = float(reward[chosen].mean())
        metrics[f"rollout/num_searches/mean/{kind}"] = float(searches[chosen].mean())
    for reason, count in Counter(episode.stop_reason for episode in episodes).items():
        metrics[f"stop/{reason}"] = count / len(episodes)
    return metrics | _what_was_found(episodes, questions)


def _what_was_found(episodes: Sequence[Episode], questions: Sequence[Question]) -> dict[str, float]:
    """Return what searches brought and how many of them an episode had made before; zeros where nobody searched."""
    searched = hits = repeated = 0
    for episode, question in zip(episodes, questions, strict=True):
        golden = [alias.lower() for alias in question.golden_answers]
        answered = [search for search in episode.searches if not search.error]
        searched += len(answered)
        hits += sum(any(alias in p.passage.contents.lower() for p in s.passages for alias in golden) for s in answered)
        repeated += len(episode.searches) - len({search.query for search in episode.searches})
    return {
        "search/hit_frac": hits / max(1, searched),
        "search/duplicate_query_frac": repeated / max(1, sum(episode.num_searches for episode in episodes)),
    }
