"""Retrieval-augmented generation: one retrieval of the question, then the answer (arXiv:2503.09516, section 4.2).

After Lewis et al., arXiv:2005.11401. The passages are as many and as long as one observation of the search loop.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future

from components.agent.config import LoopConfig
from components.contracts.episode import Episode, SearchRecord, StopReason
from components.contracts.errors import SearchError
from components.contracts.passage import ScoredPassage
from components.contracts.question import Question
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_once, answer_prompt
from components.evaluate.baselines.passages import prompt_with_passages
from components.search.protocol import SearchClient


def answer_after_retrieval(
    questions: Sequence[Question], model: OpenModel, loop: LoopConfig, client: SearchClient, on_finished: OnFinished
) -> list[Episode]:
    """Return one episode per question, in order; a failed search ends its episode without an answer."""
    asked_s = time.monotonic()
    futures = [client.submit(question.question) for question in questions]
    episodes = [
        _retrieved(question, future, asked_s, loop, model.tokenizer)
        for question, future in zip(questions, futures, strict=True)
    ]
    for failed in (episode for episode in episodes if episode.stop_reason is StopReason.SEARCH_FAILED):
        on_finished(failed)
    ready = [episode for episode in episodes if episode.stop_reason is not StopReason.SEARCH_FAILED]
    answer_once(ready, model, loop, on_finished)
    return episodes


def _retrieved(
    question: Question, future: Future[list[ScoredPassage]], asked_s: float, loop: LoopConfig, tokenizer
) -> Episode:
    """Return an episode whose prompt holds the passages, or one that ended because the search failed."""
    query = question.question
    try:
        passages, error = future.result(), ""
    except SearchError as failure:
        passages, error = [], str(failure)

    def prompt(shown: str) -> list[int]:
        return answer_prompt(query, f"{shown}\n\n", loop, tokenizer)

    ids = prompt_with_passages(prompt, passages, loop.max_observation_tokens, loop, tokenizer)
    episode = Episode(question.id, ids, len(ids), wall_s=time.monotonic() - asked_s)
    episode.searches.append(SearchRecord(query, passages, episode.wall_s, error))
    if error:
        episode.stop_reason = StopReason.SEARCH_FAILED
    return episode
