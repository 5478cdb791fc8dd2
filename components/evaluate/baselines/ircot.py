"""IRCoT: retrieval interleaved with thought sentences (Trivedi et al., arXiv:2212.10509, section 3).

The question finds the first passages. Then by turns: one sentence of thought from the question, all passages so far
and all thoughts so far (section 3.1, reason); that sentence as the next query (retrieve). It ends with a thought that
says the answer, or with the budget. A reader then answers from the collected passages alone (section 3.2), here by
chain of thought. The wording and the demonstrations are ours; their names are invented.

A base model of the plain template knows reading alone: its thought is the answer it reads from the passages so far,
and a draft it has searched for before ends the turns.
"""

import re
from collections.abc import Sequence

from components.agent.config import LoopConfig
from components.agent.prompt import Tokenizer, asked, passages_text, user_turn_ids
from components.contracts.episode import Action, Episode
from components.contracts.passage import ScoredPassage
from components.contracts.question import Question
from components.evaluate.baselines.cot import think_and_answer, thinking_prompt
from components.evaluate.baselines.dialogue import Dialogue, Script, hold
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_prompt, answer_text
from components.evaluate.baselines.passages import distinct, prompt_with_passages
from components.evaluate.config import IrcotBudget
from components.search.protocol import SearchClient

ANSWER_MARK = "answer is"
INSTRUCTIONS = """{passages}Work out the answer to the question at the end, one short sentence a line, each stating \
one fact and naming whom or what it is about. Take facts from the documents above where they hold them. As soon as \
nothing is missing, write a last line of the form "So the answer is: answer".

Question: In which country was the architect of the Velden Library born?
The Velden Library was designed by Irma Costelan.
Irma Costelan was born in the town of Harsk.
Harsk lies in Norway.
So the answer is: Norway

Question: Who is older, the painter Tobar Linn or the singer Meda Auer?
Tobar Linn was born in 1902.
Meda Auer was born in 1931.
So the answer is: Tobar Linn

Question: {question}
"""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_INITIAL = re.compile(r"\b([A-Z]|Dr|Mr|Mrs|Ms|St|Jr|Sr)\.$")


def answer_by_interleaving(
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budget: IrcotBudget,
) -> list[Episode]:
    """Return one episode per question, in order; a failed search ends its episode without an answer.

    Raises:
        ConfigError: a question does not fit the context.
    """
    dialogues = [
        Dialogue(q.id, _thought_prompt(q.question, [], [], 0, loop, model.tokenizer), loop, model.tokenizer)
        for q in questions
    ]
    scripts = [_interleave(d, q.question, budget) for d, q in zip(dialogues, questions, strict=True)]
    return hold(dialogues, scripts, model, client, on_finished)


def _interleave(dialogue: Dialogue, question: str, budget: IrcotBudget) -> Script:
    loop, tokenizer = dialogue.loop, dialogue.tokenizer
    passages, thoughts, num_shown = [], [], 0
    query = question
    while True:
        passages = distinct([*passages, *(yield from dialogue.find(query))])[: budget.max_passages]
        dialogue.note(passages_text(passages[num_shown:], tokenizer))
        num_shown, shown_tokens = len(passages), loop.max_observation_tokens * (len(thoughts) + 1)
        if len(thoughts) == budget.max_steps:
            break
        dialogue.restart(_thought_prompt(question, passages, thoughts, shown_tokens, loop, tokenizer))
        query = _first_sentence((yield from dialogue.write_turn(budget.max_thought_tokens, ("\n",))))
        if not query or query in thoughts or ANSWER_MARK in query.lower():
            break
        dialogue.decide(Action.SEARCH, query)
        thoughts.append(query)
    yield from _read(dialogue, question, passages, shown_tokens, budget)


def _read(
    dialogue: Dialogue, question: str, passages: list[ScoredPassage], shown_tokens: int, budget: IrcotBudget
) -> Script:
    """Answer from the collected passages, the thoughts forgotten (section 3.2)."""
    loop, tokenizer = dialogue.loop, dialogue.tokenizer
    if loop.template == "plain":
        dialogue.restart(_thought_prompt(question, passages, [], shown_tokens, loop, tokenizer))
        dialogue.answer(answer_text((yield from dialogue.write_turn(budget.reader.max_answer_tokens))))
        return

    def prompt(shown: str) -> list[int]:
        return thinking_prompt(question, f"{shown}\n", loop, tokenizer)

    dialogue.restart(prompt_with_passages(prompt, passages, shown_tokens, loop, tokenizer))
    yield from think_and_answer(dialogue, budget.reader)


def _thought_prompt(
    question: str,
    passages: Sequence[ScoredPassage],
    thoughts: Sequence[str],
    shown_tokens: int,
    loop: LoopConfig,
    tokenizer: Tokenizer,
) -> list[int]:
    """Return passages, question and, as the beginning of the model's own text, the thoughts so far."""

    def prompt(shown: str) -> list[int]:
        if loop.template == "plain":
            return answer_prompt(question, f"{shown}\n\n", loop, tokenizer)
        text = INSTRUCTIONS.format(passages=f"{shown}\n", question=asked(question, tokenizer))
        so_far = tokenizer.encode("".join(f"{thought}\n" for thought in thoughts), add_special_tokens=False)
        return [*user_turn_ids(text, tokenizer), *so_far]

    return prompt_with_passages(prompt, passages, shown_tokens, loop, tokenizer)


def _first_sentence(text: str) -> str:
    """Return the first sentence of the first line; what a model wrote beyond it is dropped (section 3.1)."""
    line = text.strip().split("\n")[0]
    for end in _SENTENCE_END.finditer(line):
        if not _INITIAL.search(line[: end.start()]):
            return line[: end.start()]
    return line
