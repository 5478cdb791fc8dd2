"""Search-o1: a reasoning chain that searches, and a reader between it and the documents (Li et al., arXiv:2501.05366).

Section 3.3: the model searches in the middle of its reasoning, as often as its budget allows. Section 3.4: what was
found does not enter the chain; a separate reading, given the reasoning so far, the query and the documents, writes
down what helps, and that is what the chain is shown. Here the tags of the search loop stand for the paper's special
symbols, and the last turn is told that it must answer. The wording is ours.

A base model of the plain template chains as in the loop, and its reading is the one it was pretrained for: the
question and the documents in, a name out.
"""

from collections.abc import Generator, Sequence

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput
from components.agent.prompt import (
    CLOSE_INFORMATION,
    OPEN_INFORMATION,
    TEMPLATES,
    asked,
    neutralise,
    passages_text,
    user_turn_ids,
)
from components.contracts.episode import Action, Episode
from components.contracts.passage import ScoredPassage
from components.contracts.question import Question
from components.evaluate.baselines.dialogue import Dialogue, Script, Write, hold
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.evaluate.baselines.one_turn import answer_prompt, answer_text
from components.evaluate.baselines.passages import prompt_with_passages
from components.evaluate.config import SearchO1Budget
from components.search.protocol import SearchClient

CHAIN = {
    "plain": TEMPLATES["plain"].with_search,
    "search-r1": (
        "Answer the question below by reasoning step by step. You can use a search engine: whenever you are unsure of "
        "a fact or lack one, write a query as <search> query </search>. The documents found are read for you, and "
        "what they say about your query is returned between <information> and </information>; then go on reasoning. "
        "You may search at most {max_searches} times. Once nothing is missing, write the answer alone, in as few "
        "words as possible, as <answer> answer </answer>; for example <answer> Beijing </answer>.\n"
        "Question: {question}\n"
    ),
}
READING = (
    "Somebody is working out the answer to a question and has asked a search engine. Read the documents it found and "
    "write down, in a few sentences, what they say that helps with the next step; name whom or what each fact is "
    "about and add nothing that they do not say. If nothing in them helps, write: No helpful information found.\n\n"
    "Question: {question}\n\nReasoning so far:\n{reasoning}\n\nQuery: {query}\n\nDocuments:\n{passages}\n"
    "Helpful information:"
)
PLAIN_HELP = 'Doc 1(Title: "{query}") {name}.\n'
"""What was read, in the form in which the base knows passages."""
LAST_CALL = {"plain": "", "search-r1": "No search is left: give the answer between answer tags now.\n\n"}


def answer_by_searching_and_reading(
    questions: Sequence[Question],
    model: OpenModel,
    loop: LoopConfig,
    client: SearchClient,
    on_finished: OnFinished,
    budget: SearchO1Budget,
) -> list[Episode]:
    """Return one episode per question, in order; a failed search ends its episode without an answer.

    Raises:
        ConfigError: a question does not fit the context.
    """
    tokenizer = model.tokenizer
    dialogues = []
    for question in questions:
        text = CHAIN[loop.template].format(
            question=asked(question.question, tokenizer), max_searches=budget.max_searches
        )
        dialogues.append(Dialogue(question.id, user_turn_ids(text, tokenizer), loop, tokenizer))
    scripts = [_reason(d, q.question, budget) for d, q in zip(dialogues, questions, strict=True)]
    return hold(dialogues, scripts, model, client, on_finished)


def _reason(dialogue: Dialogue, question: str, budget: SearchO1Budget) -> Script:
    template, chain = dialogue.loop.template, ""
    for searches_left in range(budget.max_searches, -1, -1):
        written = yield from dialogue.write_turn(budget.max_turn_tokens)
        action, content = parse_action(written, search_enabled=searches_left > 0)
        if action is Action.ANSWER:
            dialogue.answer(content)
            return
        dialogue.decide(action, content)
        chain += written
        if not searches_left:
            return
        last_call = LAST_CALL[template] if searches_left == 1 else ""
        if action is not Action.SEARCH:
            dialogue.show("", opening=TEMPLATES[template].invalid_notice + last_call)
            continue
        found = yield from dialogue.find(content)
        helpful = yield from _read(dialogue, question, chain, content, found, budget)
        dialogue.show(helpful, f"\n\n{OPEN_INFORMATION}", f"{CLOSE_INFORMATION}\n\n{last_call}")
        chain += f"\n{helpful}\n"


def _read(
    dialogue: Dialogue, question: str, chain: str, query: str, found: list[ScoredPassage], budget: SearchO1Budget
) -> Generator[Write, TurnOutput, str]:
    """Return what a separate reading of the documents keeps, neutralised; the chain's context comes back after it."""
    loop, tokenizer, context = dialogue.loop, dialogue.tokenizer, dialogue.context
    reasoning = tokenizer.decode(tokenizer.encode(chain, add_special_tokens=False)[-loop.max_turn_tokens :])

    def prompt(shown: str) -> list[int]:
        if loop.template == "plain":
            return answer_prompt(question, f"{shown}\n\n", loop, tokenizer)
        told = {"question": asked(question, tokenizer), "reasoning": reasoning, "query": query}
        harmless = {name: neutralise(text, tokenizer) for name, text in told.items()}
        return user_turn_ids(READING.format(passages=shown, **harmless), tokenizer)

    dialogue.note(passages_text(found, tokenizer))
    dialogue.restart(prompt_with_passages(prompt, found, loop.max_observation_tokens, loop, tokenizer))
    stop_strings = ("\n",) if loop.template == "plain" else ()
    helpful = yield from dialogue.write_turn(budget.max_reading_tokens, stop_strings)
    dialogue.restart(context)
    if loop.template == "plain":
        return neutralise(PLAIN_HELP.format(query=query, name=answer_text(helpful)), tokenizer)
    return neutralise(helpful.strip(), tokenizer)
