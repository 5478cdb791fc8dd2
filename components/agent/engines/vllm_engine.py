"""vLLM's own engine inside this process: continuous batching, paged cache, prefix caching.

Each rank holds one engine: with tensor parallelism of 1 it decides alone what to run; with more, the ranks of
a group must ask for the same turns in the same order, because every one of them schedules for itself.
A turn is a request of its own. What the sequence had before is found by vLLM in its prefix cache, in blocks,
so that after a search the observation and less than a block are prefilled.

vLLM never sees text: it streams token ids, and `TurnEnds` says where a turn ends, which is then aborted.
"""

import gc
import os
import random
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import _dynamo
from transformers import GenerationConfig

from components.agent.config import VllmConfig
from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.engines.sampling import mixed_seed
from components.agent.engines.turn_ends import Finish, TurnEnds
from components.agent.engines.vllm_on_cpu import vllm_as_on_gpus
from components.contracts.errors import ConfigError, EngineError

CPU_CACHE_BYTES = 1 << 30
"""Key-value cache on a CPU where the config names none: vLLM would take a share of the machine's memory."""
CPU_BLOCK_TOKENS = 32
"""vLLM's default of 128 on a CPU would leave nothing of short prompts in the prefix cache."""
LEAST_TEMPERATURE = 0.01
"""vLLM silently raises lower temperatures to this one."""
MAX_STEPS_UNDER_WAY = 2
"""Steps that vLLM has begun and not handed out, at most."""
_LIVING: "weakref.WeakSet[VllmEngine]" = weakref.WeakSet()


