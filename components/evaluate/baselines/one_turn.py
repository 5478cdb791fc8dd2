"""One greedy turn after a prompt that ends where the answer begins; what direct answering and RAG share.

The wording of the prompts is ours: the paper names these baselines (section 4.2) without printing their prompts.
"""

import time
from collections.abc import Sequence

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.prompt import asked, user_turn_ids
from components.contracts.episode import Action, Episode, StopReason, Turn
from components.contracts.errors import ConfigError
from components.evaluate.baselines.model import OnFinished, OpenModel

INSTRUCTIONS = {
    "plain": "Reading: {question}\n\n{passages}answer:",
    "search-r1": (
        "{passages}Answer the question below with the answer alone, in as few words as possible and without any "
        "explanation.\nQuestion: {question}\nAnswer:"
    ),
}
"""Template of the loop -> prompt with the passages (none for direct answering) in their place."""


def answer_prompt(question: str, passages: str, loop: LoopConfig, tokenizer) -> list[int]:
    """Return the ids of the prompt, inside the chat template where the tokenizer has one."""
    # Filled in one pass: braces in a question or passage are text.
    text = INSTRUCTIONS[loop.template].format(question=asked(question, tokenizer), passages=passages)
    return user_turn_ids(text, tokenizer)


def answer_once(
    episodes: Sequence[Episode], model: OpenModel, loop: LoopConfig, on_finished: OnFinished
) -> list[Episode]:
    """Let the model write one turn after each episode's prompt and return the same episodes, ended.

    Raises:
        ConfigError: a prompt leaves no room for an answer in the context of `loop`.
    """
    started_s = time.monotonic()
    for number, episode in enumerate(episodes):
        room = loop.max_context_tokens - len(episode.token_ids)
        if room < 1:
            raise ConfigError(
                f"The prompt of question {episode.question_id} takes {len(episode.token_ids)} tokens",
                f"fewer than {loop.max_context_tokens} (max_context_tokens)",
                "leave the question out, or train with a larger max_context_tokens",
            )
        new_tokens = min(loop.max_turn_tokens, room)
        model.engine.add_request(TurnRequest(number, episode.token_ids, new_tokens, temperature=0.0, seed=0))
    while model.engine.has_unfinished():
        for output in model.engine.step():
            episode = episodes[output.sequence_id]
            _end(episode, output, model.tokenizer)
            episode.wall_s += time.monotonic() - started_s
            model.engine.release(output.sequence_id)
            on_finished(episode)
    return list(episodes)


def answer_text(written: str) -> str:
    """Return the answer in what was written: the content of answer tags, otherwise the first line."""
    action, content = parse_action(written, search_enabled=False)
    if action is Action.ANSWER:
        return content
    lines = written.strip().splitlines()
    return lines[0].strip() if lines else ""


def _end(episode: Episode, output: TurnOutput, tokenizer) -> None:
    start = len(episode.token_ids)
    episode.token_ids.extend(output.token_ids)
    episode.logprobs.extend(output.logprobs)
    episode.is_model_token.extend([True] * len(output.token_ids))
    answer = answer_text(tokenizer.decode(output.token_ids[:-1] if output.finish == "eos" else output.token_ids))
    episode.turns.append(Turn(start, len(episode.token_ids), Action.ANSWER, answer))
    episode.stop_reason = StopReason.ANSWERED
