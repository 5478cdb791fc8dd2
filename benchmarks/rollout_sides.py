"""Our side and the plain peer's side of the rollout comparison: `python -m benchmarks.rollout_sides '<settings>'`."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.lock_step import lock_step_rollout
from benchmarks.search_world import Workload, model_of, searcher_of, tasks_of
from benchmarks.sides import serve
from components.agent.engines.torch_engine import TorchEngine
from components.agent.rollout import rollout
from components.contracts.episode import Episode
from components.search.concurrent import ConcurrentSearch


def prepare(settings: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Return the measurement of the side that `settings` name."""
    torch.set_num_threads(settings["threads"])
    workload = Workload(**settings["workload"])
    model, tokenizer = model_of(workload)
    searcher, loop = searcher_of(workload), workload.loop
    positions = counted_positions(model)
    engine = TorchEngine(model, tokenizer, num_slots=workload.num_slots, max_context_tokens=loop.max_context_tokens)

    def ours(repeat: int) -> list[Episode]:
        engine.reset_cache()
        # No cache of answers, because a peer has none; no window, because this search has no use for large batches.
        with ConcurrentSearch(searcher, loop.top_k, cache_size=0, window_s=0.0) as client:
            tasks = tasks_of(workload, tokenizer, repeat)
            return rollout(engine, client, tasks, loop, tokenizer, reproducible=workload.search_latency_s == 0)

    def lock_step(repeat: int) -> list[Episode]:
        torch.manual_seed(repeat + 1)
        tasks = tasks_of(workload, tokenizer, repeat)
        return lock_step_rollout(model, tokenizer, searcher, tasks, loop, workload.num_slots)

    sample = {"ours": ours, "lock_step": lock_step}[settings["side"]]

    def measure(repeat: int) -> dict[str, Any]:
        positions.clear()
        started_s = time.perf_counter()
        episodes = sample(repeat)
        return summary(episodes, time.perf_counter() - started_s) | {"positions": sum(positions)}

    return measure


def counted_positions(model: Any) -> list[int]:
    """Return a list that grows by the number of token positions of every forward pass of `model`, padding included."""
    positions: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, given: positions.append(given["input_ids"].numel()), with_kwargs=True
    )
    return positions


def summary(episodes: list[Episode], seconds: float) -> dict[str, Any]:
    """Return the time, the model tokens of all episodes, and what tells whether two sides did the same work."""
    return {
        "seconds": seconds,
        "tokens": sum(episode.num_model_tokens for episode in episodes),
        "episodes": len(episodes),
        "searches": sum(episode.num_searches for episode in episodes),
        "turns": sum(len(episode.turns) for episode in episodes),
    }


if __name__ == "__main__":
    serve(prepare)