@dataclass(slots=True)
class _Turn:
    request: TurnRequest
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class VllmEngine:
    """Engine over the model in a folder; new weights reach it through `publish` alone."""

    def __init__(
        self, folder: Path, tokenizer: Any, *, num_slots: int, max_context_tokens: int, settings: VllmConfig
    ) -> None:
        """Load the model in `folder`; at most `num_slots` turns run at a time, further ones wait in vLLM's queue.

        A process holds one engine at a time; it ends with `close`, or when nothing refers to it any more.

        Raises:
            ConfigError: tensor parallelism is asked for outside torchrun, or of a group that does not divide it.
        """
        # An engine takes vLLM's process groups with it when it is collected, those of a later engine included.
        gc.collect()
        assert not _LIVING, "close the former engine before opening another one in the same process"
        self.max_context_tokens, self._settings = max_context_tokens, settings
        self._llm = _build(folder, num_slots, max_context_tokens, settings)
        _LIVING.add(self)
        has_generation_config = (folder / "generation_config.json").is_file()
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True) if has_generation_config else None
        self._ends = TurnEnds(tokenizer, generation)
        self._turns: dict[str, _Turn] = {}
        self._ended: list[TurnOutput] = []
        self._num_requests = 0
        self._asleep = False
        self.num_prompt_tokens = self.num_cached_prompt_tokens = 0
        """Over all turns: tokens of context, and how many of them were not computed again."""

    def add_request(self, request: TurnRequest) -> None:
        """Queue a turn.

        Raises:
            ValueError: the context and the turn together exceed `max_context_tokens`, or vLLM would not sample at
                this temperature.
        """
        request.check_fits(self.max_context_tokens)
        if 0 < request.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature {request.temperature}: vLLM samples at 0 or from {LEAST_TEMPERATURE} on")
        # One seed serves all turns of an episode: mixed with the position, no two of them draw the same numbers.
        seed = mixed_seed(request.seed, len(request.token_ids))
        sampling = {"temperature": request.temperature, "seed": seed, "max_tokens": request.max_new_tokens}
        self._turns[self._send(request.token_ids, logprobs=0, **sampling)] = _Turn(request)

    def step(self) -> list[TurnOutput]:
        """Advance running turns by one token, prefill waiting ones, and return the turns that ended."""
        if self._turns:
            self._advance()
        ended, self._ended = self._ended, []
        return ended

    def has_unfinished(self) -> bool:
        """Return whether a step would advance or hand out any turn; here no turn ever waits for a release."""
        return bool(self._turns or self._ended)

    def release(self, sequence_id: int) -> None:
        """Abort what still runs of a sequence and drop what ended; its cache goes when others need the room."""
        self._abort([name for name, turn in self._turns.items() if turn.request.sequence_id == sequence_id])
        self._ended = [output for output in self._ended if output.sequence_id != sequence_id]

    def reset_cache(self) -> None:
        """Forget every sequence and every cached prefix, turns still queued or running included.

        Raises:
            EngineError: vLLM kept its prefix cache, which would answer with the former weights.
        """
        self._abort(list(self._turns))
        self._ended = []
        self._drain()
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache: blocks are still in use")

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first, computed without the cache.

        Turns that run meanwhile go on; those that end are handed out by the next step.

        Raises:
            ValueError: there are more tokens than `max_context_tokens`.
        """
        if len(token_ids) > self.max_context_tokens:
            raise ValueError(f"{len(token_ids)} tokens of context, the engine has {self.max_context_tokens}")
        name = self._send(token_ids, prompt_logprobs=0, max_tokens=1, temperature=0.0)
        prompt_logprobs = None
        while prompt_logprobs is None:
            prompt_logprobs = self._advance(scored=name)
        return [found[token].logprob for token, found in zip(token_ids[1:], prompt_logprobs[1:], strict=True)]

    def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the weights of a checkpoint into the model, tensor by tensor as they come, and reset the cache.

        Names are those of the checkpoint; precision and device are converted. Wakes the engine.

        Raises:
            EngineError: a weight of the model got no tensor, or the cache could not be reset.
        """
        assert not self._turns, "weights change between turns, never during one"
        if self._asleep:
            self._llm.wake_up(["weights"])
        else:
            self._drain()
        (missing,) = self._llm.apply_model(lambda model: _load(model, named_tensors))
        if missing:
            raise EngineError(f"{len(missing)} weights were not published, for example {min(missing)}")
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False
        self.reset_cache()

    def sleep(self) -> None:
        """Give the memory of weights and cache back until the next `publish`, if the settings want it.

        On a CPU vLLM frees nothing, but the engine refuses turns in the same way.
        """
        if self._settings.sleep_between_rollouts and not self._asleep:
            self.reset_cache()
            self._llm.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """End the engine and give its memory back, whoever still refers to it; torch's process groups end too."""
        self._llm.engine_core.shutdown()
        self._llm = None
        _LIVING.discard(self)

    def _send(self, token_ids: Sequence[int], **sampling: Any) -> str:
        """Hand a request to vLLM and return its name; only `TurnEnds` and the token budget end it."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        if self._asleep:
            raise EngineError("the engine sleeps; publish weights to wake it")
        self._num_requests += 1
        name = str(self._num_requests)
        options = {"detokenize": False, "ignore_eos": True, "output_kind": RequestOutputKind.DELTA}
        self._llm.add_request(name, tokens_input(list(token_ids)), SamplingParams(**options, **sampling))
        return name

    def _advance(self, scored: str = "") -> list[Any] | None:
        """Make one step of vLLM; return the prompt log-probabilities of the request `scored` once they are there."""
        prompt_logprobs = None
        for output in self._llm.step():
            if output.request_id == scored:
                prompt_logprobs = output.prompt_logprobs
            elif output.request_id in self._turns:
                self._take(output)
        return prompt_logprobs

    def _drain(self) -> None:
        """Let the steps under way end, those of turns that are over: they write to the cache and read weights."""
        for _ in range(MAX_STEPS_UNDER_WAY):
            self._llm.step()

    def _take(self, output: Any) -> None:
        turn, (news,) = self._turns[output.request_id], output.outputs
        if not turn.token_ids:
            self.num_prompt_tokens += len(turn.request.token_ids)
            self.num_cached_prompt_tokens += output.num_cached_tokens or 0
        finish = None
        for token, found in zip(news.token_ids, news.logprobs or [], strict=True):
            turn.token_ids.append(token)
            turn.logprobs.append(found[token].logprob)
            finish = self._ends.finish(turn.request, turn.token_ids)
            if finish:
                break
        if finish:
            self._end(output, turn, finish)
        elif output.finished:
            raise EngineError(f"vLLM ended a turn of its own accord: {news.finish_reason} {news.stop_reason or ''}")

    def _end(self, output: Any, turn: _Turn, finish: Finish) -> None:
        if output.finished:
            del self._turns[output.request_id]
        else:
            self._abort([output.request_id])
        self._ended.append(TurnOutput(turn.request.sequence_id, turn.token_ids, turn.logprobs, finish))

    def _abort(self, names: list[str]) -> None:
        self._llm.abort_request(names)
        for name in names:
            del self._turns[name]


def _load(model: Any, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Copy tensors into `model` and return the names of parameters that got none; fused ones count by any part."""
    # vLLM would round them itself, with a warning for each.
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        loaded = model.load_weights((name, tensor.to(dtype)) for name, tensor in named_tensors)
    return {name for name, _ in model.named_parameters()} - set(loaded)


