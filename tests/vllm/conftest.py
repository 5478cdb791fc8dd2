"""Two small models, each behind vLLM and behind the torch engine: the bundled one, and one whose tokenizer cuts tags.

Each vLLM engine is built once, and dropped before the other one: a process holds one at a time. Every test gets
it with the weights of its folder and an empty cache.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import components.base_model
from components.agent.config import VllmConfig
from components.agent.engines.load import load_model
from components.agent.engines.open import open_engine
from components.agent.engines.torch_engine import TorchEngine
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import SearchStats
from components.train.sharding import whole_parameters

NUM_SLOTS = 16
END = "<|end|>"


@dataclass
class Pair:
    """One model behind two engines; the torch engine's module is the trainer's."""

    folder: Path
    model: Any
    tokenizer: Any
    vllm: Any
    torch: TorchEngine

    def publish(self) -> None:
        self.vllm.publish(whole_parameters(self.model))
        self.torch.publish(whole_parameters(self.model))

    @torch.no_grad()
    def logprobs(self, ids, temperature=1.0) -> torch.Tensor:
        """The trainer's own, by a plain forward pass."""
        logprobs = (self.model(torch.tensor([list(ids)])).logits[0, :-1] / temperature).log_softmax(-1)
        return logprobs.gather(-1, torch.tensor(list(ids))[1:, None])[:, 0]

    def perturb(self, scale=0.05, seed=3) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def cutting_tokenizer() -> PreTrainedTokenizerFast:
    merges = [("b", "<"), ("b<", "/"), ("<", "/"), ("s", "e"), ("se", "a"), ("r", "c"), ("rc", "h"), (">", "x")]
    merges += [("r", ">"), ("a", "n"), ("an", "s"), ("w", "e"), ("ans", "we"), ("answe", "r")]
    pieces = [END, "\n", *map(chr, range(32, 127)), *("".join(merge) for merge in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def random_model(vocabulary_size: int) -> Qwen2ForCausalLM:
    """As many dimensions as tokens, so that `script` below can write a text into the weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": vocabulary_size, "intermediate_size": 64, "num_hidden_layers": 2, "rms_norm_eps": 1e-6}
    heads = {"num_attention_heads": vocabulary_size // 32, "num_key_value_heads": 2, "tie_word_embeddings": False}
    ends = {"bos_token_id": None, "eos_token_id": 0}
    config = Qwen2Config(vocab_size=vocabulary_size, initializer_range=0.1, **shape, **heads, **ends)
    return Qwen2ForCausalLM(config).eval()


@torch.no_grad()
def script(model: Qwen2ForCausalLM, follow: dict[int, int]) -> None:
    """Make `model` say `follow[t]` after token t, and after any other token one that depends on it alone."""
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    size = model.config.vocab_size
    model.get_input_embeddings().weight.copy_(torch.eye(size))
    for token in range(size):
        model.get_output_embeddings().weight[follow.get(token, 2 + token % 40), token] = 5.0


def open_pair(folder: Path, max_context_tokens: int) -> Pair:
    model, tokenizer = load_model(folder)
    limits = {"num_slots": NUM_SLOTS, "max_context_tokens": max_context_tokens}
    engine, _ = open_engine("vllm", folder, vllm=VllmConfig(), **limits)
    return Pair(folder, model, tokenizer, engine, TorchEngine(model, tokenizer, **limits))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cutting_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cutting")
    model, tokenizer = random_model(128), cutting_tokenizer()
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids([END, "~"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


BOTH = [pytest.param("bundled", id="bundled"), pytest.param("cutting", id="cutting")]


@pytest.fixture(scope="session", params=BOTH)
def opened(request, cutting_folder) -> Iterator[Pair]:
    bundled_folder = Path(components.base_model.__file__).parent / "bundled" / "model"
    pair = open_pair(bundled_folder, 384) if request.param == "bundled" else open_pair(cutting_folder, 192)
    yield pair
    pair.vllm.close()


@pytest.fixture
def pair(opened) -> Iterator[Pair]:
    weights = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    yield opened
    opened.model.load_state_dict(weights)
    opened.vllm.reset_cache()
    opened.publish()


@pytest.fixture(scope="session")
def write_script() -> Callable[[Qwen2ForCausalLM, dict[int, int]], None]:
    return script


class Library:
    """Finds a passage for every query, the same one for the same query; keeps the queries."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.stats = SearchStats()

    def submit(self, query: str) -> Future:
        self.queries.append(query)
        found: Future = Future()
        passage = Passage("0", f'"{query}"\n{query} is a book. it has the author gita dipu.')
        found.set_result([ScoredPassage(passage, 1.0)])
        return found


@pytest.fixture
def library() -> Library:
    return Library()
