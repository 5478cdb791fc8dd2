"""ReAct: thoughts, actions and observations by turns, prompted by examples (Yao et al., arXiv:2210.03629).

Section 3.1: the actions are a search and the final answer; the paper's third one, looking up a string on an opened
page, has no meaning for passages and is left out. Section 3.2: few-shot examples; an episode that spends its steps
ends without an answer. The wording and the examples are ours; their names are invented.

A base model of the plain template cannot follow these words. It gets one example in the tags it knows, before the
question; what distinguishes it from the base in the loop is that example and the budget.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.agent.actions import STOP_STRINGS, parse_action
from components.agent.config import LoopConfig
from components.agent.prompt import (
    CLOSE_INFORMATION,
    OPEN_INFORMATION,
    TEMPLATES,
    Tokenizer,
    asked,
    passages_text,
    user_turn_ids,
)
from components.contracts.episode import Action, Episode
from components.contracts.question import Question
from components.evaluate.baselines.dialogue import Dialogue, Script, hold
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.config import ReactBudget
from components.search.protocol import SearchClient

OBSERVATION = "Observation:"
INSTRUCTIONS = """Answer the question at the end by taking turns of Thought, Action and Observation. A thought says \
what is known and what is missing. An action is one of these two:
Search[query] asks a search engine; what it finds is shown to you as the observation.
Finish[answer] gives the final answer, in as few words as possible.

Question: In which country was the architect of the Velden Library born?
Thought: I need the architect of the Velden Library first, then the place of birth.
Action: Search[Velden Library architect]
Observation: Doc 1(Title: "Velden Library") The Velden Library was designed by Irma Costelan and opened in 1911.
Thought: The architect is Irma Costelan. Now I need to know where she was born.
Action: Search[Irma Costelan born]
Observation: Doc 1(Title: "Irma Costelan") Irma Costelan was a Norwegian architect, born in Harsk, Norway.
Thought: She was born in Harsk, which is in Norway.
Action: Finish[Norway]

Question: Who is older, the painter Tobar Linn or the singer Meda Auer?
Thought: I need both years of birth. I begin with Tobar Linn.
Action: Search[Tobar Linn painter]
Observation: Doc 1(Title: "Tobar Linn") Tobar Linn (1902-1977) painted harbours and ships.
Thought: Tobar Linn was born in 1902. Now Meda Auer.
Action: Search[Meda Auer singer]
Observation: Doc 1(Title: "Meda Auer") Meda Auer is a singer, born in 1931.
Thought: 1902 is before 1931, so the painter is older.
Action: Finish[Tobar Linn]

Question: {question}
"""
NOTICE = "That was no action. Write Action: Search[query] or Action: Finish[answer]."
PLAIN_EXAMPLE = (
    "Question: who is the director of the film Velden?\n\n<search> Velden</search>\n\n"
    '<information>Doc 1(Title: "Velden") Velden is a film. it was directed by Costelan.\n</information>\n\n'
    "<answer> Costelan</answer>\n\n"
)
_ACTION = re.compile(r"Action[^:\n]*:\s*(Search|Finish)\s*\[(.*)\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Form:
    """How one template writes prompts, actions and observations."""

    prompt_ids: Callable[[str, Tokenizer], list[int]]
    stop_strings: tuple[str, ...]
    read: Callable[[str], tuple[Action, str]]
    show: Callable[[Dialogue, str, str], None]
    """Shows the second text as the observation that follows the first, the model's own."""
    notice: Callable[[Dialogue, str], None]


def answer_by_acting(
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budget: ReactBudget,
) -> list[Episode]:
    """Return one episode per question, in order; a failed search ends its episode without an answer.

    Raises:
        ConfigError: a question does not fit the context.
    """
    form, tokenizer = FORMS[loop.template], model.tokenizer
    dialogues = [Dialogue(q.id, form.prompt_ids(q.question, tokenizer), loop, tokenizer) for q in questions]
    scripts = [_act(dialogue, form, budget) for dialogue in dialogues]
    return hold(dialogues, scripts, model, client, on_finished)


def _act(dialogue: Dialogue, form: Form, budget: ReactBudget) -> Script:
    for step in range(1, budget.max_steps + 1):
        written = yield from dialogue.write_turn(budget.max_step_tokens, form.stop_strings)
        action, content = form.read(written)
        if action is Action.ANSWER:
            dialogue.answer(content)
            return
        dialogue.decide(action, content)
        if step == budget.max_steps:
            return
        if action is Action.SEARCH:
            found = yield from dialogue.find(content)
            form.show(dialogue, written, passages_text(found, dialogue.tokenizer))
        else:
            form.notice(dialogue, written)


def read_action(written: str) -> tuple[Action, str]:
    """Return the first action of a step and its stripped text; without one, or with an empty query, it is invalid."""
    found = _ACTION.search(written)
    if found is None:
        return Action.INVALID, written
    action = Action.SEARCH if found[1].lower() == "search" else Action.ANSWER
    content = found[2].strip()
    return (Action.INVALID, written) if action is Action.SEARCH and not content else (action, content)


def _instructed_prompt(question: str, tokenizer: Tokenizer) -> list[int]:
    text = INSTRUCTIONS.format(question=asked(question, tokenizer))
    return [*user_turn_ids(text, tokenizer), *tokenizer.encode("Thought:", add_special_tokens=False)]


def _plain_prompt(question: str, tokenizer: Tokenizer) -> list[int]:
    asking = TEMPLATES["plain"].with_search.format(question=asked(question, tokenizer))
    return user_turn_ids(PLAIN_EXAMPLE + asking, tokenizer)


def _show_line(dialogue: Dialogue, written: str, text: str) -> None:
    # On one line: whatever a passage holds, no line of it can pass for a thought or an action.
    line = " ".join(text.split()) or "Nothing was found."
    if written.endswith(OBSERVATION):
        opening = " "
    else:
        opening = f"{OBSERVATION} " if written.endswith("\n") else f"\n{OBSERVATION} "
    dialogue.show(line, opening, "\nThought:")


def _show_tagged(dialogue: Dialogue, written: str, text: str) -> None:
    dialogue.show(text, f"\n\n{OPEN_INFORMATION}", f"{CLOSE_INFORMATION}\n\n")


FORMS = {
    "plain": Form(
        _plain_prompt,
        STOP_STRINGS,
        lambda written: parse_action(written, search_enabled=True),
        _show_tagged,
        lambda dialogue, written: dialogue.show("", opening=TEMPLATES["plain"].invalid_notice),
    ),
    "search-r1": Form(
        _instructed_prompt,
        (OBSERVATION,),
        read_action,
        _show_line,
        lambda dialogue, written: _show_line(dialogue, written, NOTICE),
    ),
}
"""Template of the loop -> form."""
