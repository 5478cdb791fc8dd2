"""Models of the paper's size with random weights, and episodes with the lengths of its runs, for `bench-gpu`."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from components.contracts.episode import Episode
from components.train.config import ParallelConfig, TrainConfig
from components.train.experience import Experience
from components.train.learner import Learner, Targets
from components.train.packing import EpisodeTokens
from components.train.ranks import device


@dataclass(frozen=True)
class Model:
    """A model and the settings it is trained with here."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    row_tokens: int
    checkpointing: bool
    steps_optimizer: bool = True
    critic: bool = False
    compiled: bool = True
    offloaded: bool = False

    @property
    def label(self) -> str:
        """The name and how the model is trained."""
        marks = {"compiled": self.compiled, "checkpointing": self.checkpointing, "offloaded": self.offloaded}
        how = "".join(f", {mark}" for mark, is_set in marks.items() if is_set)
        return f"{self.name}{', critic' * self.critic}, rows of {self.row_tokens}{how}"

    def hf_config(self) -> Qwen2Config:
        """Return the Hugging Face configuration."""
        return Qwen2Config(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=32_768,
        )


SMALL = Model("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151_936, True, 16_384, False)
MIDDLE = Model("Qwen2.5-3B", 2048, 11_008, 36, 16, 2, 151_936, True, 8192, False)
LARGE = Model("Qwen2.5-7B", 3584, 18_944, 28, 28, 4, 152_064, False, 16_384, True, steps_optimizer=False)
PLAIN = replace(MIDDLE, compiled=False)
WIDE = replace(MIDDLE, row_tokens=16_384)
TIGHT = replace(MIDDLE, row_tokens=16_384, checkpointing=True)
OFFLOADED = replace(MIDDLE, row_tokens=24_576, checkpointing=True, offloaded=True)
TOY = Model("toy", 64, 96, 2, 2, 1, 211, True, 2048, True, critic=True, compiled=False)


class Words:
    """A tokenizer that is not needed: requests carry ids, and nothing stops a turn but its length."""

    pad_token_id = 0
    eos_token_id = None

    def __len__(self) -> int:
        return 0


def drawn_episodes(count: int, vocabulary: int, scale: float, seed: int = 0) -> list[EpisodeTokens]:
    """Return episodes with the lengths of a Search-R1 run: about 1,200 tokens, a fifth of them trained.

    0 to 4 searches, turns of about 90 tokens, observations of about 430 (three passages), an answer of about 50.
    """
    rng = random.Random(seed)

    def around(mean: float) -> int:
        return max(2, int(scale * mean * rng.lognormvariate(-0.08, 0.4)))

    episodes = []
    for _ in range(count):
        ids, trained = [rng.randrange(vocabulary) for _ in range(around(180))], []
        for _ in range(rng.choices(range(5), (5, 35, 35, 15, 10))[0]):
            trained += range(len(ids), len(ids) + around(90))
            length = len(trained) and trained[-1] + 1 + min(500, around(430))
            ids += [rng.randrange(vocabulary) for _ in range(length - len(ids))]
        trained += range(len(ids), len(ids) + around(50))
        ids += [rng.randrange(vocabulary) for _ in range(trained[-1] + 1 - len(ids))]
        episodes.append(EpisodeTokens(ids, trained))
    return episodes


def training_dtype() -> torch.dtype:
    """Return the precision models are drawn in: bfloat16, and float32 on a CPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def random_model(model: Model, dtype: torch.dtype) -> Qwen2ForCausalLM:
    """Return the model with random weights on this rank's device."""
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device():
            return Qwen2ForCausalLM(model.hf_config()).eval()
    finally:
        torch.set_default_dtype(previous)


def learner_of(model: Model, policy: Qwen2ForCausalLM) -> Learner:
    """Return a learner with the settings of `model`; GRPO keeps the policy alone, PPO adds the critic."""
    precise = device().type == "cpu"
    config = TrainConfig.parse(
        {
            "algorithm": "ppo" if model.critic else "grpo",
            "minibatches": 1,
            "row_tokens": model.row_tokens,
            "micro_batch_rows": 1,
            "loss": {"kl_coefficient": 0.0},
            "policy_optimizer": {"learning_rate": 1e-6},
            "parallel": ParallelConfig(
                gpus_per_node=0 if precise else 1,
                compute_dtype="float32" if precise else "bfloat16",
                activation_checkpointing=model.checkpointing,
                compile_layers=model.compiled,
                cpu_offload=model.offloaded,
            ).model_dump(),
        }
    )
    return Learner(policy, config, pad_id=0)


def experience_of(sequences: list[EpisodeTokens]) -> Experience:
    """Return an experience that holds only what an update needs."""
    lengths = np.array([len(sequence.trained_positions) for sequence in sequences])
    mask_NA = np.arange(lengths.max())[None, :] < lengths[:, None]
    episodes = [Episode("", sequence.token_ids, 0) for sequence in sequences]
    for episode, sequence in zip(episodes, sequences, strict=True):
        for position in sequence.trained_positions:
            episode.is_model_token[position] = True
    return Experience(episodes, [], np.zeros(len(sequences)), sequences, mask_NA)


def invented_targets(experience: Experience) -> Targets:
    """Return what an update on `experience` may aim at: advantages drawn, everything kept."""
    count = experience.num_tokens
    torch.manual_seed(1)
    zeros = torch.zeros(count)
    return Targets(torch.full((count,), -10.0), zeros, zeros, torch.randn(count), zeros, torch.ones(count).bool())


def synchronised(work: Callable[[], object]) -> float:
    """Return the seconds `work` takes, the GPU's part included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started_s = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started_s
