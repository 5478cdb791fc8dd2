"""Chain of thought: the model reasons first, then answers, without search (Wei et al., arXiv:2201.11903, section 2).

Zero-shot, in the two stages of Kojima et al., arXiv:2205.11916, section 3.1: the reasoning, and where it brought no
answer, a cue that makes the model state one. The wording is ours.

A base model of the plain template was never told to reason: what it writes after the question stands in for the
thought.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.prompt import Tokenizer, asked, user_turn_ids
from components.contracts.episode import Action, Episode
from components.contracts.question import Question
from components.evaluate.baselines.dialogue import Dialogue, Script, hold
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_text
from components.evaluate.config import CotBudget
from components.search.protocol import SearchClient


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt, where its reasoning ends, and the cue for an answer."""

    prompt: str
    stop_strings: tuple[str, ...]
    cue: str


WORDINGS = {
    "plain": Wording("Reading: {question}\n\n{passages}", ("answer:",), "\n\nanswer:"),
    "search-r1": Wording(
        "{passages}Answer the question below. Think step by step first. Then write the answer alone, in as few words "
        "as possible and without explanation, as <answer> answer </answer>; for example <answer> Beijing </answer>.\n"
        "Question: {question}\nLet us think step by step.\n",
        ("</answer>",),
        "\nTherefore, the answer in as few words as possible is:",
    ),
}
"""Template of the loop -> wording; `passages` is empty unless a method found some first."""


def answer_by_thinking(
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budget: CotBudget,
) -> list[Episode]:
    """Return one episode per question, in order; nothing is ever searched.

    Raises:
        ConfigError: a question does not fit the context.
    """
    tokenizer = model.tokenizer
    dialogues = [Dialogue(q.id, thinking_prompt(q.question, "", loop, tokenizer), loop, tokenizer) for q in questions]
    scripts = [think_and_answer(dialogue, budget) for dialogue in dialogues]
    return hold(dialogues, scripts, model, client, on_finished)


def thinking_prompt(question: str, passages: str, loop: LoopConfig, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the prompt, inside the chat template where the tokenizer has one."""
    # Filled in one pass: braces in a question or passage are text.
    text = WORDINGS[loop.template].prompt.format(question=asked(question, tokenizer), passages=passages)
    return user_turn_ids(text, tokenizer)


def think_and_answer(dialogue: Dialogue, budget: CotBudget) -> Script:
    """Let the model reason from the context on and answer; the thought alone is no turn.

    The thought may take what a search of the loop takes, a turn and an observation, for it stands in for one.
    """
    loop, wording = dialogue.loop, WORDINGS[dialogue.loop.template]
    cue_tokens = len(dialogue.tokenizer.encode(wording.cue, add_special_tokens=False))
    room = dialogue.room_tokens - cue_tokens - loop.max_turn_tokens
    longest = min(budget.max_thought_tokens, loop.max_turn_tokens + loop.max_observation_tokens, room)
    thought = (yield from dialogue.write(longest, wording.stop_strings)) if longest > 0 else ""
    action, content = parse_action(thought, search_enabled=False)
    if action is Action.ANSWER:
        dialogue.answer(content)
        return
    if not thought.endswith(wording.cue.strip()):
        dialogue.show("", opening=wording.cue)
    written = yield from dialogue.write_turn(budget.max_answer_tokens)
    dialogue.answer(answer_text(written))
