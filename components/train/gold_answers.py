"""Supervised fine-tuning on question/answer pairs: what the model should have written in its very first turn."""

from collections.abc import Sequence

from components.agent.config import LoopConfig
from components.agent.prompt import Tokenizer, neutralise, prompt_ids
from components.contracts.question import Question
from components.train.packing import EpisodeTokens


def answer_turns(questions: Sequence[Question], loop: LoopConfig, tokenizer: Tokenizer) -> list[EpisodeTokens]:
    """Return prompt and answer turn of each question, trained on the turn alone (Search-R1, section 4.2).

    The first gold answer that fits a turn is the one; a question without any is left out.

    Raises:
        ConfigError: a prompt leaves no room for a turn.
    """
    demonstrations = []
    for question in questions:
        prompt = prompt_ids(question.question, loop, tokenizer)
        turns = (_answer_turn(answer, tokenizer) for answer in question.golden_answers)
        turn = next((turn for turn in turns if len(turn) <= loop.max_turn_tokens), [])
        if turn:
            demonstrations.append(EpisodeTokens(prompt + turn, list(range(len(prompt), len(prompt) + len(turn)))))
    return demonstrations


def _answer_turn(answer: str, tokenizer: Tokenizer) -> list[int]:
    # The loop stops at the closing tag: no end-of-sequence token follows it.
    text = f"<answer> {neutralise(answer.strip(), tokenizer)}</answer>"
    return tokenizer.encode(text, add_special_tokens=False)
