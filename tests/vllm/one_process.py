"""Run by test_vllm_process.py in a process of its own: what opening engines does to the process they live in."""

import random
import sys
from pathlib import Path

import numpy as np
import torch

from components.agent.config import VllmConfig
from components.agent.engines.open import open_engine
from components.agent.engines.protocol import TurnRequest
from components.contracts.errors import ConfigError, EngineError
from components.evaluate.config import EvaluateConfig
from components.evaluate.models import open_model
from components.train.sharding import whole_parameters


def raised(error_class: type[Exception], part: str, call, *arguments, **settings) -> None:
    try:
        call(*arguments, **settings)
    except error_class as error:
        assert part in str(error), error
    else:
        raise AssertionError(f"no {error_class.__name__}")


def main(folder: Path) -> None:
    raised(ConfigError, "auto, cpu", open_model, folder, 64, EvaluateConfig(engine="vllm", device="cuda"))
    two = VllmConfig(tensor_parallel=2)
    raised(ConfigError, "has 1 processes", open_engine, "vllm", folder, num_slots=2, max_context_tokens=64, vllm=two)

    ids = list(range(5, 45))
    scores = {}
    for engine_name in ("torch", "vllm", "vllm"):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        model = open_model(folder, 64, EvaluateConfig(engine=engine_name, threads=1, num_slots=2))
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        assert torch.get_num_threads() == 2
        scores.setdefault(engine_name, []).append(model.engine.score(ids))
        trainer = model.engine.model if engine_name == "torch" else trainer  # noqa: F821
        del model
    first, second = scores["vllm"]
    assert first == second
    assert np.abs(np.array(first) - np.array(scores["torch"][0])).mean() < 1e-5

    settings = VllmConfig(sleep_between_rollouts=True)
    engine, _ = open_engine("vllm", folder, num_slots=2, max_context_tokens=64, vllm=settings)
    raised(AssertionError, "close the former engine", open_model, folder, 64, EvaluateConfig(engine="vllm"))
    engine.add_request(TurnRequest(0, ids, 4, 0.0, 0))
    engine.sleep()
    assert not engine.has_unfinished()
    raised(EngineError, "publish weights to wake it", engine.add_request, TurnRequest(0, ids, 4, 0.0, 0))
    raised(EngineError, "publish weights to wake it", engine.score, ids)
    asleep = engine._llm.engine_core.engine_core.model_executor.sleeping_tags
    engine.sleep()
    assert asleep == {"weights", "kv_cache"}

    def weights():
        assert asleep == {"kv_cache"}, "weights are loaded where there is room for them, before the cache takes its own"
        yield from whole_parameters(trainer)

    engine.publish(weights())
    assert not asleep
    assert np.abs(np.array(engine.score(ids)) - np.array(first)).mean() < 1e-5
    kept, kept_queue = engine, engine._llm.engine_core.engine_core.batch_queue
    assert torch.distributed.is_initialized()
    engine.close()
    assert not torch.distributed.is_initialized()
    assert kept_queue is not None
    settings = VllmConfig(async_scheduling=False, kv_cache_bytes=1 << 24, max_batched_tokens=32)
    again, _ = open_engine("vllm", folder, num_slots=2, max_context_tokens=64, vllm=settings)
    assert again._llm.engine_core.engine_core.batch_queue is None
    used = again._llm.vllm_config
    assert used.cache_config.kv_cache_memory_bytes == 1 << 24
    assert used.scheduler_config.max_num_batched_tokens == 32
    assert np.abs(np.array(again.score(ids)) - np.array(first)).mean() < 1e-5
    assert again is not kept
    print("all good")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
