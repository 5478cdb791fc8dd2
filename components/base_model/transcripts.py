"""Turns readings and walks into training rows of the tiny base model, in the exact format of the search loop."""

import random
from dataclasses import dataclass

from components.agent.config import LoopConfig
from components.agent.prompt import observation_ids, passages_text, prompt_ids
from components.contracts.passage import Passage, ScoredPassage
from components.fictional_world.questions import questions_in_every_wording
from components.fictional_world.reading import Reading, Walk, readings, training_world, walks

BACKGROUND_WEIGHT = 0.05
"""Loss weight of tokens that are neither an answer nor a model turn: they teach the language itself."""


@dataclass(slots=True)
class Row:
    """Token ids and the loss weight of each (the weight of predicting that token)."""

    token_ids: list[int]
    weights: list[float]


def reading_row(reading: Reading, tokenizer) -> Row:
    """Return "Reading: ... documents ... answer: ..." and more pairs, without any tag, weight 1 on the answers."""
    context = f"Reading: {reading.question}\n\n{passages_text(_scored(reading.documents), tokenizer)}\n\nanswer:"
    row = Row([], [])
    _extend(row, tokenizer.encode(context, add_special_tokens=False), BACKGROUND_WEIGHT)
    _extend(row, tokenizer.encode(f" {reading.answer}", add_special_tokens=False), 1.0)
    for question, answer in reading.more:
        again = tokenizer.encode(f"\n\nReading: {question}\n\nanswer:", add_special_tokens=False)
        _extend(row, again, BACKGROUND_WEIGHT)
        _extend(row, tokenizer.encode(f" {answer}", add_special_tokens=False), 1.0)
    _extend(row, [tokenizer.eos_token_id], BACKGROUND_WEIGHT)
    return row


def walk_row(walk: Walk, loop: LoopConfig, tokenizer) -> Row:
    """Return an uninformed transcript: prompt, blind searches with their observations, a blind answer."""
    row = Row(list(prompt_ids(walk.question, loop, tokenizer)), [])
    row.weights = [BACKGROUND_WEIGHT] * len(row.token_ids)
    for query, title, text in walk.searches:
        _extend(row, tokenizer.encode(f"<search> {query}</search>", add_special_tokens=False), 1.0)
        found = observation_ids(_scored(((title, text),)), loop.max_observation_tokens, tokenizer)
        _extend(row, found, BACKGROUND_WEIGHT)
    _extend(row, tokenizer.encode(f"<answer> {walk.answer}</answer>", add_special_tokens=False), 1.0)
    return row


class RowStream:
    """An endless supply of rows from fresh worlds; equal seeds give equal streams."""

    def __init__(self, loop: LoopConfig, tokenizer, walk_frac: float, seed: str) -> None:
        self.loop, self.tokenizer, self.walk_frac = loop, tokenizer, walk_frac
        self.rng = random.Random(seed)

    def take(self, count: int, two_hop_frac: float, max_distractors: int) -> list[Row]:
        """Return `count` rows drawn from one new world."""
        world = training_world(self.rng)
        reading = readings(world, two_hop_frac, max_distractors, self.rng)
        walk = walks(world, questions_in_every_wording(world, self.rng), self.rng)
        return [
            walk_row(next(walk), self.loop, self.tokenizer)
            if self.rng.random() < self.walk_frac
            else reading_row(next(reading), self.tokenizer)
            for _ in range(count)
        ]


def _extend(row: Row, token_ids: list[int], weight: float) -> None:
    row.token_ids += token_ids
    row.weights += [weight] * len(token_ids)


def _scored(documents: tuple[tuple[str, str], ...]) -> list[ScoredPassage]:
    return [ScoredPassage(Passage(title, f'"{title}"\n{text}'), 1.0) for title, text in documents]
