"""Doubles of the search loop's neighbours: a tokenizer, an engine that reads from a script, a search client."""

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.episode_loop import EpisodeTask
from components.contracts.errors import SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.fictional_world.tiny_model import build_tokenizer

FIRST_MERGE = 0x110000


class CharacterTokenizer:
    """One id per character; ids past the last character decode to `merges`, which encoding never produces.

    `begin` marks the beginning of a text where special tokens are asked for, as Llama's tokenizer does.
    """

    def __init__(self, merges: tuple[str, ...] = (), special: tuple[str, ...] = (), begin: str = "") -> None:
        self.chat_template, self.merges, self.begin = None, merges, begin
        self.added_tokens_decoder = {i: SimpleNamespace(content=text, special=True) for i, text in enumerate(special)}

    def encode(self, text, *, add_special_tokens):
        return [ord(character) for character in self.begin * add_special_tokens + text]

    def decode(self, token_ids):
        return "".join(self.merges[i - FIRST_MERGE] if i >= FIRST_MERGE else chr(i) for i in token_ids)

    def apply_chat_template(self, conversation, *, add_generation_prompt, tokenize):
        return "".join(f"[{turn['role']}]{turn['content']}" for turn in conversation) + "[assistant]"


class ScriptedEngine:
    """Says the next line of a sequence's script (text, or ids verbatim) one turn per step; keeps the requests."""

    def __init__(self, scripts: list[list]) -> None:
        self.scripts, self.waiting = [list(script) for script in scripts], []
        self.requests: list[tuple[int, list[int], TurnRequest]] = []
        self.released: list[int] = []

    def add_request(self, request: TurnRequest) -> None:
        self.waiting.append(request)
        self.requests.append((request.sequence_id, list(request.token_ids), request))

    def step(self) -> list[TurnOutput]:
        # Later requests end first: nothing may depend on the order in which turns end.
        request = self.waiting.pop()
        line = self.scripts[request.sequence_id].pop(0)
        ids = [ord(c) for c in line] if isinstance(line, str) else line
        return [TurnOutput(request.sequence_id, ids, [-0.5] * len(ids), "stop")]

    def has_unfinished(self) -> bool:
        return bool(self.waiting)

    def release(self, sequence_id: int) -> None:
        self.released.append(sequence_id)


class ScriptedClient:
    """Finds what `passages` says for a query, fails where it holds an error; keeps the queries it was sent."""

    def __init__(self, passages: dict[str, str | Exception] | None = None) -> None:
        self.passages, self.queries = passages or {}, []

    def submit(self, query: str) -> Future:
        self.queries.append(query)
        found, future = self.passages.get(query, f'"{query}"\nfacts about {query}'), Future()
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result([ScoredPassage(Passage("0", found), 1.0)])
        return future


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_tokenizer() -> Callable[..., CharacterTokenizer]:
    return CharacterTokenizer


@pytest.fixture
def tokenizer() -> CharacterTokenizer:
    return CharacterTokenizer()


@pytest.fixture
def make_engine() -> Callable[[list[list]], ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture
def make_client() -> Callable[..., ScriptedClient]:
    return ScriptedClient


@pytest.fixture
def make_tasks() -> Callable[..., list[EpisodeTask]]:
    """Tasks whose prompts are the given texts, a character a token."""
    return lambda *prompts: [
        EpisodeTask(f"q{i}", [ord(c) for c in prompt], seed=i, temperature=1.0) for i, prompt in enumerate(prompts)
    ]


@pytest.fixture
def broken_search() -> SearchError:
    return SearchError("the engine is down")


@pytest.fixture(scope="session")
def world_tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer(["search or answer"])


@pytest.fixture(scope="session")
def chat_tokenizer() -> Qwen2Tokenizer:
    """The world's tokenizer with a chat template and its special tokens."""
    tokenizer = build_tokenizer([])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15, "tie_word_embeddings": True}
MODELS = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def tiny_model(name: str, vocabulary: int, seed: int = 0):
    """A random model that never ends by itself unless told to."""
    config_class, model_class = MODELS[name]
    torch.manual_seed(seed)
    no_ends = {"bos_token_id": None, "eos_token_id": None}
    return model_class(config_class(vocab_size=vocabulary, **SHAPE, **HEADS, **no_ends)).eval()


@pytest.fixture(scope="session")
def make_model() -> Callable:
    return tiny_model
