"""Opens the weights of a checkpoint or base model for answering; the only file of this step that needs torch."""

from collections.abc import Callable
from pathlib import Path

from components.agent.config import LoopConfig
from components.contracts.errors import ConfigError
from components.evaluate.baselines.model import OpenModel
from components.evaluate.chunks import Rank
from components.evaluate.config import EvaluateConfig
from components.evaluate.job import Job
from components.evaluate.methods import ModelInput
from components.storage import fetch


def opener(job: Job, rank: Rank) -> Callable[[ModelInput, LoopConfig], OpenModel]:
    """Return what opens a model of `job` for a loop, on the device of `rank`."""

    def opened(name: ModelInput, loop: LoopConfig) -> OpenModel:
        return open_model(fetch(job.models[name]) / "model", loop.max_context_tokens, job.config, rank)

    return opened


def open_model(folder: Path, max_context_tokens: int, config: EvaluateConfig, rank: Rank | None = None) -> OpenModel:
    """Return the model in `folder` behind the engine the config names; ranks of one machine take its GPUs in turn.

    Raises:
        MissingError: there is no model in `folder`, the engine is not installed, or a GPU is asked for and none
            can be used.
        ConfigError: the installed engine does not run on the device asked for, or vLLM is asked for by many ranks or
            on several GPUs.
    """
    import torch

    from components.agent.engines.open import open_engine

    torch.set_num_threads(config.threads)
    if rank and rank.world > 1 and config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(rank.number % torch.cuda.device_count())
    if rank and rank.world > 1 and config.engine == "vllm":
        raise ConfigError(
            f"evaluate.engine = 'vllm' with {rank.world} ranks",
            "one rank",
            "set evaluate.engine = 'torch', or run one rank",
        )
    if config.engine == "vllm" and config.vllm.tensor_parallel > 1:
        raise ConfigError(
            f"evaluate.vllm.tensor_parallel = {config.vllm.tensor_parallel}, but an evaluation's vLLM lives on one GPU",
            "1",
            "set evaluate.vllm.tensor_parallel = 1, and choose a GPU that holds the model",
        )
    engine, tokenizer = open_engine(
        config.engine,
        folder,
        num_slots=config.num_slots,
        max_context_tokens=max_context_tokens,
        vllm=config.vllm,
        device=config.device,
    )
    return OpenModel(engine, tokenizer)
