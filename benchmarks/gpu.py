"""How fast one GPU trains and samples models of the paper's size: random weights, real length statistics, no downloads.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json      (make bench-gpu)

Update: packed rows through forward, loss, backward and, where it fits, AdamW; MFU counts every FLOP of the model
once (arXiv 2204.02311, appendix B), against the GPU's dense bfloat16 peak. Decode: the torch engine with all slots
busy, against the memory roof. Step: rollouts with a search of no latency, update, weights back to the engine.
`--toy` makes the same calls on a CPU with a model of two layers.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.record import Case, alone, table, write_record
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.torch_engine import TorchEngine
from components.contracts.episode import Episode
from components.train.config import ParallelConfig, TrainConfig
from components.train.cost import ModelShape, decode_roof_tokens_per_s, forward_flops
from components.train.experience import Experience
from components.train.learner import Learner, Targets
from components.train.packing import EpisodeTokens
from components.train.ranks import device, joined
from components.train.sharding import whole_parameters

PEAKS = {"H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}
"""Part of the GPU's name -> (dense bfloat16 FLOP/s, bytes/s) of the vendor's datasheet."""


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
TIGHT = replace(MIDDLE, row_tokens=16_384, checkpointing=True)
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


def synchronised(work: Callable[[], object]) -> float:
    """Return the seconds `work` takes, the GPU's part included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started_s = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started_s


def update_cases(model: Model, num_tokens: int, repeats: int, scale: float, peak_flops: float) -> list[Case]:
    """Return tokens/s, MFU and peak memory of updates on about `num_tokens` tokens."""
    learner = learner_of(model, random_model(model, torch.bfloat16 if torch.cuda.is_available() else torch.float32))
    mean = 1200 * scale
    sequences = drawn_episodes(max(2, int(num_tokens / mean)), model.vocabulary, scale)
    experience = experience_of(sequences)
    count = experience.num_tokens
    torch.manual_seed(1)
    targets = Targets(
        torch.full((count,), -10.0),
        torch.zeros(count),
        torch.zeros(count),
        torch.randn(count),
        torch.zeros(count),
        torch.ones(count).bool(),
    )
    if not model.steps_optimizer:
        learner.optimizers = {}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = [synchronised(lambda: learner.update(experience, targets, 0)) for _ in range(repeats + 1)][1:]
    lengths = [len(s.token_ids) for s in sequences]
    shape = ModelShape.from_hf_config(model.hf_config().to_dict())
    flops = 3 * forward_flops(shape, lengths, count) * (2 if model.critic else 1)
    what = "AdamW" if model.steps_optimizer else "no optimizer"
    how = ", compiled" * model.compiled + ", checkpointing" * model.checkpointing
    name = f"update, {model.name}, rows of {model.row_tokens}{how}, {what}"
    cases = [alone(name, [sum(lengths) / s for s in seconds], "tokens/s")]
    if peak_flops:
        cases.append(alone(f"{name}: MFU", [flops / s / peak_flops for s in seconds], "share of peak"))
        cases.append(alone(f"{name}: memory", [torch.cuda.max_memory_allocated() / 2**30], "GiB"))
    return cases


