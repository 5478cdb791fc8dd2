"""Episodes of an evaluation as a reader meets them."""

from components.contracts.episode import Episode
from components.evaluate.predictions import Prediction
from components.report.episodes import EpisodeView
from components.report.spans import episode_spans


def episode_view(row: Prediction, episode: Episode, tokenizer) -> EpisodeView:
    """Return the episode behind a scored row with its tokens and their log-probabilities."""
    return EpisodeView(
        question_id=row.question_id,
        set_name=row.set_name,
        question=row.question,
        golden_answers=row.golden_answers,
        prediction=row.prediction,
        has_answer=row.finished,
        em=row.em,
        num_searches=row.num_searches,
        stop_reason=row.stop_reason,
        spans=episode_spans(episode, tokenizer.decode),
    )
