"""Rows of the base model: the loop's own format, and weights that say what is learned."""

import random
from itertools import islice

import pytest

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.prompt import observation_ids, prompt_ids
from components.base_model.transcripts import BACKGROUND_WEIGHT, RowStream, reading_row, walk_row
from components.contracts.episode import Action
from components.contracts.passage import Passage, ScoredPassage
from components.fictional_world.questions import training_questions
from components.fictional_world.reading import readings, training_world, walks
from components.fictional_world.tiny_model import build_tokenizer

LOOP = LoopConfig()


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["search or answer"])


@pytest.fixture(scope="module")
def world():
    return training_world(random.Random(0))


def trained_text(row, tokenizer) -> list[str]:
    """The runs of tokens that carry full weight."""
    runs, current = [], []
    for token, weight in zip([*row.token_ids, 0], [*row.weights, 0.0], strict=True):
        if weight == 1.0:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    return runs


def test_walk_is_what_the_search_loop_would_record(world, tokenizer):
    for walk in islice(walks(world, training_questions(world, random.Random(1)), random.Random(2)), 50):
        row = walk_row(walk, LOOP, tokenizer)
        expected = list(prompt_ids(walk.question, LOOP, tokenizer))
        for query, title, text in walk.searches:
            expected += tokenizer.encode(f"<search> {query}</search>", add_special_tokens=False)
            found = [ScoredPassage(Passage("0", f'"{title}"\n{text}'), 1.0)]
            expected += observation_ids(found, LOOP.max_observation_tokens, tokenizer)
        expected += tokenizer.encode(f"<answer> {walk.answer}</answer>", add_special_tokens=False)
        assert row.token_ids == expected
        assert len(row.token_ids) <= LOOP.max_context_tokens
        turns = trained_text(row, tokenizer)
        actions = [parse_action(turn, search_enabled=True) for turn in turns]
        assert actions == [(Action.SEARCH, q) for q, _, _ in walk.searches] + [(Action.ANSWER, walk.answer)]
        assert all(len(tokenizer.encode(t, add_special_tokens=False)) <= LOOP.max_turn_tokens for t in turns)


def test_reading_trains_its_answers(world, tokenizer):
    for reading in islice(readings(world, 0.5, 2, random.Random(3)), 50):
        row = reading_row(reading, tokenizer)
        answers = [reading.answer, *(answer for _, answer in reading.more)]
        assert [text.strip() for text in trained_text(row, tokenizer)] == answers
        assert set(row.weights) == {BACKGROUND_WEIGHT, 1.0}
        assert len(row.weights) == len(row.token_ids)
        assert row.token_ids[-1] == tokenizer.eos_token_id
        # The question stands before the documents, as it does in a search loop.
        text = tokenizer.decode(row.token_ids)
        assert text.index(reading.question) < text.index("Doc 1")


@pytest.mark.parametrize("walk_frac", [0.0, 0.3, 1.0])
def test_rows_come_in_the_asked_shares(walk_frac, tokenizer):
    stream = RowStream(LOOP, tokenizer, walk_frac, "shares")
    tag = tokenizer.convert_tokens_to_ids("<answer>")
    walked = sum(tag in row.token_ids for _ in range(3) for row in stream.take(100, 0.0, 1))
    assert walked / 300 == pytest.approx(walk_frac, abs=0.08)