def decode_cases(model: Model, num_slots: int, context: int, new_tokens: int, bandwidth: float) -> list[Case]:
    """Return tokens/s of `num_slots` sequences of `context` tokens, and their share of the memory roof."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    engine = TorchEngine(
        random_model(model, dtype), Words(), num_slots=num_slots, max_context_tokens=context + new_tokens
    )
    rng = random.Random(0)
    prompts = [[rng.randrange(model.vocabulary) for _ in range(context)] for _ in range(num_slots)]
    sequence_ids = iter(range(10**6))

    def decode(limit: int) -> float:
        numbers = [next(sequence_ids) for _ in prompts]
        for number, prompt in zip(numbers, prompts, strict=True):
            engine.add_request(TurnRequest(number, prompt, limit, 1.0, number, stop_strings=()))
        prefill_s = synchronised(engine.step)
        took_s = 0.0
        while engine.has_unfinished():
            took_s += synchronised(engine.step)
        for number in numbers:
            engine.release(number)
        prefill.append(num_slots * context / prefill_s)
        return num_slots * (limit - 1) / took_s

    prefill: list[float] = []
    decode(4)
    rates = [decode(new_tokens) for _ in range(2)]
    name = f"decode, {model.name}, {num_slots} sequences of {context} tokens"
    cases = [alone(name, rates, "tokens/s"), alone(f"prefill{name.removeprefix('decode')}", prefill[1:], "tokens/s")]
    if bandwidth:
        shape = ModelShape.from_hf_config(model.hf_config().to_dict())
        roof = decode_roof_tokens_per_s(shape, num_slots, context, bytes_per_s=bandwidth, flops_per_s=989e12)
        cases.append(alone(f"{name}: roof fraction", [rate / roof for rate in rates], "share of roof"))
    return cases


def publish_case(model: Model) -> list[Case]:
    """Return the seconds it takes to give an engine the weights of a learner."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    learner = learner_of(model, random_model(model, dtype))
    engine = TorchEngine(random_model(model, dtype), Words(), num_slots=2, max_context_tokens=64)
    seconds = [synchronised(lambda: engine.publish(whole_parameters(learner.policy))) for _ in range(3)]
    return [alone(f"publish, {model.name}", seconds, "s")]


def profile(model: Model, num_tokens: int, scale: float) -> str:
    """Return where the time of an update goes, kernels by share."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profiled(activities=activities) as found:
        update_cases(model, num_tokens, 1, scale, 0.0)
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return found.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70)


def free() -> None:
    """Give the memory of the last case back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--toy", action="store_true", help="the same calls with a model of two layers, on a CPU too")
    parser.add_argument("--only", default="", help="cases whose name contains this: update, decode, publish, profile")
    given = parser.parse_args()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if not gpu and not given.toy:
        raise SystemExit("bench-gpu needs a GPU; --toy makes the same calls on a CPU")
    peak, bandwidth = next((v for k, v in PEAKS.items() if k in gpu), (0.0, 0.0))
    plan: list[tuple[str, Callable[[], list[Case]]]]
    if given.toy:
        plan = [
            ("update", lambda: update_cases(TOY, 3000, 1, 0.1, 0.0)),
            ("decode", lambda: decode_cases(TOY, 3, 20, 4, 0.0)),
            ("publish", lambda: publish_case(TOY)),
        ]
    else:
        plan = [
            *(
                (f"update {m.name}", lambda m=m, n=n: update_cases(m, n, 2, 1.0, peak))
                for m, n in ((MIDDLE, 130_000), (PLAIN, 130_000), (TIGHT, 130_000), (SMALL, 130_000), (LARGE, 65_000))
            ),
            ("decode", lambda: decode_cases(SMALL, 256, 1200, 48, bandwidth)),
            ("publish", lambda: publish_case(MIDDLE)),
        ]
    cases: list[Case] = []
    with joined(ParallelConfig(gpus_per_node=1 if gpu else 0)):
        for name, work in plan:
            if given.only in name:
                found = work()
                print(table(found), flush=True)
                cases += found
                free()
                # After every case: a machine lent by the minute may be gone before the last one.
                record(given.output, cases)
        if given.only in "profile":
            text = profile(TOY if given.toy else MIDDLE, 3000 if given.toy else 60_000, 0.1 if given.toy else 1.0)
            given.output.with_suffix(".profile.txt").write_text(text, encoding="utf-8")


def record(path: Path, cases: list[Case]) -> None:
    """Write what was measured so far."""
    mfu = [case.ours for case in cases if case.case.endswith("MFU") and "3B" in case.case]
    goal = {"MFU of updates at 3B on an H200": 0.4}
    write_record(
        path,
        command="make bench-gpu",
        cases=cases,
        goal=goal,
        met={name: bool(mfu) and max(mfu) >= limit for name, limit in goal.items()},
        notes=f"random weights; lengths as of Search-R1 runs; one GPU; torch {torch.__version__}",
    )


if __name__ == "__main__":
    main()
