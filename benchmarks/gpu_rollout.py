"""Decoding, rollouts and whole steps of training on one GPU, for `bench-gpu`.

Random weights end no turn: turns and observations have drawn lengths, and an observation is there at once, as from a
search without latency.
"""

import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_models import (
    Model,
    Words,
    drawn_episodes,
    invented_targets,
    learner_of,
    random_model,
    synchronised,
    training_dtype,
)
from benchmarks.record import Case, alone, compared
from components.agent.config import VllmConfig
from components.agent.engines.protocol import TrainedEngine, TurnRequest
from components.agent.engines.publishing import GENERATED_TOKENS, PROBE_TOKENS, check_weights
from components.agent.engines.torch_engine import TorchEngine
from components.contracts.episode import Episode
from components.train.ahead import BatchAhead
from components.train.cost import ModelShape, decode_roof_tokens_per_s
from components.train.experience import gather_experience
from components.train.learner import Learner
from components.train.packing import EpisodeTokens
from components.train.sharding import whole_parameters
from components.train.sharing import Hand
from components.train.weights import own_logprobs

CACHE_BYTES = 24 << 30
"""vLLM's key-value cache: 256 sequences of 2,500 tokens at 3 B."""
PROBE_TOLERANCE_NATS = 0.1
NUM_STEPS = 3
ASLEEP = Model("Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 151_936, True, 8192, False)


def installed_engines() -> list[str]:
    """Return the engines that can be measured here."""
    return ["torch", *["vllm"] * bool(find_spec("vllm"))]


@contextmanager
def engine_of(
    name: str, model: Model, num_slots: int, max_context_tokens: int, **vllm: bool | int
) -> Iterator[TrainedEngine]:
    """Hold an engine with random weights of its own; `vllm` are settings of it that are not the default."""
    policy = random_model(model, training_dtype())
    if name == "torch":
        yield TorchEngine(policy, Words(), num_slots=num_slots, max_context_tokens=max_context_tokens)
        return
    from components.agent.engines.vllm_engine import VllmEngine

    settings = VllmConfig(kv_cache_bytes=CACHE_BYTES, gpu_memory_frac=0.3, **vllm)
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        del policy
        engine = VllmEngine(
            Path(folder), Words(), num_slots=num_slots, max_context_tokens=max_context_tokens, settings=settings
        )
        try:
            yield engine
        finally:
            engine.close()


def decode_cases(
    engine_name: str, model: Model, num_slots: int, context: int, new_tokens: int, bandwidth: float
) -> list[Case]:
    """Return tokens/s of `num_slots` sequences of `context` tokens, their share of the memory roof, and of prefill.

    Decoding is the difference between a longer and a shorter answer to the same prompts: engines prefill differently.
    """
    rng = random.Random(0)
    prompts = [[rng.randrange(model.vocabulary) for _ in range(context)] for _ in range(num_slots)]
    numbers = itertools.count()

    def seconds_of(engine: TrainedEngine, limit: int) -> float:
        asked = list(itertools.islice(numbers, num_slots))
        for number, prompt in zip(asked, prompts, strict=True):
            engine.add_request(TurnRequest(number, prompt, limit, 1.0, number, stop_strings=()))
        seconds = synchronised(lambda: [engine.step() for _ in iter(engine.has_unfinished, False)])
        for number in asked:
            engine.release(number)
        return seconds

    with engine_of(engine_name, model, num_slots, context + new_tokens + 1) as engine:
        seconds_of(engine, 2)
        engine.reset_cache()
        prefill_s = seconds_of(engine, 1)
        pairs = [(seconds_of(engine, 1), seconds_of(engine, 1 + new_tokens)) for _ in range(3)]
    rates = [num_slots * new_tokens / (longer_s - shorter_s) for shorter_s, longer_s in pairs]
    name = f"decode, {engine_name}, {model.name}, {num_slots} sequences of {context} tokens"
    cases = [
        alone(name, rates, "tokens/s"),
        alone(f"prefill{name.removeprefix('decode')}", [num_slots * context / prefill_s], "tokens/s"),
    ]
    roof = roof_tokens_per_s(model, num_slots, context + new_tokens / 2, bandwidth)
    return cases + roof_case(name, rates, roof)


def step_cases(
    engine_name: str,
    model: Model,
    num_episodes: int,
    num_slots: int,
    scale: float,
    bandwidth: float,
    *,
    ahead_too: bool = False,
) -> list[Case]:
    """Return the seconds of the parts of a step on `num_episodes` episodes, and the rate of its rollout.

    The engine is probed after every publish; a step is made once before those that count. With `ahead_too` as many
    steps follow whose rollout runs beside the update before it (`components.train.ahead`), compared with the former.
    """
    plans = drawn_episodes(num_episodes, model.vocabulary, scale, seed=2)
    learner = learner_of(model, random_model(model, training_dtype()))
    probe = plans[0].token_ids[:PROBE_TOKENS]
    longest = max(len(probe) + GENERATED_TOKENS, *(len(plan.token_ids) for plan in plans))
    with engine_of(engine_name, model, num_slots, longest + 1) as engine:
        steps = _Steps(engine, learner, plans, probe)
        for step in range(NUM_STEPS):
            steps.one_after_the_other(step)
        ahead_s = steps.one_ahead(NUM_STEPS) if ahead_too else []
    how = f"{engine_name}, {model.name}{', critic' * model.critic}, {num_episodes} episodes, {num_slots} at a time"
    cases = [alone(f"step, {how}: {part}", seconds[1:], "s") for part, seconds in steps.laps.items()]
    rates = [steps.num_model_tokens / seconds for seconds in steps.laps["rollout"][1:]]
    cases.append(alone(f"step, {how}: rollout rate", rates, "model tokens/s"))
    if steps.cached_fracs:
        cases.append(
            alone(f"step, {how}: context found in the prefix cache", steps.cached_fracs[1:], "share of tokens")
        )
    if ahead_too:
        plain_s = steps.laps["whole step"]
        cases.append(
            compared(f"step, {how}: one ahead", ahead_s[1:], plain_s[1:], "in turns", "s", less_is_better=True)
        )
    contexts = [position for plan in plans for position in plan.trained_positions]
    roof = roof_tokens_per_s(model, num_slots, sum(contexts) / len(contexts), bandwidth)
    return cases + roof_case(f"step, {how}: rollout rate", rates, roof)


class _Steps:
    """Makes whole steps of training on the same plans and keeps the seconds of their parts."""

    def __init__(
        self, engine: TrainedEngine, learner: Learner, plans: Sequence[EpisodeTokens], probe: Sequence[int]
    ) -> None:
        self._engine, self._learner, self._plans, self._probe = engine, learner, plans, probe
        parts = ("rollout", "experience", "update", "publish", "whole step")
        self.laps: dict[str, list[float]] = {part: [] for part in parts}
        self.cached_fracs: list[float] = []
        """Of the context tokens so far, those vLLM found in its prefix cache, after every step."""
        self.num_model_tokens = sum(len(plan.trained_positions) for plan in plans)

    def one_after_the_other(self, step: int) -> None:
        """Sample, then learn, then publish."""
        began_s = time.perf_counter()
        episodes = play(self._engine, self._plans, step)
        now_s = self._lap("rollout", began_s)
        experience = gather_experience(episodes, [], np.zeros(len(episodes)), mask_retrieved=True)
        self._learner.score(experience)
        now_s = self._lap("experience", now_s)
        self._learner.update(experience, invented_targets(experience), step)
        now_s = self._lap("update", now_s)
        self._publish()
        self._lap("publish", now_s)
        self._lap("whole step", began_s)
        if hasattr(self._engine, "num_cached_prompt_tokens"):
            self.cached_fracs.append(self._engine.num_cached_prompt_tokens / self._engine.num_prompt_tokens)

    def one_ahead(self, first: int) -> list[float]:
        """Make steps from the number `first` on that sample the next one's episodes while they learn.

        Returns the seconds of each, as many as were made one after the other.
        """
        ahead, seconds = BatchAhead(), []
        episodes = play(self._engine, self._plans, first)
        for step in range(first, first + len(self.laps["whole step"])):
            began_s = time.perf_counter()
            following = step + 1
            ahead.begin(Hand([], (), None), lambda _, repeat=following: play(self._engine, self._plans, repeat))
            experience = gather_experience(episodes, [], np.zeros(len(episodes)), mask_retrieved=True)
            self._learner.score(experience)
            self._learner.update(experience, invented_targets(experience), step)
            _, episodes, _, _ = ahead.end()
            self._publish()
            seconds.append(_synchronised_s() - began_s)
        return seconds

    def _publish(self) -> None:
        self._engine.publish(whole_parameters(self._learner.policy))
        check_weights(self._engine, self._probe, lambda ids: own_logprobs(self._learner, ids), PROBE_TOLERANCE_NATS)

    def _lap(self, part: str, started_s: float) -> float:
        now_s = _synchronised_s()
        self.laps[part].append(now_s - started_s)
        return now_s


def _synchronised_s() -> float:
    """Return the clock's seconds once the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def rollout_cases(model: Model, num_episodes: int) -> list[Case]:
    """Return the seconds of a rollout with vLLM as it is set up, and without one of the things that make it fast."""
    plans = drawn_episodes(num_episodes, model.vocabulary, 1.0, seed=2)
    longest = max(len(plan.token_ids) for plan in plans)
    without = {"": {}, "planned step by step": {"async_scheduling": False}, "no CUDA graphs": {"cuda_graph_tokens": 0}}
    seconds: dict[str, list[float]] = {}
    for how, settings in without.items():
        with engine_of("vllm", model, num_episodes, longest + 1, **settings) as engine:
            seconds[how] = []
            for repeat in range(NUM_STEPS + 1):
                engine.reset_cache()
                seconds[how].append(synchronised(lambda r=repeat, e=engine: play(e, plans, r)))
    name, ours = f"rollout, vllm, {model.name}, {num_episodes} episodes, all at a time", seconds.pop("")[1:]
    cases = [alone(name, ours, "s")]
    return cases + [compared(name, ours, other[1:], how, "s", less_is_better=True) for how, other in seconds.items()]


def play(engine: TrainedEngine, plans: Sequence[EpisodeTokens], repeat: int) -> list[Episode]:
    """Return episodes of the planned lengths: turns sampled by `engine`, prompts and observations as planned."""
    episodes, turns = [], []
    for plan in plans:
        trained = plan.trained_positions
        breaks = [i for i in range(1, len(trained)) if trained[i] != trained[i - 1] + 1]
        bounds = itertools.pairwise([0, *breaks, len(trained)])
        turns.append([(trained[begin], trained[end - 1] + 1) for begin, end in bounds])
        episodes.append(Episode("", plan.token_ids[: trained[0]], trained[0]))

    def ask(number: int) -> None:
        start, end = turns[number][0]
        ids, seed = episodes[number].token_ids, repeat * len(plans) + number
        engine.add_request(TurnRequest(number, ids, end - start, 1.0, seed, stop_strings=()))

    def add(episode: Episode, token_ids: Sequence[int], logprobs: Sequence[float], *, sampled: bool) -> None:
        episode.token_ids.extend(token_ids)
        episode.logprobs.extend(logprobs)
        episode.is_model_token.extend([sampled] * len(token_ids))

    for number in range(len(plans)):
        ask(number)
    while engine.has_unfinished():
        for output in engine.step():
            number = output.sequence_id
            add(episodes[number], output.token_ids, output.logprobs, sampled=True)
            _, end = turns[number].pop(0)
            if turns[number]:
                observation = plans[number].token_ids[end : turns[number][0][0]]
                add(episodes[number], observation, [0.0] * len(observation), sampled=False)
                ask(number)
            else:
                engine.release(number)
    return episodes


def sleep_cases(cycles: int) -> list[Case]:
    """Return what `cycles` times of sleeping and being woken by new weights cost, and what they leave behind."""
    weights = dict(random_model(ASLEEP, training_dtype()).named_parameters())
    free_bytes, seconds, asleep_bytes = [], [], []
    with engine_of("vllm", ASLEEP, 64, 2048, sleep_between_rollouts=True) as engine:
        for _ in range(cycles):
            awake = torch.cuda.mem_get_info()[0]
            seconds.append(synchronised(engine.sleep))
            asleep_bytes.append(torch.cuda.mem_get_info()[0] - awake)
            seconds[-1] += synchronised(lambda: engine.publish(iter(weights.items())))
            free_bytes.append(torch.cuda.mem_get_info()[0])
    name = f"sleep and wake, vllm, {ASLEEP.name}, {cycles} cycles"
    return [
        alone(f"{name}: a cycle", seconds[1:], "s"),
        alone(f"{name}: given back asleep", [given / 2**30 for given in asleep_bytes], "GiB"),
        alone(f"{name}: memory lost from the first to the last", [(free_bytes[0] - free_bytes[-1]) / 2**20], "MiB"),
    ]


def roof_tokens_per_s(model: Model, num_sequences: int, context: float, bandwidth: float) -> float:
    """Return the rate at which the memory delivers weights and caches once per token; 0 without a bandwidth."""
    if not bandwidth:
        return 0.0
    shape = ModelShape.from_hf_config(model.hf_config().to_dict())
    return decode_roof_tokens_per_s(shape, num_sequences, context, bytes_per_s=bandwidth, flops_per_s=989e12)


def roof_case(name: str, rates: Sequence[float], roof: float) -> list[Case]:
    """Return the rates as shares of `roof`, where that is known."""
    return [alone(f"{name}: roof fraction", [rate / roof for rate in rates], "share of roof")] if roof else []
