"""Opens the weights of a checkpoint or base model for answering; the only file of this step that needs torch."""

from pathlib import Path

from components.contracts.errors import MissingError
from components.evaluate.baselines.model import OpenModel
from components.evaluate.config import EvaluateConfig


def open_model(folder: Path, max_context_tokens: int, config: EvaluateConfig) -> OpenModel:
    """Return the model in `folder` (safetensors, no code of its own is run) behind the torch engine.

    On a CPU it computes in float32, on a GPU in the precision it was saved in.

    Raises:
        MissingError: there is no model in `folder`, or a GPU is asked for and none can be used.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from components.agent.engines.torch_engine import TorchEngine

    if not (folder / "config.json").is_file():
        raise MissingError(f"{folder} holds no model", "a folder with config.json and safetensors")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise MissingError("device = 'cuda', but no GPU can be used", "cpu, auto", "set evaluate.device=auto")
    torch.set_num_threads(config.threads)
    logging.disable_progress_bar()
    place = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="auto" if place == "cuda" else torch.float32,
    )
    engine = TorchEngine(
        model.to(place).eval(), tokenizer, num_slots=config.num_slots, max_context_tokens=max_context_tokens
    )
    return OpenModel(engine, tokenizer)
