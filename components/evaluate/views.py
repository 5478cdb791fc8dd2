"""Episodes as a reader meets them: neighbouring tokens of one source become one piece of text."""

from itertools import groupby

from components.contracts.episode import Episode
from components.evaluate.predictions import Prediction
from components.report.episodes import EpisodeView, Span


def episode_view(row: Prediction, episode: Episode, tokenizer) -> EpisodeView:
    """Return the episode behind a scored row with its tokens decoded piece by piece."""
    prompt = episode.token_ids[: episode.prompt_length_tokens]
    spans = [Span(source="prompt", text=tokenizer.decode(prompt), num_tokens=len(prompt))]
    rest = range(episode.prompt_length_tokens, len(episode.token_ids))
    for is_model, positions in groupby(rest, key=lambda position: episode.is_model_token[position]):
        ids = [episode.token_ids[position] for position in positions]
        source = "model" if is_model else "retrieved"
        spans.append(Span(source=source, text=tokenizer.decode(ids), num_tokens=len(ids)))
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
        spans=tuple(spans),
    )
