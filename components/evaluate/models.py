"""Opens the weights of a checkpoint or base model for answering; the only file of this step that needs torch."""

from collections.abc import Callable
from pathlib import Path

from components.agent.config import LoopConfig
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
    """Return the model in `folder` behind the torch engine; ranks of one machine take its GPUs in turn.

    Raises:
        MissingError: there is no model in `folder`, or a GPU is asked for and none can be used.
    """
    import torch

    from components.agent.engines.load import load_model
    from components.agent.engines.torch_engine import TorchEngine

    torch.set_num_threads(config.threads)
    if rank and rank.world > 1 and config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(rank.number % torch.cuda.device_count())
    model, tokenizer = load_model(folder, config.device)
    engine = TorchEngine(model, tokenizer, num_slots=config.num_slots, max_context_tokens=max_context_tokens)
    return OpenModel(engine, tokenizer)
