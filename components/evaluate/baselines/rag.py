"""Retrieval-augmented generation: one retrieval of the question, then the answer (arXiv:2503.09516, section 4.2).

After Lewis et al., arXiv:2005.11401. The passages are as many and as long as one observation of the search loop.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future

from components.agent.config import LoopConfig
from components.agent.prompt import passages_text
from components.contracts.episode import Episode, SearchRecord, StopReason
from components.contracts.errors import SearchError
from components.contracts.passage import ScoredPassage
from components.contracts.question import Question
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_once, answer_prompt
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
    shown = _cut(passages_text(passages, tokenizer), query, loop, tokenizer)
    ids = answer_prompt(query, f"{shown}\n\n", loop, tokenizer)
    episode = Episode(question.id, ids, len(ids), wall_s=time.monotonic() - asked_s)
    episode.searches.append(SearchRecord(query, passages, episode.wall_s, error))
    if error:
        episode.stop_reason = StopReason.SEARCH_FAILED
    return episode


def _cut(text: str, query: str, loop: LoopConfig, tokenizer) -> str:
    """Return `text` cut to what an observation may take and the context has room for."""
    around = len(answer_prompt(query, "", loop, tokenizer)) + loop.max_turn_tokens
    budget = max(0, min(loop.max_observation_tokens, loop.max_context_tokens - around))
    ids = tokenizer.encode(text, add_special_tokens=False)
    return text if len(ids) <= budget else tokenizer.decode(ids[:budget]) + "\n"
