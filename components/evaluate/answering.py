"""Lets a method answer questions in one rollout, until searches fail too often."""

from collections.abc import Sequence

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
from components.search.protocol import SearchClient


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


def answer(
    method: Method,
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budgets: Budgets,
) -> list[Episode]:
    """Return one episode per question, in order; `on_finished` sees each as it ends.

    Raises:
        ConfigError: a question does not fit the context.
    """
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
