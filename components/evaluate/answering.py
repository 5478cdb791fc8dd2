"""Lets one method answer every question: in batches that bound memory, with progress, until searches fail too often."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from components.agent.config import LoopConfig
from components.contracts.episode import Episode, StopReason
from components.contracts.errors import SearchError
from components.contracts.question import Question
from components.evaluate.baselines.cot import answer_by_thinking
from components.evaluate.baselines.direct import answer_directly
from components.evaluate.baselines.ircot import answer_by_interleaving
from components.evaluate.baselines.loop import answer_in_loop
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.rag import answer_after_retrieval
from components.evaluate.baselines.react import answer_by_acting
from components.evaluate.baselines.search_o1 import answer_by_searching_and_reading
from components.evaluate.config import Budgets, Method
from components.evaluate.predictions import Prediction, score_episode
from components.evaluate.progress import QuestionProgress
from components.evaluate.sample import choose_rows
from components.evaluate.views import episode_view
from components.report.episodes import EpisodeView
from components.search.protocol import SearchClient


@dataclass
class MethodResult:
    """What a method left behind: a row per question, in order, and some episodes to show."""

    rows: list[Prediction]
    wall_s: float
    views: list[EpisodeView] = field(default_factory=list)


class FailureLimit:
    """Counts episodes that lost a search and refuses to go on when they are too many."""

    def __init__(self, method: str, num_questions: int, max_frac: float) -> None:
        self._method, self._num_questions, self._max_frac = method, num_questions, max_frac
        self.num_failed = 0

    def check(self, episode: Episode) -> None:
        """Count `episode`.

        Raises:
            SearchError: more than the allowed share of the method's questions lost a search.
        """
        if episode.stop_reason is not StopReason.SEARCH_FAILED:
            return
        self.num_failed += 1
        if self.num_failed > self._max_frac * self._num_questions:
            raise SearchError(
                f"{self._method}: {self.num_failed} of {self._num_questions} questions lost a search, more than the "
                f"allowed share of {self._max_frac} (evaluate.max_search_failure_frac); the last one because of "
                f"{episode.searches[-1].error}"
            )


def answer_all(
    method: Method,
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    *,
    max_search_failure_frac: float,
    budgets: Budgets,
    num_views: int = 0,
    seed: int = 0,
    batch_size: int = 4096,
) -> MethodResult:
    """Return the scored answers of `method`, with up to `num_views` episodes chosen by `seed`.

    `batch_size` questions are asked in one rollout: enough to keep every slot busy, few enough to hold
    their tokens in memory.

    Raises:
        SearchError: too many questions lost a search.
        ConfigError: a question does not fit the context.
    """
    limit = FailureLimit(method, len(questions), max_search_failure_frac)
    progress = QuestionProgress(f"evaluate {method}", len(questions))

    def on_finished(episode: Episode) -> None:
        limit.check(episode)
        progress.advance()

    rows: list[Prediction] = []
    candidates: dict[str, EpisodeView] = {}
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        episodes = _answer(method, batch, model, loop, client, on_finished, budgets)
        scored = [score_episode(method, question, episode) for question, episode in zip(batch, episodes, strict=True)]
        by_id = dict(zip((row.question_id for row in scored), episodes, strict=True))
        for row in choose_rows(scored, num_views, seed):
            candidates[row.question_id] = episode_view(row, by_id[row.question_id], model.tokenizer)
        rows += scored
    shown = choose_rows([row for row in rows if row.question_id in candidates], num_views, seed)
    return MethodResult(rows, progress.close(), [candidates[row.question_id] for row in shown])


def _answer(
    method: Method,
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budgets: Budgets,
) -> list[Episode]:
    match method:
        case "search_r1" | "base" | "rejection_sampling":
            return answer_in_loop(questions, model, loop, client, on_finished)
        case "sft" | "rl_no_search":
            without_search = loop.model_copy(update={"search_enabled": False})
            return answer_in_loop(questions, model, without_search, client, on_finished)
        case "direct":
            return answer_directly(questions, model, loop, on_finished)
        case "rag":
            return answer_after_retrieval(questions, model, loop, client, on_finished)
        case "cot":
            return answer_by_thinking(questions, model, loop, client, on_finished, budgets.cot)
        case "ircot":
            return answer_by_interleaving(questions, model, loop, client, on_finished, budgets.ircot)
        case "react":
            return answer_by_acting(questions, model, loop, client, on_finished, budgets.react)
        case "search_o1":
            return answer_by_searching_and_reading(questions, model, loop, client, on_finished, budgets.search_o1)
