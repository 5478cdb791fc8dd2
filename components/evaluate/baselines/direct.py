"""Direct answering: the model writes the answer at once, from its weights alone (arXiv:2503.09516, section 4.2)."""

from collections.abc import Sequence

from components.agent.config import LoopConfig
from components.contracts.episode import Episode
from components.contracts.question import Question
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_once, answer_prompt


def answer_directly(
    questions: Sequence[Question], model: OpenModel, loop: LoopConfig, on_finished: OnFinished
) -> list[Episode]:
    """Return one episode of a single turn per question, in order."""
    prompts = [answer_prompt(question.question, "", loop, model.tokenizer) for question in questions]
    episodes = [Episode(question.id, ids, len(ids)) for question, ids in zip(questions, prompts, strict=True)]
    return answer_once(episodes, model, loop, on_finished)