def _build(folder: Path, num_slots: int, max_context_tokens: int, settings: VllmConfig) -> Any:
    """Return an `LLMEngine` of this process."""
    # Read by vLLM when it is imported or built; whoever starts the process may have decided otherwise.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with _process_left_alone():
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        if on_cpu:
            # Some of vLLM's sampling code is compiled on first use, which on a CPU takes a C++ compiler and minutes.
            _dynamo.config.disable = True
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = _device_arguments(settings, on_cpu) | _launcher(settings.tensor_parallel)
        engine_arguments = EngineArgs(
            model=str(folder),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            generation_config="vllm",
            load_format="safetensors",
            max_model_len=max_context_tokens + 1,  # scoring a full context samples one token after it
            max_num_seqs=num_slots,
            max_num_batched_tokens=max(num_slots, min(settings.max_batched_tokens, num_slots * max_context_tokens)),
            use_tqdm_on_load=False,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **arguments,
        )
        with vllm_as_on_gpus(settings.async_scheduling) if on_cpu else nullcontext():
            return LLMEngine.from_engine_args(engine_arguments)


def _device_arguments(settings: VllmConfig, on_cpu: bool) -> dict[str, Any]:
    dtype = settings.dtype if settings.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
    if on_cpu:
        return {
            "dtype": dtype,
            "async_scheduling": settings.async_scheduling,
            "enforce_eager": True,
            "kv_cache_memory_bytes": settings.kv_cache_bytes or CPU_CACHE_BYTES,
            "block_size": CPU_BLOCK_TOKENS,
        }
    return {
        "dtype": dtype,
        "async_scheduling": settings.async_scheduling,
        "enforce_eager": not settings.cuda_graph_tokens,
        "compilation_config": _graphs(settings.cuda_graph_tokens),
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "gpu_memory_utilization": settings.gpu_memory_frac,
        "enable_sleep_mode": settings.sleep_between_rollouts,
    }


def _graphs(most_tokens: int) -> dict[str, Any]:
    """Return what vLLM replays instead of launching kernel by kernel: every step of up to `most_tokens` tokens.

    Its own default leaves steps that hold an observation to compiled code and, beyond 512 tokens, to the host. Where
    an attention kernel cannot be recorded for such steps vLLM records those that only decode, by itself.
    """
    sizes = [1, 2, 4, 8]
    while sizes[-1] < most_tokens:
        # A step is padded to the next size: by an eighth at most.
        sizes.append(sizes[-1] + max(8, 1 << (sizes[-1].bit_length() - 4)))
    recorded = [size for size in sizes if size <= most_tokens]
    return {"mode": 0, "cudagraph_mode": "FULL" if recorded else "NONE", "cudagraph_capture_sizes": recorded}


def _launcher(tensor_parallel: int) -> dict[str, Any]:
    """Return how vLLM finds its ranks: those torchrun started, in groups of neighbours, or this process alone."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size % tensor_parallel:
        raise ConfigError(
            f"vllm.tensor_parallel = {tensor_parallel}, but the job has {world_size} processes",
            "a divisor of the number of processes",
            "start the job with torchrun, or set vllm.tensor_parallel = 1",
        )
    if world_size == 1:
        return {}
    assert torch.distributed.is_initialized(), "vLLM joins the trainer's process group and starts none of several ranks"
    return {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "external_launcher"}


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """Undo what building an engine does to a process that also trains: random states reseeded, a function replaced."""
    set_num_threads, python_state, numpy_state = torch.set_num_threads, random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads = set_num_threads
            random.setstate(python_state)
            np.random.set_state(numpy_state)
