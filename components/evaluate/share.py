"""One rank's share of an evaluation: chunk after chunk, every answer kept as soon as it is there."""

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from components.agent.config import LoopConfig
from components.contracts.episode import Episode
from components.contracts.question import Question
from components.evaluate.answering import FailureLimit, answer
from components.evaluate.baselines.model import OpenModel
from components.evaluate.chunks import Chunk, Rank, share_of
from components.evaluate.config import Method
from components.evaluate.job import Job
from components.evaluate.kept_answers import Answer, KeptAnswers
from components.evaluate.methods import METHODS, ModelInput
from components.evaluate.predictions import score_episode
from components.evaluate.question_sets import drawn
from components.evaluate.views import episode_view
from components.search.open import search_client, searcher_for
from components.search.protocol import SearchClient, Searcher

CANDIDATES_PER_EPISODE = 8
"""Episodes kept for each one that the report shows."""
ModelOpener = Callable[[ModelInput, LoopConfig], OpenModel]
OnAnswers = Callable[[Method, int, bool], None]
"""Called with a method, a number of answers, and whether they were kept from before."""
REMEMBERED_QUERIES = 8192
"""Few enough for a cache that stays small beside a model, whatever the number of questions."""


def answer_share(
    job: Job,
    rank: Rank,
    questions: Sequence[Question],
    open_model_of: ModelOpener,
    on_answers: OnAnswers,
    open_search: Callable[[], Searcher] | None = None,
) -> None:
    """Answer what is missing of the chunks of `rank`; models and index are opened when the first question needs them.

    Raises:
        ManifestError: an input is damaged.
        SearchError: the search engine does not start or is not ready in time, or too many questions lost a search.
        ConfigError: a question does not fit the context.
        StorageError: the storage refuses.
    """
    searcher: Searcher | None = None
    chunks = share_of(rank, job.chunks(len(questions)))
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        share = _Share(job, questions, Path(scratch), on_answers)
        for model_name, of_model in groupby(chunks, key=lambda chunk: METHODS[chunk.method].model):
            missing = [chunk for chunk in of_model if not share.is_complete(chunk)]
            if not missing:
                continue
            searcher = searcher or (open_search() if open_search else searcher_for(job.index, job.config.search))
            loop = job.loops[model_name]
            model = open_model_of(model_name, loop)
            with search_client(searcher, job.config.search, loop.top_k, REMEMBERED_QUERIES) as client:
                for chunk in missing:
                    share.answer(chunk, model, client)
            # One model at a time is in memory.
            del model


class _Share:
    def __init__(self, job: Job, questions: Sequence[Question], scratch: Path, on_answers: OnAnswers) -> None:
        self._job, self._questions, self._scratch, self._on_answers = job, questions, scratch, on_answers
        self._kept: dict[Method, KeptAnswers] = {}
        self._limits: dict[Method, FailureLimit] = {}
        # So many that right and wrong ones are among them, drawn before anybody knows which are which.
        per_set = CANDIDATES_PER_EPISODE * job.config.num_report_episodes
        self._shown = drawn(questions, -(-per_set // len({q.set_name for q in questions})), job.config.seed)

    def is_complete(self, chunk: Chunk) -> bool:
        method = chunk.method
        if method not in self._kept:
            self._kept[method] = KeptAnswers(self._job.answers_uri(method), self._scratch / method)
            max_frac = self._job.config.max_search_failure_frac
            self._limits[method] = FailureLimit(method, len(self._questions), max_frac)
        is_complete = self._kept[method].is_complete(chunk)
        if is_complete:
            self._on_answers(method, chunk.stop - chunk.start, True)
        return is_complete

    def answer(self, chunk: Chunk, model: OpenModel, client: SearchClient) -> None:
        method, asked = chunk.method, self._questions[chunk.start : chunk.stop]
        journal = self._kept[method].journal(chunk)
        answers = journal.answers()
        missing = [question for question in asked if question.id not in answers]
        self._on_answers(method, len(answers), True)
        by_id = {question.id: question for question in missing}

        def on_finished(episode: Episode) -> None:
            row = score_episode(method, by_id[episode.question_id], episode)
            is_shown = method == "search_r1" and row.question_id in self._shown
            view = episode_view(row, episode, model.tokenizer) if is_shown else None
            answers[row.question_id] = Answer(row, view)
            journal.append(answers[row.question_id])
            self._limits[method].check(episode)
            self._on_answers(method, 1, False)

        started_s = time.monotonic()
        loop, budgets = self._job.loops[METHODS[method].model], self._job.config.budgets
        try:
            answer(method, missing, model, loop, client, on_finished, budgets)
        except BaseException:
            journal.store()
            raise
        wall_s = time.monotonic() - started_s
        in_order = [answers[question.id] for question in asked]
        if any(kept.row.search_error for kept in in_order):
            journal.store()
        else:
            self._kept[method].complete(chunk, in_order, wall_s)
