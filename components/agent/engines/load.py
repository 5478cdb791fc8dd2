"""Opens a Hugging Face model folder: safetensors only, no code of its own is run, nothing is downloaded."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from components.contracts.errors import MissingError


def load_model(folder: Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> tuple[Any, Any]:
    """Return (model, tokenizer) of `folder`, in float32 on a CPU and in the saved precision on a GPU.

    Raises:
        MissingError: there is no model in `folder`, or a GPU is asked for and none can be used.
    """
    check_model_folder(folder)
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("device = 'cuda', but no GPU can be used", "cpu, auto", "choose device = 'auto'")
    logging.disable_progress_bar()
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="auto" if place == "cuda" else torch.float32,
    )
    return model.to(place).eval(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """Return the Hugging Face tokenizer of the model in `folder`."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that holds no model.

    Raises:
        MissingError: `folder` has no config.json.
    """
    if not (folder / "config.json").is_file():
        raise MissingError(f"{folder} holds no model", "a folder with config.json and safetensors")
