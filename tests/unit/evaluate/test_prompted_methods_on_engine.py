"""The prompted methods on the torch engine with a random model: nothing is learnt, everything has to hold together."""

import pytest
import torch

from components.agent.config import LoopConfig
from components.agent.engines.torch_engine import TorchEngine
from components.contracts.passage import Passage, ScoredPassage
from components.evaluate.answering import answer
from components.evaluate.baselines.model import OpenModel
from components.evaluate.config import Budgets
from components.evaluate.predictions import score_episode
from components.fictional_world.tiny_model import build_model, build_tokenizer
from components.search.concurrent import ConcurrentSearch

SIZES = {"max_turn_tokens": 24, "max_observation_tokens": 48, "max_searches": 2}
LOOPS = {
    "plain": LoopConfig(max_context_tokens=512, **SIZES),
    "search-r1": LoopConfig(template="search-r1", max_context_tokens=4096, **SIZES),
}
BUDGETS = Budgets.parse({"ircot": {"max_steps": 3}, "react": {"max_steps": 3}, "search_o1": {"max_searches": 2}})
CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Echo:
    """Finds one passage for every query."""

    digest = "d" * 64

    def search(self, queries, top_k):
        return [[ScoredPassage(Passage(query, f'"{query[:9]}"\nall about {query[:9]}'), 1.0)] for query in queries]


@pytest.fixture(scope="module")
def tokenizer():
    made = build_tokenizer(["all about question : answer thought action observation search finish"])
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


@pytest.fixture(scope="module")
def network(tokenizer):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_model(len(tokenizer), 32, 1, 64, tokenizer.eos_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize("template", LOOPS)
@pytest.mark.parametrize("method", ["cot", "ircot", "react", "search_o1"])
def test_more_questions_than_slots_are_answered_the_same_twice(method, template, network, tokenizer, ask):
    tokenizer.chat_template = CHAT if template == "search-r1" else None
    loop, questions = LOOPS[template], ask(*[(f"who is number {i}?", "x") for i in range(5)])

    def run():
        engine = TorchEngine(network, tokenizer, num_slots=2, max_context_tokens=loop.max_context_tokens)
        with ConcurrentSearch(Echo(), 1, window_s=0.0) as client:
            model = OpenModel(engine, tokenizer)
            episodes = answer(method, questions, model, loop, client, lambda _: None, BUDGETS)
        rows = [score_episode(method, *pair) for pair in zip(questions, episodes, strict=True)]
        assert not engine.has_unfinished()
        return [(row.prediction, row.num_searches, row.num_model_tokens, row.stop_reason) for row in rows]

    first = run()
    assert len(first) == 5 and all(tokens for _, _, tokens, _ in first)
    assert {searches > 0 for _, searches, _, _ in first} <= {"cot": {False}, "ircot": {True}}.get(method, {True, False})
    assert run() == first
