"""Answering in the search loop (arXiv:2503.09516, section 3): Search-R1, the untrained base, RL without search.

The three differ in weights and in `loop.search_enabled` alone; decoding is greedy.
"""

from collections.abc import Sequence

from components.agent.config import LoopConfig
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import prompt_ids
from components.agent.rollout import rollout
from components.contracts.episode import Episode
from components.contracts.question import Question
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.search.protocol import SearchClient


def answer_in_loop(
    questions: Sequence[Question], model: OpenModel, loop: LoopConfig, client: SearchClient, on_finished: OnFinished
) -> list[Episode]:
    """Return one episode per question, in order.

    Raises:
        ConfigError: a question does not fit the context of `loop`.
    """
    tasks = [
        EpisodeTask(question.id, prompt_ids(question.question, loop, model.tokenizer), seed=0, temperature=0.0)
        for question in questions
    ]
    return rollout(model.engine, client, tasks, loop, model.tokenizer, on_finished=on_finished)
