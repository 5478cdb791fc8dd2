"""What every side of the rollout comparison shares: questions, passages, search, limits and weights.

It runs in our environment and in the peer's, so it imports neither a JVM nor a step.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from components.agent.config import LoopConfig
from components.agent.engines.load import load_model
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import prompt_ids
from components.contracts.passage import Passage, ScoredPassage
from components.fictional_world.names import draw_names
from components.fictional_world.questions import training_questions
from components.fictional_world.world import build_world

BUNDLED_MODEL = Path(__file__).parent.parent / "components" / "base_model" / "bundled" / "model"
NUM_ENTITIES = 900
SEED = 7
MAX_RANK = 10
WARM_UP_EPISODES = 8
HEAD_SIZE = 32
SHAPES = {"rambling-0.5m": (96, 192, 4), "rambling-20m": (512, 1408, 6)}
"""Width, inner width and layers of the random models."""
TAG_PROBABILITIES = {"<search>": 0.2, "</search>": 0.03, "<answer>": 0.02, "</answer>": 0.005}
"""A turn closes after 29 tokens on average; one in seven closes before it opened, which is invalid."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One case: the same for both sides of it."""

    model: str
    """`bundled` (the base of the small world), or one of `SHAPES`."""
    num_episodes: int
    num_slots: int
    """Sequences a side holds in memory at a time."""
    search_latency_s: float
    max_searches: int
    max_turn_tokens: int
    top_k: int
    temperature: float = 1.0

    @property
    def loop(self) -> LoopConfig:
        """The limits of an episode."""
        observation = 8 + 48 * self.top_k
        context = 48 + (self.max_searches + 1) * self.max_turn_tokens + self.max_searches * observation
        return LoopConfig(
            max_searches=self.max_searches,
            max_turn_tokens=self.max_turn_tokens,
            top_k=self.top_k,
            max_observation_tokens=observation,
            max_context_tokens=context,
        )


class WordSearcher:
    """Ranks passages by the summed rarity of the query's words in them, ties by id; frequent words count nothing."""

    digest = "benchmark"

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._postings: dict[str, list[int]] = {}
        self._found: dict[str, list[ScoredPassage]] = {}
        for number, passage in enumerate(passages):
            for word in set(_words(passage.contents)):
                self._postings.setdefault(word, []).append(number)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Return the passages that share a word with each query, best first."""
        for query in queries:
            if query not in self._found:
                self._found[query] = self._ranked(query)
        return [self._found[query][:top_k] for query in queries]

    def _ranked(self, query: str) -> list[ScoredPassage]:
        scores: Counter[int] = Counter()
        for word in set(_words(query)):
            found = self._postings.get(word, [])
            if len(found) > len(self._passages) // 20:
                continue
            rarity = math.log(1 + len(self._passages) / (1 + len(found)))
            for number in found:
                scores[number] += rarity
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return [ScoredPassage(self._passages[number], score) for number, score in ranked[:MAX_RANK]]


class SlowSearcher:
    """Takes `latency_s` for every call, whatever it holds, like a service behind a network."""

    def __init__(self, searcher: WordSearcher, latency_s: float) -> None:
        self._searcher, self._latency_s = searcher, latency_s
        self.digest = searcher.digest

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Return what the inner searcher finds, later."""
        if self._latency_s:
            time.sleep(self._latency_s)
        return self._searcher.search(queries, top_k)


@lru_cache(maxsize=1)
def world() -> tuple[list[str], list[Passage]]:
    """Return (questions, passages) of the benchmark's world."""
    rng = random.Random(SEED)
    built = build_world(NUM_ENTITIES, draw_names("train", rng), rng)
    passages = [Passage(str(i), f'"{name}"\n{text}') for i, (name, text) in enumerate(built.documents.items())]
    return [found.question for found in training_questions(built, rng)], passages


def searcher_of(workload: Workload) -> SlowSearcher:
    """Return the search engine of a case."""
    return SlowSearcher(WordSearcher(world()[1]), workload.search_latency_s)


def questions_of(workload: Workload, repeat: int) -> list[str]:
    """Return the questions of a case, the same in every repeat; a few of them for the warm-up, repeat -1."""
    questions, count = world()[0], workload.num_episodes
    return [questions[i % len(questions)] for i in range(min(count, WARM_UP_EPISODES) if repeat < 0 else count)]


def tasks_of(workload: Workload, tokenizer: Any, repeat: int) -> list[EpisodeTask]:
    """Return the tasks of a repeat, with seeds of its own."""
    return [
        EpisodeTask(
            str(i),
            prompt_ids(question, workload.loop, tokenizer),
            (repeat + 1) * 1_000_003 + i,
            workload.temperature,
        )
        for i, question in enumerate(questions_of(workload, repeat))
    ]


def model_of(workload: Workload) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a case."""
    model, tokenizer = load_model(BUNDLED_MODEL, "cpu")
    if workload.model != "bundled":
        model = rambling(model.config, tokenizer, *SHAPES[workload.model])
    return model, tokenizer


@torch.no_grad()
def rambling(base: Any, tokenizer: Any, hidden_size: int, intermediate_size: int, num_layers: int) -> Qwen2ForCausalLM:
    """Return a random model that opens and closes tags with fixed probabilities and says random words between them.

    So its turns have the skewed (geometric) lengths of a model that thinks, which the bundled one does not: one
    dimension of the residual stream is constant, and the head reads each tag's log-odds from it.
    """
    config = Qwen2Config.from_dict(base.to_dict())
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = hidden_size, intermediate_size, num_layers
    config.num_attention_heads = config.num_key_value_heads = hidden_size // HEAD_SIZE
    config.layer_types = ["full_attention"] * num_layers
    config.tie_word_embeddings = False
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(config)
    model.get_input_embeddings().weight[:, 0] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    constant = model.model(torch.arange(64)[None]).last_hidden_state[..., 0].mean().item()
    head, others = model.get_output_embeddings().weight, 1 - sum(TAG_PROBABILITIES.values())
    head[:, 0] = 0.0
    head[tokenizer.eos_token_id, 0] = -20 / constant
    for tag, probability in TAG_PROBABILITIES.items():
        (token,) = tokenizer.encode(tag, add_special_tokens=False)
        head[token, 0] = math.log(probability / others * config.vocab_size) / constant
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model.eval()


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()
