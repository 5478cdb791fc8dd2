"""Opens the weights of a checkpoint or base model for answering; the only file of this step that needs torch."""

from pathlib import Path

from components.evaluate.baselines.model import OpenModel
from components.evaluate.config import EvaluateConfig


def open_model(folder: Path, max_context_tokens: int, config: EvaluateConfig) -> OpenModel:
    """Return the model in `folder` behind the torch engine.

    Raises:
        MissingError: there is no model in `folder`, or a GPU is asked for and none can be used.
    """
    import torch

    from components.agent.engines.load import load_model
    from components.agent.engines.torch_engine import TorchEngine

    torch.set_num_threads(config.threads)
    model, tokenizer = load_model(folder, config.device)
    engine = TorchEngine(model, tokenizer, num_slots=config.num_slots, max_context_tokens=max_context_tokens)
    return OpenModel(engine, tokenizer)
