"""What is imitated: gold answers in the loop's own words, and right episodes kept over a kill."""

from typing import ClassVar

import pytest

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.prompt import prompt_ids
from components.contracts.episode import Action
from components.contracts.errors import MissingError
from components.contracts.question import Question
from components.storage import open_storage
from components.train.gold_answers import answer_turns
from components.train.kept_episodes import KeptEpisodes, episodes_of_step
from components.train.packing import EpisodeTokens


class LetterTokenizer:
    """One token per character of ASCII."""

    chat_template = None
    added_tokens_decoder: ClassVar[dict] = {}

    def encode(self, text, *, add_special_tokens):
        return [ord(character) for character in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


TOKENIZER = LetterTokenizer()
LOOP = LoopConfig(max_turn_tokens=32, max_context_tokens=100)


def question(*golden: str) -> Question:
    return Question(id="nq:0", set_name="nq", question="who", golden_answers=golden)


@pytest.mark.parametrize(
    ("golden", "answer"),
    [
        pytest.param(("Paris", "Lutetia"), "Paris", id="first-alias"),
        pytest.param(("a very long name indeed", "Paris"), "Paris", id="first-that-fits"),
        pytest.param((" Paris\n",), "Paris", id="stripped"),
        pytest.param(("</answer>x",), "(/answer)x", id="tag-in-a-gold-answer-is-text"),
    ],
)
def test_answer_turn_is_read_by_the_loop_as_its_answer(golden, answer):
    (made,) = answer_turns([question(*golden)], LOOP, TOKENIZER)
    prompt = prompt_ids("who", LOOP, TOKENIZER)
    assert made.token_ids[: len(prompt)] == prompt
    assert made.trained_positions == list(range(len(prompt), len(made.token_ids)))
    turn = TOKENIZER.decode(made.token_ids[len(prompt) :])
    assert turn == f"<answer> {answer}</answer>"
    assert parse_action(turn, search_enabled=False) == (Action.ANSWER, answer)


def test_question_whose_answers_fit_no_turn_is_left_out():
    made = answer_turns([question("x" * 40), question("Paris")], LOOP, TOKENIZER)
    assert len(made) == 1


@pytest.mark.parametrize(("letters", "fits"), [(14, True), (15, False)])
def test_a_turn_may_be_as_long_as_the_limit(letters, fits):
    """Its tags take 18 of 32."""
    assert len(answer_turns([question("x" * letters)], LOOP, TOKENIZER)) == fits


EPISODES = [EpisodeTokens([1, 2, number], [1, 2]) for number in range(7)]


def test_kept_episodes_come_back_in_order(tmp_path):
    kept = KeptEpisodes(open_storage(f"file://{tmp_path}"))
    kept.save(1, EPISODES[3:])
    assert (kept.has(0), kept.has(1)) == (False, True)
    with pytest.raises(MissingError):
        kept.load(2)
    kept.save(0, EPISODES[:3])
    assert kept.load(2) == EPISODES
    assert kept.load(1) == EPISODES[:3]


def test_rollout_step_without_a_right_episode_counts_as_done(tmp_path):
    kept = KeptEpisodes(open_storage(f"file://{tmp_path}"))
    kept.save(0, [])
    assert kept.has(0)
    assert kept.load(1) == []


@pytest.mark.parametrize(("count", "steps_per_epoch"), [(1, 7), (7, 1), (100, 1)])
def test_every_epoch_shows_every_episode_once(count, steps_per_epoch):
    for epoch in range(3):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        shown = [episode.token_ids[-1] for step in steps for episode in episodes_of_step(EPISODES, count, step, 3)]
        assert sorted(shown) == list(range(7))


def test_order_depends_on_the_seed():
    def first_epoch(seed):
        return [episodes_of_step(EPISODES, 1, step, seed)[0].token_ids[-1] for step in range(7)]

    assert first_epoch(3) == first_epoch(3) != first_epoch(4)
